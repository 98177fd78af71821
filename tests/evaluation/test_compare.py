"""Runs that cannot be evaluated, and an evaluation that is interrupted."""

from pathlib import Path

import numpy as np
import pytest

from structured_obs.config import Config, EvalConfig
from structured_obs.data.prepare import Prepared
from structured_obs.evaluation import compare, likelihood, report, results, resume, sections
from structured_obs.models import vae
from structured_obs.runs import restore, workdir
from structured_obs.runs import trained as traineds
from tests.evaluation import test_supn
from tests.train import stub


def test_a_workdir_without_run_or_checkpoint(tmp_path: Path):
  with pytest.raises(FileNotFoundError, match=r'There is no run in .*missing'):
    compare.evaluate({'a': tmp_path / 'missing'}, tmp_path / 'out')
  run = workdir.describe(Config(), stub.make_prepared().spec, 'python -m this')
  workdir.write(tmp_path / 'begun', run)
  with pytest.raises(FileNotFoundError, match="begun has no checkpoint 'best' nor any other"):
    compare.evaluate({'a': tmp_path / 'begun'}, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, traineds.Trained]:
  """Two models by their workdirs, which stand for trained ones."""
  found = {}
  for family in ('diagonal', 'low_rank'):
    trained = test_supn.trained(vae.VAE, family)
    config = Config(eval=EvalConfig(importance_samples=2, chunk=2, batch_size=4))
    found[family] = trained._replace(name=family, workdir=family, config=config)
  images = dict.fromkeys(('validation', 'test'), test_supn.IMAGES) | {'train': test_supn.IMAGES[:0]}

  def load(path: str, which: str, name: str) -> tuple[traineds.Trained, Prepared]:
    del which, name
    return found[str(path)], stub.make_prepared()._replace(images=images)

  monkeypatch.setattr(restore, 'load', load)
  monkeypatch.setattr(sections, 'make', lambda evaluated: [])
  return found


def test_images_of_another_size_are_not_compared(opened, tmp_path: Path):
  trained = opened['low_rank']
  spec = trained.spec._replace(height=5, sha256='1' * 64)
  opened['low_rank'] = trained._replace(spec=spec)
  with pytest.raises(ValueError, match=r'of 5 x 4 x 1, .* of 3 x 4 x 1; .* are not comparable'):
    compare.evaluate({'a': 'diagonal', 'b': 'low_rank'}, tmp_path / 'out')


def test_an_evaluation_goes_on_where_it_was(opened, monkeypatch, tmp_path: Path):
  """Interrupted in the report, it scores nothing again; what was kept goes with the report."""
  monkeypatch.setattr(resume, 'SECONDS', 0)
  workdirs, kept, seen = {name: name for name in opened}, tmp_path / compare.UNFINISHED, []

  def write(directory: Path, found: list[results.Result], *others: object) -> Path:
    del others
    seen.append([result.scores for result in found])
    if len(seen) == 1:
      raise KeyboardInterrupt
    return directory

  monkeypatch.setattr(report, 'write_evaluation', write)
  with pytest.raises(KeyboardInterrupt):
    compare.evaluate(workdirs, tmp_path)
  assert len([*kept.iterdir()]) == 2
  monkeypatch.setattr(likelihood.passes, '_measure_batch', None)
  said = []
  compare.evaluate(workdirs, tmp_path, say=said.append)
  assert 'Resuming the interrupted evaluation' in said[1]
  assert not kept.exists()
  for first, second in zip(*seen, strict=True):
    for name, values in first.by_name().items():
      np.testing.assert_array_equal(second.by_name()[name], values, err_msg=name)
