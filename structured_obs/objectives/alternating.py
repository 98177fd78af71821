"""Several losses in one step, each of some of the parameters alone.

A likelihood with correlated pixels hardly depends on the low frequencies of the mean, so that a mean
that learns from it alone gives up: the latents that it would need cost more nats than they gain. With
a `mean_gradient` of a, the mean, and with it encoder and latents, learns from a mixture of two
log-likelihoods: 1 - a of the model's own, and a of white pixels at their best scale, or another loss.
The covariance always learns from the model's own. The model lets only a share of 1 - a of the
derivative through its mean (`models.observation`), and `log_likelihood` adds the other one. The value of
the loss is that of the model's own density.

A network of blur kernels learns in the same step as the model whose covariance they make.

The kernel network learns to blur an image as the model's mean does, |x * G(z) - mean|^2, with latents
and mean held fixed. The model learns from log p(x|z) with the network held fixed. Its latents may learn
from what their kernel G(z) does to the loss, as published, or the kernel is held as well. Each parameter
has a derivative by only one of the two losses, so one gradient of their sum does the work of both.

The loss may differ between stages of training. Until the mean is a blurred image, for example, its
kernel is meaningless, and pixels are therefore taken to be independent in a first `Phase` while the
kernel network already learns. One compiled step serves all phases.

Letters: B batch; H W C image height, width, channels; k size of a kernel.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023,
equations 9, 11 and 12. Its kernel network has its own optimizer here too: `runs.optimizers`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.linalg import products, spectral
from structured_obs.objectives.terms import Images, Terms

Array = jax.Array
Losses = Callable[[Images], Array]  # -> [B]
BOUNDARIES = ('circular', 'zero', 'reflect')


class Phase(NamedTuple):
  """Steps whose loss is another one than that of the rest."""

  begin: int  # updates made before its first step
  end: int  # updates made before the first step after it
  reconstruction: Losses | None = None  # -> [B], to be small; None: a log density
  weight: float = 1.0  # weight of the reconstruction
  white: bool = False  # the log density of independent pixels of one variance, and not the model's own


class Fit(NamedTuple):
  """What replaces log p(x|z) in a loss, and what is added to it."""

  reconstruction: Losses | None = None  # -> [B], to be small; None: the density
  weight: float = 1.0  # weight of the reconstruction
  phases: tuple[Phase, ...] = ()  # steps in which another loss than the above is minimised
  boundary: str | None = None  # how blurred images continue; None: no kernel network learns
  mean_gradient: float = 0.0  # share of the mean's derivative that is not of the density; 0 to 1
  mean_loss: Losses | None = None  # -> [B], whose it is; None: of white pixels


DENSITY = Fit()  # nothing but log p(x|z)


def of_images(loss: Callable[[Array, Array], Array]) -> Losses:
  """Returns a loss (x [H, W, C], mean [H, W, C]) -> [] for a batch: images -> [B]."""
  return lambda images: jax.vmap(loss)(images.x, images.mean)


def of_kernels(loss: Callable[[Array, Array, Array], Array]) -> Losses:
  """Returns a loss (kernel, x, mean) -> [] for a batch, from which no network of kernels learns: -> [B].

  Latents learn from it through `images.latent_kernel`, where the model reports that.
  """

  def losses(images: Images) -> Array:
    if images.kernel is None:
      raise ValueError('A loss of blur kernels needs a model that has them.')
    kernel = images.latent_kernel
    kernel = jax.lax.stop_gradient(images.kernel) if kernel is None else kernel
    return jax.vmap(loss)(kernel, *_in_channels_of_kernels(images))

  return losses


def log_likelihood(fit: Fit, terms: Terms, step: Array | int, axis_name: str | None = None) -> Array:
  """Returns the replacement of log p(x|z) in the loss of this step. [B].

  Args:
    fit: what to maximise.
    terms: of a batch, with `images` unless the fit is of the density from the first step on.
    step: updates made.
    axis_name: of the mapped axis over devices, if any.

  Raises:
    ValueError: the model reports no images.
  """
  if fit.reconstruction is None and not fit.phases and not fit.mean_gradient:
    return terms.log_p['x']
  if terms.images is None:
    raise ValueError('A reconstruction loss needs a model whose terms hold its images.')
  own = _density(fit, terms, terms.images, axis_name)
  found = _replaced(fit, own, terms.images)
  for phase in fit.phases:
    density = white_log_prob(terms.images, axis_name) if phase.white else own
    of_phase = _replaced(phase, density, terms.images)
    found = jnp.where((step >= phase.begin) & (step < phase.end), of_phase, found)
  return found


def _density(fit: Fit, terms: Terms, images: Images, axis_name: str | None) -> Array:
  """Returns log p(x|z), whose derivative through the mean is in part that of another loss. [B], nats."""
  log_p = terms.log_p['x']
  if not fit.mean_gradient:
    return log_p
  loss = fit.mean_loss
  of_mean = white_log_prob(images, axis_name) if loss is None else -loss(images)
  return log_p + fit.mean_gradient * (of_mean - jax.lax.stop_gradient(of_mean))


def _replaced(of: Fit | Phase, density: Array, images: Images) -> Array:
  """Returns a log density, or minus the loss that replaces it. [B]."""
  return density if of.reconstruction is None else -of.weight * of.reconstruction(images)


def white_log_prob(images: Images, axis_name: str | None = None) -> Array:
  """Returns the log density of independent pixels of one variance, the best one for the whole batch.

  It is of the pixels that count, where images have masks. [B], nats.

  Reference: Rybkin et al., "Simple and Effective VAE Training with Calibrated Decoders", 2021.
  """
  squares = _squares(images.x - images.mean)
  size = jnp.full_like(squares, images.x[0].size) if images.counted is None else images.counted
  total = jax.lax.stop_gradient((jnp.mean(squares), jnp.mean(size)))
  square, number = total if axis_name is None else jax.lax.pmean(total, axis_name)
  variance = square / number
  return -0.5 * (size * (math.log(2 * math.pi) + jnp.log(variance)) + squares / variance)


def kernel_error(images: Images, boundary: str = 'circular') -> Array:
  """Returns |x * k - mean|^2 of each image, whose derivative is by the kernel k alone. [B].

  Kernels of single channels blur the channels that the covariance takes to be independent.

  Args:
    images: with kernels.
    boundary: see `blur`.

  Reference: equation 12.
  """
  if images.kernel is None:
    raise ValueError('kernel_error needs a model that predicts blur kernels.')
  x, mean = jax.lax.stop_gradient(_in_channels_of_kernels(images))
  return _squares(jax.vmap(lambda kernel, x: blur(kernel, x, boundary))(images.kernel, x) - mean)


def blur(kernel: Array, x: Array, boundary: str = 'circular') -> Array:
  """Returns the image convolved with a kernel whose centre is its tap k // 2. [H, W, C].

  Args:
    kernel: [k1, k2] for every channel, or [k1, k2, C].
    x: [H, W, C].
    boundary: 'circular' continues the image periodically, as a circulant covariance does; 'zero' with
      zeros; 'reflect' mirrors it, for symmetric kernels (of others, their symmetric part is taken).

  Raises:
    ValueError: for another boundary.
  """
  if boundary not in BOUNDARIES:
    raise ValueError(f'boundary must be one of {", ".join(BOUNDARIES)}; got {boundary!r}.')
  height, width, _ = x.shape
  kernel = kernel if kernel.ndim == 3 else kernel[..., None]
  if boundary == 'zero':  # as many zeros as keep the image's ends from meeting
    x = jnp.pad(x, ((0, kernel.shape[0] - 1), (0, kernel.shape[1] - 1), (0, 0)))
  basis = spectral.REFLECTING if boundary == 'reflect' else spectral.PERIODIC
  transfer = jax.vmap(lambda one: basis.transfer(one, *x.shape[:2]), in_axes=-1, out_axes=-1)
  spectrum = _product(transfer(kernel), basis.forward(x))
  return basis.inverse(spectrum, x.shape[1])[:height, :width]


def _in_channels_of_kernels(images: Images) -> tuple[Array, Array]:
  """Returns x and mean, in the rotated channels if each of these has a kernel. [B, H, W, C] each.

  A kernel of all channels blurs them alike in any axes, and a rotation changes no squared error.
  """
  if images.kernel_axes is None or images.kernel is None or images.kernel.ndim == 3:
    return images.x, images.mean
  turn = lambda one: products.einsum('bhwc,bck->bhwk', one, images.kernel_axes)  # noqa: E731
  return turn(images.x), turn(images.mean)


def _product(one: spectral.Parts, other: spectral.Parts) -> spectral.Parts:
  """Returns the product of two spectra, real or complex."""
  if len(one) == 1:
    return (one[0] * other[0],)
  return one[0] * other[0] - one[1] * other[1], one[0] * other[1] + one[1] * other[0]


def _squares(x: Array) -> Array:
  return jnp.sum(jnp.square(x), axis=tuple(range(1, x.ndim)))
