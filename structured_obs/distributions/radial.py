"""How far from the mean an image of D pixels lies: what the degrees of freedom of a Student t change.

An image x = m + y / sqrt(w), with y normal of covariance S (the scale matrix) and nu w chi-square with
nu degrees of freedom, is a multivariate Student t. Its squared distance q = (x - m)^T S^-1 (x - m) says
all about its tails: q / D is F-distributed with D and nu degrees of freedom. For infinite nu, written
as None here, x is normal and q chi-square with D degrees of freedom.

All functions are written in terms of log((nu + q) / (nu + D)) and of remainders of Stirling's formula,
so that no large numbers cancel: float32 is accurate for images of any size and nu of any size, and a
large nu gives the normal distribution. They have derivatives of any order.

Letters: D number of pixels, q squared distance, nu degrees of freedom.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base

Array = jax.Array
Size = int | Array  # D, [] where it is traced

SHIFT = 8  # steps of the recurrence in front of the series
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)
DROP = 40.0  # nats below the largest density at which the integral of a tail ends
NODES, WEIGHTS = np.polynomial.legendre.leggauss(48)
BISECTIONS = 60


def stirling(z: Array) -> Array:
  """Returns log Gamma(z) - (z - 1/2) log z + z - log(2 pi) / 2, for z > 0. Any shape."""
  total = jnp.zeros_like(z)
  for _ in range(SHIFT):
    total = total + ((z + 0.5) * jnp.log1p(1 / z) - 1)
    z = z + 1
  series = jnp.zeros_like(z)
  for factor in reversed(STIRLING):
    series = series / jnp.square(z) + factor
  return total + series / z


def log_density(size: Size, dof: Array | None, distance: Array, log_det: Array) -> Array:
  """Returns the log density of a Student t, or of a normal distribution for a nu of None. [], nats.

  Args:
    size: D.
    dof: [], nu > 0, or None.
    distance: [], q.
    log_det: [], of the scale matrix.
  """
  if dof is None:
    return -0.5 * (size * base.LOG_2PI + log_det + distance)
  count = jnp.asarray(size, distance.dtype)
  total = dof + count
  normal = -0.5 * (log_det + count * (1 + base.LOG_2PI))
  constant = stirling(total / 2) - stirling(dof / 2) - 0.5 * jnp.log1p(count / dof)
  return normal + constant - 0.5 * total * _log_ratio(count, dof, distance)


def _log_ratio(size: Array, dof: Array, distance: Array) -> Array:
  """Returns log((nu + q) / (nu + D))."""
  surplus = (distance - size) / (dof + size)
  near = jnp.abs(surplus) < 0.5
  far = jnp.where(near, 1, (dof + distance) / (dof + size))
  return jnp.where(near, jnp.log1p(jnp.where(near, surplus, 0)), jnp.log(far))


def entropy(size: int, dof: Array | None, log_det: Array) -> Array:
  """Returns the differential entropy of a Student t, or of a normal distribution. [], nats.

  Args:
    size: D.
    dof: [], nu > 0, or None.
    log_det: [], of the scale matrix.
  """
  normal = 0.5 * (size * (1 + base.LOG_2PI) + log_det)
  if dof is None:
    return normal
  half, total = dof / 2, (dof + size) / 2

  def digamma_less_log(z: Array) -> Array:
    return jax.grad(stirling)(z) - 0.5 / z

  constant = stirling(total) - stirling(half) - 0.5 * jnp.log1p(size / dof)
  # The mean of log((nu + q) / (nu + D)), by digamma((nu + D) / 2) - digamma(nu / 2).
  return normal - constant + total * (digamma_less_log(total) - digamma_less_log(half))


def inflation(dof: Array) -> Array:
  """Returns nu / (nu - 2), of covariance over scale matrix; infinite for nu <= 2. [].

  NaN stays NaN.
  """
  finite = dof > 2
  ratio = dof / jnp.where(finite, dof - 2, 1)
  return jnp.where(finite, ratio, jnp.where(jnp.isnan(dof), jnp.nan, jnp.inf))


def draw_factor(key: Array, dof: Array) -> Array:
  """Draws 1 / sqrt(w), by which a normal residual becomes one of a Student t. [].

  Args:
    key: one jax.random.key.
    dof: [], nu > 0.
  """
  log_w = jax.random.loggamma(key, dof / 2, dtype=dof.dtype) - jnp.log(dof / 2)
  return jnp.exp(-0.5 * log_w)


def distance_cdf(size: int, dof: Array | None, distance: Array) -> Array:
  """Returns the probability of a squared distance below this one. Of the shape of `distance`, any.

  It is that of F with D and nu degrees of freedom at q / D, or of chi-square at q for a nu of None,
  within 1e-10 in float64.

  Args:
    size: D.
    dof: [], nu > 0, or None.
    distance: q >= 0.
  """
  distance = jnp.asarray(distance)
  positive, finite = distance > 0, distance < jnp.inf
  inside = jnp.log(jnp.where(positive & finite, distance, size) / size)
  found = _cdf(size, dof, inside)
  ends = jnp.where(positive, 1, 0) + 0 * distance  # NaN for NaN, and infinity is 1 below
  return jnp.where(positive & finite, found, jnp.where(positive & ~finite, 1, ends))


def distance_quantile(size: int, dof: Array | None, probability: Array) -> Array:
  """Returns the squared distance q with this `distance_cdf`. Of the shape of `probability`, any.

  Its first derivatives are exact. A probability outside [0, 1] gives NaN.

  Args:
    size: D.
    dof: [], nu > 0, or None.
    probability: from 0 to 1.
  """
  probability = jnp.asarray(probability)
  inside = (probability > 0) & (probability < 1)
  wanted = jnp.where(inside, probability, 0.5)
  low, high = _far(size, dof, wanted.dtype)
  ends = jnp.broadcast_to(-low, wanted.shape), jnp.broadcast_to(high, wanted.shape)

  def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
    middle = (ends[0] + ends[1]) / 2
    below = _cdf(size, dof, middle) < wanted
    return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

  ends = jax.lax.stop_gradient(jax.lax.fori_loop(0, BISECTIONS, halve, ends))
  t = (ends[0] + ends[1]) / 2
  slope = jax.lax.stop_gradient(jnp.exp(_log_density_of_log(size, dof, t)))
  error = _cdf(size, dof, t) - wanted
  # A step of Newton's method that changes no number has the derivatives of the solution.
  moved = (error - jax.lax.stop_gradient(error)) / jnp.where(slope > 0, slope, 1)
  ends = jnp.where(probability == 0, 0, jnp.where(probability == 1, jnp.inf, jnp.nan))
  return jnp.where(inside, size * jnp.exp(t - moved), ends)


def pixel_cdf(dof: Array | None, z: Array) -> Array:
  """Returns the probability of a pixel below z, by Student's t or the normal distribution. Any shape.

  Args:
    dof: [], nu > 0, or None.
    z: residual of the pixel over its scale.
  """
  if dof is None:
    return jax.scipy.stats.norm.cdf(z)
  # With z = sqrt(nu) sinh(angle) the density is that of cosh(angle)^-nu, smooth for every nu.
  root = jnp.sqrt(dof)
  drop = DROP / dof
  end = drop + jnp.log1p(jnp.sqrt(-jnp.expm1(-2 * drop)))
  angle = jnp.clip(jnp.arcsinh(jnp.clip(z, -1e18, 1e18) / root), -end, end)
  integral = _integral(lambda at: jnp.exp(-0.5 * dof * jnp.log1p(jnp.square(jnp.sinh(at)))), angle)
  zero = jnp.zeros_like(dof)
  found = 0.5 + root * jnp.exp(log_density(1, dof, zero, zero)) * integral
  return jnp.clip(found, 0, 1)


def _cdf(size: int, dof: Array | None, t: Array) -> Array:
  """Returns the probability of log(q / D) below t, by the integral of the nearer tail. Any shape."""
  lower = t < 0
  sign = jnp.where(lower, -1, 1).astype(t.dtype)
  length = jax.lax.stop_gradient(_tail_length(size, dof, t, sign))
  tail = _integral(lambda far: jnp.exp(_log_density_of_log(size, dof, t + sign * far)), length)
  return jnp.where(lower, tail, 1 - tail)


def _integral(function: Callable[[Array], Array], end: Array) -> Array:
  """Returns the integral of an elementwise function from 0 to each end. Any shape."""
  nodes, weights = (jnp.asarray(a, end.dtype) for a in (0.5 + 0.5 * NODES, 0.5 * WEIGHTS))
  values = jax.vmap(lambda node, weight: weight * function(node * end))(nodes, weights)
  return end * jnp.sum(values, axis=0)


def _tail_length(size: int, dof: Array | None, t: Array, sign: Array) -> Array:
  """Returns how far from t the log density of log(q / D) has fallen by `DROP`."""
  top = _log_density_of_log(size, dof, t)
  low = jnp.full_like(t, math.log(1e-9))
  high = jnp.log(sum(_far(size, dof, t.dtype))) + jnp.zeros_like(t)

  def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
    middle = (ends[0] + ends[1]) / 2
    near = top - _log_density_of_log(size, dof, t + sign * jnp.exp(middle)) < DROP
    return jnp.where(near, middle, ends[0]), jnp.where(near, ends[1], middle)

  return jnp.exp(jax.lax.fori_loop(0, 20, halve, (low, high))[1])


def _log_density_of_log(size: int, dof: Array | None, t: Array) -> Array:
  """Returns the log density of t = log(q / D), which is largest at 0 and falls on both sides."""
  half = size / 2
  at_half = stirling(jnp.full((), half, t.dtype))
  if dof is None:
    fall = half * (t - jnp.expm1(jnp.minimum(t, 80)))
    return fall + 0.5 * math.log(half / (2 * math.pi)) - at_half
  other, total = dof / 2, (dof + size) / 2
  constant = 0.5 * jnp.log(half / total * other / (2 * math.pi)) + stirling(total)
  # It is the same with nu, D and t in place of D, nu and -t: the smaller factor of t cancels less.
  ahead = half <= other
  less, more = jnp.where(ahead, half, other), jnp.where(ahead, other, half)
  s = jnp.where(ahead, t, -t)
  near = jnp.log1p(less / total * jnp.expm1(jnp.minimum(s, 5)))
  far = jax.nn.softplus(jnp.log(less / more) + s) - jnp.log1p(less / more)
  fall = less * s - total * jnp.where(s < 5, near, far)
  return fall + constant - at_half - stirling(other)


def _far(size: int, dof: Array | None, dtype: jnp.dtype) -> tuple[Array, Array]:
  """Returns distances below and above 0 beyond which log(q / D) has no probability. [] each."""
  half = jnp.full((), size / 2, dtype)
  if dof is None:
    return _reach(half, half), 40 / jnp.sqrt(half)
  other = jax.lax.stop_gradient(dof) / 2
  return _reach(half, other), _reach(other, half)


def _reach(exponent: Array, other: Array) -> Array:
  """Returns where a tail that falls at last by this exponent is below 1e-300."""
  return 40 * jnp.sqrt(1 / exponent + 1 / other) + 700 / exponent
