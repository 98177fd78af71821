# One file of more than 300 lines: a pattern of links and all that is done with it.
"""Links of a sparse Cholesky factor between pixels of a colour image, as one pattern on a plain grid.

Letters: H W C image height, width, channels; K later neighbours in the same channel; X links to other
channels; G grids.

A factor's columns come as `off_diag` [H, W, C, K], its neighbours in the same channel, and `cross`
[H, W, C, X]:

  X = 0                 none: each channel is its own grid, G = C
  X = C - 1             pixel: channel ch is linked to channel ch + o of the same pixel, o = 1 .. C - 1
  X = (C - 1) (K + 1)   full: as pixel, and then for each neighbour to channel (ch + o) mod C of it

Linked channels make one grid of H x W C, pixels with their channels side by side, where a neighbour
(dr, dc) of channel distance d is the offset (dr, dc C + d). Links past the last channel of the
same pixel are not part of the pattern and are never read.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from structured_obs.distributions import base
from structured_obs.linalg import closed_form, elementwise, sparse_triangular

Array = jax.Array
Offsets = sparse_triangular.Offsets
Factor = sparse_triangular.Factor

CHANNELS = ('none', 'pixel', 'full')


class Slot(NamedTuple):
  """One stored link and the channels for which it leads by this offset."""

  source: str  # 'off_diag' or 'cross'
  place: int  # in the last axis of the source
  channels: tuple[int, ...]


class Pattern(NamedTuple):
  """Offsets on the grids, and what is stored for each. Hashable."""

  split: bool  # whether each channel is its own grid
  offsets: Offsets
  slots: tuple[tuple[Slot, ...], ...]  # one tuple for each offset


def cross_links(channels: str, neighbours: int, count: int) -> int:
  """Returns X for a coupling of `count` channels.

  Args:
    channels: one of `CHANNELS`.
    neighbours: K.
    count: C.

  Raises:
    ValueError: the coupling's name is unknown.
  """
  base.check_choice('channels', channels, CHANNELS)
  return {'none': 0, 'pixel': count - 1, 'full': (count - 1) * (neighbours + 1)}[channels]


def pattern(channels: int, neighbours: int, cross: int) -> Pattern:
  """Returns the pattern of a factor with these sizes C, K and X.

  Args:
    channels: C.
    neighbours: K.
    cross: X.

  Raises:
    ValueError: no filter size has K neighbours, or no coupling X links.
  """
  spatial = sparse_triangular.offsets(sparse_triangular.filter_size(neighbours))
  everyone = tuple(range(channels))
  if cross == 0:
    slots = tuple((Slot('off_diag', k, everyone),) for k in range(neighbours))
    return Pattern(True, spatial, slots)
  if cross not in (channels - 1, (channels - 1) * (neighbours + 1)):
    raise ValueError(
      f'cross must hold 0, C - 1 or (C - 1) (K + 1) links, with C = {channels} and K = {neighbours}; '
      f'got {cross}.'
    )
  found: dict[tuple[int, int], list[Slot]] = {}
  for k, (dr, dc) in enumerate(spatial):
    found.setdefault((dr, dc * channels), []).append(Slot('off_diag', k, everyone))
  for index in range(cross):
    number, other = divmod(index, channels - 1)
    dr, dc = spatial[number - 1] if number else (0, 0)
    step = other + 1
    direct = tuple(ch for ch in everyone if ch + step < channels)
    found.setdefault((dr, dc * channels + step), []).append(Slot('cross', index, direct))
    if number:  # the same pixel has no later channels to wrap around to
      wrapped = tuple(ch for ch in everyone if ch + step >= channels)
      offset = (dr, dc * channels + step - channels)
      found.setdefault(offset, []).append(Slot('cross', index, wrapped))
  ordered = sorted(found)
  return Pattern(False, tuple(ordered), tuple(tuple(found[offset]) for offset in ordered))


def to_grids(image: Array, pattern: Pattern) -> Array:
  """Returns the image [H, W, C] as grids [G, H, W or W C]."""
  image = jnp.asarray(image)
  if pattern.split:
    return jnp.moveaxis(image, -1, 0)
  return image.reshape(image.shape[0], image.shape[1] * image.shape[2])[None]


def from_grids(grids: Array, pattern: Pattern, shape: tuple[int, ...]) -> Array:
  """Returns the inverse of `to_grids`. [H, W, C].

  Args:
    grids: [G, H, W or W C].
    pattern: of the links.
    shape: [H, W, C].
  """
  return jnp.moveaxis(grids, 0, -1) if pattern.split else grids[0].reshape(shape)


def grid_weights(off_diag: Array, cross: Array, pattern: Pattern) -> Array:
  """Returns weights on the grids. [G, H, W or W C, number of offsets].

  Args:
    off_diag: [H, W, C, K].
    cross: [H, W, C, X].
    pattern: of the links.
  """
  if pattern.split:
    return jnp.moveaxis(off_diag, 2, 0)
  height, width, channels, neighbours = off_diag.shape
  if not cross.shape[-1]:  # in the order of the grid as they are
    return off_diag.reshape(height, width * channels, neighbours)[None]
  arrays = {'off_diag': off_diag, 'cross': cross}
  columns = []
  for slots in pattern.slots:
    # Slots of one offset have no channel in common.
    parts = (
      jnp.where(_one_of(slot.channels, channels), arrays[slot.source][..., slot.place], 0)
      for slot in slots
    )
    columns.append(sum(parts, start=jnp.zeros_like(off_diag, shape=(height, width, channels))))
  return _stacked(columns).reshape(height, width * channels, len(columns))[None]


def links_from_grid(weights: Array, pattern: Pattern, shape: tuple[int, ...]) -> tuple[Array, Array]:
  """Returns `off_diag` and `cross` of weights on a grid of interleaved channels [H, W C, offsets].

  Args:
    weights: [H, W C, offsets].
    pattern: of the links.
    shape: [H, W, C].
  """
  height, width, channels = shape
  image = weights.reshape(height, width, channels, len(pattern.offsets))
  if not _across(pattern):
    return image, jnp.zeros_like(image, shape=(*shape, 0))
  stored: dict[str, dict[int, Array]] = {'off_diag': {}, 'cross': {}}
  zero = jnp.zeros_like(image, shape=(height, width, channels))
  for k, slots in enumerate(pattern.slots):
    for slot in slots:
      part = jnp.where(_one_of(slot.channels, channels), image[..., k], 0)
      kind = stored[slot.source]
      kind[slot.place] = kind.get(slot.place, zero) + part
  off_diag, cross = (
    _stacked([values[i] for i in range(len(values))])
    if values
    else jnp.zeros_like(image, shape=(height, width, channels, 0))
    for values in (stored['off_diag'], stored['cross'])
  )
  return off_diag, cross


def interleaved(pattern: Pattern, channels: int) -> Pattern:
  """Returns the same links on one grid of interleaved channels."""
  if not pattern.split:
    return pattern
  offsets = tuple((dr, dc * channels) for dr, dc in pattern.offsets)
  return Pattern(False, offsets, pattern.slots)


def present(pattern: Pattern, shape: tuple[int, ...]) -> NDArray[np.bool_]:
  """Returns whether each link of an interleaved pattern ends in the image. [H, W C, offsets]."""
  height, width, channels = shape
  down, right = np.reshape(np.asarray(pattern.offsets, int), (-1, 2)).T
  rows, columns = np.indices((height, width * channels))[..., None]
  inside = (rows + down < height) & (columns + right >= 0) & (columns + right < width * channels)
  linked = np.zeros((channels, len(pattern.offsets)), bool)
  for k, slots in enumerate(pattern.slots):
    for slot in slots:
      linked[list(slot.channels), k] = True
  return inside & np.tile(linked, (width, 1))


def checked(params: Any) -> Any:
  """Returns the same record of arrays with `mean`, `log_diag`, `off_diag` and `cross`.

  Checks their shapes.

  Raises:
    ValueError: the shapes do not match, or no pattern has these numbers of links.
  """
  params = base.checked(params, log_diag=(...,), off_diag=(..., None), cross=(..., None))
  pattern(params.mean.shape[-1], params.off_diag.shape[-1], params.cross.shape[-1])
  return params


def factor(params: Any) -> tuple[Pattern, Factor]:
  """Returns L of a record with `mean`, `log_diag`, `off_diag` and `cross`, whose shapes are checked.

  Returns:
    The pattern, and L's factors on its grids: diag [G, H, W or W C], weights [G, H, W or W C, offsets].
  """
  params = checked(params)
  chosen = pattern(params.mean.shape[-1], params.off_diag.shape[-1], params.cross.shape[-1])
  diag = jnp.exp(base.nan_unless_finite(params.log_diag))
  return chosen, Factor(to_grids(diag, chosen), grid_weights(params.off_diag, params.cross, chosen))


def apply(params: Any, v: Array, operation: Callable[..., Array]) -> Array:
  """Returns `operation(factor, v, offsets)` of `linalg.sparse_triangular` on an image. [H, W, C].

  Args:
    params: a record with `mean`, `log_diag`, `off_diag` and `cross`.
    v: [H, W, C].
    operation: (factor, v, offsets) -> [H, W] on one grid.
  """
  (chosen, factors), image = factor(params), jnp.shape(params.mean)
  v = base.check_shape('image', v, image)
  done = jax.vmap(lambda f, g: operation(f, g, chosen.offsets))(factors, to_grids(v, chosen))
  return base.all_or_nan(from_grids(done, chosen, image))


def log_density(params: Any, x: Array) -> Array:
  """Returns the log density of an image [H, W, C]. [], nats."""
  params = checked(params)
  x = base.check_shape('x', x, params.mean.shape)
  image, neighbours = params.mean.shape, params.off_diag.shape[-1]
  chosen = interleaved(pattern(image[-1], neighbours, params.cross.shape[-1]), image[-1])
  return _log_density(chosen)(params.log_diag, params.off_diag, params.cross, x - params.mean)


@functools.cache
def _log_density(pattern: Pattern):
  formulas = functools.partial(_density_and_gradients, pattern)
  # The value alone is tiled, but for the weights of linked channels, which are put on a grid first.
  names = ('log_diag', 'off_diag', 'cross', 'residual')
  return closed_form.by_image(names, formulas, value_at_once=not _across(pattern))


def _density_and_gradients(
  pattern: Pattern,
  wanted: closed_form.Wanted,
  log_diag: Array,
  off_diag: Array,
  cross: Array,
  residual: Array,
) -> tuple[Array, ...]:
  """Returns `sparse_triangular.density_and_gradients` of an image, by way of one grid."""
  by_links = {'off_diag', 'cross'} & set(wanted)
  on_grid = [name for name in ('log_diag', 'residual') if name in wanted]
  grids = (to_grids(a, pattern)[0] for a in (log_diag, residual))
  weights = grid_weights(off_diag, cross, pattern)[0]
  names = (*on_grid, *(('weights',) if by_links else ()))
  value, *gradients = sparse_triangular.density_and_gradients(
    names, next(grids), weights, next(grids), pattern.offsets
  )
  found = dict(zip(names, gradients, strict=True))
  if by_links:
    found['off_diag'], found['cross'] = links_from_grid(found['weights'], pattern, log_diag.shape)
  found |= {name: found[name].reshape(log_diag.shape) for name in on_grid}
  return value, *(found[name] for name in wanted)


def joined(params: Any) -> tuple[Offsets, Factor]:
  """Returns the offsets and the factor L on one grid of interleaved channels, linked or not."""
  params = checked(params)
  image = params.mean.shape
  chosen = pattern(image[-1], params.off_diag.shape[-1], params.cross.shape[-1])
  chosen = interleaved(chosen, image[-1])
  diag = jnp.exp(base.nan_unless_finite(params.log_diag))
  weights = grid_weights(params.off_diag, params.cross, chosen)
  return chosen.offsets, Factor(to_grids(diag, chosen)[0], weights[0])


def masked(params: Any, scale: Array | None = None) -> Any:
  """Returns the same record with 0 for every link that leads out of the image.

  Args:
    params: a record with `mean`, `log_diag`, `off_diag` and `cross`.
    scale: [H, W, C], of the links of each pixel.
  """
  image = params.mean.shape
  chosen = pattern(image[-1], params.off_diag.shape[-1], params.cross.shape[-1])
  chosen = interleaved(chosen, image[-1])
  if not chosen.offsets:
    return params
  ones = jnp.asarray(present(chosen, image).astype(params.mean.dtype))
  inside = dict(zip(('off_diag', 'cross'), links_from_grid(ones, chosen, image), strict=True))
  for name, mask in inside.items():
    stored = getattr(params, name)
    product = stored * mask if scale is None else elementwise.scale_short_axis(stored, scale, mask)
    params = params._replace(**{name: product})
  return params


def _across(pattern: Pattern) -> bool:
  """Returns whether any link leads to another channel."""
  return any(slot.source == 'cross' for slots in pattern.slots for slot in slots)


def _stacked(columns: list[Array]) -> Array:
  """Returns the columns [...] along a last axis.

  A CPU takes longer to stack them there than in front.
  """
  return jnp.moveaxis(jnp.stack(columns), 0, -1)


def _one_of(chosen: tuple[int, ...], channels: int) -> NDArray[np.bool_]:
  return np.isin(np.arange(channels), chosen)[None, None]
