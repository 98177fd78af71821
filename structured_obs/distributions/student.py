"""Heavier tails: the multivariate Student t with a base's covariance S as its scale matrix.

x = m + y / sqrt(w), y of the Gaussian base less its mean m, and nu w chi-square with nu degrees of
freedom: one number for a whole image says by how much all of its residual is larger or smaller than the
base's. That is how images differ: their squared distances q vary much more than those of any Gaussian
of thousands of pixels, and one temperature for all images mends nothing. The squared distance over D is
F-distributed.

The mean is m for nu > 1 and the covariance S nu / (nu - 2) for nu > 2; it is infinite below. A
conditional is again a Student t, with nu plus the number of pixels seen as degrees of freedom. A large
nu gives the base. The generic operations of `gaussian` serve both.

Letters: H W C image height, width, channels; D = H W C; m mean, S scale matrix, nu degrees of freedom.

Reference: Kotz and Nadarajah, "Multivariate t Distributions and Their Applications", 2004.
"""

import functools
import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs import option_values
from structured_obs.distributions import base, fits, linear, marginals, radial, wrapper_fits
from structured_obs.option_values import Range, Scale, When

Array = jax.Array
Family = base.Family

NAME = 'log_dof'  # name of the output
Dof = Annotated[float, Range(1e-2, 1e9)]
TRAINED = When('dof', ('learned', 'predicted'))


class Student(NamedTuple):
  """Parameters of a multivariate Student t."""

  base: Any  # parameters of the Gaussian base: its mean is the mean, its covariance the scale matrix
  dof: Array  # []  nu


@option_values.checked('student')
def family(
  inner: Family[Any],
  dof: linear.Source = 'learned',
  initial_dof: Dof = 10.0,
  min_dof: Annotated[Dof, TRAINED] = 2.5,
  max_dof: Annotated[Dof, TRAINED] = 1e6,
  temperature: Scale = 1.0,
) -> Family[Student]:
  """Returns the family of Student t distributions whose scale matrices are a base's covariances.

  Args:
    inner: the base, a Gaussian family.
    dof: nu: 'fixed' at `initial_dof`, 'learned' as one number for all images, or 'predicted' for each.
    initial_dof: nu for an output of 0.
    min_dof: smallest nu. Above 2 all variances are finite.
    max_dof: largest nu.
    temperature: constant factor of the base's standard deviations, as recalibration finds it.

  Raises:
    TypeError, ValueError: an option is of another type or out of range, not
      min_dof < initial_dof < max_dof for a nu that is trained, or the base is not Gaussian.
  """
  base.check_family(inner)
  if inner.gaussian is None:
    raise ValueError('student needs a Gaussian family as its base; this one has no Gaussian record.')
  if dof != 'fixed' and not min_dof < initial_dof < max_dof:
    raise ValueError(
      f'student needs min_dof < initial_dof < max_dof; got {min_dof}, {initial_dof}, {max_dof}.'
    )
  added, low, high = linear.from_source(dof, NAME, ()), math.log(min_dof), math.log(max_dof)
  offset = 0.0 if dof == 'fixed' else base.inverse_soft_clip(math.log(initial_dof), low, high)
  bounded = fits.Bounded(low, high, offset)
  temper = inner.gaussian.temper

  def outputs(image: base.Shape) -> dict[str, base.Shape]:
    return linear.merged(inner.outputs(image), added)

  def from_outputs(emitted: dict[str, Array]) -> Student:
    own, rest = linear.split(emitted, added)
    params = inner.from_outputs(rest)
    like = inner.mean(params)
    if temperature != 1:
      params = temper(params, jnp.asarray(temperature, like.dtype))
    if not own:
      return Student(params, jnp.full((), initial_dof, like.dtype))
    log_dof = base.soft_clip(own[NAME] + bounded.offset, bounded.low, bounded.high)
    return Student(params, jnp.exp(log_dof))

  without = functools.partial(_sample, inner, pixel_noise=False)
  made = base.Family(
    outputs,
    from_outputs,
    functools.partial(_log_prob, inner),
    functools.partial(_sample, inner),
    functools.partial(_mean, inner),
    log_prior=linear.prior_of(inner),
    kernel=inner.kernel,
    kernel_axes=linear.kernel_axes_of(inner),
    student=base.StudentT(_scale(inner.gaussian), functools.partial(_dof, inner)),
    sample_without_pixel_noise=without if base.has_floor(inner) else None,
  )
  trained = None if dof == 'fixed' else (NAME, bounded)
  fit = functools.partial(wrapper_fits.student, inner=inner, nu=initial_dof, trained=trained)
  return made._replace(fit=functools.partial(fit, family=made, temperature=temperature))


def _log_prob(inner: Family[Any], params: Student, x: Array, mask: Array | None = None) -> Array:
  """Returns the log density of an image, or of its pixels in a mask. [], nats."""
  dof, mean, primitives = _dof(inner, params), _mean(inner, params), inner.gaussian
  assert primitives is not None
  if mask is not None:
    return marginals.log_prob(primitives, params.base, mean, x, mask, dof)
  x = base.check_shape('x', x, mean.shape)
  return base.nan_unless_finite(_density(inner, params.base, dof, x))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _density(inner: Family[Any], params: Any, dof: Array, x: Array) -> Array:
  """Returns the log density, with derivatives by those of the base's density, often closed forms.

  By the distance q the density has the slope -w / 2, w = (nu + D) / (nu + q), so its derivatives are
  those of the base's density where the residual is sqrt(w) times as large, with w held.

  Args:
    inner: the base.
    params: of the base.
    dof: [], nu.
    x: [H, W, C].
  """
  assert inner.gaussian is not None
  distance = base.squared_norm(inner.gaussian.whiten(params, x - inner.mean(params)))
  return radial.log_density(x.size, dof, distance, inner.gaussian.log_det(params))


@_density.defjvp
def _density_jvp(inner: Family[Any], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
  (params, dof, x), (d_params, d_dof, d_x) = primals, tangents
  assert inner.gaussian is not None
  # The base's density is cheaper than its whitening. Its rounding changes the sum below by its square.
  normal = 2 * inner.log_prob(params, x) + x.size * base.LOG_2PI
  distance = jnp.maximum(-normal - inner.gaussian.log_det(params), 0)
  weight = (dof + x.size) / (dof + distance)

  def of_base(params: Any, x: Array) -> Array:
    mean = inner.mean(params)
    return inner.log_prob(params, mean + jnp.sqrt(weight) * (x - mean))

  def of_dof(dof: Array) -> Array:
    return radial.log_density(x.size, dof, distance, jnp.zeros_like(dof))

  value, tangent = jax.jvp(of_base, (params, x), (d_params, d_x))
  rest, d_rest = jax.jvp(of_dof, (dof,), (d_dof,))
  constant = 0.5 * (x.size * base.LOG_2PI + weight * distance)
  return value + constant + rest, tangent + d_rest


def _sample(inner: Family[Any], key: Array, params: Student, pixel_noise: bool = True) -> Array:
  """Draws one image. [H, W, C]."""
  key_factor, key_image = jax.random.split(key)
  mean = _mean(inner, params)
  factor = radial.draw_factor(key_factor, _dof(inner, params))
  draw = base.sampler(inner, pixel_noise)
  return mean + factor * (draw(key_image, params.base) - mean)


def _mean(inner: Family[Any], params: Student) -> Array:
  """Returns the mean, or the centre where nu <= 1. [H, W, C]."""
  _dof(inner, params)
  return inner.mean(params.base)


def _dof(inner: Family[Any], params: Student) -> Array:
  """Returns the degrees of freedom, NaN unless they are positive and finite. []."""
  base.check_fields(params, Student._fields)
  mean = inner.mean(params.base)
  number = isinstance(params.dof, int | float)
  dof = jnp.asarray(params.dof, mean.dtype) if number else params.dof
  return base.positive_or_nan(base.check_shape('dof', dof, ()))


def _scale(inner: base.Gaussian[Any]) -> base.Gaussian[Student]:
  """Returns the primitives of the scale matrix: all those of the base."""

  def of_base(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, *arguments: function(linear.base_of(params), *arguments)

  def noise(key: Array, params: Student) -> Any:
    return inner.noise(key, linear.base_of(params))

  def temper(params: Student, temperature: Array) -> Student:
    return params._replace(base=inner.temper(params.base, temperature))

  functions = {name: of_base(f) for name, f in inner._asdict().items() if callable(f)}
  floor = inner.pixel_noise
  if floor is not None:
    without, draw, product = (of_base(f) for f in floor[:3])
    floor = base.PixelNoise(without, draw, product, floor.own)
  return inner._replace(**functions | {'noise': noise, 'temper': temper, 'pixel_noise': floor})
