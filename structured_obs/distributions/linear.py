# One file of more than 300 lines: the mechanism of all linear wrappers.
"""Invertible linear maps of an image's residual around any density: x = m + T (y - m), y of the base.

The mean m is the base's own. The log density is the base's at y less log |det T|, and a Gaussian base
with covariance R gives cov = T R T^T. `scaled`, `colour` and `haar` are uses of it: each is a record of
the map's functions and of the outputs that it takes besides the base's.

Letters: H W C image height, width, channels; D = H W C; r = x - m.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any, Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import base, gaussian, mapped_marginals, wrapper_fits
from structured_obs.linalg.products import matmul
from structured_obs.option_values import Choice, When

Array = jax.Array
Family = base.Family

# Where parameters of a wrapper come from: an option, an array of all images, or a network.
Source = Annotated[str, Choice(('fixed', 'learned', 'predicted'))]
WITH_SCALE = When('scale', ('learned', 'predicted'))


def from_source(source: str, name: str, shape: base.Shape) -> dict[str, base.Shape]:
  """Returns the output of this name and shape that a `Source` asks for, or {}."""
  found: dict[str, dict[str, base.Shape]] = {
    'fixed': {},
    'learned': {name: base.Shared(tuple(shape))},
    'predicted': {name: shape},
  }
  return found[source]


class Linear(Protocol):
  """Parameters of a wrapper: those of its base, and of its map."""

  @property
  def base(self) -> Any:
    """Parameters of the base family; its mean is the mean."""
    ...


P = TypeVar('P', bound=Linear)


class Map(NamedTuple, Generic[P]):
  """T, by its products with images [H, W, C], which check the shapes of the parameters."""

  apply: Callable[[P, Array], Array]  # (params, v) -> T v
  invert: Callable[[P, Array], Array]  # (params, v) -> T^-1 v
  transpose: Callable[[P, Array], Array]  # (params, v) -> T^T v
  invert_transposed: Callable[[P, Array], Array]  # (params, v) -> T^-T v
  log_det: Callable[[P, Array], Array]  # (params, mean [H, W, C]) -> [], log |det T|
  check: Callable[[P, Array], Any]  # (params, mean); raises unless the map's parameters fit the image
  # (params, mean) -> T [C, C] of the channels of each pixel, or [H, W, C, C], where T maps these alone.
  by_pixel: Callable[[P, Array], Array] | None = None
  # (params, v) -> (T * T) v, with the squared entries of T.
  apply_squared: Callable[[P, Array], Array] | None = None
  diagonal: bool = False  # whether T is
  # params -> [C, C], orthogonal: its columns are what T turns the base's channels to; None: themselves.
  axes: Callable[[P], Array] | None = None


class Outputs(NamedTuple, Generic[P]):
  """What a wrapper adds to the outputs of a decoder."""

  shapes: Callable[[base.ImageShape], dict[str, base.Shape]]
  # (parameters of the base, the added outputs) -> params
  parameters: Callable[[Any, dict[str, Array]], P]
  start: Callable[[Any], dict[str, Any]] | None = None  # `fitting.Sample` -> some, from its moments


def family(inner: Family[Any], of: Map[P], added: Outputs[P]) -> Family[P]:
  """Returns the family of a base's images after a linear map of their residuals.

  Args:
    inner: the base, a family of densities, Gaussian or not.
    of: the map.
    added: outputs of a decoder beyond the base's.

  Raises:
    ValueError: the base is a family of gray levels, or has an output of the same name.
  """
  base.check_density('A linear map', inner)

  def outputs(image: base.Shape) -> dict[str, base.Shape]:
    image = base.image_shape(image)
    return merged(inner.outputs(image), added.shapes(image))

  def from_outputs(emitted: dict[str, Array]) -> P:
    image = base.image_of_outputs(emitted)
    own, rest = split(emitted, added.shapes(image))
    return added.parameters(inner.from_outputs(rest), own)

  def mean(params: P) -> Array:
    m = inner.mean(base_of(params))
    of.check(params, m)
    return m

  def log_prob(params: P, x: Array, mask: Array | None = None) -> Array:
    if mask is not None:
      return mapped_marginals.log_prob(made, inner, of, params, (x, mask))
    m = mean(params)
    x = base.check_shape('x', x, m.shape)
    density = inner.log_prob(base_of(params), m + of.invert(params, x - m))
    return base.nan_unless_finite(density - of.log_det(params, m))

  def sample(key: Array, params: P, pixel_noise: bool = True) -> Array:
    m, draw = mean(params), base.sampler(inner, pixel_noise)
    return m + of.apply(params, draw(key, base_of(params)) - m)

  without = functools.partial(sample, pixel_noise=False)
  record = None if inner.gaussian is None else primitives(inner.gaussian, mean, of)
  made = base.Family(
    outputs,
    from_outputs,
    log_prob,
    sample,
    mean,
    gaussian=record,
    log_prior=prior_of(inner),
    kernel=inner.kernel,
    kernel_axes=kernel_axes_of(inner, of.axes),
    student=None if inner.student is None else _student(inner.student, mean, of),
    sample_without_pixel_noise=without if inner.sample_without_pixel_noise else None,
  )
  parts = {'inner': inner, 'invert': of.invert, 'parameters': added.parameters}
  own = functools.partial(_start, added)
  return made._replace(fit=functools.partial(wrapper_fits.mapped, family=made, own=own, **parts))


def _student(inner: base.StudentT[Any], mean: Callable[[P], Array], of: Map[P]) -> base.StudentT[P]:
  """Returns the record of a mapped Student t."""
  return base.StudentT(primitives(inner.scale, mean, of), lambda params: inner.dof(base_of(params)))


def prior_of(inner: Family[Any]) -> Callable[[Any], Array] | None:
  """Returns the `log_prior` of a wrapper, that of its base."""
  prior = inner.log_prior
  return None if prior is None else lambda params: prior(base_of(params))


def kernel_axes_of(
  inner: Family[Any], own: Callable[[Any], Array] | None = None
) -> Callable[[Any], Array] | None:
  """Returns the `kernel_axes` of a wrapper that turns the channels of its base by `own`, or not."""
  axes = inner.kernel_axes
  if inner.kernel is None or axes is None:
    return None if inner.kernel is None else own
  if own is None:
    return lambda params: axes(base_of(params))
  return lambda params: matmul(own(params), axes(base_of(params)))


def _start(added: Outputs[P], sample: Any) -> dict[str, Any]:
  """Returns the map's own outputs for a sample: those known from its moments, and 0."""
  known = {} if added.start is None else added.start(sample)
  shapes = added.shapes(sample.image)
  return {name: known.get(name, np.zeros(tuple(shape))) for name, shape in shapes.items()}


def base_of(params: Any) -> Any:
  """Returns the parameters of the base; raises TypeError unless a wrapper's parameters hold them."""
  if not hasattr(params, 'base'):
    raise TypeError(
      "This family needs parameters with a field 'base', those of the family inside; got "
      f'{type(params).__name__}. Are they of another family?'
    )
  return params.base


def primitives(inner: base.Gaussian[Any], mean: Callable[[P], Array], of: Map[P]) -> base.Gaussian[P]:
  """Returns the primitives of the mapped Gaussian, with covariance T R T^T.

  Args:
    inner: primitives of the base, with covariance R.
    mean: of the wrapper's parameters.
    of: the map.
  """

  def noise(key: Array, params: P) -> Any:
    return inner.noise(key, base_of(params))

  def reparameterize(params: P, noise: Any) -> Array:
    m = mean(params)
    return m + of.apply(params, inner.reparameterize(base_of(params), noise) - m)

  def whiten(params: P, residual: Array) -> Any:
    return inner.whiten(base_of(params), of.invert(params, residual))

  def white_image(params: P, residual: Array) -> Array:
    return (inner.white_image or inner.whiten)(base_of(params), of.invert(params, residual))

  def log_det(params: P) -> Array:
    return inner.log_det(base_of(params)) + 2 * of.log_det(params, mean(params))

  def covariance_matvec(params: P, v: Array) -> Array:
    return of.apply(params, inner.covariance_matvec(base_of(params), of.transpose(params, v)))

  def precision_matvec(params: P, v: Array) -> Array:
    product = inner.precision_matvec(base_of(params), of.invert(params, v))
    return of.invert_transposed(params, product)

  def temper(params: Any, temperature: Array) -> Any:
    return params._replace(base=inner.temper(base_of(params), temperature))

  def channel_covariance(params: P) -> Array:
    return _channel_covariance(inner, params, mean(params), of)

  def variance(params: P) -> Array:
    if of.apply_squared is not None and (inner.independent or of.diagonal):
      return of.apply_squared(params, inner.variance(base_of(params)))
    return jnp.diagonal(channel_covariance(params), axis1=-2, axis2=-1)

  required = base.in_order(
    noise, reparameterize, whiten, log_det, variance, covariance_matvec, precision_matvec, temper
  )
  made = base.Gaussian(
    *required,
    white_image=white_image,
    channel_covariance=channel_covariance,
    independent=inner.independent and of.diagonal,
    **_optional(inner, mean, of),
  )
  return made._replace(marginal=mapped_marginals.of_map(made, inner, mean, of))


def _optional(inner: base.Gaussian[Any], mean: Callable[[P], Array], of: Map[P]) -> dict[str, Any]:
  """Returns the fields of the mapped Gaussian that not every base has."""

  def excess_entropy(params: P) -> Array:
    assert inner.excess_entropy is not None
    return inner.excess_entropy(base_of(params)) + 0 * of.log_det(params, mean(params))

  def innovation_variance(params: P) -> Array:
    assert inner.innovation_variance is not None
    assert of.apply_squared is not None
    return of.apply_squared(params, inner.innovation_variance(base_of(params)))

  local = of.by_pixel is not None and of.apply_squared is not None
  floor = inner.pixel_noise
  return {
    'excess_entropy': excess_entropy if inner.excess_entropy else None,
    'innovation_variance': innovation_variance if inner.innovation_variance and local else None,
    'pixel_noise': None if floor is None else _pixel_noise(floor, mean, of),
  }


def _pixel_noise(
  inner: base.PixelNoise[Any], mean: Callable[[P], Array], of: Map[P]
) -> base.PixelNoise[P]:
  """Returns the base's floor after the map."""

  def without(params: P, noise: Any) -> Array:
    m = mean(params)
    return m + of.apply(params, inner.without(base_of(params), noise) - m)

  def draw(params: P, white: Array) -> Array:
    return of.apply(params, inner.draw(base_of(params), white))

  def covariance_matvec(params: P, v: Array) -> Array:
    product = inner.covariance_matvec(base_of(params), of.transpose(params, v))
    return of.apply(params, product)

  return base.PixelNoise(without, draw, covariance_matvec, inner.own)


def _channel_covariance(inner: base.Gaussian[Any], params: P, mean: Array, of: Map[P]) -> Array:
  """Returns the covariance of each pixel's channels. [H, W, C, C]."""
  if of.by_pixel is not None:
    matrix = of.by_pixel(params, mean)
    inside = gaussian.channel_covariance_of(inner, base_of(params), mean)
    return matmul(matmul(matrix, inside), jnp.swapaxes(matrix, -1, -2))

  def product(v: Array) -> Array:
    return of.apply(params, inner.covariance_matvec(base_of(params), of.transpose(params, v)))

  return gaussian.channel_covariance_by_columns(product, mean)


def merged(first: dict[str, base.Shape], second: dict[str, base.Shape]) -> dict[str, base.Shape]:
  """Returns the outputs of a base and a wrapper; raises ValueError if they have a name in common."""
  both = sorted(set(first) & set(second))
  if both:
    raise ValueError(
      f'The base has an output {both[0]!r} already: the same wrapper can not be used twice.'
    )
  return first | second


def split(
  emitted: dict[str, Array], shapes: dict[str, base.Shape]
) -> tuple[dict[str, Array], dict[str, Array]]:
  """Returns the outputs of a wrapper, whose shapes it checks, and the rest.

  Args:
    emitted: all outputs.
    shapes: of the wrapper's.

  Raises:
    ValueError, TypeError: one of the wrapper's is missing, or has another shape or type.
  """
  for name in shapes:
    if name not in emitted:
      raise ValueError(f'from_outputs needs the output {name!r}; got {sorted(emitted)}.')
  own = {
    name: base.check_shape(f'The output {name!r}', emitted[name], shape)
    for name, shape in shapes.items()
  }
  return own, {name: value for name, value in emitted.items() if name not in shapes}
