"""Widths of kernels against their definition, and a figure of a model's kernels."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from structured_obs.evaluation.figures import kernel_development
from structured_obs.runs import experiment as experiments
from structured_obs.runs import initial
from structured_obs.runs.trained import Trained
from tests.train import stub
from tests.train.test_blur_vae import make_config


def make_trained(family: str = 'circulant') -> Trained:
  config, spec = make_config(), stub.make_prepared().spec
  if family != 'circulant':
    config.likelihood.family, config.likelihood.options = family, {}
    config.model.options['kernel'] = {}
  experiment = experiments.build(config, spec)
  state = initial.init_state(experiment, jax.random.key(0))
  variables = {'params': state.params['model'], **state.model_state}
  return Trained('name', 'workdir', config, spec, experiment.model, variables, 7)


def test_the_width_is_the_distance_from_the_centre_of_mass():
  one = np.zeros((5, 5))
  one[1, 3] = 2
  assert kernel_development.width(one) == 0
  two = np.zeros((5, 5))
  two[1, 0] = two[1, 4] = 0.5  # each 2 from their middle
  assert kernel_development.width(two) == pytest.approx(2)
  taps = np.arange(41) - 20
  gaussian = np.exp(-(taps[:, None] ** 2 + taps[None] ** 2) / (2 * 3.0))
  found = kernel_development.width(np.stack([gaussian, -7 * gaussian]))
  np.testing.assert_allclose(found, np.sqrt(2 * 3.0), rtol=1e-4)  # 3 pixels^2 along both axes


def test_kernels_of_a_model_are_told_and_drawn(tmp_path: Path):
  trained, images = make_trained(), stub.make_prepared().images['test']
  moment = kernel_development.at(trained, images)
  assert moment.kernels.shape == (2, 3, 3)
  np.testing.assert_allclose(moment.kernels.sum(axis=(1, 2)), 1, rtol=1e-5)
  later = moment._replace(step=9, kernels=np.roll(moment.kernels, 1, axis=1))
  lines = kernel_development.table([moment, later]).splitlines()
  assert [line.split('|')[1].strip() for line in lines[2:]] == ['7', '9']
  original = np.asarray(images, np.float32) / 127.5 - 1
  path = kernel_development.draw(tmp_path / 'kernels.png', [moment, later], original)
  assert np.asarray(Image.open(path)).std() > 10


def test_a_model_without_kernels_is_refused():
  with pytest.raises(ValueError, match='covariances that are not made of a blur kernel'):
    kernel_development.at(make_trained('diagonal'), stub.make_prepared().images['test'])


def test_gradients_of_the_generator_start_away_from_zero():
  trained = make_trained()
  z = jax.random.normal(jax.random.key(0), (4, 2), jnp.float32)
  moved = trained.model.apply(trained.variables, z, method='decode').log_spectrum
  assert float(jnp.std(moved, axis=0).max()) > 0  # kernels depend on the latents
