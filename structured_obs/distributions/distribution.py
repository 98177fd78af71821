"""A family and parameters as one object, whose methods map themselves over batches.

  from structured_obs.distributions import Distribution, family

  low_rank = family('low_rank', rank=3)
  p = Distribution.from_outputs(low_rank, outputs)   # outputs of a decoder, [B, ...] each
  p.log_prob(x)                                      # x [B, H, W, C] -> [B]

The functions of this package take one image, and stay what everything is built on. An object is a pytree
of its parameters: it passes through `jax.jit`, `jax.vmap`, `jax.lax.scan` and `jax.tree.map`.

Letters: ... leading axes, those of the parameters and of images broadcast; H W C image height, width,
channels; S samples.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp

from structured_obs.distributions import base, gaussian, kl, leading_axes, posterior
from structured_obs.distributions.leading_axes import Operand

Array = jax.Array
P = TypeVar('P')


@functools.partial(jax.tree_util.register_dataclass, data_fields=['given'], meta_fields=[])
@dataclasses.dataclass(frozen=True, eq=False)
class Conditioned:
  """Distributions of the unobserved pixels of images; `base.Conditional` says what the fields are."""

  given: base.Conditional  # every array with the leading axes

  @property
  def mean(self) -> Array:
    """The mean, with observed pixels as observed. [..., H, W, C]."""
    return self.given.mean

  @property
  def variance(self) -> Array | None:
    """The marginal variances, 0 at observed pixels. [..., H, W, C]."""
    return self.given.variance

  @property
  def residual(self) -> Array:
    """The relative residual of the solve behind the mean. [...]."""
    return self.given.residual

  @property
  def iterations(self) -> Array:
    """Iterations of that solve, 0 for a closed form. [...], int32."""
    return self.given.iterations

  def sample(self, key: Array, sample_shape: int | Sequence[int] = ()) -> Array:
    """Draws images, independent of each other. [S, ..., H, W, C]."""
    keys = leading_axes.keys(key, sample_shape, self.mean.shape[:-3])
    return leading_axes.over(lambda given, key: given.sample(key), self._operand(), keys)

  def log_prob(self, x: Array) -> Array:
    """Returns the log density of the unobserved pixels of images [..., H, W, C]. [...], nats."""
    image = leading_axes.images('x', x, self.mean.shape[-3:])
    return leading_axes.over(lambda given, x: given.log_prob(x), self._operand(), image)

  def _operand(self) -> Operand:
    count = self.mean.ndim - 3
    return Operand(self.given, (count,) * len(jax.tree.leaves(self.given)))


@functools.partial(jax.tree_util.register_dataclass, data_fields=['params'], meta_fields=['family'])
@dataclasses.dataclass(frozen=True, eq=False)
class Distribution(Generic[P]):
  """Distributions over images, one for each entry of the leading axes of their parameters.

  An array of the parameters other than the first, a mean or the like, may lack the leading axes: it then
  belongs to all images. Methods that a
  family does not have raise ValueError, and shapes that do not fit, or parameters of another family,
  TypeError or ValueError, all of them while tracing.
  """

  family: base.Family[P]
  params: P  # [..., of one image]

  def __post_init__(self) -> None:
    """Raises TypeError unless the first argument is a family."""
    base.check_family(self.family)

  @classmethod
  def from_outputs(cls, family: base.Family[P], outputs: Mapping[str, Array]) -> 'Distribution[P]':
    """Returns the distributions of a decoder's unconstrained outputs, with leading axes.

    Args:
      family: whose `outputs` says what a decoder emits.
      outputs: arrays [..., of one image] by name.
    """
    base.check_family(family)
    if not isinstance(outputs, Mapping):
      raise TypeError(f'outputs must be arrays by their names; got {type(outputs).__name__}.')
    by_name = dict(outputs)
    operand = Operand(by_name, leading_axes.of_outputs(family, by_name).counts)
    return cls(family, leading_axes.over(family.from_outputs, operand))

  @property
  def batch_shape(self) -> tuple[int, ...]:
    """Shape of the leading axes of the parameters."""
    return self._operand().batch

  @property
  def image_shape(self) -> base.ImageShape:
    """Shape of one image: height, width, channels."""
    return leading_axes.of_params(self.family, self.params).image

  def log_prob(self, x: Array, mask: Array | None = None) -> Array:
    """Returns the log density of images. [...], nats.

    Args:
      x: [..., H, W, C].
      mask: [..., H, W, C] or [..., H, W, 1], bool: the pixels that count, None for all.
    """
    if mask is None:
      return self._map(self.family.log_prob, self._image('x', x))
    shape = self.image_shape
    shape = (*shape[:2], 1 if jnp.shape(mask)[-1:] == (1,) else shape.channels)
    counted = leading_axes.images('mask', mask, shape)
    return self._map(self.family.log_prob, self._image('x', x), counted)

  def sample(
    self, key: Array, sample_shape: int | Sequence[int] = (), pixel_noise: bool = True
  ) -> Array:
    """Draws images, independent of each other. [S, ..., H, W, C].

    Args:
      key: one jax.random.key.
      sample_shape: S, a number or several, of the images drawn from each distribution.
      pixel_noise: whether with the family's floor of independent pixel noise.
    """
    keys = leading_axes.keys(key, sample_shape, self.batch_shape)
    draw = functools.partial(gaussian.sample, pixel_noise=pixel_noise)
    return self._map(lambda params, key: draw(key, self.family, params), keys)

  def mean(self) -> Array:
    """Returns the means. [..., H, W, C]."""
    return self._map(self.family.mean)

  def mode(self) -> Array:
    """Returns the mean of each pixel's, or each image's, likeliest component. [..., H, W, C].

    Raises:
      ValueError: the family is not a mixture.
    """
    if self.family.mode is None:
      raise ValueError('mode needs a family that is a mixture; with any other, take the mean.')
    return self._map(self.family.mode)

  def variance(self) -> Array:
    """Returns the marginal variances, exact. [..., H, W, C]."""
    return self._of(gaussian.variance)

  def channel_covariance(self) -> Array:
    """Returns the covariances of the channels of every pixel, exact. [..., H, W, C, C]."""
    return self._of(gaussian.channel_covariance)

  def variance_inflation(self) -> Array:
    """Returns the largest marginal variance over the largest innovation variance. [...], >= 1."""
    return self._of(gaussian.variance_inflation)

  def entropy(self) -> Array:
    """Returns the differential entropy. [...], nats."""
    return self._of(gaussian.entropy)

  def excess_entropy(self) -> Array:
    """Returns the entropy above that of the family's own independent pixel noise. [...], nats."""
    return self._of(gaussian.excess_entropy)

  def entropy_monte_carlo(self, key: Array, samples: int = 1000) -> kl.Estimate:
    """Estimates the entropy from samples, with a standard error, in any family. [...] each, nats.

    Args:
      key: one jax.random.key.
      samples: at least 2, for each distribution.
    """
    keys = leading_axes.keys(key, (), self.batch_shape)
    estimate = functools.partial(kl.entropy_monte_carlo, samples=samples)
    return self._map(lambda params, key: estimate(key, self.family, params), keys)

  def kl_divergence(self, other: 'Distribution[Any]') -> Array:
    """Returns KL(self || other), in closed form; leading axes broadcast. [...], nats."""
    return self._map(
      lambda p, q: kl.kl_divergence(self.family, p, other.family, q), _of_distribution(other)
    )

  def kl_monte_carlo(self, key: Array, other: 'Distribution[Any]', samples: int = 1000) -> kl.Estimate:
    """Estimates KL(self || other) from samples, with a standard error. [...] each, nats.

    Args:
      key: one jax.random.key.
      other: any distribution over images of this shape.
      samples: at least 2, for each pair.
    """
    theirs = _of_distribution(other)
    keys = leading_axes.keys(key, (), leading_axes.broadcast([self.batch_shape, theirs.batch]))
    estimate = functools.partial(kl.kl_monte_carlo, samples=samples)
    return self._map(lambda p, key, q: estimate(key, self.family, p, other.family, q), keys, theirs)

  def mahalanobis(self, x: Array) -> Array:
    """Returns the squared Mahalanobis distances of images [..., H, W, C] from the means. [...]."""
    return self._of(gaussian.mahalanobis, self._image('x', x))

  def white_image(self, x: Array) -> Array:
    """Returns whitened images of images [..., H, W, C]. [..., H, W, C]."""
    return self._of(gaussian.white_image, self._image('x', x))

  def covariance(self, max_size: int = posterior.MAX_DENSE_SIZE) -> Array:
    """Returns the dense covariance matrices, pixels in C order. [..., D, D], D = H W C.

    Args:
      max_size: largest D; more is refused.
    """
    return self._of(functools.partial(gaussian.covariance, max_size=max_size))

  def covariance_column(self, pixel: tuple[int, int, int]) -> Array:
    """Returns the covariance of every pixel with one. [..., H, W, C].

    Args:
      pixel: (row, column, channel), integers; negative ones count from the end.
    """
    return self._of(functools.partial(gaussian.covariance_column, pixel=pixel))

  def correlation(self, pixel: tuple[int, int, int]) -> Array:
    """Returns the correlation of every pixel with one. [..., H, W, C], in [-1, 1].

    Args:
      pixel: (row, column, channel), integers; negative ones count from the end.
    """
    return self._of(functools.partial(gaussian.correlation, pixel=pixel))

  def principal_components(self, k: int) -> base.PrincipalComponents:
    """Returns the largest k eigenvalues [..., k] and eigenvectors [..., k, H, W, C], 1 <= k <= D."""
    return self._of(functools.partial(gaussian.principal_components, k=k))

  def temper(self, temperature: Array | float) -> 'Distribution[P]':
    """Returns the same distributions with all standard deviations times a temperature [...]."""
    operand = Operand(temperature, (jnp.ndim(temperature),))
    return Distribution(self.family, self._of(gaussian.temper, operand))

  def condition(self, x: Array, observed: Array) -> Conditioned:
    """Returns the distributions of the unobserved pixels, given the observed ones.

    Args:
      x: [..., H, W, C]; unobserved pixels are not read.
      observed: [..., H, W, C], bool.
    """
    images = self._image('x', x), self._image('observed', observed)
    return Conditioned(self._of(gaussian.condition, *images))

  def posterior_mean(self, noisy: Array, noise_variance: Array | float) -> tuple[Array, Array | None]:
    """Returns posterior means and variances of clean images, [..., H, W, C] each.

    Args:
      noisy: [..., H, W, C], with independent noise added.
      noise_variance: [...] or [..., H, W, C]; infinite at a pixel that was not observed.
    """
    shape = jnp.shape(noise_variance)
    by_pixel = len(shape) >= 3 and shape[-3:] == tuple(self.image_shape)
    variance = Operand(noise_variance, (len(shape) - 3 * by_pixel,))
    return self._of(gaussian.posterior_mean, self._image('noisy', noisy), variance)

  def __repr__(self) -> str:
    """Returns the kind of the parameters, and the shapes where they have any."""
    name, leaves = f'Distribution({type(self.params).__name__}', jax.tree.leaves(self.params)
    if not leaves or not all(hasattr(leaf, 'shape') or isinstance(leaf, float) for leaf in leaves):
      return f'{name})'  # inside a transformation, leaves need not be arrays
    return f'{name}, batch_shape={self.batch_shape}, image_shape={tuple(self.image_shape)})'

  def _of(self, operation: Callable[..., Any], *operands: Operand) -> Any:
    return self._map(functools.partial(operation, self.family), *operands)

  def _map(self, function: Callable[..., Any], *operands: Operand) -> Any:
    return leading_axes.over(function, self._operand(), *operands)

  def _operand(self) -> Operand:
    return Operand(self.params, leading_axes.of_params(self.family, self.params).counts)

  def _image(self, name: str, x: Array) -> Operand:
    return leading_axes.images(name, x, tuple(self.image_shape))


def _of_distribution(other: Any) -> Operand:
  if not isinstance(other, Distribution):
    raise TypeError(f'The other distribution must be a Distribution; got {type(other).__name__}.')
  return other._operand()
