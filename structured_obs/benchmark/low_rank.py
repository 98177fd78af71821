"""Tasks on low-rank plus diagonal covariances."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.benchmark import torch_peer
from structured_obs.benchmark.measure import Bar, Candidate, Task, compiled, faster
from structured_obs.linalg import woodbury

Array = jax.Array


def task(pixels: int, rank: int, batch: int) -> Task:
  """Value and gradient of the log density by residual, factor and diagonal."""
  rng = np.random.default_rng(0)
  shapes = ((batch, pixels), (batch, pixels, rank))
  residual, factor = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
  diag = jnp.asarray(0.1 + rng.random((batch, pixels)), jnp.float32)
  arguments = (residual, factor, diag)
  candidates, missing = [compiled('ours', _gradient(woodbury.log_density), *arguments)], []
  for name, make in (('numpyro', _numpyro), ('torch', _torch)):
    try:
      candidates += make(*arguments)
    except ImportError:
      missing.append(name)
  memory = Bar('temporary_bytes', 10.0, 'numpyro')
  bars = (faster('numpyro', 2.3), memory, *torch_peer.bars(2.5)) if (pixels, rank) == (12288, 25) else ()
  name = f'low rank, value and gradient S={pixels} R={rank} batch {batch}'
  return Task(name, candidates, None, bars, tuple(missing))


def _gradient(log_density: Any) -> Any:
  return jax.vmap(jax.value_and_grad(log_density, argnums=(0, 1, 2)))


def _numpyro(residual: Array, factor: Array, diag: Array) -> list[Candidate]:
  from numpyro import distributions  # pyright: ignore[reportMissingImports]

  def log_density(residual: Array, factor: Array, diag: Array) -> Array:
    zero = jnp.zeros_like(residual)
    return distributions.LowRankMultivariateNormal(zero, factor, diag).log_prob(residual)

  return [compiled('numpyro', _gradient(log_density), residual, factor, diag)]


def _torch(residual: Array, factor: Array, diag: Array) -> list[Candidate]:
  import torch  # pyright: ignore[reportMissingImports]

  arrays = [torch.tensor(np.asarray(x), requires_grad=True) for x in (residual, factor, diag)]

  def run() -> Any:
    zero = torch.zeros_like(arrays[0])
    normal = torch.distributions.LowRankMultivariateNormal(
      zero, arrays[1], arrays[2], validate_args=False
    )
    value = normal.log_prob(arrays[0])
    gradients = torch.autograd.grad(value.sum(), arrays)
    return [x.detach().numpy() for x in (value, *gradients)]

  return torch_peer.candidates(run)
