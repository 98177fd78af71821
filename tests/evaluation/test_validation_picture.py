"""The picture of a training that runs: of validation images, after a signal too, and in TensorBoard."""

import jax
import numpy as np
import pytest
from PIL import Image

from structured_obs.data import pixels
from structured_obs.distributions import diagonal
from structured_obs.evaluation.figures import validation
from structured_obs.models.base import Bound
from structured_obs.runs import experiment as experiments
from structured_obs.runs import initial
from structured_obs.runs.state import evaluation_variables
from structured_obs.train import loop, metrics
from structured_obs.train.signals import Stopper
from tests.train import stub


@pytest.fixture(scope='module', name='made')
def _made():
  """A real model of tiny images, its variables and data."""
  config, prepared = stub.make_config(), stub.make_prepared()
  config.model.options = {'latents': 2, 'features': (4,), 'blocks': 0}
  config.likelihood.options = {}
  experiment = experiments.build(experiments.configuration.resolve(config), prepared.spec)
  state = initial.init_state(experiment, jax.random.key(0), prepared.images['train'])
  return experiment, evaluation_variables(state), prepared


def test_the_picture_shows_the_first_validation_images_and_what_the_model_makes_of_them(made, tmp_path):
  experiment, variables, prepared = made
  dots = validation.write(tmp_path, experiment, variables, prepared, step=40)
  assert dots is not None
  assert dots.dtype == np.uint8
  assert dots.shape[2] == 3
  with Image.open(tmp_path / validation.FILE) as picture:
    assert min(picture.size) > 100
  images = prepared.images['validation'][: validation.SHOWN]
  tall = dots.shape[0] // 4
  x = pixels.to_unit(np.asarray(images), prepared.spec.levels)
  params = Bound(experiment.model, variables).reconstruct(None, x)
  for row, expected in enumerate(map(np.asarray, (x, jax.vmap(diagonal.mean)(params)))):
    shown = dots[row * tall : (row + 1) * tall].mean() / 255  # of the row, with narrow white gaps
    assert shown == pytest.approx((np.clip(expected, -1, 1).mean() + 1) / 2, abs=0.05)
  again = validation.write(tmp_path, experiment, variables, prepared, step=50)
  assert np.array_equal(dots, np.asarray(again)), 'the same noise at every step'
  assert [path.name for path in (tmp_path / 'figures').iterdir()] == ['validation.png']


def test_training_images_stand_in_where_there_are_no_others(made, tmp_path):
  experiment, variables, prepared = made
  none = prepared._replace(images={**prepared.images, 'validation': prepared.images['validation'][:0]})
  other = validation.write(tmp_path, experiment, variables, none, step=1)
  assert other is not None
  usual = validation.write(tmp_path, experiment, variables, prepared, step=1)
  assert not np.array_equal(other, np.asarray(usual))


def test_a_model_without_images_has_no_picture(tmp_path):
  made = stub.make_experiment(stub.make_config())
  assert validation.write(tmp_path, made, {}, stub.make_prepared(), step=1) is None
  assert not list(tmp_path.iterdir())


def test_tensorboard_gets_the_picture(tmp_path):
  pytest.importorskip('tensorboardX')
  with metrics.Recorder(tmp_path, 10, tensorboard=True) as recorder:
    recorder.resume(0)
    recorder.picture(5, np.zeros((4, 6, 3), np.uint8))
  (path,) = (tmp_path / 'tensorboard').iterdir()
  content = path.read_bytes()
  assert b'validation/images' in content
  assert b'PNG' in content


def _drawn(workdir, monkeypatch, write):
  """Runs the loop with another way to write pictures, until a signal after step 6."""
  monkeypatch.setattr(validation, 'write', write)
  monkeypatch.setattr(Stopper, 'requested', lambda self, step: step == 6)
  experiment = stub.make_experiment(stub.make_config())
  outcome = loop.train(experiment, stub.make_prepared(), workdir, {'config': {}, 'data': {}})
  assert (outcome.reason, outcome.step) == ('stopped', 6)


def test_there_is_a_picture_at_every_validation_and_after_a_signal(tmp_path, monkeypatch):
  steps = []
  _drawn(tmp_path, monkeypatch, lambda *arguments: steps.append(arguments[-1]))
  assert steps == [4, 6]


def test_a_picture_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch, capsys):
  def full(*arguments):
    raise OSError(28, 'No space left on device')

  _drawn(tmp_path, monkeypatch, full)
  said = capsys.readouterr().out
  assert said.count('validation.png is not written: [Errno 28] No space left on device') == 2
