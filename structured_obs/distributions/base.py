# One file of more than 300 lines: every family needs all of these records and checks.
"""The records that define a family, and the checks and small functions that all families share.

Letters, used everywhere: H W C image height, width, channels; D = H W C; R rank; B batch; S samples.
`r` is the residual x - mean. Logarithms are natural, log densities in nats with every constant.
"""

import dataclasses
import itertools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, TypeVarTuple

import jax
import jax.numpy as jnp

from structured_obs.linalg import elementwise, products

Array = jax.Array
P = TypeVar('P')  # a family's parameters: a NamedTuple of arrays, one image
Functions = TypeVarTuple('Functions')


@dataclasses.dataclass(frozen=True)
class Shared(Sequence[int]):
  """Shape of an output that is one trained array, equal for all images, instead of a network's.

  It is no tuple, since Flax gives every tuple in a module the plain type.
  """

  sizes: tuple[int, ...]

  def __len__(self) -> int:
    """Returns the number of axes."""
    return len(self.sizes)

  def __getitem__(self, axis: Any) -> Any:
    """Returns the size of an axis, or a tuple of sizes for a slice."""
    return self.sizes[axis]


Shape = tuple[int, ...] | Shared


def extended(shape: Shape, size: int) -> Shape:
  """Returns the shape of an output with one more axis."""
  return Shared((*shape, size)) if isinstance(shape, Shared) else (*shape, size)


LOG_2PI = math.log(2 * math.pi)


class ImageShape(NamedTuple):
  """Size of one image."""

  height: int
  width: int
  channels: int

  @property
  def size(self) -> int:
    """D = H W C."""
    return self.height * self.width * self.channels


class Conditional(NamedTuple):
  """Distribution of the unobserved pixels of one image, given the observed ones. A pytree.

  `mean` holds the observed values at observed pixels, where `variance` is 0. `variance` is None where
  the family has no exact one at this size. `residual` is the relative residual of the solve behind the
  mean, and `iterations` their number, 0 for a closed form. Check it where the solve is iterative.
  """

  mean: Array  # [H, W, C]
  variance: Array | None  # [H, W, C]
  sample: Callable[[Array], Array]  # key -> [H, W, C]; observed pixels as observed
  log_prob: Callable[[Array], Array]  # x [H, W, C] -> [], nats: density of x's unobserved pixels
  residual: Array  # []
  iterations: Array  # [] int32


class PrincipalComponents(NamedTuple):
  """Leading eigenpairs of a covariance."""

  values: Array  # [k]  variances, largest first
  vectors: Array  # [k, H, W, C]  orthonormal
  residual: Array  # [k]  |cov v - value v| / value


class Gaussian(NamedTuple, Generic[P]):
  """The primitives of a Gaussian family, all on one image.

  The optional ones replace a generic operation of `gaussian` where the family's structure gives a
  closed form.
  """

  noise: Callable[[Array, P], Any]  # (key, params) -> white noise, a pytree of the family's choice
  reparameterize: Callable[[P, Any], Array]  # (params, noise) -> [H, W, C]; affine, cov = F F^T
  whiten: Callable[[P, Array], Any]  # (params, r [H, W, C]) -> pytree of squared norm r^T cov^-1 r
  log_det: Callable[[P], Array]  # params -> [], log |cov|, nats
  variance: Callable[[P], Array]  # params -> [H, W, C], exact marginal variances
  covariance_matvec: Callable[[P, Array], Array]  # (params, v [H, W, C]) -> [H, W, C]
  precision_matvec: Callable[[P, Array], Array]  # (params, v [H, W, C]) -> [H, W, C]
  temper: Callable[[P, Array], P]  # (params, temperature []) -> params of temperature^2 cov
  excess_entropy: Callable[[P], Array] | None = None  # params -> [], nats above the noise floor
  condition: Callable[[P, Array, Array], Conditional] | None = None  # (params, x, observed)
  # (params, noisy, noise_variance); None for a noise variance that it has no closed form for.
  posterior_mean: Callable[[P, Array, Array], tuple[Array, Array | None] | None] | None = None
  # (params, t [H, W, C], s [H, W, C]) -> log |t Q t + s| [], diag of its inverse [H, W, C]; Q = cov^-1.
  # None for an image too large for it.
  regularized: Callable[[P, Array, Array], tuple[Array, Array] | None] | None = None
  principal_components: Callable[[P, int], PrincipalComponents] | None = None
  innovation_variance: Callable[[P], Array] | None = None  # params -> [H, W, C], given later pixels
  white_image: Callable[[P, Array], Array] | None = None  # (params, r) -> [H, W, C]; None: `whiten`
  # params -> [H, W, C, C]: the covariance of the channels of each pixel.
  channel_covariance: Callable[[P], Array] | None = None
  # (params, r, mask [H, W, C] or [H, W, 1]) -> r_O^T cov_OO^-1 r_O [], log |cov_OO| [] of the pixels in
  # the mask; r is 0 at the others.
  marginal: Callable[[P, Array, Array], tuple[Array, Array]] | None = None
  independent: bool = False  # whether the covariance is diagonal


def in_order(*functions: *Functions) -> tuple[*Functions]:
  """Returns the functions that every `Gaussian` begins with, as they are: its fields in their order."""
  return functions


class StudentT(NamedTuple, Generic[P]):
  """A multivariate Student t: a Gaussian whose covariance is multiplied by nu / (a chi-square of nu).

  Its covariance is the scale matrix times nu / (nu - 2), and infinite for nu <= 2.
  """

  scale: Gaussian[P]  # primitives of the scale matrix, in place of a covariance
  dof: Callable[[P], Array]  # params -> [], nu, the degrees of freedom


class Family(NamedTuple, Generic[P]):
  """One family of distributions over images, as pure functions on one image's parameters."""

  outputs: Callable[[ImageShape], dict[str, Shape]]  # what a decoder must emit, by name
  from_outputs: Callable[[dict[str, Array]], P]  # unconstrained outputs -> valid params
  # (params, x [H, W, C], mask=None) -> [], nats; of the pixels in the mask [H, W, C] or [H, W, 1] alone.
  log_prob: Callable[..., Array]
  sample: Callable[[Array, P], Array]  # (key, params) -> [H, W, C]
  mean: Callable[[P], Array]  # params -> [H, W, C]
  gaussian: Gaussian[P] | None = None
  log_prior: Callable[[P], Array] | None = None  # params -> [], nats: a term of training alone
  # outputs -> blur kernel [k, k], or [k, k, C], where the covariance is made of one.
  kernel: Callable[[dict[str, Array]], Array] | None = None
  levels: int = 0  # gray levels of a discrete family, on the grid -1 + 2 k / (levels - 1); 0: a density
  # params -> [H, W, C]: the likeliest component's mean, on the grid, where a family is a mixture.
  mode: Callable[[P], Array] | None = None
  # (params, x) -> [H, W], nats: of a family whose pixels are independent, its channels together.
  log_prob_by_pixel: Callable[[P, Array], Array] | None = None
  student: StudentT[P] | None = None  # in place of `gaussian`, which is None then


def soft_clip(x: Array, low: float, high: float) -> Array:
  """Clips smoothly: about the identity inside [low, high], saturating at both ends. Any shape.

  Unlike a hard clip its gradient vanishes nowhere. Raises ValueError unless low < high, both finite.

  Args:
    x: of any shape.
    low: lower end.
    high: upper end.
  """
  if not -math.inf < low < high < math.inf:
    raise ValueError(f'soft_clip needs low < high, both finite; got low={low} and high={high}.')
  return elementwise.soft_clip(x, low, high)


def round_to_levels(x: Array, levels: int) -> Array:
  """Returns the nearest value -1 + 2 k / (levels - 1); 0 levels leave x as it is. Any shape.

  They are, to the last bit, those of `data.pixels.to_unit`: exactly -1 and 1 at the ends.
  """
  if not levels:
    return x
  top = levels - 1
  level = jnp.clip(jnp.round((x + 1) * (top / 2)), 0, top)
  return jnp.where(level == 0, -1, jnp.where(level == top, 1, (2 * level - top) / top))


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
  """Raises ValueError unless an option is one of the known values.

  Args:
    name: of the option.
    value: of the option.
    known: allowed values.
  """
  if value not in known:
    raise ValueError(f'{name} must be one of {", ".join(known)}; got {value!r}.')


def check_scales(family: str, min_scale: float, initial_scale: float, max_scale: float) -> None:
  """Raises ValueError unless 0 < min_scale < initial_scale < max_scale, all finite.

  Args:
    family: name, for the message.
    min_scale: smallest scale.
    initial_scale: scale at the start.
    max_scale: largest scale.
  """
  if not 0 < min_scale < initial_scale < max_scale < math.inf:
    raise ValueError(
      f'{family} needs 0 < min_scale < initial_scale < max_scale; '
      f'got {min_scale}, {initial_scale}, {max_scale}.'
    )


def inverse_soft_clip(value: float, low: float, high: float) -> float:
  """Returns the x with soft_clip(x, low, high) = value, for a value between low and high.

  Args:
    value: result of `soft_clip`.
    low: lower end.
    high: upper end.
  """
  above_low = math.expm1(value - low)
  return low + math.log(above_low) - math.log1p(-math.exp(value - high))


def white_noise(key: Array, like: Array) -> Array:
  """Returns independent standard normal numbers of the shape and type of an image.

  Drawn in one row: over a last axis of a few channels, a CPU takes twice as long for the same numbers.
  """
  return jax.random.normal(key, (like.size,), like.dtype).reshape(like.shape)


def nan_unless_finite(value: Array) -> Array:
  """Turns an infinite result, which only bad parameters give, into NaN; keeps its derivative."""
  return value + 0 * value


def all_or_nan(value: Array) -> Array:
  """Turns every number of a result into NaN if one is not finite; keeps its derivative. Any shape.

  A distribution with one invalid parameter is invalid as a whole, and so is every result.
  """
  return value + jnp.sum(0 * value)


def positive_or_nan(value: Array) -> Array:
  """Turns every number into NaN unless all are positive and finite; keeps its derivative. Any shape."""
  return jnp.where(jnp.all((value > 0) & (value < jnp.inf)), value, jnp.nan)


def checked(params: P, **shapes: tuple[Any, ...]) -> P:
  """Returns a record of parameters as arrays of checked shapes; raises as `check_shape` does.

  Args:
    params: with a field `mean`, the image.
    shapes: of the other fields by name; `...` stands for the shape of the mean, None for any size.
  """
  fields: Any = as_arrays(params)
  image = fields.mean.shape
  check_shape('mean', fields.mean, (None, None, None))
  for name, shape in shapes.items():
    whole = (image if size is ... else (size,) for size in shape)
    check_shape(name, getattr(fields, name), tuple(itertools.chain(*whole)))
  return fields


def as_arrays(params: P) -> P:
  """Returns a record of parameters with Python numbers and NumPy arrays converted to arrays.

  Numbers take the type of the first field.
  """
  fields: Any = params
  dtype = jnp.result_type(fields[0])
  return type(fields)(*(jnp.asarray(a, dtype if isinstance(a, int | float) else None) for a in fields))


def check_shape(name: str, array: Array, shape: Sequence[int | None]) -> None:
  """Raises at trace time unless a floating-point array has this shape (None: any size).

  Args:
    name: of the argument, for the message.
    array: of any type.
    shape: wanted sizes.

  Raises:
    TypeError: the array is not of a floating-point type.
    ValueError: the shape differs.
  """
  if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
    raise TypeError(
      f'{name} must be a floating-point array; got {jnp.result_type(array)}. '
      'Scale integer images to floats first, e.g. with data.pixels.to_unit.'
    )
  got = jnp.shape(array)
  fits = len(got) == len(shape) and all(w in (None, g) for g, w in zip(got, shape, strict=True))
  if not fits:
    wanted = tuple('any' if size is None else size for size in shape)
    raise ValueError(
      f'{name} must have shape {wanted}; got {got}. Functions of a distribution take one image: '
      'map them over a batch with jax.vmap.'
    )


def check_mask(name: str, mask: Array, shape: tuple[int, ...]) -> None:
  """Raises at trace time unless a mask is boolean and of this shape (TypeError, ValueError).

  Args:
    name: of the argument, for the message.
    mask: of any type.
    shape: wanted sizes.
  """
  if not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
    raise TypeError(f'{name} must be a boolean array; got {jnp.result_type(mask)}.')
  if jnp.shape(mask) != shape:
    raise ValueError(f'{name} must have shape {shape}; got {jnp.shape(mask)}.')


def check_count(name: str, value: int, least: int, most: int, of: str) -> None:
  """Raises at trace time unless a number is whole and from `least` to `most`, described by `of`.

  Args:
    name: of the argument, for the message.
    value: to check.
    least: smallest allowed value.
    most: largest allowed value.
    of: what the largest value is, for the message.

  Raises:
    TypeError: it is not a whole number, or a bool.
    ValueError: it is out of range.
  """
  if isinstance(value, bool) or not isinstance(value, numbers.Integral):
    raise TypeError(f'{name} must be a whole number; got {value!r}.')
  if not least <= value <= most:
    raise ValueError(f'{name} must be from {least} to {of}, {most}; got {value}.')


def check_outputs(outputs: dict[str, Array], shapes: dict[str, Shape]) -> None:
  """Raises ValueError or TypeError unless outputs are exactly those that a family asks for."""
  if set(outputs) != set(shapes):
    raise ValueError(f'from_outputs needs the outputs {sorted(shapes)}; got {sorted(outputs)}.')
  for name, shape in shapes.items():
    check_shape(f'The output {name!r}', outputs[name], shape)


def image_of_outputs(outputs: dict[str, Array]) -> ImageShape:
  """Returns the size of the image whose mean is among a decoder's outputs.

  Raises:
    ValueError, TypeError: there is no mean, or it is not an image.
  """
  if 'mean' not in outputs:
    raise ValueError(f"from_outputs needs the output 'mean'; got {sorted(outputs)}.")
  check_shape("The output 'mean'", outputs['mean'], (None, None, None))
  return ImageShape(*jnp.shape(outputs['mean']))


def checked_noise_variance(noise_variance: Array | float, like: Array) -> Array:
  """Returns the variance of added noise, [] or of the shape of an image, in its type.

  NaN unless all are >= 0.

  Infinite is allowed: at a pixel that was not observed.
  """
  noise_variance = jnp.asarray(noise_variance, like.dtype)
  check_shape('noise_variance', noise_variance, like.shape if noise_variance.ndim else ())
  return jnp.where(jnp.all(noise_variance >= 0), noise_variance, jnp.nan)


def checked_temperature(temperature: Array | float, like: Array) -> Array:
  """Returns the temperature in the type of an image, NaN unless it is positive and finite. []."""
  temperature = jnp.asarray(temperature, like.dtype)
  check_shape('temperature', temperature, ())
  return positive_or_nan(temperature)


def root_mean_square(x: Array) -> Array:
  """Returns the root of the mean square of all entries, of any scale; its derivative at 0 is 0. []."""
  unit = products.power_of_two(x)
  mean = jnp.mean(jnp.square(x / unit))
  return jnp.where(mean > 0, unit * jnp.sqrt(jnp.where(mean > 0, mean, 1)), mean)


def independent_channels(variance: Array) -> Array:
  """Returns the covariance of each pixel's channels where these are independent. [H, W, C, C].

  Args:
    variance: [H, W, C].
  """
  return variance[..., None] * jnp.eye(variance.shape[-1], dtype=variance.dtype)


def squared_norm(tree: Any) -> Array:
  """Returns the sum of squares over all leaves of a pytree. []."""
  first, *rest = (jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))
  return sum(rest, start=first)
