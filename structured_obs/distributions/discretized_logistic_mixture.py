# One file of more than 300 lines: a family and all its operations.
"""Mixture of discretised logistics: a probability of gray levels, instead of a density of real numbers.

A pixel takes one of `levels` values, x = -1 + 2 k / (levels - 1), in each channel. One component of the
mixture is chosen per pixel, for all its channels. In it, each channel is a logistic variable rounded to
the nearest level, and clipped to the ends. Its location depends on the earlier channels:

  P(x) = sum_m pi_m prod_c [F((x_c + g - l_cm) / s_cm) - F((x_c - g - l_cm) / s_cm)]
  l_cm = loc_cm + sum_{j < c} coeff_cjm x_j,   g = 1 / (levels - 1),   F the logistic function

with F taken as 0 below the first level and as 1 above the last. A bin's probability is exact at any
scale: it is never computed as a difference (`logistic_bins`). The authors' code replaces bins of small
probability by a density times their width, and recognises the ends by x < -0.999. We differ there, and
in the smallest scale: PixelCNN++ clips log s at -7 in these units, srVAE at -7 for pixels in [0, 1],
which is -6.307 here; ours is clipped smoothly. Images off this grid have no probability: a pixel further
than 1e-3 of a level from the grid makes the result NaN.

It has no usable covariance, and its entropy has no closed form:
`kl.entropy_monte_carlo` estimates it. Every operation costs H W M C^2.

Letters: H W C image height, width, channels; M components; K = C (C - 1) / 2 pairs of channels, ordered
(1, 0), (2, 0), (2, 1), ...

References: Salimans et al., "PixelCNN++", 2017, sections 2.1 and 2.2; Gatopoulos et al.,
"Super-resolution Variational Auto-Encoders", 2020.
"""

import functools
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs import option_values
from structured_obs.distributions import base, fits, logistic_bins, marginals
from structured_obs.linalg import closed_form
from structured_obs.option_values import Range

Array = jax.Array
LogScale = Annotated[float, Range(-30, 30)]
TOGETHER = 32  # channels in one logarithm: the product of this many parts is far from underflow
ON_GRID = 1e-3  # in units of the distance of two levels: pixels this near to a level are that level


class DiscretizedLogisticMixture(NamedTuple):
  """Parameters of one image."""

  logits: Array  # [H, W, M]  log weights of the components, up to a constant
  locs: Array  # [H, W, C, M]  in units of [-1, 1]
  log_scales: Array  # [H, W, C, M]  log s; the standard deviation is pi / sqrt(3) s
  coeffs: Array  # [H, W, K, M]  how much a channel's location moves with one before it


@option_values.checked('discretized_logistic_mixture')
def family(
  components: Annotated[int, Range(1, 4096)] = 10,
  levels: Annotated[int, Range(2, 256)] = 256,
  min_log_scale: LogScale = -7.0,
  initial_log_scale: LogScale = -1.5,
  max_log_scale: LogScale = 2.0,
  exact_sampling: bool = True,
) -> base.Family[DiscretizedLogisticMixture]:
  """Returns the family of discretised logistic mixtures, for images that are not dequantised.

  Args:
    components: M, at least 1.
    levels: gray levels of the images, from 2 to 256.
    min_log_scale: smallest log s a network can predict, for pixels in [-1, 1].
    initial_log_scale: the log s for a network output of 0.
    max_log_scale: largest log s.
    exact_sampling: whether a channel is rounded to a level before the next one sees it, as in
      the probabilities. Otherwise samples are real numbers in [-1, 1], as published.

  Raises:
    TypeError, ValueError: the number of components, levels or a scale is out of range.
  """
  if not min_log_scale < initial_log_scale < max_log_scale:
    raise ValueError(
      'discretized_logistic_mixture needs min_log_scale < initial_log_scale < max_log_scale; '
      f'got {min_log_scale}, {initial_log_scale}, {max_log_scale}.'
    )
  start = base.inverse_soft_clip(initial_log_scale, min_log_scale, max_log_scale)

  def outputs_of(image: base.Shape) -> dict[str, base.Shape]:
    *plane, channels = base.image_shape(image)
    each, pairs = channels * components, _pairs(channels) * components
    sizes = {'logits': components, 'locs': each, 'log_scales': each, 'coeffs': pairs}
    return {name: (*plane, size) for name, size in sizes.items() if size}

  def from_outputs(outputs: dict[str, Array]) -> DiscretizedLogisticMixture:
    base.check_names(outputs)
    shape = getattr(outputs.get('locs'), 'shape', ())
    height, width, each = shape if len(shape) == 3 else (1, 1, components)
    image = base.ImageShape(height, width, max(each // components, 1))
    outputs = base.check_outputs(outputs, outputs_of(image))
    locs = outputs['locs']
    coeffs = outputs.get('coeffs', jnp.zeros_like(locs, shape=(*locs.shape[:2], 0)))
    log_scales = base.soft_clip(outputs['log_scales'] + start, min_log_scale, max_log_scale)
    parts = (
      part.reshape(*part.shape[:2], part.shape[-1] // components, components)
      for part in (locs, log_scales, jnp.tanh(coeffs))
    )
    return DiscretizedLogisticMixture(outputs['logits'], *parts)

  of_levels = functools.partial(functools.partial, levels=levels)
  family = base.Family(
    outputs_of,
    from_outputs,
    lambda params, x, mask=None: log_prob(params, x, levels, mask),
    of_levels(sample, exact=exact_sampling),
    mean,
    levels=levels,
    mode=of_levels(mode),
    log_prob_by_pixel=of_levels(log_prob_by_pixel),
  )
  clip = fits.Bounded(min_log_scale, max_log_scale, start)
  fit = functools.partial(fits.logistic_mixture, family=family, log_scale=clip)
  return family._replace(fit=fit)


def log_prob(
  params: DiscretizedLogisticMixture, x: Array, levels: int = 256, mask: Array | None = None
) -> Array:
  """Returns the log probability of an image on the grid, summed over pixels. [], nats; NaN off the grid.

  Its derivative by x is 0, but for an image off the grid: between two levels nothing is defined.

  Args:
    params: of one image.
    x: [H, W, C]; pixels outside the mask are not read.
    levels: gray levels of the grid.
    mask: [H, W, C] or [H, W, 1] bool, the pixels that count; None for all. The channels of a pixel are
      not independent: the result is NaN unless all of them count, or none.
  """
  params = checked(params)
  if mask is None:
    return base.nan_unless_finite(_log_prob(levels)(*params, on_grid(params, x, levels)))
  mask = marginals.checked_mask(mask, params.locs.shape[:3])
  x = on_grid(params, marginals.masked(mask, x, jnp.ones_like(params.locs[..., 0])), levels)
  whole = jnp.all(mask == mask[..., :1])
  counted = jnp.where(whole, mask[..., 0].astype(x.dtype), jnp.nan)
  return base.nan_unless_finite(_log_prob(levels, masked=True)(*params, x, counted))


def log_prob_by_pixel(params: DiscretizedLogisticMixture, x: Array, levels: int = 256) -> Array:
  """Returns the log probability of each pixel, of all its channels together. [H, W], nats.

  Args:
    params: of one image.
    x: [H, W, C].
    levels: gray levels of the grid.
  """
  params = checked(params)
  each, _ = _of_components(params, on_grid(params, x, levels), levels)
  return base.all_or_nan(jax.nn.logsumexp(each + jax.nn.log_softmax(params.logits), axis=-1))


def on_grid(params: DiscretizedLogisticMixture, x: Array, levels: int) -> Array:
  """Returns the image on the grid, NaN at pixels that are not, without derivative. [H, W, C]."""
  image = base.check_shape('x', x, params.locs.shape[:3])
  nearest = base.round_to_levels(image, levels)
  far = ON_GRID * 2 / (levels - 1)
  if image.dtype != jnp.result_type(x):  # a level that was rounded to 16 bits is that level
    far += float(jnp.finfo(x.dtype).eps) / 4
  near = jnp.abs(image - nearest) <= far
  return jax.lax.stop_gradient(jnp.where(near, nearest, jnp.nan))


@functools.cache
def _log_prob(levels: int, masked: bool = False):
  formulas = functools.partial(_with_gradients, levels)
  names = (*DiscretizedLogisticMixture._fields, 'image', *(['counted'] if masked else []))
  return closed_form.scalar(names, formulas, lambda wanted: functools.partial(formulas, wanted))


def _with_gradients(levels: int, wanted: closed_form.Wanted, *arrays: Array) -> tuple[Array, ...]:
  """Returns the log probability of an image on the grid and its derivatives by the wanted arrays.

  The arrays are the parameters, the image and, for a mask, a weight of each pixel [H, W].
  """
  params, (image, *counted) = DiscretizedLogisticMixture(*arrays[:4]), arrays[4:]
  weights = jax.nn.log_softmax(params.logits)
  each, bins = _of_components(params, image, levels)
  each = each + weights
  found = jax.nn.logsumexp(each, axis=-1)
  share = jnp.exp(each - found[..., None])  # of the components in each pixel, given its channels
  prior = jnp.exp(weights)
  if counted:
    found, share, prior = (
      found * counted[0],
      share * counted[0][..., None],
      prior * counted[0][..., None],
    )
  by_loc = [share * one.by_loc for one in bins]
  by_coeff = [by_loc[c] * image[:, :, j, None] for c in range(len(bins)) for j in range(c)]
  gradients = {
    'logits': share - prior,
    'locs': jnp.stack(by_loc, axis=2),
    'log_scales': jnp.stack([share * one.by_log_scale for one in bins], axis=2),
    'coeffs': jnp.stack(by_coeff, axis=2) if by_coeff else jnp.zeros_like(params.coeffs),
    'image': jnp.zeros_like(image),
    'counted': jnp.zeros_like(found),
  }
  return jnp.sum(found), *(gradients[name] for name in wanted)


def _of_components(
  params: DiscretizedLogisticMixture, image: Array, levels: int
) -> tuple[Array, list[logistic_bins.Bin]]:
  """Returns the log probability of each pixel in each component [H, W, M], and its bins by channel."""
  known = [image[:, :, channel, None] for channel in range(image.shape[2])]
  bins = [
    logistic_bins.of_level(
      value, _location(params, channel, known[:channel]), params.log_scales[:, :, channel], levels
    )
    for channel, value in enumerate(known)
  ]
  parts = [one.part for one in bins]
  groups = (parts[i : i + TOGETHER] for i in range(0, len(parts), TOGETHER))
  products = (functools.reduce(jnp.multiply, group) for group in groups)
  terms = (*map(jnp.log, products), *(one.log_rest for one in bins))
  return functools.reduce(jnp.add, terms), bins


def sample(
  key: Array, params: DiscretizedLogisticMixture, levels: int = 256, exact: bool = True
) -> Array:
  """Draws one image. [H, W, C].

  Args:
    key: one jax.random.key.
    params: of the image.
    levels: of the grid.
    exact: whether a channel is rounded before the next one sees it, and the image is on the grid; else
      channels are only clipped to [-1, 1], as published, and have no probability.
  """
  params = checked(params)
  choice_key, noise_key = jax.random.split(key)
  chosen = _chosen(params, jax.random.categorical(choice_key, params.logits))
  noise = jax.random.logistic(noise_key, chosen.locs.shape[:3], chosen.locs.dtype)
  return _decide(chosen, jnp.exp(chosen.log_scales[..., 0]) * noise, levels if exact else 0)


def mode(params: DiscretizedLogisticMixture, levels: int = 256) -> Array:
  """Returns the location of each pixel's likeliest component, on the grid. [H, W, C].

  Reference: what srVAE shows and measures as its samples, where it is not rounded.
  """
  params = checked(params)
  chosen = _chosen(params, jnp.argmax(params.logits, axis=-1))
  return _decide(chosen, 0 * chosen.log_scales[..., 0], levels)


def mean(params: DiscretizedLogisticMixture) -> Array:
  """Returns the mean of the clipped logistic variables before they are rounded. [H, W, C].

  Rounding moves a first channel by at most half a level. A later channel's location is taken at the
  component's means of those before it: exact but for what clipping at black and white adds.
  """
  params = checked(params)
  decided: list[Array] = []  # [H, W, M] each: every component's mean
  for channel in range(params.locs.shape[2]):
    loc = _location(params, channel, decided)
    decided.append(_clipped_mean(loc, params.log_scales[:, :, channel]))
  weights = jax.nn.softmax(params.logits)[:, :, None]
  return base.all_or_nan(jnp.sum(weights * jnp.stack(decided, axis=2), axis=-1))


def _pairs(channels: int) -> int:
  return channels * (channels - 1) // 2


def checked(params: DiscretizedLogisticMixture) -> DiscretizedLogisticMixture:
  """Checks the shapes; turns infinite parameters into NaN, which no other component outweighs."""
  params = base.as_arrays(params, DiscretizedLogisticMixture._fields)
  base.check_shape('logits', params.logits, (None, None, None))
  height, width, components = params.logits.shape
  base.check_shape('locs', params.locs, (height, width, None, components))
  channels = params.locs.shape[2]
  base.check_shape('log_scales', params.log_scales, params.locs.shape)
  base.check_shape('coeffs', params.coeffs, (height, width, _pairs(channels), components))
  return DiscretizedLogisticMixture(*map(base.nan_unless_finite, params))


def _location(params: DiscretizedLogisticMixture, channel: int, decided: list[Array]) -> Array:
  """Returns the location of a channel, given those before it, [H, W, 1 or M] each. [H, W, M]."""
  loc, first = params.locs[:, :, channel], _pairs(channel)
  for j, value in enumerate(decided):
    loc = loc + params.coeffs[:, :, first + j] * value
  return loc


def _chosen(params: DiscretizedLogisticMixture, index: Array) -> DiscretizedLogisticMixture:
  """Returns one component [H, W] of each pixel, as a mixture of one.

  NaN where any other is not finite.
  """
  weight = jax.nn.one_hot(index, params.logits.shape[-1], dtype=params.logits.dtype)
  weight = weight + 0 * params.logits

  def pick(part: Array) -> Array:
    return jnp.sum(weight[:, :, None] * part, axis=-1, keepdims=True)

  logits = jnp.sum(weight, axis=-1, keepdims=True)
  return DiscretizedLogisticMixture(logits, *map(pick, params[1:]))


def _decide(chosen: DiscretizedLogisticMixture, noise: Array, levels: int) -> Array:
  """Returns the locations plus noise [H, W, C], each channel put on the grid before the next.

  With 0 levels, they are only clipped.
  """
  decided: list[Array] = []  # [H, W, 1] each
  for channel in range(noise.shape[2]):
    value = _location(chosen, channel, decided) + noise[:, :, channel, None]
    value = jnp.clip(value, -1, 1)
    decided.append(base.round_to_levels(value, levels))
  return base.all_or_nan(jnp.concatenate(decided, axis=-1) + 0 * chosen.logits)


def _clipped_mean(loc: Array, log_scale: Array) -> Array:
  """Returns the mean of a logistic variable clipped to [-1, 1]. Any shape.

  It is the midpoint rule of this integral that gives the mean of the rounded variable.
  """
  scale, low = jnp.exp(log_scale), jnp.where(loc > 0, -loc, loc)  # |loc| has no derivative at 0
  upper, lower = (low + 1) / scale, (low - 1) / scale
  # For a wide component the two softplus are almost equal; for a narrow one expm1 overflows.
  width = jnp.minimum(2 / scale, 1)
  wide = jnp.log1p(jnp.expm1(width) * jax.nn.sigmoid(lower))
  narrow = jax.nn.softplus(upper) - jax.nn.softplus(lower)
  below = scale * jnp.where(2 / scale < 1, wide, narrow) - 1
  return jnp.where(loc > 0, -below, below)
