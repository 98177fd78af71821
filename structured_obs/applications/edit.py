"""Edits an image by hand: sets some pixels and conditions the others on them by the covariance.

Edits are applied in turn. A later one replaces an earlier one at pixels they share, and all of them hold
at the end. A hard edit sets its pixels exactly. A soft edit observes its values through independent
noise of a standard deviation, so its pixels become a compromise. Both are one problem: pixels observed
with a noise variance of 0, above 0, or infinite where nothing was edited.

The result is only as plausible as the edits. A hard patch of one colour, for example, may be many
standard deviations from anything the distribution knows, and then distorts the rest of the image.
`Edited.implausibility` measures that.

Letters: H W C image height, width, channels; R rank; E edited numbers.

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022, equations 6 and 7, figure 6. The matrix over the edited pixels, which the authors'
code inverts, is never formed.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import base, elliptical, gaussian, low_rank, posterior
from structured_obs.distributions.base import Family, P

Array = jax.Array

IMPLAUSIBLE = 9.0  # three standard deviations per direction, as a root mean square


class Edit(NamedTuple):
  """Pixels to set and their values."""

  value: Array  # [H, W, C]  used where the mask is true
  mask: Array  # [H, W, C]  bool
  deviation: Array | float = 0.0  # []  of the value's noise, in units of the data; 0 for exact


class Edited(NamedTuple):
  """The distribution of an image after edits. A pytree; NaN everywhere if an edit is not finite.

  `implausibility` is about 1 for edits that the distribution itself would make. For a low-rank family
  it is |m|^2 / min(R, E), with m the mean of the factor's noise given the edits; for all others r^T
  cov^-1 r / E, with r the shift of the mean.
  """

  mean: Array  # [H, W, C]
  deviation: Array | None  # [H, W, C]  standard deviations; None if the family has none
  implausibility: Array  # []
  sample: Callable[[Array], Array]  # key -> [H, W, C]


class Merged(NamedTuple):
  """The combination of several edits."""

  value: Array  # [H, W, C]  0 where nothing was edited
  noise_variance: Array  # [H, W, C]  0 where a pixel is set exactly, infinite where it is not edited


def merge(edits: Sequence[Edit], image: tuple[int, ...]) -> Merged:
  """Returns one value and one noise variance per pixel, from the last edit that covers it.

  Args:
    edits: in order.
    image: H, W, C.

  Raises:
    TypeError, ValueError: shapes do not match, a mask is not boolean, or a deviation is negative or not
      finite. A traced deviation that is invalid gives NaN instead.
  """
  if not edits:
    raise ValueError('There must be at least one edit.')
  dtype = jnp.result_type(edits[0].value)
  merged = Merged(jnp.zeros(image, dtype), jnp.full(image, jnp.inf, dtype))
  for edit in edits:
    base.check_shape('value', edit.value, image)
    base.check_mask('mask', edit.mask, image)
    check_deviation(edit.deviation)
    deviation = jnp.asarray(edit.deviation, dtype)
    valid = (deviation >= 0) & (deviation < jnp.inf)
    variance = jnp.where(valid, jnp.square(deviation), jnp.nan)
    merged = Merged(
      jnp.where(edit.mask, edit.value, merged.value),
      jnp.where(edit.mask, variance, merged.noise_variance),
    )
  return merged


def apply(family: Family[P], params: P, edits: Sequence[Edit], pixel_noise: bool = True) -> Edited:
  """Returns the distribution of an image after edits.

  If every deviation is the Python number 0 it is `gaussian.condition`; otherwise
  `gaussian.posterior_mean` with a noise variance per pixel, and samples by Matheron's rule.

  Args:
    family: a Gaussian family.
    params: of one image.
    edits: in order; at least one.
    pixel_noise: whether samples have the family's floor of independent pixel noise. Pixels of exact
      edits are as edited in any case.

  Raises:
    TypeError, ValueError: as `merge`; or the family has no covariance, or no floor to leave out; or it
      is a Student t and edits are not exact, or without pixel noise.
  """
  check(family)
  merged = merge(edits, family.mean(params).shape)
  return apply_merged(family, params, merged, are_exact(edits), pixel_noise)


def are_exact(edits: Sequence[Edit]) -> bool:
  """Returns whether every deviation is the Python number 0."""
  return all(isinstance(edit.deviation, float | int) and edit.deviation == 0 for edit in edits)


def apply_merged(
  family: Family[P], params: P, merged: Merged, exact: bool, pixel_noise: bool = True
) -> Edited:
  """Returns the distribution of an image after edits that are merged already; see `apply`.

  It may be none at all: noise variances that are infinite everywhere.

  Args:
    family: a Gaussian family.
    params: of one image.
    merged: the edits; its arrays may be traced.
    exact: whether every noise variance is 0 or infinite, which has its own program.
    pixel_noise: as of `apply`.

  Raises:
    ValueError: as `apply`.
  """
  check(family)
  base.sampler(family, pixel_noise)
  if family.student is not None and not (exact and pixel_noise):
    raise ValueError(
      'Edits of a Student t have samples only if they are exact, and with pixel noise: leave out '
      'deviations, and do not leave out the noise.'
    )
  return (_hard if exact else _soft)(family, pixel_noise, params, merged)


def warning(implausibility: Array | float) -> str:
  """Returns a sentence if edits are implausible, above `IMPLAUSIBLE`, or not finite; otherwise ''."""
  value = float(implausibility)
  if value < IMPLAUSIBLE:
    return ''
  if not math.isfinite(value):
    return 'The edited image is not finite: an edit, or the predicted distribution, is not.'
  return (
    f'The edits are implausible under the predicted distribution: they are {math.sqrt(value):.1f} '
    'standard deviations away per direction, where about 1 is usual, so the rest of the image may look '
    'unreal; add a deviation to the edits, or use fewer pixels or closer values.'
  )


def check(family: Family) -> None:
  """Raises a ValueError unless the family has a covariance."""
  if not elliptical.has_covariance(family):
    raise ValueError('Editing needs a family with a covariance; this model has none.')


def check_deviation(deviation: Array | float) -> None:
  """Raises a ValueError for a Python number that is negative or not finite."""
  if isinstance(deviation, float | int) and not 0 <= deviation < math.inf:
    raise ValueError(
      f'The deviation {deviation} of an edit is invalid; it must be a finite standard deviation of at '
      'least 0 (exact).'
    )


class _Given(NamedTuple):
  """The inputs of samples."""

  params: Any
  merged: Merged
  mean: Array  # [H, W, C]
  conditional: base.Conditional | None  # None for soft edits


@functools.partial(jax.jit, static_argnums=(0, 1))
def _hard(family: Family, pixel_noise: bool, params: Any, merged: Merged) -> Edited:
  found = gaussian.condition(family, params, merged.value, merged.noise_variance < jnp.inf)
  solved = found.residual < posterior.WORST_RESIDUAL
  mean = jnp.where(solved, found.mean, jnp.nan)
  return _edited(family, pixel_noise, _Given(params, merged, mean, found), found.variance)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _soft(family: Family, pixel_noise: bool, params: Any, merged: Merged) -> Edited:
  mean, variance = gaussian.posterior_mean(family, params, merged.value, merged.noise_variance)
  exact = merged.noise_variance == 0
  mean = jnp.where(exact, merged.value, mean)
  variance = None if variance is None else jnp.where(exact, 0, variance)
  return _edited(family, pixel_noise, _Given(params, merged, mean, None), variance)


def _edited(family: Family, pixel_noise: bool, given: _Given, variance: Array | None) -> Edited:
  edited = given.merged.noise_variance != jnp.inf
  # An iteration that was given NaN may end at once, with its initial values.
  valid = jnp.all(jnp.isfinite(jnp.where(edited, given.merged.value, 0)))
  valid &= jnp.all(given.merged.noise_variance >= 0)
  given = given._replace(mean=jnp.where(valid, given.mean, jnp.nan))
  deviation = None
  if variance is not None:
    # NaN stays NaN.
    deviation = jnp.where(valid, jnp.sqrt(jnp.where(variance < 0, 0, variance)), jnp.nan)
  draw = _sample if pixel_noise else _sample_without_noise
  sample = jax.tree_util.Partial(functools.partial(draw, family), given)
  return Edited(given.mean, deviation, _implausibility(family, given, edited), sample)


def _implausibility(family: Family, given: _Given, edited: Array) -> Array:
  shift = given.mean - family.mean(given.params)
  count = jnp.maximum(jnp.sum(edited, dtype=shift.dtype), 1)
  if not isinstance(given.params, low_rank.LowRank) or not given.params.cov_factor.shape[-1]:
    return gaussian.mahalanobis(family, given.params, given.mean) / count
  # E[w|edits] = E[E[w|image] | edits], which is linear in the image: m belongs to the mean image.
  m = low_rank.whiten(given.params, shift).coefficients
  return jnp.sum(jnp.square(m)) / jnp.minimum(m.size, count)


@functools.partial(jax.jit, static_argnums=0)
def _sample(family: Family, given: _Given, key: Array) -> Array:
  if given.conditional is not None:
    # 0 mean is NaN where the mean is.
    return given.conditional.sample(key) + 0 * given.mean
  # Matheron's rule: moves a sample of the image, observed with noise of its own, onto the edits.
  image_key, noise_key = jax.random.split(key)
  variance = given.merged.noise_variance
  drawn = family.sample(image_key, given.params)
  seen = drawn + _noise_of_edits(noise_key, variance)
  moved, _ = gaussian.posterior_mean(family, given.params, seen, variance)
  return jnp.where(variance == 0, given.mean, drawn + given.mean - moved)


@functools.partial(jax.jit, static_argnums=0)
def _sample_without_noise(family: Family, given: _Given, key: Array) -> Array:
  """Draws the part of the image that is not pixel noise, given the edits, by the same rule.

  With cov = S + N of a smooth part and of pixel noise, and m the mean of the image given the edits, that
  of its smooth part is m - N cov^-1 (m - mean).
  """
  primitives = family.gaussian
  assert primitives is not None
  assert primitives.pixel_noise is not None
  floor, params, variance = primitives.pixel_noise, given.params, given.merged.noise_variance
  smooth_key, pixel_key, noise_key = jax.random.split(key, 3)
  smooth = floor.without(params, primitives.noise(smooth_key, params))
  drawn = smooth + floor.draw(params, base.white_noise(pixel_key, smooth))
  seen = drawn + _noise_of_edits(noise_key, variance)
  moved, _ = gaussian.posterior_mean(family, params, seen, variance)
  shift = given.mean - moved  # E[image|edits] - E[image|seen]
  shift = shift - floor.covariance_matvec(params, primitives.precision_matvec(params, shift))
  return jnp.where(variance == 0, given.mean, smooth + shift)


def _noise_of_edits(key: Array, variance: Array) -> Array:
  scale = jnp.sqrt(jnp.where(variance < jnp.inf, variance, 0))
  return scale * jax.random.normal(key, variance.shape, variance.dtype)
