"""Variational autoencoder whose decoder emits any distribution family's parameters.

It may be given each image's class y, and is then a model of p(x|y): images come with their class behind
them, C + 1 channels, the encoder sees it, and what is decoded is a latent with K numbers of the class.
The prior p(z) is one of `latent_priors`; it does not depend on the class.

Letters: B batch; H W C image height, width, channels; Z latents; K classes, 0 without.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from structured_obs.distributions import base, diagonal
from structured_obs.models import classes, encoder_decoder, latent_priors, masks, observation
from structured_obs.models.base import Traits
from structured_obs.models.kind import Kind, Setting
from structured_obs.models.networks import ARCHITECTURES
from structured_obs.models.own_decoder import Maker
from structured_obs.objectives.terms import Terms
from structured_obs.option_values import Choice

Array = jax.Array

CLASS_PLANES = 8  # largest number of planes that give the encoder the class


class Options(NamedTuple):
  """Options of a VAE besides those of its latents and their prior."""

  architecture: encoder_decoder.Architecture = 'mirror'
  # One factor of all standard deviations: 'learned' along with the mean, or 'optimal', set to the one
  # that fits the images of a batch best.
  scale: Annotated[str, Choice(('none', 'learned', 'optimal'))] = 'none'


class VAE(nn.Module):
  """VAE with a diagonal posterior, and a prior and observations of given families.

  Keys come one per image, so that what is drawn for an image does not depend on the batch it is in or
  on the number of devices. Build the family and the module once per program: a family holds closures,
  and jit compiles anew for an equal but distinct one.
  """

  family: base.Family
  image: base.ImageShape
  latents: int = 16
  features: tuple[int, ...] = (32, 64)  # at each resolution, finest first; each next one halves
  blocks: int = 1  # residual blocks at each resolution
  norm: str = 'none'  # 'none', 'group' or 'batch'
  axis_name: str | None = None  # mapped axis over which batch norm averages
  options: observation.Options = observation.Options()
  architecture: str = 'mirror'  # one of `networks.ARCHITECTURES`
  label_classes: classes.Classes | None = None  # where images come with their class
  dtype: Any = None  # of the networks' products, but the last ones; None: that of the images
  prior: str = latent_priors.STANDARD  # one of `latent_priors.PRIORS`
  prior_options: Mapping[str, Any] = FrozenDict()
  own_decoder: Maker | None = None  # instead of the architecture's; see `own_decoder`
  masked: bool = False  # where images come with masks, as their last channel; see `masks`

  def __post_init__(self) -> None:
    self.prior_options = FrozenDict(self.prior_options)  # hashable, so that a model can be static
    super().__post_init__()

  def setup(self) -> None:
    """Makes the networks and the prior of the latents."""
    self.latent_prior = latent_priors.make(self.prior, self.latent_shape, self.prior_options, self.dtype)
    self.encoder, decoders = observation.make_networks(self, outputs=2 * self.latents)
    self.decoder, self.covariance_decoder, self.kernel_generator = decoders
    self.log_scale = observation.scale_parameter(self, self.options)
    self.optimal_scale = observation.optimal_scale(self.family, self.options, self.axis_name)
    if self.label_classes is not None:
      width = min(len(self.label_classes.counts), CLASS_PLANES)
      self.class_planes = nn.Dense(width, use_bias=False)

  @property
  def latent_shape(self) -> tuple[int, ...]:
    """(Z,), or (h, w, Z) where the architecture's latents are images."""
    return ARCHITECTURES[self.architecture].latent_shape(self.image, self.latents)

  @property
  def traits(self) -> Traits:
    """Capabilities: everything that latents with a prior allow. Kernels depend on the family."""
    of_prior = latent_priors.data_dependent(self.prior, self.latent_shape)
    return Traits(
      generates=True,
      has_prior=True,
      has_latents=True,
      has_blur_kernels=self.family.kernel is not None,
      data_dependent=of_prior or ARCHITECTURES[self.architecture].data_dependent,
    )

  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    """Draws one latent per image from q(z|x) and reports every term of the bound.

    Args:
      keys: [B], one per image.
      x: [B, H, W, C], floats; with classes, or masks, one more channel each.
      train: whether batch norm uses the batch's statistics and updates its running ones.

    Returns:
      Terms with 'x' and 'z', and KL(q(z|x) || p(z)) as 'kl_z' in the stats: its closed form under the
      standard normal prior, and else log q(z|x) - log p(z) of the latent that was drawn.
    """
    posterior = self.encode(x, train and not self.options.frozen_mean)
    z = jax.vmap(diagonal.sample)(keys, posterior)
    predicted = self._predict(self._with_class(z, x), train)
    given, x = x, masks.pixels(self, x)
    params = self._scaled(predicted.params, x if train else None)
    log_p, log_q = self.latent_prior.log_prob(z, train), jax.vmap(diagonal.log_prob)(posterior, z)
    kl = _standard_kl(posterior) if self.prior == latent_priors.STANDARD else log_q - log_p
    return Terms(
      log_p={
        'x': masks.log_prob(self, params, given),
        'z': log_p,
      },
      log_q={'z': log_q},
      stats={'kl_z': kl, **observation.stats(self.family, params)},
      images=observation.images(predicted, x, masks.of_images(self, given)),
    )

  def encode(self, x: Array, train: bool = False) -> diagonal.Diagonal:
    """Returns the posterior q(z|x), [B, *latent_shape] each; log variances are clipped to about +-7."""
    check_images(x, self.image, self.label_classes is not None, self.masked)
    mean, log_scale = jnp.split(self.encoder(self._seen(x), train), 2, axis=-1)
    return diagonal.Diagonal(mean, base.soft_clip(log_scale, -3.5, 3.5))

  def decode(self, z: Array, train: bool = False) -> Any:
    """Returns the parameters of p(x|z) for latents [B, Z + K].

    The family's record, each field with a leading B.
    """
    return self._scaled(self._predict(z, train).params)

  def blur_kernels(self, keys: Array | None, x: Array) -> Array:
    """Returns the blur kernels [B, k, k] or [B, k, k, C] of covariances at the latents of `infer`."""
    kernel = self._predict(self.infer(keys, x), train=False).kernel
    assert kernel is not None, 'has_blur_kernels must be checked first'
    return kernel

  def infer(self, keys: Array | None, x: Array) -> Array:
    """Returns latents [B, Z + K] drawn from q(z|x), or its mean where keys is None.

    The class is the image's.
    """
    posterior = self.encode(x)
    z = posterior.mean if keys is None else jax.vmap(diagonal.sample)(keys, posterior)
    return self._with_class(z, x)

  def reconstruct(self, keys: Array | None, x: Array) -> Any:
    """Returns the parameters of p(x|z) at z ~ q(z|x), or at the posterior's mean where keys is None."""
    return self.decode(self.infer(keys, x))

  def generate(self, keys: Array, labels: Array | None = None) -> Any:
    """Returns the parameters of p(x|z) at z ~ p(z), one for each of the keys [B].

    Args:
      keys: [B].
      labels: [B] integers, the classes of a label-conditional model; None draws each as often as it
        was among the training images.
    """
    z = self.latent_prior.sample(keys)
    if self.label_classes is None:
      return self.decode(z)
    if labels is None:
      labels = classes.draw(self.label_classes, jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))
    y = jax.nn.one_hot(labels, len(self.label_classes.counts), dtype=z.dtype)
    return self.decode(_beside(z, y))

  def _predict(self, z: Array, train: bool) -> observation.Predicted:
    decoders = observation.Decoders(self.decoder, self.covariance_decoder, self.kernel_generator)
    return observation.predict(self.family, self.options, decoders, self.log_scale, z, train)

  def _scaled(self, params: Any, x: Array | None = None) -> Any:
    """Returns the parameters with the scale that fits images [B, H, W, C] best, or the running one."""
    return params if self.optimal_scale is None else self.optimal_scale(params, x)

  def _with_class(self, z: Array, x: Array) -> Array:
    """Returns latents [B, Z + K]: with the class that the images have."""
    if self.label_classes is None:
      return z
    return _beside(z, classes.of_images(self.label_classes, x, self.image))

  def _seen(self, x: Array) -> Array:
    """Returns what the encoder sees: the images, and behind them planes that the class has learnt."""
    own = masks.pixels(self, x)
    if self.label_classes is None:
      return own
    planes = self.class_planes(classes.of_images(self.label_classes, x, self.image))[:, None, None]
    planes = jnp.broadcast_to(planes, (*x.shape[:3], planes.shape[-1]))
    return jnp.concatenate([own, planes], axis=-1)


def _beside(z: Array, y: Array) -> Array:
  """Returns latents [B, ..., Z] beside the numbers [B, K] of a class. [B, ..., Z + K]."""
  y = y.reshape(y.shape[0], *[1] * (z.ndim - 2), y.shape[-1])
  return jnp.concatenate([z, jnp.broadcast_to(y, (*z.shape[:-1], y.shape[-1]))], axis=-1)


def _standard_kl(posterior: diagonal.Diagonal) -> Array:
  """Returns KL(q(z|x) || N(0, I)) of each image. [B], nats."""
  variance = jnp.exp(2 * posterior.log_scale)
  kl = 0.5 * (variance + jnp.square(posterior.mean) - 1 - 2 * posterior.log_scale)
  return jnp.sum(kl.reshape(kl.shape[0], -1), axis=-1)


def check_images(
  x: Array, image: base.ImageShape, with_class: bool = False, with_mask: bool = False
) -> None:
  """Raises ValueError unless x is a batch of floating-point images of this shape, with what is behind.

  Args:
    x: anything with a shape and dtype.
    image: shape of x.
    with_class: whether the class is one more channel.
    with_mask: whether the mask of the pixels that count is one more, the last one.
  """
  shape = (*image[:2], image.channels + with_class + with_mask)
  if x.ndim != 4 or x.shape[1:] != shape or not jnp.issubdtype(x.dtype, jnp.floating):
    given = [name for name, has in (('class', with_class), ('mask', with_mask)) if has]
    behind = f', with the {" and ".join(given)} of each behind its channels' if given else ''
    raise ValueError(
      f'x must be floating-point images of shape (batch, {", ".join(map(str, shape))}), scaled to '
      f'[-1, 1]{behind}; got {x.dtype} of shape {x.shape}.'
    )


def num_parameters(variables: Any) -> int:
  """Returns the number of trained numbers in a tree of variables."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables['params']))


def _build(
  options: Mapping[str, Any], family: base.Family, image: base.ImageShape, setting: Setting
) -> VAE:
  shared = encoder_decoder.arguments(options, setting)
  prior, prior_options = options['prior'], options['prior_options']
  return VAE(family, image, **shared, prior=prior, prior_options=prior_options)


KIND = Kind(
  (encoder_decoder.Latents, Options, latent_priors.PriorOptions),
  _build,
  masks=True,
  labels=(False, True),
)
