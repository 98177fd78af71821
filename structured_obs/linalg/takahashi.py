"""Covariances near the diagonal of (L L^T)^-1 for a sparse lower-triangular L, without the rest.

Letters: n size; T taps; w bandwidth, the largest tap or wanted lag; b pixels in a block; B blocks; N
window of the w entries after a block; q rows of L below a block that hold anything.

L is given by its diagonal and a few of its subdiagonals, `taps[j, t]` = L[j + s_t, j] for static s_t.
The rows of the inverse S obey S L = L^-T, which is upper triangular, so that going from the last block J
to the first, with N the w entries after it,

  L_JJ^T S_JN = -L_NJ^T S_NN,    S_JJ = L_JJ^-T (I + L_NJ^T S_NN L_NJ) L_JJ^-1.

The second one is a sum of squares, which keeps rounding from growing from block to block where pixels
lean heavily on each other; so does applying L_NJ^T first, since L_JJ^-T L_NJ^T, which predicts far
pixels, has large entries that cancel. The whole S_NN is kept (the pattern of L is not closed under
elimination), but only the q rows that the taps reach are multiplied. It is a ring: a block takes the
place of the one that has become too far away, and nothing moves. Cost: n w q.

Reference: Takahashi, Fagan and Chin, "Formation of a sparse bus impedance matrix", 1973.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.linalg import side_by_side

Array = jax.Array

TOGETHER = 4  # images whose steps are one, on a CPU, while their rings are small
SMALL_RING = 200  # rows; a step of a larger one has enough to do for itself

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class _Run(NamedTuple):
  """Neighbouring taps that are multiplied as one dense band."""

  first: int
  last: int
  members: tuple[tuple[int, int], ...]  # (subdiagonal, index of the tap)


class _Block(NamedTuple):
  """Columns of L that belong to b consecutive pixels."""

  inverse: Array  # [b, b]  L_JJ^-T, upper triangular
  taps: Array  # [b, T]


def lagged_covariances(
  diag: Array, taps: Array, shifts: tuple[int, ...], lags: tuple[int, ...]
) -> Array:
  """S[j, j + lag] of S = (L L^T)^-1, 0 where j + lag leaves the matrix. [n, len(lags)].

  Differentiable to any order; reverse mode keeps about sqrt(B) windows.

  Args:
    diag: [n], the diagonal of L, positive.
    taps: [n, T], `taps[j, t]` = L[j + s_t, j]; 0 where that leaves the matrix.
    shifts: s_t, T increasing numbers from 1 to n - 1.
    lags: increasing numbers from 0 to n - 1.
  """
  return _covariances(shifts, lags)(diag, taps)


@functools.cache
def _covariances(shifts: tuple[int, ...], lags: tuple[int, ...]):
  """`lagged_covariances` of (diag, taps), of a few images at once, and differentiated as it stands."""
  one = functools.partial(_recursion, shifts=shifts, lags=lags)
  count = TOGETHER if max((*shifts, *lags), default=0) <= SMALL_RING else 1

  def few_at_once(diag: Array, taps: Array) -> Array:
    if len(diag) <= count:
      return jax.vmap(one)(diag, taps)
    return jax.lax.map(lambda image: one(*image), (diag, taps), batch_size=count)

  def many_images(diag: Array, taps: Array) -> Array:
    return jax.lax.platform_dependent(diag, taps, cpu=few_at_once, default=jax.vmap(one))

  many = side_by_side.images(many_images)
  found = jax.custom_jvp(lambda diag, taps: many(diag[None], taps[None])[0])
  found.defjvp(functools.partial(jax.jvp, one))
  return found


def _recursion(
  diag: Array, taps: Array, shifts: tuple[int, ...], lags: tuple[int, ...]
) -> Array:
  size, window = diag.shape[0], max((*shifts, *lags), default=0)
  block = 16  # of 8, 16 and 32 the fastest at 64 x 64 to 256 x 256
  steps = -(-size // block)
  outer = -(-steps // (math.isqrt(steps - 1) + 1))
  inner = -(-steps // outer)
  pad = outer * inner * block - size
  diag = jnp.pad(diag, (0, pad), constant_values=1).reshape(-1, block)
  taps = jnp.pad(taps, ((0, pad), (0, 0))).reshape(outer * inner, block, len(shifts))
  blocks = _Block(_inverse_transposed(diag, taps, shifts), taps)
  blocks = jax.tree.map(lambda x: x.reshape(outer, inner, *x.shape[1:]), blocks)
  ring = max(-(-window // block), 1) * block
  start = jnp.zeros_like(diag, shape=(ring, ring))
  numbers = jnp.arange(outer * inner, dtype=jnp.int32).reshape(outer, inner)
  step = functools.partial(_step, shifts=shifts, lags=lags)
  steps = jax.checkpoint(functools.partial(jax.lax.scan, step, reverse=True), prevent_cse=False)
  _, found = jax.lax.scan(steps, start, (numbers, blocks), reverse=True)
  return found.reshape(outer * inner * block, len(lags))[:size]


def _step(later: Array, inputs: tuple[Array, _Block], shifts: tuple[int, ...], lags: tuple[int, ...]):
  """The ring [N, N] after a block -> the ring from the block on, and what is wanted of it.

  Pixel j is at place j % N of the ring.
  """
  number, block = inputs
  (size, _), ring = block.inverse.shape, later.shape[0]
  first = number * size % ring
  runs = _runs(shifts, size)
  below = _below(block.taps, runs)  # L_NJ^T [b, q]
  reached = [np.arange(max(run.first, size), run.last + size) for run in runs]
  places = (first + np.concatenate([np.zeros(0, int), *reached]).astype(np.int32)) % ring
  half = _matmul(below, later[places])  # L_NJ^T S_NN [b, N]
  inner = _matmul(_matmul(below, half[:, places].T), block.inverse.T)
  own = _matmul(block.inverse, block.inverse.T + inner)
  own = (own + own.T) / 2
  cross = -_matmul(block.inverse, half)  # S_JN
  whole = own
  if max(lags, default=0) > 0:
    whole = jnp.concatenate([own, jnp.roll(cross, -(first + size), axis=1)], 1)
  zero = jnp.zeros_like(first)
  rows = jax.lax.dynamic_update_slice(cross, own, (zero, first))
  later = jax.lax.dynamic_update_slice(later, rows, (first, zero))
  later = jax.lax.dynamic_update_slice(later, rows.T, (zero, first))
  return later, _diagonals(whole, lags)


def _runs(shifts: tuple[int, ...], block: int) -> list[_Run]:
  """Join taps whose rows below a block overlap."""
  runs: list[_Run] = []
  for index, shift in enumerate(shifts):
    if runs and shift - block < runs[-1].last:
      first, _, members = runs.pop()
      runs.append(_Run(first, shift, (*members, (shift, index))))
    else:
      runs.append(_Run(shift, shift, ((shift, index),)))
  return runs


def _below(taps: Array, runs: list[_Run]) -> Array:
  """L_NJ^T, its columns being the rows of N that the runs reach. [b, q]."""
  size = taps.shape[0]
  pieces = [taps[:, :0]]
  for run in runs:
    previous, start = run.first - 1, run.members[0][1]
    for shift, index in run.members:
      if shift != previous + 1:
        gap = jnp.zeros_like(taps, shape=(size, shift - previous - 1))
        pieces += [taps[:, start:index], gap]
        start = index
      previous = shift
    pieces.append(taps[:, start : run.members[-1][1] + 1])
    pieces.append(jnp.zeros_like(taps, shape=(size, size - 1)))
  # Row c moves right by c: one entry more in each row than the width it is read with.
  flat = jnp.pad(jnp.concatenate(pieces, 1), ((0, 0), (0, 1)))
  width = flat.shape[1] - 1
  skewed = flat.reshape(-1)[: size * width].reshape(size, width)
  return skewed[:, max(size - runs[0].first, 0) :] if runs else skewed


def _diagonals(matrix: Array, lags: tuple[int, ...]) -> Array:
  """matrix[c, c + lag]. [b, len(lags)] of [b, M]."""
  size, width = matrix.shape
  straight = jnp.pad(matrix.reshape(-1), (0, size)).reshape(size, width + 1)
  pieces, first = [straight[:, :0]], 0
  for index, lag in enumerate(lags):
    if index + 1 == len(lags) or lags[index + 1] != lag + 1:
      pieces.append(straight[:, lags[first] : lag + 1])
      first = index + 1
  return jnp.concatenate(pieces, 1)


def _inverse_transposed(diag: Array, taps: Array, shifts: tuple[int, ...]) -> Array:
  """L_JJ^-T of every block: [B, b, b] of diag [B, b] and taps [B, b, T]."""
  blocks, size = diag.shape
  inside = [(index, shift) for index, shift in enumerate(shifts) if shift < size]
  identity = jnp.eye(size, dtype=diag.dtype)

  def row(later: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    unit, scale, links = inputs
    value = jnp.broadcast_to(unit, (blocks, size))
    for index, shift in inside:
      value -= links[:, index, None] * later[shift - 1]
    value = value / scale[:, None]
    return jnp.concatenate([value[None], later])[: later.shape[0]], value

  start = jnp.zeros_like(diag, shape=(max((shift for _, shift in inside), default=0), blocks, size))
  inputs = (identity, diag.T, jnp.transpose(taps, (1, 0, 2)))
  return jnp.transpose(jax.lax.scan(row, start, inputs, reverse=True)[1], (1, 0, 2))


def raster_taps(
  diag: Array, weights: Array, offsets: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, ...], Array]:
  """The subdiagonals of a factor on a grid whose pixels are in raster order, and their entries [H W, T].

  Args:
    diag: [H, W].
    weights: [H, W, K].
    offsets: K pairs (dr, dc); an entry that leads outside the grid is not read.
  """
  height, width = diag.shape
  columns: dict[int, Array] = {}
  for k, (i, j) in enumerate(offsets):
    if i < height and abs(j) < width:
      shift = i * width + j
      entries = jnp.where(reaches((height, width), (i, j)), weights[..., k], 0).reshape(-1)
      columns[shift] = columns[shift] + entries if shift in columns else entries
  shifts = tuple(sorted(columns))
  if not shifts:
    return shifts, jnp.zeros_like(diag, shape=(height * width, 0))
  return shifts, jnp.stack([columns[shift] for shift in shifts], axis=-1)


def reaches(shape: tuple[int, int], offset: tuple[int, int]) -> Array:
  """Whether pixel + offset lies inside the image. [H, W], bool."""
  row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
  target = column + offset[1]
  return (row + offset[0] < shape[0]) & (target >= 0) & (target < shape[1])
