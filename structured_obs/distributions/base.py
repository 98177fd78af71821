"""The records that define a family, and the small functions that all families share.

The checks of `checks` are also known here: a family needs this module alone.

Letters, used everywhere: H W C image height, width, channels; D = H W C; R rank; B batch; S samples.
`r` is the residual x - mean. Logarithms are natural, log densities in nats with every constant.
"""

import math
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar, TypeVarTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import checks
from structured_obs.linalg import elementwise, products

Array = jax.Array
P = TypeVar('P')  # a family's parameters: a NamedTuple of arrays, one image
Functions = TypeVarTuple('Functions')

# The checks are read as a part of this module.
ImageShape = checks.ImageShape
Shape = checks.Shape
Shared = checks.Shared
as_arrays = checks.as_arrays
check_choice = checks.check_choice
check_count = checks.check_count
check_fields = checks.check_fields
check_mask = checks.check_mask
check_names = checks.check_names
check_outputs = checks.check_outputs
check_scales = checks.check_scales
check_shape = checks.check_shape
checked = checks.checked
checked_noise_variance = checks.checked_noise_variance
checked_temperature = checks.checked_temperature
extended = checks.extended
image_of_outputs = checks.image_of_outputs
image_shape = checks.image_shape
positive_or_nan = checks.positive_or_nan
upcast = checks.upcast

LOG_2PI = math.log(2 * math.pi)


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


class PixelNoise(NamedTuple, Generic[P]):
  """The floor of a Gaussian family: noise that is independent between pixels, part of its covariance."""

  without: Callable[[P, Any], Array]  # (params, noise) -> [H, W, C], the image of this noise without it
  draw: Callable[[P, Array], Array]  # (params, white [H, W, C]) -> [H, W, C], the pixel noise alone
  covariance_matvec: Callable[[P, Array], Array]  # (params, v [H, W, C]) -> its covariance times v
  # noise -> the same tree of bools: which of its arrays are behind the pixel noise alone. None: no one.
  own: Callable[[Any], Any] | None = None


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
  pixel_noise: PixelNoise[P] | None = None  # of a family with a floor of independent noise


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

  # (height, width, channels) -> what a decoder must emit, by name
  outputs: Callable[[Shape], dict[str, Shape]]
  from_outputs: Callable[[dict[str, Array]], P]  # unconstrained outputs -> valid params
  # (params, x [H, W, C], mask=None) -> [], nats; of the pixels in the mask [H, W, C] or [H, W, 1] alone.
  log_prob: Callable[..., Array]
  sample: Callable[[Array, P], Array]  # (key, params) -> [H, W, C]
  mean: Callable[[P], Array]  # params -> [H, W, C]
  gaussian: Gaussian[P] | None = None
  log_prior: Callable[[P], Array] | None = None  # params -> [], nats: a term of training alone
  # outputs -> blur kernel [k, k], or [k, k, C], where the covariance is made of one.
  kernel: Callable[[dict[str, Array]], Array] | None = None
  # params -> [C, C], orthogonal: its columns are the channels that kernels [k, k, C] blur, one each.
  # None: the image's own channels.
  kernel_axes: Callable[[P], Array] | None = None
  levels: int = 0  # gray levels of a discrete family, on the grid -1 + 2 k / (levels - 1); 0: a density
  # params -> [H, W, C]: the likeliest component's mean, on the grid, where a family is a mixture.
  mode: Callable[[P], Array] | None = None
  # (params, x) -> [H, W], nats: of a family whose pixels are independent, its channels together.
  log_prob_by_pixel: Callable[[P, Array], Array] | None = None
  student: StudentT[P] | None = None  # in place of `gaussian`, which is None then
  # (key, params) -> [H, W, C], without the floor of pixel noise; of a family with one but no `gaussian`.
  sample_without_pixel_noise: Callable[[Array, P], Array] | None = None
  # `fitting.Sample` -> outputs of the largest likelihood, or near it
  fit: Callable[[Any], dict[str, Any]] | None = None


def check_family(family: Any) -> None:
  """Raises TypeError unless the argument is a family's record."""
  if not isinstance(family, Family):
    got = type(family).__name__
    raise TypeError(
      f"A family is needed, such as distributions.family('low_rank'); got {got}. The order of arguments "
      'is: key, family, params, data.'
    )


def check_density(name: str, family: Any) -> None:
  """Raises TypeError or ValueError unless the base of a wrapper is a family of densities."""
  check_family(family)
  if family.levels:
    raise ValueError(f'{name} needs a density as its base; this one gives probabilities of gray levels.')


def has_floor(family: Family[Any]) -> bool:
  """Returns whether a family has a floor of independent pixel noise, as `sampler` needs it."""
  floor = family.gaussian is not None and family.gaussian.pixel_noise is not None
  return floor or family.sample_without_pixel_noise is not None


def sampler(family: Family[P], pixel_noise: bool = True) -> Callable[[Array, P], Array]:
  """Returns a family's function (key, params) -> image [H, W, C].

  Args:
    family: any family.
    pixel_noise: whether with the family's floor of independent pixel noise.

  Raises:
    TypeError: the first argument is not a family.
    ValueError: without the floor, of a family that has none.
  """
  check_family(family)
  if pixel_noise:
    return family.sample
  if family.sample_without_pixel_noise is not None:
    return family.sample_without_pixel_noise
  primitives = family.gaussian
  if primitives is None or primitives.pixel_noise is None:
    raise ValueError(
      'Samples without pixel noise need a family with a floor of independent pixel noise.'
    )
  without, noise = primitives.pixel_noise.without, primitives.noise
  return lambda key, params: without(params, noise(key, params))


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
  eye = jnp.eye(variance.shape[-1], dtype=variance.dtype)
  return variance[..., None] * eye[None, None]


def squared_norm(tree: Any) -> Array:
  """Returns the sum of squares over all leaves of a pytree. []."""
  first, *rest = (jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))
  return sum(rest, start=first)
