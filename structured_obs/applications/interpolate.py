"""Ways between samples of one predicted distribution, whose noise moves; and between images' latents.

A sample is an affine function of white noise. Between two noises a and b there are two ways:

  slerp     (sin((1 - t) w) a + sin(t w) b) / sin w,  w the angle between a and b
  gaussian  cos(pi t / 2) a + sin(pi t / 2) b

The first is the paper's, with the angle between a / |a| and b / |b|, which its equation misprints. It
keeps the length of vectors that are equally long, but what it makes of independent normal a and b is not
normal. The second is, at every t: all along the way the image is a sample.

Letters: n size of a noise; T steps; H W C image height, width, channels.

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022, equations 4 and 8, figure 4.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from structured_obs.distributions import base, low_rank
from structured_obs.distributions.base import Family, P
from structured_obs.models.base import Bound, Latents

Array = jax.Array
Path = Callable[[Array, Array, Array | float], Array]  # (a, b, t) -> the way's point at t

_NEARLY_LINEAR = 1e-6  # 1 - |cos w|, below which a and b are taken to lie on one line


def slerp(a: Array, b: Array, t: Array | float) -> Array:
  """Spherical linear interpolation. [n], exactly a at t = 0 and b at t = 1.

  Where the vectors are parallel, opposite or zero there is no one plane to turn in, and the way is
  the straight one. Finite, as are its derivatives, for all finite vectors.

  Args:
    a: [n], any n.
    b: [n].
    t: [], from 0 to 1.

  Reference: SOS-VAE, equation 8, with the cosine (a / |a|) . (b / |b|).
  """
  t = jnp.asarray(t, a.dtype)
  cosine = jnp.sum(_unit(a) * _unit(b))
  # A zero vector has no direction; NaN must not pass for one.
  flat = (jnp.abs(cosine) > 1 - _NEARLY_LINEAR) | ~jnp.any(a != 0) | ~jnp.any(b != 0)
  angle = jnp.arccos(jnp.where(flat, 0, cosine))
  first = jnp.where(flat, 1 - t, jnp.sin((1 - t) * angle) / jnp.sin(angle))
  last = jnp.where(flat, t, jnp.sin(t * angle) / jnp.sin(angle))
  return first * a + last * b


def gaussian_path(a: Array, b: Array, t: Array | float) -> Array:
  """Point of the quarter of an ellipse from a to b, standard normal if both are. [n].

  Args:
    a: [n], any n.
    b: [n].
    t: [], from 0 to 1.
  """
  t = jnp.asarray(t, a.dtype)
  # The sine of the rest of the angle, in the place of a cosine, vanishes exactly at the end.
  return jnp.sin((1 - t) * (math.pi / 2)) * a + jnp.sin(t * (math.pi / 2)) * b


def straight(a: Array, b: Array, t: Array | float) -> Array:
  """The point of the straight way, (1 - t) a + t b. [n], any n."""
  t = jnp.asarray(t, a.dtype)
  return (1 - t) * a + t * b


PATHS: dict[str, Path] = {'slerp': slerp, 'gaussian': gaussian_path, 'straight': straight}


def corners(key: Array, family: Family[P], params: P, pixel_noise: bool = True) -> Any:
  """White noise of four samples, as `grid` takes it: each leaf with a leading 4.

  Of a low-rank family they share the pixel noise, or have none. Raises ValueError unless the family is
  Gaussian.
  """
  draw = _gaussian(family).noise
  drawn = jax.vmap(lambda key: draw(key, params))(jax.random.split(key, 4))
  if not isinstance(drawn, low_rank.Noise):
    return drawn
  shared = jnp.broadcast_to(drawn.diag[:1], drawn.diag.shape)
  return drawn._replace(diag=shared if pixel_noise else jnp.zeros_like(shared))


def grid(family: Family[P], params: P, noises: Any, steps: int, path: Path = slerp) -> Array:
  """Images on a grid between four samples of one distribution. [T, T, H, W, C].

  The ways down the left and the right edge are made first, and each row is a way between them. Of a
  low-rank family the noise of the factor moves, and the pixel noise is that of the first corner; of
  every other family all noise moves, as one vector.

  Args:
    family: a Gaussian family.
    params: of one image.
    noises: of the corners top left, top right, bottom left and bottom right, as the family's
      `noise` but each leaf with a leading 4; see `corners`.
    steps: T.
    path: the way between two noises.

  Raises:
    ValueError: the family is not Gaussian, there are fewer than two steps or not four corners.
  """
  reparameterize = _gaussian(family).reparameterize
  sizes = {leaf.shape[0] for leaf in jax.tree.leaves(noises)}
  if steps < 2 or sizes != {4}:
    raise ValueError(
      'A grid needs at least 2 steps and the noise of 4 corners; got '
      f'{steps} steps and {" or ".join(map(str, sorted(sizes)))} corners.'
    )
  vectors, unravel = _moving(noises)
  t = jnp.linspace(0, 1, steps, dtype=vectors.dtype)
  along = jax.vmap(path, in_axes=(None, None, 0))
  left, right = along(vectors[0], vectors[2], t), along(vectors[1], vectors[3], t)
  rows = jax.vmap(along, in_axes=(0, 0, None))(left, right, t)
  image = jax.vmap(lambda noise: reparameterize(params, unravel(noise)))
  return jax.lax.map(image, rows)  # row by row, to bound the memory


class Way(NamedTuple):
  """How to go from sample to sample."""

  steps: int = 9  # T
  path: str = 'slerp'  # of `PATHS`
  pixel_noise: bool = True  # whether images of a low-rank family have any


@functools.partial(jax.jit, static_argnums=(0, 1))
def draw(family: Family[P], way: Way, params: P, key: Array) -> Array:
  """The grid between four new samples. [T, T, H, W, C]."""
  noises = corners(key, family, params, way.pixel_noise)
  return grid(family, params, noises, way.steps, PATHS[way.path])


def between_images(bound: Bound, ends: Array, steps: int, path: str) -> Array:
  """What a model decodes on a grid between the latents of four images. [T, T, H, W, C].

  It is the mode of p(x|z) for a mixture, else the mean. Where a model has several latents, each goes
  its own way.

  Args:
    bound: a model with latents.
    ends: [4, H, W, C], floats in [-1, 1]: top left, top right, bottom left and bottom right.
    steps: T.
    path: of `PATHS`.

  Raises:
    ValueError: the model has no latents, there are fewer than two steps or not four images.
  """
  if not bound.model.traits.has_latents:
    raise ValueError('This model has no latents to go between; leave --images away.')
  if steps < 2 or len(ends) != 4:
    raise ValueError(f'A grid needs at least 2 steps and 4 images; got {steps} and {len(ends)}.')
  latents = jax.jit(Bound.infer)(bound, None, ends)
  grids = jax.tree.map(functools.partial(_latent_grid, steps, PATHS[path]), latents)
  rows = [_row(bound, jax.tree.map(lambda grid, i=i: grid[i], grids)) for i in range(steps)]
  return jnp.stack(rows)


@jax.jit
def _row(bound: Bound, z: Latents) -> Array:
  """Images at latents [T, ...]. [T, H, W, C]."""
  family = bound.model.family
  return jax.vmap(family.mean if family.mode is None else family.mode)(bound.decode(z))


def _latent_grid(steps: int, path: Path, ends: Array) -> Array:
  """Latents [T, T, ...] between four [4, ...]."""
  flat = ends.reshape(4, -1)
  t = jnp.linspace(0, 1, steps, dtype=ends.dtype)
  along = jax.vmap(path, in_axes=(None, None, 0))
  left, right = along(flat[0], flat[2], t), along(flat[1], flat[3], t)
  found = jax.vmap(along, in_axes=(0, 0, None))(left, right, t)
  return found.reshape(steps, steps, *ends.shape[1:])


def check(family: Family) -> None:
  """Raises ValueError unless the family is Gaussian."""
  _gaussian(family)


def _moving(noises: Any) -> tuple[Array, Callable[[Array], Any]]:
  """What moves of the corners' noise, [4, n], and the whole noise as a function of it [n]."""
  if isinstance(noises, low_rank.Noise) and noises.factor.shape[-1]:
    return noises.factor, functools.partial(_with_factor, noises.diag[0])
  first = jax.tree.map(lambda leaf: leaf[0], noises)
  return jax.vmap(lambda noise: ravel_pytree(noise)[0])(noises), ravel_pytree(first)[1]


def _with_factor(diag: Array, factor: Array) -> low_rank.Noise:
  return low_rank.Noise(factor, diag)


def _unit(v: Array) -> Array:
  """Vector of length 1 and this direction; zero for zero, with a derivative of zero."""
  # Entries of at most 1 can be squared whatever the vector's size.
  scale = jnp.max(jnp.abs(v))
  some = scale > 0
  scaled = v / jnp.where(some, jax.lax.stop_gradient(scale), 1)
  return scaled * jax.lax.rsqrt(jnp.where(some, jnp.sum(jnp.square(scaled)), 1))


def _gaussian(family: Family[P]) -> base.Gaussian[P]:
  if family.gaussian is None:
    raise ValueError('Interpolation needs a Gaussian family, which is one with white noise.')
  return family.gaussian
