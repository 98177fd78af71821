"""From latents to the parameters of p(x|z): one decoder, or one for the mean and one for the rest.

With a separate decoder, the covariance can be learnt by a whole network while the mean stays fixed
(Dorta et al., 2018: "the covariance network"); with a shared one it is a head beside the mean's.

Letters: B batch; H W C image height, width, channels; Z latents.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from structured_obs.distributions import base, elliptical, gaussian, low_rank, low_rank_update
from structured_obs.models import masks
from structured_obs.models.networks import ARCHITECTURES, kernel_generator
from structured_obs.models.optimal_scale import OptimalScale
from structured_obs.models.own_decoder import Maker
from structured_obs.objectives.terms import Images

Array = jax.Array

MEAN = 'mean'  # the output, of every family, that a frozen mean consists of
KERNEL = 'kernel'  # the output that a kernel generator takes over
HEAD_SCALE = 0.02  # scale of the covariance's own heads at the start: nearly white
FACTORED = {'low_rank': low_rank.LowRank, 'low_rank_update': low_rank_update.LowRankUpdate}
RATE = 10.0  # how much faster than other parameters the shared scale learns


class Options(NamedTuple):
  """Options of the map from latents to parameters."""

  covariance_features: tuple[
    int, ...
  ] = ()  # features of a separate decoder for all but the mean; () for one decoder
  covariance_layers: int = 0  # 3x3 convolutions at the image's size that end that decoder
  covariance_sees_mean: bool = False  # whether these layers see the predicted mean
  learn_scale: bool = False  # a learnt factor of all standard deviations, part of the mean's stage
  # Save the derivatives of a mean, and latents, that no step updates; their batch norm uses and keeps
  # its running statistics.
  frozen_mean: bool = False
  optimal_scale: bool = False  # such a factor, but set to the best one; see `optimal_scale`
  kernel_features: int = 0  # hidden units of a generator of the blur kernel; 0: an output like others
  kernel_through_latents: bool = False  # whether latents learn from the kernel that they give
  white: bool = False  # take all but the mean to be 0: independent pixels of one standard deviation
  mean_gradient: float = 0.0  # share of the mean's derivative left to another loss; see `alternating`


class Decoders(NamedTuple):
  """The networks from z, made in the `setup` of a model, where they get their names."""

  decoder: Any
  covariance_decoder: Any | None = None  # None where the decoder gives every output
  kernel_generator: Any | None = None  # None where the kernel, if any, is an output like others


class Predicted(NamedTuple):
  """Parameters and kernel predicted from latents."""

  params: Any  # the family's, each field with a leading B
  kernel: Array | None  # [B, k, k] or [B, k, k, C]: blur kernel of the covariance, if it has one
  mean: Array  # [B, H, W, C], of the same value as the parameters' own, with its whole derivative
  latent_kernel: Array | None = None  # the same, of which latents learn alone; see `terms.Images`
  # [B, C, C], orthogonal: the channels that kernels of one each blur; None: the image's own
  kernel_axes: Array | None = None


class Networked(Protocol):
  """A model of an encoder and decoders, with the fields of `vae.VAE` that say what these are."""

  family: base.Family
  image: base.ImageShape
  features: tuple[int, ...]
  blocks: int
  norm: str
  axis_name: str | None
  options: Options
  architecture: str
  dtype: Any
  own_decoder: Maker | None


def make_networks(model: Networked, outputs: int) -> tuple[nn.Module, Decoders]:
  """Returns the encoder of a model and its decoders, for its `setup`."""
  shared = {
    'features': model.features,
    'blocks': model.blocks,
    'norm': model.norm,
    'axis_name': model.axis_name,
    'dtype': model.dtype,
  }
  architecture = ARCHITECTURES[model.architecture]
  make = model.own_decoder or functools.partial(architecture.decoder, **shared)
  if model.own_decoder is not None and model.options.covariance_features:
    raise ValueError(
      'A separate decoder of the covariance has the architecture of the other one, so it excludes an '
      'own_decoder, which must give every output itself.'
    )
  decoders = make_decoders(model.family, model.image, model.options, make)
  return architecture.encoder(outputs=outputs, **shared), decoders


def make_decoders(
  family: base.Family, image: base.ImageShape, options: Options, make: Callable[..., Any]
) -> Decoders:
  """Returns the decoders that the options describe; `make` gets the fields in which two would differ.

  Args:
    family: of the observations.
    image: shape of x.
    options: of the observations.
    make: makes a decoder from the fields in which two would differ.
  """
  outputs = family.outputs(image)
  generator = None
  if options.kernel_features:
    if KERNEL not in outputs:
      raise ValueError(
        f"A kernel generator needs a family with an output '{KERNEL}'; this one has "
        f'{", ".join(outputs)}.'
      )
    generator = kernel_generator.KernelGenerator(outputs[KERNEL], options.kernel_features)
    outputs = {name: shape for name, shape in outputs.items() if name != KERNEL}
  if not options.covariance_features:
    return Decoders(make(image=image, outputs=outputs), None, generator)
  rest = {name: shape for name, shape in outputs.items() if name != MEAN}
  covariance = make(
    image=image,
    outputs=rest,
    features=options.covariance_features,
    extra_layers=options.covariance_layers,
    head_scale=HEAD_SCALE,
  )
  return Decoders(make(image=image, outputs={MEAN: outputs[MEAN]}), covariance, generator)


def has_floor(family: base.Family) -> bool:
  """Returns whether a family's entropy is that of independent pixel noise and an excess."""
  if not elliptical.has_covariance(family):
    return False
  return elliptical.primitives(family).excess_entropy is not None


def stats(family: base.Family, params: Any) -> dict[str, Array]:
  """Returns statistics of p(x|z). [B] each.

  'log_prior' where a family has a prior of its parameters. Where it has a floor of pixel noise,
  'entropy', in nats; 'excess_entropy', the nats of it above that of the floor; and 'variance', the mean
  over the pixels. Where it adds P P^T to a covariance, 'factor_variance', the mean over the pixels of
  the variance that this adds: trace(P P^T) / D.
  """
  found = {}
  if family.log_prior is not None:
    found['log_prior'] = jax.vmap(family.log_prior)(params)
  if has_floor(family):
    found['entropy'] = jax.vmap(functools.partial(gaussian.entropy, family))(params)
    found['excess_entropy'] = jax.vmap(functools.partial(gaussian.excess_entropy, family))(params)
    found['variance'] = jax.vmap(lambda p: jnp.mean(gaussian.variance(family, p)))(params)
  if isinstance(params, tuple(FACTORED.values())):
    found['factor_variance'] = jax.vmap(_factor_variance)(params)
  return found


def _factor_variance(params: Any) -> Array:
  """Returns trace(P P^T) / D of one image, with a base's factor if it has one too. []."""
  added = jnp.mean(jnp.sum(jnp.square(params.cov_factor), axis=-1))
  inner = getattr(params, 'base', None)
  return added + _factor_variance(inner) if isinstance(inner, tuple(FACTORED.values())) else added


def scale_parameter(module: nn.Module, options: Options) -> Array | None:
  """Returns the parameter 'log_scale' [] of a model, 0 at the start; None without a learnt scale."""
  if not options.learn_scale:
    return None
  return module.param('log_scale', nn.initializers.zeros, (), jnp.float32)


def optimal_scale(family: base.Family, options: Options, axis_name: str | None) -> OptimalScale | None:
  """Returns the module that sets the scale of all covariances; None without one.

  Args:
    family: of the observations.
    options: of the observations.
    axis_name: mapped axis over devices.
  """
  return OptimalScale(family, axis_name) if options.optimal_scale else None


def images(predicted: Predicted, x: Array, mask: Array | None = None) -> Images:
  """Returns what reconstruction losses compare, for images x [B, H, W, C]: of pixels that count.

  Args:
    predicted: of a batch.
    x: [B, H, W, C]; 0 where a pixel does not count, where the mean is replaced by 0 too.
    mask: [B, H, W, 1] bool, the pixels that count; None for all.
  """
  mean, counted = predicted.mean, None
  if mask is not None:
    mean = jnp.where(mask, mean, 0)
    counted = masks.count(mask, x.shape[-1], x.dtype)
  kernels = predicted.kernel, predicted.latent_kernel, predicted.kernel_axes
  return Images(x, mean, kernels[0], counted, *kernels[1:])


def predict(
  family: base.Family,
  options: Options,
  decoders: Decoders,
  log_scale: Array | None,
  z: Array,
  train: bool,
) -> Predicted:
  """Returns the parameters of p(x|z), and their blur kernel, for latents [B, Z].

  A kernel generator is a separate model: it does not learn from the density, nor do latents learn from
  its loss. With `kernel_through_latents`, they do learn from what their kernel does to the density;
  otherwise that takes the kernel as given.

  Args:
    family: of the observations.
    options: of the observations.
    decoders: networks from z.
    log_scale: [], of all standard deviations; None for none.
    z: [B, Z].
    train: whether batch norm uses the batch's statistics and updates its running ones; that of a frozen
      mean never does.
  """
  z = jax.lax.stop_gradient(z) if options.frozen_mean else z
  whole = decoders.decoder(z, train and not options.frozen_mean)
  held = 1.0 if options.frozen_mean else options.mean_gradient
  outputs = {**whole, MEAN: _held(whole[MEAN], held)} if held else whole
  if decoders.covariance_decoder is not None:
    seen = jax.lax.stop_gradient(outputs[MEAN]) if options.covariance_sees_mean else None
    outputs = {**outputs, **decoders.covariance_decoder(_held(z, held), train, seen)}
  outputs, kernel, latent_kernel = _with_kernel(family, options, decoders.kernel_generator, outputs, z)
  params = jax.vmap(family.from_outputs)(outputs)
  free = jax.vmap(family.from_outputs)({**outputs, MEAN: whole[MEAN]}) if held else params
  mean = jax.vmap(family.mean)(free)
  if log_scale is not None:
    temperature = jnp.exp(RATE * log_scale)
    params = jax.vmap(lambda p: gaussian.temper(family, p, temperature))(params)
  axes = None if family.kernel_axes is None else jax.vmap(family.kernel_axes)(params)
  return Predicted(params, kernel, mean, latent_kernel, axes)


def _with_kernel(
  family: base.Family, options: Options, generator: Any | None, outputs: dict[str, Array], z: Array
) -> tuple[dict[str, Array], Array | None, Array | None]:
  """Returns the outputs with a generator's, and `kernel` and `latent_kernel` of `Predicted`."""
  if generator is not None:
    outputs = {**outputs, KERNEL: generator(jax.lax.stop_gradient(z))}
  if options.white:
    zeros = {name: jnp.zeros_like(output) for name, output in outputs.items()}
    outputs = {**zeros, MEAN: outputs[MEAN]}
  kernel = None if family.kernel is None else jax.vmap(family.kernel)(outputs)
  if generator is None or family.kernel is None:
    return outputs, kernel, None
  if options.white or not options.kernel_through_latents:
    return {**outputs, KERNEL: jax.lax.stop_gradient(outputs[KERNEL])}, kernel, None
  latents = _held(z, options.mean_gradient)  # which learn from the density by this share less
  outputs = {**outputs, KERNEL: kernel_generator.held(generator, latents)}
  return outputs, kernel, jax.vmap(family.kernel)(outputs)


def _held(x: Array, share: float) -> Array:
  """Returns the array, whose derivative is 1 - share of what it would be."""
  if share == 0:
    return x
  fixed = jax.lax.stop_gradient(x)
  return fixed if share == 1 else fixed + (1 - share) * (x - fixed)
