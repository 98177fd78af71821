"""Tasks on low-rank plus diagonal covariances."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.benchmark import torch_peer
from structured_obs.benchmark.measure import Bar, Candidate, Task, compiled, faster
from structured_obs.distributions import low_rank
from structured_obs.linalg import woodbury

Array = jax.Array
Peer = Callable[..., list[Candidate]]


def tasks(pixels: int, rank: int, batch: int) -> Iterator[Task]:
  """Yields the tasks of log densities, alone and with their gradient, and of samples.

  Args:
    pixels: n.
    rank: R.
    batch: images at once.
  """
  rng = np.random.default_rng(0)
  shapes = ((batch, pixels), (batch, pixels, rank))
  residual, factor = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
  diag = jnp.asarray(0.1 + rng.random((batch, pixels)), jnp.float32)
  arguments = (residual, factor, diag)
  name = f'S={pixels} R={rank} batch {batch}'
  usual = (pixels, rank) == (12288, 25)
  even = (faster('numpyro', 1.0),) if usual else ()
  memory = Bar('temporary_bytes', 10.0, 'numpyro')
  bars = (faster('numpyro', 2.3), memory, *torch_peer.bars(2.5)) if usual else ()

  peers = [('numpyro', _numpyro(_gradient)), ('torch', _torch)]
  ours = compiled('ours', _gradient(woodbury.log_density), *arguments)
  yield _task(f'low rank, value and gradient {name}', ours, peers, arguments, bars)
  ours = compiled('ours', jax.vmap(woodbury.log_density), *arguments)
  yield _task(f'low rank, value {name}', ours, [('numpyro', _numpyro(jax.vmap))], arguments, even)
  keys = jax.random.split(jax.random.key(0), batch)
  ours = compiled('ours', jax.vmap(_sample), keys, factor, diag)
  peers = [('numpyro', _numpyro_sample)]
  yield _task(f'low rank, sample {name}', ours, peers, (keys, factor, diag), even)


def _task(
  name: str,
  ours: Candidate,
  peers: list[tuple[str, Peer]],
  arguments: tuple[Array, ...],
  bars: tuple[Bar, ...],
) -> Task:
  candidates, missing = [ours], []
  for peer, make in peers:
    try:
      candidates += make(*arguments)
    except ImportError:
      missing.append(peer)
  return Task(name, candidates, None, bars, tuple(missing))


def _gradient(log_density: Any) -> Any:
  return jax.vmap(jax.value_and_grad(log_density, argnums=(0, 1, 2)))


def _sample(key: Array, factor: Array, diag: Array) -> Array:
  columns, rows = factor[:, None, None], diag[:, None, None]  # an image of one column of pixels
  return low_rank.sample(key, low_rank.LowRank(jnp.zeros_like(rows), columns, rows))[:, 0, 0]


def _numpyro(mapped: Callable[[Any], Any]) -> Peer:
  def make(residual: Array, factor: Array, diag: Array) -> list[Candidate]:
    from numpyro import distributions  # pyright: ignore[reportMissingImports]

    def log_density(residual: Array, factor: Array, diag: Array) -> Array:
      zero = jnp.zeros_like(residual)
      return distributions.LowRankMultivariateNormal(zero, factor, diag).log_prob(residual)

    return [compiled('numpyro', mapped(log_density), residual, factor, diag)]

  return make


def _numpyro_sample(keys: Array, factor: Array, diag: Array) -> list[Candidate]:
  from numpyro import distributions  # pyright: ignore[reportMissingImports]

  def sample(key: Array, factor: Array, diag: Array) -> Array:
    return distributions.LowRankMultivariateNormal(jnp.zeros_like(diag), factor, diag).sample(key)

  return [compiled('numpyro', jax.vmap(sample), keys, factor, diag)]


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
