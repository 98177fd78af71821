"""Consistency of large and small images, of a model that was made up and of one without small images."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.config import Config
from structured_obs.distributions.base import Family, ImageShape
from structured_obs.evaluation import passes
from structured_obs.evaluation.sections import consistency
from structured_obs.models import intermediate_images, vae
from structured_obs.models.base import Traits
from structured_obs.objectives.terms import Terms
from structured_obs.runs.trained import Trained
from tests.evaluation.test_supn import trained
from tests.train import stub

LEVELS = 17
STEP = 2 / (LEVELS - 1)


def _as_is(images: Any) -> Any:
  return images


FAMILY = Family(
  outputs=lambda image: {},
  from_outputs=_as_is,
  log_prob=lambda params, x: jnp.sum(x),
  sample=lambda key, params: params + 3 * STEP,
  mean=_as_is,
  levels=LEVELS,
)


class TwoSizes(nn.Module):
  """A small image is the mean of four pixels; each kind of a large one is off by other levels."""

  family: Family = FAMILY
  image: ImageShape = ImageShape(4, 6, 1)
  label_classes = None
  masked = False
  traits = Traits(generates=True, two_levels=True)

  def __call__(self, keys: jax.Array, x: jax.Array, train: bool = False) -> Terms:
    raise NotImplementedError

  def compress(self, x: jax.Array) -> jax.Array:
    return x.reshape(len(x), 2, 2, 3, 2, 1).mean((2, 4))

  def reconstruct(self, keys: None, x: jax.Array) -> jax.Array:
    return self._large(self.compress(x), 0.0)

  def super_resolve(self, keys: jax.Array, y: jax.Array) -> jax.Array:
    return self._large(y, 1.0)

  def generate(self, keys: jax.Array) -> jax.Array:
    y = jnp.stack([jax.random.uniform(key, (2, 3, 1), jnp.float32) for key in keys])
    return self._large(y, self.variables['params']['off'])

  def _large(self, y: jax.Array, off: Any) -> jax.Array:
    intermediate_images.show(self, 'y', y)
    # Off by as much in the two halves, up and down: a mean difference with its sign would be 0.
    signs = jnp.asarray(np.where(np.arange(2) < 1, 1, -1), jnp.float32)[None, :, None, None]
    return jnp.repeat(jnp.repeat(y + off * STEP * signs, 2, 1), 2, 2)


def _trained() -> Trained:
  spec = stub.make_prepared().spec._replace(levels=LEVELS)
  return Trained('two', '', Config(), spec, TwoSizes(), {'params': {'off': jnp.float32(2)}}, 1)


@pytest.mark.parametrize('devices', [1, 4])
def test_distances_in_gray_levels(devices: int):
  images = np.random.default_rng(0).integers(0, LEVELS, (6, 4, 6, 1)).astype(np.uint8)
  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((devices,), ('batch',), axis_types=auto, devices=jax.devices()[:devices])
  found = consistency.of_models([_trained()], images, 0, passes.Where(mesh))['two']
  # A sample is 3 levels above the mean: |3 + off| in one half and |3 - off| in the other make 3.
  expected = {'reconstruction': (0, 3), 'super-resolution': (1, 3), 'new image': (2, 3)}
  for kind, values in expected.items():
    for what, value in zip(('mean', 'sample'), values, strict=True):
      np.testing.assert_allclose(found[f'{kind}, {what}'], np.full(6, value), atol=1e-4)


def test_what_is_told():
  images = np.zeros((2, 4, 6, 1), np.uint8)
  found = consistency.of_models([trained(vae.VAE, 'diagonal'), _trained()], images)
  assert found.keys() == {'two'}
  assert '| new image, mean' in consistency.text(found)
  assert '2.000 ± 0.000' in consistency.text(found)
  summary = consistency.as_json(found)['two']['super-resolution, sample']
  assert (round(summary['mean'], 4), summary['num_images']) == (3, 2)
  assert consistency.per_image(found)['two/consistency/new image, mean'].shape == (2,)
