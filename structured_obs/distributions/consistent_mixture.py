"""Gray levels of an image whose small version is given: no other image has a probability.

The means of blocks of f x f pixels, rounded to the grid (halves up), are the small image y. A block's
pixels are taken in order. Each is a mixture of discretised logistics, truncated to the levels from which
the block can still reach a sum that rounds to y. The last pixel has at most f^2 levels left, and often
fewer. So the probabilities of the images that agree with y sum to one, and y is not paid for again.

With m the mean that the parameters state, the location of a component in pixel j, given those before
it, is

  loc_j + r_j - mean_{i >= j} m_i,   r_j = (f^2 y - sum_{i < j} x_i) / (f^2 - j):

the conditional mean of independent pixels of one variance, given their sum. So a network predicts
details; a block's mean is that of y by itself. Within a pixel, a channel moves with what those before
it are off their own locations: l_c = loc_c + sum_{c' < c} coeff (x_c' - l_c').

Letters: H W C image height, width, channels; h w those of y; f factor; N = f^2 pixels in a block;
M components.

Reference: Gatopoulos et al., "Super-resolution Variational Auto-Encoders", 2020, has p(x|y, z) with
independent pixels, for which y is only an input of the network. The truncation is ours.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import base, logistic_bins
from structured_obs.distributions.discretized_logistic_mixture import (
  DiscretizedLogisticMixture,
  checked,
  on_grid,
)

Array = jax.Array


class ConsistentMixture(NamedTuple):
  """Parameters of one image."""

  mixture: DiscretizedLogisticMixture  # of the pixels, without y
  y: Array  # [h, w, C]  the small image, on the grid of levels


class _Known(NamedTuple):
  """What is known of each pixel before its own value. Floats of any shape with channels at the end."""

  least: Array  # [..., C]  the least level that it may have
  largest: Array  # [..., C]
  shift: Array  # [..., C]  of its locations, in units of [-1, 1]


def family(
  inner: base.Family[DiscretizedLogisticMixture], factor: int
) -> base.Family[ConsistentMixture]:
  """Returns the family of images whose means of blocks, rounded, are a given small image.

  The small image is the output 'y', which no network predicts: values in [-1, 1] on the grid.

  Args:
    inner: a discretised logistic mixture.
    factor: f, at least 2; the sides of an image divide by it.

  Raises:
    ValueError: the factor is below 2, or the inner family has no gray levels.
  """
  base.check_family(inner)
  if not inner.levels:
    raise ValueError('consistent_mixture needs a family of gray levels, discretized_logistic_mixture.')
  if factor < 2:
    raise ValueError(f'factor must be at least 2, so that an image becomes smaller; got {factor}.')
  levels = inner.levels

  def outputs_of(image: base.Shape) -> dict[str, base.Shape]:
    height, width, channels = base.image_shape(image)
    if height % factor or width % factor:
      raise ValueError(f'The sides of an image must divide by {factor}; got {height} x {width}.')
    return {**inner.outputs(image), 'y': (height // factor, width // factor, channels)}

  def from_outputs(outputs: dict[str, Array]) -> ConsistentMixture:
    rest = {name: value for name, value in outputs.items() if name != 'y'}
    return ConsistentMixture(inner.from_outputs(rest), outputs['y'])

  return base.Family(
    outputs_of,
    from_outputs,
    lambda params, x, mask=None: log_prob(params, x, levels, mask),
    lambda key, params: sample(key, params, levels),
    mean,
    levels=levels,
    mode=lambda params: mode(params, levels),
    log_prob_by_pixel=lambda params, x: log_prob_by_pixel(params, x, levels),
  )


def log_prob(params: ConsistentMixture, x: Array, levels: int = 256, mask: Array | None = None) -> Array:
  """Returns the log probability of an image on the grid. [], nats; -inf if its blocks contradict y.

  NaN off the grid. The derivative by x and y is 0.

  Args:
    params: of one image.
    x: [H, W, C].
    levels: gray levels of the grid.
    mask: None: all pixels count, since those of a block are not independent.

  Raises:
    ValueError: there is a mask.
  """
  if mask is not None:
    raise ValueError('consistent_mixture has no densities of part of an image: the mask must be None.')
  return jnp.sum(log_prob_by_pixel(params, x, levels))


def log_prob_by_pixel(params: ConsistentMixture, x: Array, levels: int = 256) -> Array:
  """Returns the log probability of each pixel, given those before it in its block. [H, W], nats.

  Args:
    params: of one image.
    x: [H, W, C].
    levels: gray levels of the grid.
  """
  blocks, y = _in_blocks(params, levels)
  x = on_grid(params.mixture, x, levels)
  level = to_blocks(_levels_of(x, levels), _factor(params))
  before = _sums(level, -1)
  known = _known(_levels_of(y, levels)[None], before, *_ahead(blocks), len(level), levels)
  locs = _locations(blocks, to_blocks(x, _factor(params)), known.shift)
  possible = (known.least <= level) & (level <= known.largest)
  # Where x contradicts y there may be no possible level: the formula is given one.
  largest = jnp.maximum(known.least, known.largest)
  inside = jnp.clip(level, known.least, largest)
  value, low, high = (_values_of(part, levels)[..., None] for part in (inside, known.least, largest))
  each = logistic_bins.log_truncated(value, low, high, locs, blocks.log_scales, levels)
  each = jnp.sum(each, axis=-2) + jax.nn.log_softmax(blocks.logits)
  found = base.all_or_nan(jax.nn.logsumexp(each, axis=-1)) + 0 * jnp.sum(level) + 0 * jnp.sum(y)
  return from_blocks(jnp.where(jnp.all(possible, axis=-1) | jnp.isnan(found), found, -jnp.inf))


def sample(key: Array, params: ConsistentMixture, levels: int = 256) -> Array:
  """Draws one image on the grid, whose blocks round to y. [H, W, C].

  Args:
    key: one jax.random.key.
    params: of the image.
    levels: of the grid.
  """
  choice_key, noise_key = jax.random.split(key)
  blocks, _ = _in_blocks(params, levels)
  chosen = jax.random.categorical(choice_key, blocks.logits)
  noise = jax.random.uniform(noise_key, blocks.locs.shape[:-1], blocks.locs.dtype)
  return _decide(params, chosen, noise, levels)


def mode(params: ConsistentMixture, levels: int = 256) -> Array:
  """Returns each pixel at its likeliest component's location, or the nearest possible level. [H, W, C].

  Args:
    params: of one image.
    levels: of the grid.
  """
  blocks, _ = _in_blocks(params, levels)
  return _decide(params, jnp.argmax(blocks.logits, axis=-1), None, levels)


def mean(params: ConsistentMixture) -> Array:
  """Returns the mean of the variables before they are truncated and rounded. [H, W, C].

  It is the stated mean, moved so that a block's mean is that of y, and clipped to [-1, 1].

  Args:
    params: of one image.
  """
  blocks, y = _in_blocks(params)
  stated = _stated_mean(blocks)
  moved = stated + (y - jnp.mean(stated, axis=0))[None]
  unused = 0 * (jnp.sum(blocks.log_scales) + jnp.sum(blocks.coeffs))  # but for their validity
  return base.all_or_nan(from_blocks(jnp.clip(moved, -1, 1)) + unused)


def to_blocks(image: Array, factor: int) -> Array:
  """Returns the pixels of each block of an image [H, W, ...], in order. [N, h, w, ...]."""
  height, width, *rest = image.shape
  small = height // factor, width // factor
  cut = image.reshape(small[0], factor, small[1], factor, *rest)
  return jnp.moveaxis(cut, (1, 3), (0, 1)).reshape(factor**2, *small, *rest)


def from_blocks(blocks: Array) -> Array:
  """Returns the image [H, W, ...] of blocks [N, h, w, ...]."""
  number, height, width, *rest = blocks.shape
  factor = math.isqrt(number)
  cut = jnp.moveaxis(blocks.reshape(factor, factor, height, width, *rest), (0, 1), (1, 3))
  return cut.reshape(height * factor, width * factor, *rest)


def _decide(params: ConsistentMixture, chosen: Array, noise: Array | None, levels: int) -> Array:
  """Returns an image, one pixel of all blocks after the other. [H, W, C].

  Args:
    params: of the image.
    chosen: [N, h, w], the component of each pixel.
    noise: [N, h, w, C], uniform in (0, 1); None puts each channel at its location.
    levels: of the grid.
  """
  blocks, y = _in_blocks(params, levels)
  pick = jax.nn.one_hot(chosen, blocks.logits.shape[-1], dtype=blocks.locs.dtype)[..., None, :]
  locs, log_scales, coeffs = (jnp.sum(pick * part, axis=-1) for part in blocks[1:])
  target, number = _levels_of(y, levels), len(locs)

  def decide(before: Array, pixel: Any) -> tuple[Array, Array]:
    locs, log_scales, coeffs, ahead, position, noise = pixel
    known = _known(target, before, ahead, position, number, levels)
    off: list[Array] = []  # [h, w] each: what a channel is off its location
    decided: list[Array] = []  # [h, w] each: its level
    for channel in range(locs.shape[-1]):
      least, largest = known.least[..., channel], known.largest[..., channel]
      loc = locs[..., channel] + known.shift[..., channel] + _moved(coeffs, channel, off)
      value = loc
      if noise is not None:
        ends = _values_of(least, levels), _values_of(largest, levels)
        value = logistic_bins.draw(noise[..., channel], *ends, loc, log_scales[..., channel], levels)
      level = jnp.clip(jnp.round((value + 1) * ((levels - 1) / 2)), least, largest)
      decided.append(level)
      off.append(_values_of(level, levels) - loc)
    level = jnp.stack(decided, axis=-1)
    return before + level, level

  pixels = (locs, log_scales, coeffs, *_ahead(blocks), noise)
  _, level = jax.lax.scan(decide, jnp.zeros_like(target), pixels)
  return base.all_or_nan(from_blocks(_values_of(level, levels)) + 0 * jnp.sum(blocks.logits))


def _known(
  target: Array, before: Array, ahead: Array, position: Array, number: int, levels: int
) -> _Known:
  """Returns what a pixel can be. All levels are floats without fractions.

  Args:
    target: the level of y, of as many axes as `before`.
    before: [..., h, w, C], the sum of the levels of the block's earlier pixels.
    ahead: [..., h, w, C], the stated mean of this and the later pixels.
    position: of the pixel in its block, from 0; broadcasts with `before`.
    number: N.
    levels: of the grid.
  """
  top, left = levels - 1, number - position  # pixels that are left, this one included
  total = number * target  # a sum from total - N / 2 to total + N / 2, without the latter, rounds to y
  least = jnp.maximum(total - number // 2 - before - (left - 1) * top, 0)
  largest = jnp.minimum(total + (number - 1) // 2 - before, top)
  return _Known(least, largest, (total - before) / left * (2 / top) - 1 - ahead)


def _locations(blocks: DiscretizedLogisticMixture, x: Array, shift: Array) -> Array:
  """Returns the locations of all components, given a pixel's own earlier channels. [N, h, w, C, M]."""
  off: list[Array] = []  # [N, h, w, M] each
  found: list[Array] = []
  for channel in range(x.shape[-1]):
    loc = blocks.locs[..., channel, :] + shift[..., channel, None]
    loc = loc + _moved(jnp.moveaxis(blocks.coeffs, -2, -1), channel, off)
    found.append(loc)
    off.append(x[..., channel, None] - loc)
  return jnp.stack(found, axis=-2)


def _moved(coeffs: Array, channel: int, off: list[Array]) -> Array | float:
  """Returns how far a channel's location moves with those before it; coeffs [..., K]."""
  first = channel * (channel - 1) // 2
  return sum((coeffs[..., first + j] * value for j, value in enumerate(off)), start=0.0)


def _stated_mean(blocks: DiscretizedLogisticMixture) -> Array:
  """Returns the mean that the parameters state, without y. [N, h, w, C]."""
  return jnp.sum(jax.nn.softmax(blocks.logits)[..., None, :] * blocks.locs, axis=-1)


def _ahead(blocks: DiscretizedLogisticMixture) -> tuple[Array, Array]:
  """Returns the stated mean of each pixel and those after it, and each pixel's place. [N, h, w, C]."""
  stated = _stated_mean(blocks)
  place = jnp.arange(len(stated), dtype=stated.dtype)[:, None, None, None]
  return _sums(stated, 0, later=True) / (len(stated) - place), place


def _sums(blocks: Array, offset: int, later: bool = False) -> Array:
  """Returns the sum of each pixel and those before it in its block, or after it. [N, h, w, C].

  Args:
    blocks: [N, h, w, C].
    offset: -1 leaves out the pixel itself.
    later: whether to add those after it.
  """
  which = jnp.tri(len(blocks), k=offset, dtype=blocks.dtype)
  return jnp.tensordot(which.T if later else which, blocks, 1, precision='highest')


def _in_blocks(params: ConsistentMixture, levels: int = 0) -> tuple[DiscretizedLogisticMixture, Array]:
  """Checks the parameters; returns those of the pixels by block, [N, h, w, ...], and y [h, w, C].

  Args:
    params: of one image.
    levels: of the grid that y is put on; 0 leaves it as it is.
  """
  base.check_names(params._asdict())
  mixture, y, factor = checked(params.mixture), jnp.asarray(params.y), _factor(params)
  height, width, channels, _ = mixture.locs.shape
  base.check_shape('y', y, (height // factor, width // factor, channels))
  y = base.round_to_levels(y, levels)
  return DiscretizedLogisticMixture(*(to_blocks(part, factor) for part in mixture)), y


def _factor(params: ConsistentMixture) -> int:
  """Returns f, from the shapes of an image and of its small one."""
  return params.mixture.locs.shape[0] // params.y.shape[0]


def _levels_of(x: Array, levels: int) -> Array:
  """Returns the levels of values on the grid, floats without fractions. Any shape."""
  return jnp.round((x + 1) * ((levels - 1) / 2))


def _values_of(level: Array, levels: int) -> Array:
  """Returns the values of levels on the grid. Any shape."""
  return base.round_to_levels(2 * level / (levels - 1) - 1, levels)
