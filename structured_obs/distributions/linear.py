"""Invertible linear maps of an image's residual around any density: x = m + T (y - m), y of the base.

The mean m is the base's own. The log density is the base's at y less log |det T|, and a Gaussian base
with covariance R gives cov = T R T^T. `scaled`, `colour` and `haar` are uses of it: each is a record of
the map's functions and of the outputs that it takes besides the base's.

Letters: H W C image height, width, channels; D = H W C; r = x - m.
"""

from collections.abc import Callable
from typing import Annotated, Any, Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp

from structured_obs.distributions import base, gaussian, marginals
from structured_obs.linalg.products import matmul
from structured_obs.option_values import Choice, When

Array = jax.Array
Family = base.Family

# Where parameters of a wrapper come from: an option, an array of all images, or a network.
Source = Annotated[str, Choice(('fixed', 'learned', 'predicted'))]
WITH_SCALE = When('scale', ('learned', 'predicted'))


def from_source(source: str, name: str, shape: base.Shape) -> dict[str, base.Shape]:
  """Returns the output of this name and shape that a `Source` asks for, or {}."""
  return {
    'fixed': {},
    'learned': {name: base.Shared(tuple(shape))},
    'predicted': {name: shape},
  }[source]


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
  # (params, mean) -> T [C, C] of the channels of each pixel, or [H, W, C, C], where T maps these alone.
  by_pixel: Callable[[P, Array], Array] | None = None
  # (params, v) -> (T * T) v, with the squared entries of T.
  apply_squared: Callable[[P, Array], Array] | None = None
  diagonal: bool = False  # whether T is


class Outputs(NamedTuple, Generic[P]):
  """What a wrapper adds to the outputs of a decoder."""

  shapes: Callable[[base.ImageShape], dict[str, base.Shape]]
  parameters: Callable[
    [Any, dict[str, Array]], P
  ]  # (parameters of the base, the added outputs) -> params


def family(inner: Family[Any], of: Map[P], added: Outputs[P]) -> Family[P]:
  """Returns the family of a base's images after a linear map of their residuals.

  Args:
    inner: the base, a family of densities, Gaussian or not.
    of: the map.
    added: outputs of a decoder beyond the base's.

  Raises:
    ValueError: the base is a family of gray levels, or has an output of the same name.
  """
  if inner.levels:
    raise ValueError(
      'A linear map needs a density as its base; this one gives probabilities of gray levels.'
    )

  def outputs(image: base.ImageShape) -> dict[str, base.Shape]:
    return merged(inner.outputs(image), added.shapes(image))

  def from_outputs(emitted: dict[str, Array]) -> P:
    image = base.image_of_outputs(emitted)
    own, rest = split(emitted, added.shapes(image))
    return added.parameters(inner.from_outputs(rest), own)

  def mean(params: P) -> Array:
    return inner.mean(params.base)

  def log_prob(params: P, x: Array, mask: Array | None = None) -> Array:
    if mask is not None:
      return _masked_log_prob(made, inner, of, params, (x, mask))
    m = mean(params)
    base.check_shape('x', x, m.shape)
    density = inner.log_prob(params.base, m + of.invert(params, x - m))
    return base.nan_unless_finite(density - of.log_det(params, m))

  def sample(key: Array, params: P) -> Array:
    m = mean(params)
    return m + of.apply(params, inner.sample(key, params.base) - m)

  def log_prior(params: P) -> Array:
    assert inner.log_prior is not None
    return inner.log_prior(params.base)

  student = inner.student
  record = None if inner.gaussian is None else primitives(inner.gaussian, mean, of)
  made = base.Family(
    outputs,
    from_outputs,
    log_prob,
    sample,
    mean,
    gaussian=record,
    log_prior=log_prior if inner.log_prior else None,
    kernel=inner.kernel,
    student=None
    if student is None
    else base.StudentT(primitives(student.scale, mean, of), lambda params: student.dof(params.base)),
  )
  return made


def _masked_log_prob(
  made: Family[P], inner: Family[Any], of: Map[P], params: P, image: tuple[Array, Array]
) -> Array:
  """Returns the log density of the pixels in a mask, for an image and a mask; see `base.Family`."""
  mean, (x, mask) = made.mean(params), image
  mask = marginals.checked_mask(mask, mean.shape)
  if _keeps(of, mask):
    moved = mean + of.invert(params, marginals.masked(mask, x, mean) - mean)
    density = inner.log_prob(params.base, moved, mask)
    return marginals.zero_for_none(mask, density - _log_det_inside(of, params, mean, mask))
  if made.gaussian is None:
    raise ValueError(
      'The density of some pixels needs a Gaussian base where a linear map mixes these with the others.'
    )
  return marginals.log_prob(made.gaussian, params, mean, x, mask)


def _keeps(of: Map[Any], mask: Array) -> bool:
  """Returns whether a map mixes no pixels of a mask with others: known by the mask's shape alone."""
  return of.diagonal or (of.by_pixel is not None and mask.shape[-1] == 1)


def _log_det_inside(of: Map[P], params: P, mean: Array, mask: Array) -> Array:
  """Returns log |det T_OO| for a mask that `_keeps`. []."""
  if of.diagonal:
    each = jnp.log(jnp.abs(of.apply(params, jnp.ones_like(mean))))
    return jnp.sum(jnp.where(mask, each, 0 * each))
  assert of.by_pixel is not None
  matrix = of.by_pixel(params, mean)
  if matrix.ndim == 2:
    return jnp.sum(mask, dtype=mean.dtype) * of.log_det(params, mean[:1, :1])  # equal in all pixels
  each = jnp.linalg.slogdet(matrix)[1][..., None]
  return jnp.sum(jnp.where(mask, each, 0 * each))


def primitives(inner: base.Gaussian[Any], mean: Callable[[P], Array], of: Map[P]) -> base.Gaussian[P]:
  """Returns the primitives of the mapped Gaussian, with covariance T R T^T.

  Args:
    inner: primitives of the base, with covariance R.
    mean: of the wrapper's parameters.
    of: the map.
  """

  def noise(key: Array, params: P) -> Any:
    return inner.noise(key, params.base)

  def reparameterize(params: P, noise: Any) -> Array:
    m = mean(params)
    return m + of.apply(params, inner.reparameterize(params.base, noise) - m)

  def whiten(params: P, residual: Array) -> Any:
    return inner.whiten(params.base, of.invert(params, residual))

  def white_image(params: P, residual: Array) -> Array:
    return (inner.white_image or inner.whiten)(params.base, of.invert(params, residual))

  def log_det(params: P) -> Array:
    return inner.log_det(params.base) + 2 * of.log_det(params, mean(params))

  def covariance_matvec(params: P, v: Array) -> Array:
    return of.apply(params, inner.covariance_matvec(params.base, of.transpose(params, v)))

  def precision_matvec(params: P, v: Array) -> Array:
    product = inner.precision_matvec(params.base, of.invert(params, v))
    return of.invert_transposed(params, product)

  def temper(params: Any, temperature: Array) -> Any:
    return params._replace(base=inner.temper(params.base, temperature))

  def excess_entropy(params: P) -> Array:
    assert inner.excess_entropy is not None
    return inner.excess_entropy(params.base) + 0 * of.log_det(params, mean(params))

  def channel_covariance(params: P) -> Array:
    return _channel_covariance(inner, params, mean(params), of)

  def variance(params: P) -> Array:
    if of.apply_squared is not None and (inner.independent or of.diagonal):
      return of.apply_squared(params, inner.variance(params.base))
    return jnp.diagonal(channel_covariance(params), axis1=-2, axis2=-1)

  def innovation_variance(params: P) -> Array:
    assert inner.innovation_variance is not None
    assert of.apply_squared is not None
    return of.apply_squared(params, inner.innovation_variance(params.base))

  def marginal(params: P, residual: Array, mask: Array) -> tuple[Array, Array]:
    if not _keeps(of, mask):
      return marginals.by_conditionals(made, params, residual, mask)
    moved = of.invert(params, residual)
    distance, log_det = marginals.of_residual(inner, params.base, moved, mask)
    return distance, log_det + 2 * _log_det_inside(of, params, mean(params), mask)

  local = of.by_pixel is not None and of.apply_squared is not None
  required = base.in_order(
    noise, reparameterize, whiten, log_det, variance, covariance_matvec, precision_matvec, temper
  )
  made = base.Gaussian(
    *required,
    excess_entropy=excess_entropy if inner.excess_entropy else None,
    innovation_variance=innovation_variance if inner.innovation_variance and local else None,
    white_image=white_image,
    channel_covariance=channel_covariance,
    independent=inner.independent and of.diagonal,
    marginal=marginal,
  )
  return made


def _channel_covariance(inner: base.Gaussian[Any], params: P, mean: Array, of: Map[P]) -> Array:
  """Returns the covariance of each pixel's channels. [H, W, C, C]."""
  if of.by_pixel is not None:
    matrix = of.by_pixel(params, mean)
    inside = gaussian.channel_covariance_of(inner, params.base, mean)
    return matmul(matmul(matrix, inside), jnp.swapaxes(matrix, -1, -2))

  def product(v: Array) -> Array:
    return of.apply(params, inner.covariance_matvec(params.base, of.transpose(params, v)))

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
  for name, shape in shapes.items():
    if name not in emitted:
      raise ValueError(f'from_outputs needs the output {name!r}; got {sorted(emitted)}.')
    base.check_shape(f'The output {name!r}', emitted[name], shape)
  own = {name: emitted[name] for name in shapes}
  return own, {name: value for name, value in emitted.items() if name not in shapes}
