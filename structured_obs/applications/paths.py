"""Paths between two vectors of white noise, or two latents.

There are three from a to b:

  slerp     (sin((1 - t) w) a + sin(t w) b) / sin w,  w the angle between a and b
  gaussian  cos(pi t / 2) a + sin(pi t / 2) b
  straight  (1 - t) a + t b

The first is the paper's, with the angle between a / |a| and b / |b|, which its equation misprints. It
keeps the length of vectors of equal length, but for independent normal a and b its points are not
normal. The points of the second are, at every t: every image on the path is a sample.

Letters: n size of a vector.

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022, equation 8.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array
Path = Callable[[Array, Array, Array | float], Array]  # (a, b, t) -> the point at t

_NEARLY_LINEAR = 1e-6  # 1 - |cos w| below which a and b count as lying on one line


def slerp(a: Array, b: Array, t: Array | float) -> Array:
  """Returns the spherical linear interpolation, exactly a at t = 0 and b at t = 1. [n].

  If the vectors are parallel, opposite or zero they span no plane, and the path is straight. Values and
  derivatives are finite for all finite vectors.

  Args:
    a: [n], any n.
    b: [n].
    t: [], from 0 to 1.

  Reference: SOS-VAE, equation 8, with the cosine (a / |a|) . (b / |b|).
  """
  t = jnp.asarray(t, a.dtype)
  cosine = jnp.sum(_unit(a) * _unit(b))
  # A zero vector has no direction; NaN must not count as one.
  flat = (jnp.abs(cosine) > 1 - _NEARLY_LINEAR) | ~jnp.any(a != 0) | ~jnp.any(b != 0)
  angle = jnp.arccos(jnp.where(flat, 0, cosine))
  first = jnp.where(flat, 1 - t, jnp.sin((1 - t) * angle) / jnp.sin(angle))
  last = jnp.where(flat, t, jnp.sin(t * angle) / jnp.sin(angle))
  return first * a + last * b


def gaussian_path(a: Array, b: Array, t: Array | float) -> Array:
  """Returns a point of the quarter of an ellipse from a to b, standard normal if both are. [n].

  Args:
    a: [n], any n.
    b: [n].
    t: [], from 0 to 1.
  """
  t = jnp.asarray(t, a.dtype)
  # The sine of the remaining angle, unlike the cosine, vanishes exactly at the end.
  return jnp.sin((1 - t) * (math.pi / 2)) * a + jnp.sin(t * (math.pi / 2)) * b


def straight(a: Array, b: Array, t: Array | float) -> Array:
  """Returns the point (1 - t) a + t b of the straight path. [n], any n.

  Args:
    a: [n].
    b: [n].
    t: [], from 0 to 1.
  """
  t = jnp.asarray(t, a.dtype)
  return (1 - t) * a + t * b


PATHS: dict[str, Path] = {'slerp': slerp, 'gaussian': gaussian_path, 'straight': straight}


def _unit(v: Array) -> Array:
  """Returns the vector of length 1 in this direction; zero for zero, with a derivative of zero."""
  # Entries of at most 1 can be squared whatever the vector's size.
  scale = jnp.max(jnp.abs(v))
  some = scale > 0
  scaled = v / jnp.where(some, jax.lax.stop_gradient(scale), 1)
  return scaled * jax.lax.rsqrt(jnp.where(some, jnp.sum(jnp.square(scaled)), 1))
