"""One distribution for all images: a family's parameters alone, without latents and without a network.

It shows what a covariance captures of a data set before anything is predicted. It is trained like every
other model, by the likelihood. For low-rank plus one noise variance the best there is has a closed form,
`distributions.probabilistic_pca`.

The likelihood is badly conditioned: its curvature by the mean is the precision, so an error along the
widest direction of the images matters thousands of times less than one along the narrowest, and Adam,
which scales every number separately, is slow. `natural_gradient` multiplies the gradients by mean and
factor by the covariance. By the mean, that is the natural gradient, which leads to the average of the
images; by the factor it is (cov - S) cov^-1 P with S the images' covariance, a step of power iteration.
Multiplied by a positive definite matrix, a gradient keeps its zeros and its descent. On images it takes
a fraction of the steps (configs/no_deep_learning.py has numbers). It does not help everywhere: at the
start it is large where the parameters begin far below the images' variance, and Adam remembers that for
a thousand steps; start the noise variance near what the factor will leave.

Letters: B batch; H W C image height, width, channels; Z = 0 latents.

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022, section 4.5.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base, elliptical, gaussian, radial
from structured_obs.models import encoder_decoder, masks, observation, vae
from structured_obs.models.base import Traits
from structured_obs.models.kind import IMAGES, PRIOR, Kind, Setting
from structured_obs.objectives.terms import Terms

Array = jax.Array

COLUMNS = (observation.MEAN, 'cov_factor')  # outputs that are images, or columns of images
INITIAL = 0.1  # standard deviation of the outputs at the start, but of the mean, which begins at 0


class Options(NamedTuple):
  """Options of a distribution."""

  scale: encoder_decoder.Scale = 'none'
  natural_gradient: bool = False  # multiply gradients by its covariance


class Distribution(nn.Module):
  """The outputs of one distribution of a family, each a trained array.

  It has the methods of `vae.VAE` that make sense without latents. Its parameters lie where a decoder has
  its heads, so stages of training and shared scale are as with any other model.
  """

  family: base.Family
  image: base.ImageShape
  options: observation.Options = observation.Options()
  natural_gradient: bool = False  # multiply gradients by mean and factor by the covariance
  masked: bool = False  # where images come with masks, as their last channel; see `masks`
  label_classes = None
  traits = Traits(generates=True)

  def setup(self) -> None:
    """Makes the outputs; raises ValueError for a natural gradient without a covariance."""
    if self.natural_gradient and not elliptical.has_covariance(self.family):
      raise ValueError(
        'natural_gradient needs a family with a covariance, by which it multiplies gradients.'
      )
    self.decoder = Outputs(self.family.outputs(self.image))
    self.log_scale = observation.scale_parameter(self, self.options)

  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    """Reports the log density of each image.

    Args:
      keys: [B], not used: nothing is drawn.
      x: [B, H, W, C], floats; with masks [B, H, W, C + 1].
      train: not used.
    """
    del keys, train
    vae.check_images(x, self.image, with_mask=self.masked)
    params = self._parameters()
    one = jax.tree.map(lambda leaf: leaf[None], params)
    stats = observation.stats(self.family, one)
    if self.masked:
      found = masks.log_prob(self, self._repeated(len(x)), x)
    else:
      found = log_probs(self.family, params, x)
    return Terms(
      log_p={'x': found},
      log_q={},
      stats={name: jnp.broadcast_to(value, x.shape[:1]) for name, value in stats.items()},
    )

  def reconstruct(self, keys: Array | None, x: Array) -> Any:
    """Returns the distribution's parameters, once per image [B, H, W, C]; images are not read."""
    del keys
    vae.check_images(x, self.image, with_mask=self.masked)
    return self._repeated(len(x))

  def generate(self, keys: Array) -> Any:
    """Returns the distribution's parameters, once for each of the keys [B].

    Nothing is random about them.
    """
    return self._repeated(len(keys))

  def _repeated(self, count: int) -> Any:
    """Returns the parameters with a leading B."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), self._parameters())

  def _parameters(self) -> Any:
    """Returns the family's record, without a leading B."""
    params = self._from_outputs(self.decoder)
    if self.natural_gradient:
      fixed = jax.lax.stop_gradient(params)
      params = self._from_outputs(lambda z, train: _natural(self.family, self.decoder(z, train), fixed))
    return params

  def _from_outputs(self, decoder: Any) -> Any:
    decoders = observation.Decoders(decoder)
    z = jnp.zeros((1, 0), jnp.float32)
    predicted = observation.predict(self.family, self.options, decoders, self.log_scale, z, train=False)
    return jax.tree.map(lambda leaf: leaf[0], predicted.params)


class Outputs(nn.Module):
  """Replaces a decoder: outputs that depend on nothing."""

  shapes: dict[str, base.Shape]

  def setup(self) -> None:
    """Makes the outputs."""
    self.heads = _Arrays(self.shapes)

  def __call__(self, z: Array, train: bool) -> dict[str, Array]:
    """Returns one array [B, *shape] for each output, for 'latents' [B, 0]."""
    del train
    outputs = self.heads()
    return {name: jnp.broadcast_to(a, (len(z), *a.shape)) for name, a in outputs.items()}


class _Arrays(nn.Module):
  """Named arrays."""

  shapes: dict[str, base.Shape]

  @nn.compact
  def __call__(self) -> dict[str, Array]:
    found = {}
    for name, shape in self.shapes.items():
      # A low-rank factor of 0 would have no gradient.
      init = nn.initializers.normal(0.0 if name == observation.MEAN else INITIAL)
      found[name] = self.param(name, init, shape, jnp.float32)
    return found


def log_probs(family: base.Family, params: Any, x: Array) -> Array:
  """Returns the log densities of images [B, H, W, C] under one distribution, whose parameters have no B.

  [B], nats.

  A covariance is factorised once for all of them.

  Args:
    family: of the observations.
    params: of the distribution, without a leading B.
    x: [B, H, W, C].
  """
  if not elliptical.has_covariance(family):
    return jax.vmap(family.log_prob, (None, 0))(params, x)
  log_det = elliptical.primitives(family).log_det(params)
  dof = elliptical.degrees_of_freedom(family, params)
  distances = jax.vmap(lambda image: gaussian.mahalanobis(family, params, image))(x)
  return jax.vmap(lambda one: radial.log_density(x[0].size, dof, one, log_det))(distances)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _natural(family: base.Family, outputs: dict[str, Array], params: Any) -> dict[str, Array]:
  """Returns the outputs [1, ...], whose gradients are multiplied by the covariance of the parameters."""
  del family, params
  return outputs


def _natural_forward(
  family: base.Family, outputs: dict[str, Array], params: Any
) -> tuple[dict[str, Array], Any]:
  del family
  return outputs, params


def _natural_backward(
  family: base.Family, params: Any, gradients: dict[str, Array]
) -> tuple[dict[str, Array], Any]:
  multiply = functools.partial(elliptical.primitives(family).covariance_matvec, params)
  image = family.mean(params).shape
  found = dict(gradients)
  for name in COLUMNS:
    if name in gradients:
      columns = gradients[name].reshape(*image, -1)
      product = jax.vmap(multiply, in_axes=-1, out_axes=-1)(columns)
      found[name] = product.reshape(gradients[name].shape)
  return found, jax.tree.map(jnp.zeros_like, params)


_natural.defvjp(_natural_forward, _natural_backward)


def _build(
  options: Mapping[str, Any], family: base.Family, image: base.ImageShape, setting: Setting
) -> Distribution:
  shared = encoder_decoder.observation_options(options, setting)
  return Distribution(family, image, shared, options['natural_gradient'])


KIND = Kind(Options, _build, unused=(*PRIOR, *IMAGES, 'train.compute', 'optim.weight_decay'), masks=True)
