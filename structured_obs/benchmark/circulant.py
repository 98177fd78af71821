"""Tasks on blurred noise: images of three channels, each image with its own kernel, periodic."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.benchmark import torch_peer
from structured_obs.benchmark.measure import Bar, Candidate, Task, compiled, faster
from structured_obs.distributions import blur_kernels, circulant
from structured_obs.linalg import spectral

Array = jax.Array

SPECTRUM = blur_kernels.Spectrum()
LARGE = 128  # pixels, from which kernels of 41 x 41 are measured too
CHANNELS = 3


def tasks(size: int, batch: int) -> Iterator[Task]:
  """Yields the tasks of log densities of a batch of images, and of value and gradient."""
  for kernel_size in (11, 41) if size >= LARGE else (min(11, size),):
    yield from _tasks(size, batch, kernel_size)


def _tasks(size: int, batch: int, kernel_size: int) -> Iterator[Task]:
  rng = np.random.default_rng(0)
  taps = rng.exponential(size=(batch, kernel_size, kernel_size))
  taps /= taps.sum((1, 2), keepdims=True)
  images = rng.normal(size=(batch, size, size, CHANNELS))
  arguments = tuple(jnp.asarray(array, jnp.float32) for array in (images, taps))
  expected = _by_numpy(*(np.asarray(array, np.float64) for array in arguments))
  name = f'{size}x{size}x{CHANNELS} batch {batch} kernel {kernel_size}'
  makers = {'tfp': _tfp, 'torch fft2': _torch('fft2'), 'torch rfft2': _torch('rfft2')}
  for gradient in (False, True):
    ours = compiled('ours', _mapped(_log_density, gradient), *arguments)
    candidates, missing = [ours], []
    for peer, make in makers.items():
      try:
        candidates += make(gradient, *arguments)
      except ImportError:
        missing.append(peer)
    bars = _bars(gradient) if size == 64 and batch in (16, 64) else ()
    task = 'log_prob, value and gradient' if gradient else 'log_prob'
    yield Task(f'blurred noise {task} {name}', candidates, expected, bars, tuple(missing))


def _bars(gradient: bool) -> tuple[Bar, ...]:
  if gradient:
    return torch_peer.bars(1.2, 'torch rfft2')
  return faster('tfp', 2.0), *torch_peer.bars(2.5, 'torch fft2')


def _mapped(log_density: Callable[..., Array], gradient: bool) -> Callable[..., Any]:
  return jax.vmap(jax.value_and_grad(log_density, argnums=(0, 1)) if gradient else log_density)


def _log_density(image: Array, kernel: Array) -> Array:
  params = circulant.from_kernel(jnp.zeros_like(image), kernel, SPECTRUM)
  return circulant.log_prob(params, image)


def _by_numpy(images: Any, taps: Any) -> Any:
  """Returns the same in NumPy, by full transforms of padded kernels. [B]."""
  size = images.shape[1]
  transfer = np.fft.fft2(_embed(taps, np.zeros((len(taps), size, size)), np.roll))
  eigenvalues = np.abs(transfer)[..., None] ** 2 + SPECTRUM.noise
  power = np.abs(np.fft.fft2(images, axes=(1, 2), norm='ortho')) ** 2
  terms = power / eigenvalues + np.log(2 * np.pi * eigenvalues)
  return -0.5 * terms.sum((1, 2, 3))


def _embed(taps: Any, padded: Any, roll: Callable[..., Any]) -> Any:
  """Returns kernels [B, k, k] padded to images, with their centres at the first pixel. [B, H, W]."""
  size = taps.shape[-1]
  padded[..., :size, :size] = taps
  return roll(padded, (-(size // 2), -(size // 2)), (-2, -1))


def _tfp(gradient: bool, *arguments: Array) -> list[Candidate]:
  from tensorflow_probability.substrates import jax as tfp  # pyright: ignore[reportMissingImports]

  operators = tfp.tf2jax.linalg

  def log_density(image: Array, kernel: Array) -> Array:
    height, width, _ = image.shape
    size = kernel.shape[0]
    padded = jnp.pad(kernel, ((0, height - size), (0, width - size)))
    transfer = jnp.fft.fft2(jnp.roll(padded, (-(size // 2), -(size // 2)), (0, 1)))
    root = jnp.sqrt(jnp.square(transfer.real) + jnp.square(transfer.imag) + SPECTRUM.noise)
    scale = operators.LinearOperatorCirculant2D(
      root.astype(jnp.complex64),
      input_output_dtype=image.dtype,
      is_self_adjoint=True,
      is_positive_definite=True,
    )
    planes = jnp.moveaxis(image, -1, 0).reshape(-1, height * width)
    normal = tfp.distributions.MultivariateNormalLinearOperator(scale=scale)
    return jnp.sum(normal.log_prob(planes))

  return [compiled('tfp', _mapped(log_density, gradient), *arguments)]


def _torch(transform: str) -> Callable[..., list[Candidate]]:
  """Returns the PyTorch candidate, which transforms padded kernels.

  The transform is 'fft2', or 'rfft2' with the weights of half a spectrum.
  """

  def make(gradient: bool, *arguments: Array) -> list[Candidate]:
    import torch  # pyright: ignore[reportMissingImports]

    images, taps = (torch.tensor(np.asarray(x), requires_grad=gradient) for x in arguments)
    size, constant = images.shape[1], 0.5 * math.prod(images.shape[1:]) * math.log(2 * math.pi)
    half = spectral.PERIODIC.weights(size)
    weights = torch.tensor(half if transform == 'rfft2' else [1.0], dtype=torch.float32)
    forward = getattr(torch.fft, transform)

    def log_density() -> Any:
      padded = torch.zeros(len(taps), size, size)
      transfer = forward(_embed(taps, padded, torch.roll))
      eigenvalues = transfer.real**2 + transfer.imag**2 + SPECTRUM.noise
      spectrum = forward(images.movedim(-1, 1), norm='ortho')
      power = (spectrum.real**2 + spectrum.imag**2).sum(1)
      terms = power / eigenvalues + CHANNELS * torch.log(eigenvalues)
      return -0.5 * (terms * weights).sum((1, 2)) - constant

    def run() -> Any:
      value = log_density()
      gradients = torch.autograd.grad(value.sum(), (images, taps)) if gradient else ()
      return [x.detach().numpy() for x in (value, *gradients)]

    return torch_peer.candidates(run, f'torch {transform}')

  return make
