"""Log densities of the sparse factor of an image grid and their gradients."""

import functools
import importlib.util
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.benchmark import torch_peer
from structured_obs.benchmark.measure import Bar, Candidate, Task, compiled, faster
from structured_obs.linalg import sparse_triangular
from structured_obs.linalg.sparse_triangular import Factor, Offsets

Array = jax.Array


def tasks(name: str, factors: Factor, residual: Array, pattern: Offsets) -> Iterator[Task]:
  """Yields the tasks of log densities of a batch of residuals [B, H, W], and value and gradient.

  Args:
    name: of the problem, in records.
    factors: [B, ...] each.
    residual: [B, H, W].
    pattern: K offsets.
  """
  arguments = (jnp.log(factors.diag), factors.weights, residual)
  ours = functools.partial(sparse_triangular.log_density, offsets=pattern)
  plain = functools.partial(_by_shifts, pattern=pattern, exp=jnp.exp, pad=jnp.pad)
  log_diag, weights, right = (np.asarray(x, np.float64) for x in arguments)
  exact = _by_shifts(log_diag, weights, right, pattern, np.exp, np.pad)
  heavy = residual.shape[0] >= 64 and residual.shape[1] == 64
  yield Task(
    f'log_prob {name}',
    [compiled('ours', jax.vmap(ours), *arguments), compiled('XLA shifts', plain, *arguments)],
    exact,
    _bars(len(pattern)) if heavy else (),
  )

  def gradient(function: Callable[..., Array]) -> Callable[..., Any]:
    return jax.vmap(jax.value_and_grad(function, argnums=(0, 1, 2)))

  candidates = [
    compiled('ours', gradient(ours), *arguments),
    compiled('XLA shifts', gradient(plain), *arguments),
  ]
  missing = () if importlib.util.find_spec('torch') else ('torch',)
  if not missing:
    candidates += _torch(arguments, pattern)
  bars = torch_peer.bars(3.5) if heavy and len(pattern) == 12 else ()
  yield Task(f'log_prob, value and gradient {name}', candidates, exact, bars, missing)


def _bars(neighbours: int) -> tuple[Bar, ...]:
  wanted = {12: 1.8, 24: 4.0}.get(neighbours)
  return (faster('XLA shifts', wanted),) if wanted else ()


def _by_shifts(log_diag, weights, residual, pattern: Offsets, exp, pad) -> Any:
  """Returns the log density by shifted copies of the image, in any array library. [...].

  Args:
    log_diag: [..., H, W].
    weights: [..., H, W, K].
    residual: [..., H, W].
    pattern: K offsets.
    exp: of the library.
    pad: of the library; takes the array and NumPy's pad widths.
  """
  height, width = residual.shape[-2:]
  rows = max((dr for dr, _ in pattern), default=0)
  columns = max((abs(dc) for _, dc in pattern), default=0)
  widths = [(0, 0)] * (residual.ndim - 2) + [(0, rows), (columns, columns)]
  padded = pad(residual, widths)
  whitened = exp(log_diag) * residual
  for k, (dr, dc) in enumerate(pattern):
    start = columns + dc
    whitened = whitened + weights[..., k] * padded[..., dr : dr + height, start : start + width]
  constant = 0.5 * height * width * math.log(2 * math.pi)
  return (log_diag - 0.5 * whitened**2).sum((-2, -1)) - constant


def _torch(arguments: tuple[Array, ...], pattern: Offsets) -> list[Candidate]:
  import torch  # pyright: ignore[reportMissingImports]

  log_diag, weights, residual = arrays = [
    torch.tensor(np.asarray(x), requires_grad=True) for x in arguments
  ]

  def pad(array: Any, widths: list[tuple[int, int]]) -> Any:
    flat = [size for pair in reversed(widths) for size in pair]  # last axis first
    return torch.nn.functional.pad(array, flat)

  def run() -> Any:
    value = _by_shifts(log_diag, weights, residual, pattern, torch.exp, pad)
    gradients = torch.autograd.grad(value.sum(), arrays)
    return [x.detach().numpy() for x in (value, *gradients)]

  return torch_peer.candidates(run)
