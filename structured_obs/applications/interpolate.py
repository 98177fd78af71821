"""Interpolates between samples of one predicted distribution (in noise) and between images (in latents).

A sample is an affine function of white noise; for a Student t, those of its typical size are. The paths
between two noises or latents are those of `paths`.

Letters: n size of a noise; T steps; H W C image height, width, channels.

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022, equations 4 and 8, figure 4.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from structured_obs.applications.paths import PATHS, Path, slerp
from structured_obs.distributions import base, elliptical
from structured_obs.distributions.base import Family, P
from structured_obs.models.base import Bound, Latents

Array = jax.Array


def corners(key: Array, family: Family[P], params: P) -> Any:
  """Returns the white noise of four samples in the form of `grid`: each leaf with a leading 4.

  Samples share the noise that is behind pixel noise alone, where a family has some, as low-rank ones do.

  Args:
    key: of the noise.
    family: a Gaussian family.
    params: of one image.

  Raises:
    ValueError: the family is not Gaussian.
  """
  draw = _primitives(family).noise
  drawn = jax.vmap(lambda key: draw(key, params))(jax.random.split(key, 4))
  return jax.tree.map(
    lambda fixed, a: jnp.broadcast_to(a[:1], a.shape) if fixed else a, _fixed(family, drawn), drawn
  )


def grid(
  family: Family[P],
  params: P,
  noises: Any,
  steps: int,
  path: Path = slerp,
  pixel_noise: bool = True,
) -> Array:
  """Returns images on a grid between four samples of one distribution. [T, T, H, W, C].

  The left and the right edge are interpolated first, then each row between them. For a low-rank family
  the noise of the factor changes, and the pixel noise is that of the first corner; for a family whose
  noise has no part behind pixel noise alone all of it changes, as one vector.

  Args:
    family: a Gaussian family.
    params: of one image.
    noises: of the corners top left, top right, bottom left and bottom right, as the family's
      `noise` but each leaf with a leading 4; see `corners`.
    steps: T.
    path: between two noises.
    pixel_noise: whether images have the family's floor of independent pixel noise.

  Raises:
    ValueError: the family is not Gaussian, or has no such floor to leave out; there are fewer than two
      steps or not four corners.
  """
  image_of = _image_of(_primitives(family), pixel_noise)
  sizes = {leaf.shape[0] for leaf in jax.tree.leaves(noises)}
  if steps < 2 or sizes != {4}:
    raise ValueError(
      'A grid needs at least 2 steps and the noise of 4 corners; got '
      f'{steps} steps and {" or ".join(map(str, sorted(sizes)))} corners.'
    )
  vectors, unravel = _moving(noises, _fixed(family, noises))
  t = jnp.linspace(0, 1, steps, dtype=vectors.dtype)
  along = jax.vmap(path, in_axes=(None, None, 0))
  left, right = along(vectors[0], vectors[2], t), along(vectors[1], vectors[3], t)
  rows = jax.vmap(along, in_axes=(0, 0, None))(left, right, t)
  image = jax.vmap(lambda noise: image_of(params, unravel(noise)))
  return jax.lax.map(image, rows)  # row by row, to bound the memory


class Way(NamedTuple):
  """How to interpolate between samples."""

  steps: int = 9  # T
  path: str = 'slerp'  # of `PATHS`
  pixel_noise: bool = True  # whether with the family's floor of independent pixel noise


@functools.partial(jax.jit, static_argnums=(0, 1))
def draw(family: Family[P], way: Way, params: P, key: Array) -> Array:
  """Returns the grid between four new samples. [T, T, H, W, C].

  Args:
    family: a Gaussian family.
    way: steps, path and noise.
    params: of one image.
    key: of the samples.
  """
  noises = corners(key, family, params)
  return grid(family, params, noises, way.steps, PATHS[way.path], way.pixel_noise)


@functools.partial(jax.jit, static_argnums=(0, 1))
def line(family: Family[P], way: Way, params: P, key: Array) -> Array:
  """Returns the path between two new samples, the upper edge of the grid of `draw`. [T, H, W, C].

  Args:
    family: a Gaussian family.
    way: steps, path and noise.
    params: of one image.
    key: of the samples.

  Raises:
    ValueError: as `grid`.
  """
  noises = corners(key, family, params)
  image_of = _image_of(_primitives(family), way.pixel_noise)
  vectors, unravel = _moving(noises, _fixed(family, noises))
  t = jnp.linspace(0, 1, way.steps, dtype=vectors.dtype)
  points = jax.vmap(PATHS[way.path], in_axes=(None, None, 0))(vectors[0], vectors[1], t)
  return jax.lax.map(lambda point: image_of(params, unravel(point)), points)


def line_between_images(bound: Bound, ends: Array, steps: int, path: str) -> Array:
  """Returns what a model decodes between the latents of two images. [T, H, W, C].

  Args:
    bound: a model with latents.
    ends: [2, H, W, C], floats in [-1, 1].
    steps: T.
    path: of `PATHS`.

  Raises:
    ValueError: the model has no latents.
  """
  _check_latents(bound)
  latents = jax.jit(Bound.infer)(bound, None, ends)
  t = jnp.linspace(0, 1, steps, dtype=ends.dtype)

  def between(pair: Array) -> Array:
    along = jax.vmap(PATHS[path], in_axes=(None, None, 0))
    return along(pair[0].reshape(-1), pair[1].reshape(-1), t).reshape(steps, *pair.shape[1:])

  return _row(bound, jax.tree.map(between, latents))


def between_images(bound: Bound, ends: Array, steps: int, path: str) -> Array:
  """Returns what a model decodes on a grid between the latents of four images. [T, T, H, W, C].

  It is the mode of p(x|z) for a mixture, otherwise the mean. If a model has several latents, each
  follows its own path.

  Args:
    bound: a model with latents.
    ends: [4, H, W, C], floats in [-1, 1]: top left, top right, bottom left and bottom right.
    steps: T.
    path: of `PATHS`.

  Raises:
    ValueError: the model has no latents, there are fewer than two steps or not four images.
  """
  _check_latents(bound)
  if steps < 2 or len(ends) != 4:
    raise ValueError(f'A grid needs at least 2 steps and 4 images; got {steps} and {len(ends)}.')
  latents = jax.jit(Bound.infer)(bound, None, ends)
  grids = jax.tree.map(functools.partial(_latent_grid, steps, PATHS[path]), latents)
  rows = [_row(bound, jax.tree.map(lambda grid, i=i: grid[i], grids)) for i in range(steps)]
  return jnp.stack(rows)


@jax.jit
def _row(bound: Bound, z: Latents) -> Array:
  """Returns images at latents [T, ...]. [T, H, W, C]."""
  family = bound.model.family
  return jax.vmap(family.mean if family.mode is None else family.mode)(bound.decode(z))


def _latent_grid(steps: int, path: Path, ends: Array) -> Array:
  """Returns latents [T, T, ...] between four [4, ...]."""
  flat = ends.reshape(4, -1)
  t = jnp.linspace(0, 1, steps, dtype=ends.dtype)
  along = jax.vmap(path, in_axes=(None, None, 0))
  left, right = along(flat[0], flat[2], t), along(flat[1], flat[3], t)
  found = jax.vmap(along, in_axes=(0, 0, None))(left, right, t)
  return found.reshape(steps, steps, *ends.shape[1:])


def check(family: Family) -> None:
  """Raises a ValueError unless the family has a covariance."""
  _primitives(family)


def _check_latents(bound: Bound) -> None:
  if not bound.model.traits.has_latents:
    raise ValueError('This model has no latents to interpolate; omit --images.')


def _fixed(family: Family, noises: Any) -> Any:
  """Returns which leaves of a noise stay: those behind pixel noise alone, as a tree of bools.

  No leaf does if nothing would change otherwise.
  """
  floor = _primitives(family).pixel_noise
  if floor is not None and floor.own is not None:
    own = floor.own(noises)
    pairs = zip(jax.tree.leaves(own), jax.tree.leaves(noises), strict=True)
    if any(leaf.size and not fixed for fixed, leaf in pairs):
      return own
  return jax.tree.map(lambda _: False, noises)


def _image_of(primitives: base.Gaussian[P], pixel_noise: bool) -> Callable[[P, Any], Array]:
  if pixel_noise:
    return primitives.reparameterize
  if primitives.pixel_noise is None:
    raise ValueError('Without pixel noise: this family has no floor of independent pixel noise.')
  return primitives.pixel_noise.without


def _moving(noises: Any, fixed: Any) -> tuple[Array, Callable[[Array], Any]]:
  """Returns the changing noise of the corners, [4, n], and the whole noise as a function of it [n]."""
  stays, (leaves, tree) = jax.tree.leaves(fixed), jax.tree.flatten(noises)
  moving = [leaf for leaf, still in zip(leaves, stays, strict=True) if not still]
  _, unravel = ravel_pytree([leaf[0] for leaf in moving])

  def whole(vector: Array) -> Any:
    moved = iter(unravel(vector))
    return tree.unflatten(
      [leaf[0] if still else next(moved) for leaf, still in zip(leaves, stays, strict=True)]
    )

  return jax.vmap(lambda some: ravel_pytree(some)[0])(moving), whole


def _primitives(family: Family[P]) -> base.Gaussian[P]:
  if not elliptical.has_covariance(family):
    raise ValueError('Interpolation needs a family with a covariance; this model has none.')
  return elliptical.primitives(family)
