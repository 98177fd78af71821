"""A run for tests of the studio: a small model whose distributions are known, on a few images."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import distributions
from structured_obs.applications.studio import desk as desks
from structured_obs.applications.studio import session
from structured_obs.applications.studio.strokes import Stroke
from structured_obs.config import Config, LikelihoodConfig
from structured_obs.data.prepare import DataSpec, Prepared
from structured_obs.distributions import base
from structured_obs.models import classes
from structured_obs.models.base import Traits
from structured_obs.objectives.terms import Terms
from structured_obs.runs.trained import Trained

IMAGES = 5
SHAPE = base.ImageShape(4, 5, 1)
DOT = Stroke('paint', ((1, 2),), 1, (0.5,))
SOFT = Stroke('paint', ((2, 0), (2, 3)), 1, (-0.25,), 0.2)
HIDE = Stroke('hide', ((0, 0), (3, 3)), 2)


def with_strokes(*made: Stroke, subject: str = 'test:1') -> session.Session:
  """A session on an image after these strokes."""
  page = session.Session((subject,))
  for stroke in made:
    page = session.act(page, stroke)
  return page


class Halving(nn.Module):
  """A model whose latents are the image, and whose mean is half of them; other outputs are given."""

  family: base.Family
  traits: Traits
  image: base.ImageShape
  masked: bool = False
  label_classes: classes.Classes | None = None

  def __call__(self, keys: jax.Array, x: jax.Array, train: bool = False) -> Terms:
    raise NotImplementedError

  def reconstruct(self, keys: None, x: jax.Array) -> Any:
    return self.decode(self.infer(keys, x))

  def infer(self, keys: None, x: jax.Array) -> jax.Array:
    return x[..., : self.image.channels]

  def decode(self, z: jax.Array) -> Any:
    outputs = {
      name: jnp.broadcast_to(leaf, (len(z), *leaf.shape)).astype(z.dtype)
      for name, leaf in self.variables['params'].items()
    }
    return jax.vmap(self.family.from_outputs)({**outputs, 'mean': 0.5 * z})

  def generate(self, keys: jax.Array, labels: jax.Array | None = None) -> Any:
    return self.decode(jax.vmap(lambda key: jax.random.normal(key, self.image, jnp.float32))(keys))


def problem(
  name: str = 'low_rank', image: tuple[int, int, int] = (4, 5, 1), wrappers: tuple[str, ...] = ()
) -> desks.Desk:
  """A desk with a random distribution of a family and random images of 256 levels."""
  return desks.Desk(*_opened(name, image, wrappers), {})


@functools.cache
def _opened(
  name: str, image: tuple[int, int, int], wrappers: tuple[str, ...]
) -> tuple[Trained, Prepared]:
  """The run; kept, as programs are compiled for one record of a family."""
  shape = base.ImageShape(*image)
  options = {'rank': 3} if name == 'low_rank' else {}
  family = distributions.family(name, **options)
  family = distributions.wrapped(family, wrappers) if wrappers else family
  random = np.random.default_rng(0)
  given = {
    key: 0.3 * random.standard_normal(size).astype(np.float32)
    for key, size in family.outputs(shape).items()
    if key != 'mean'
  }
  traits = Traits(generates=True, has_prior=True, has_latents=True)
  spec = DataSpec(
    *shape, 256, {'test': IMAGES}, 'images', '', '', 'a' * 64, '', 'center', 'area', False, 0, [], {}
  )  # fmt: skip
  stored = random.integers(0, 256, (IMAGES, *shape)).astype(np.uint8)
  config = Config(likelihood=LikelihoodConfig(name, wrappers=wrappers))
  model = Halving(family, traits, shape)
  trained = Trained('a run', 'runs/a_run', config, spec, model, {'params': given}, 7)
  return trained, Prepared(spec, {'test': stored}, {}, '')
