"""Measures a model's images in passes: their quality and their features.

Every evaluated image is reconstructed once, as the mean of p(x|z) at the mean of q(z|x). New images are
drawn beside them: z ~ p(z), the mean of p(x|z) there, a sample, and the same sample without the floor of
pixel noise where the family has one. All are clipped to [-1, 1], as in a figure. Measures are computed
on the device, and only the first few images leave it. Models without an encoder, and images without gray
levels, are not measured.

Letters: N images; L of them, at most 10,000, whose features are computed; M of them, at most 128, that
are kept; H W C image height, width, channels; F features.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.data import pixels
from structured_obs.distributions import base
from structured_obs.evaluation import ladder, passes
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.metrics import image_errors
from structured_obs.models.base import Bound
from structured_obs.runs.trained import Trained

Array = jax.Array

KEPT = 128  # M
LIMIT = 10_000  # L
ORIGINAL = 'original images'
HALF = 'half of the original images'
OTHERS = 'other originals'
KINDS = ('reconstructions', 'new means', 'new samples', 'new samples without pixel noise')
FEWEST = 4  # other originals must be at least as many as the originals, over this


class Measured(NamedTuple):
  """Measures of one model, or of the original images."""

  scores: Mapping[str, np.ndarray]  # [N] float64, by name, of reconstructions; or of originals
  # [.., F] by kind of images; of originals: of ORIGINAL, HALF if the ladder is beside a half of them
  # alone, and the ladder's by the names of `ladder`.
  features: Mapping[str, np.ndarray]
  images: Mapping[str, np.ndarray]  # the first [M, H, W, C] of each kind; 2 M of originals
  rungs: tuple[ladder.Rung, ...] = ()  # the ladder, of originals
  errors: Mapping[str, np.ndarray] = MappingProxyType({})  # [..] squared errors of the ladder's images


class Originals(NamedTuple):
  """Images of the data, as stored."""

  images: np.ndarray  # [N, H, W, C], those that are evaluated
  others: np.ndarray  # [.., H, W, C], of another split: stand in for a perfect model's samples
  # [.., H, W, C] to compare features with; None for the first L of `images`.
  reference: np.ndarray | None = None


class Wanted(NamedTuple):
  """What to measure of a batch; hashable."""

  extractor: extractors.Extractor  # without its weights
  channels: int  # of an image, without those that a model is given about it
  features: bool = True


class Drawing(NamedTuple):
  """What all passes have in common."""

  extractor: extractors.Extractor
  generated: int  # new images of each model
  key: Array
  where: passes.Where


def applies(trained: Trained) -> bool:
  """Returns whether a model reconstructs images of gray levels that are large enough for a Laplacian."""
  traits = trained.model.traits
  known = (traits.has_latents or traits.denoises) and trained.spec.levels > 0
  return known and min(trained.model.image[:2]) >= 3


def of_models(
  models: Sequence[Trained],
  originals: Originals,
  extractor: extractors.Extractor,
  seed: int = 0,
  where: passes.Where = passes.HERE,
  *,
  generated: int = 0,
) -> dict[str, Measured]:
  """Returns measures by the models' names, after those of the originals; {} if there are none.

  Args:
    models: of the same images.
    originals: the images to compare with.
    extractor: of the features.
    seed: of the new images, and of the choice among other originals.
    where: devices to run on.
    generated: new images of each model; 0 for as many as are evaluated, at most L.
  """
  usable = [trained for trained in models if applies(trained)]
  if not usable or not len(originals.images):
    return {}
  generated = generated or min(len(originals.images), LIMIT)
  drawing = Drawing(extractor, generated, jax.random.key(seed), where)
  found = {ORIGINAL: _of_originals(usable[0], originals, drawing, seed)}
  return found | {trained.name: _of_model(trained, originals.images, drawing) for trained in usable}


def _of_model(trained: Trained, images: np.ndarray, drawing: Drawing) -> Measured:
  """Returns measures of one model: of all its reconstructions, and of new images."""
  weights = {'model': trained.variables, 'features': drawing.extractor.weights}
  found = _passes(trained, _measure, weights, images, drawing)
  if trained.model.traits.has_prior:
    nothing = np.zeros((drawing.generated, 1, 1, 1), np.uint8)
    new = _passes(trained, _measure_new, weights, nothing, drawing, limit=drawing.generated)
    found = {name: found.get(name, {}) | new.get(name, {}) for name in found}
  return Measured(**{name: _ordered(arrays) for name, arrays in found.items()})


def _passes(
  trained: Trained,
  measure: Any,
  weights: Any,
  images: np.ndarray,
  drawing: Drawing,
  limit: int = -1,
) -> dict[str, dict[str, np.ndarray]]:
  """Measures images: the first M fully, those up to `limit` for their features, the rest for scores."""
  limit, found = LIMIT if limit < 0 else limit, []
  first = 0
  for last in sorted({min(KEPT, limit), limit, len(images)}):
    if not len(part := images[first:last]):
      continue
    wanted = Wanted(drawing.extractor.static, trained.model.image.channels, features=last <= limit)
    size, levels = trained.config.eval.batch_size, trained.spec.levels
    job = passes.Pass(
      measure, trained.model, levels, batch_size=size, options=wanted, name='image quality'
    )
    keep = _everything if last <= KEPT else _without_images
    of_part, least = jax.random.fold_in(drawing.key, first), min(len(images), KEPT)
    found.append(passes.over_images(job, weights, part, of_part, drawing.where, keep=keep, least=least))
    first = last
  return {field: _joined([part[field] for part in found]) for field in found[0]}


def _of_originals(trained: Trained, originals: Originals, drawing: Drawing, seed: int) -> Measured:
  """Returns measures of the originals, and the ladder; the model gives shape and batch size alone."""
  weights, channels = {'features': drawing.extractor.weights}, trained.model.image.channels
  known = _passes(trained, _measure_originals, weights, originals.images, drawing)
  rows, reference = known['features'][ORIGINAL], originals.images[:LIMIT]
  if originals.reference is not None:
    reference = originals.reference
    every = _passes(
      trained, _measure_originals, weights, reference, drawing, limit=len(reference)
    )  # fmt: skip
    rows = every['features'][ORIGINAL]
  shown = pixels.to_unit(originals.images[: 2 * KEPT], trained.spec.levels)[..., :channels]
  images = {ORIGINAL: np.asarray(shown, np.float64)}
  found = Measured(known['scores'], {ORIGINAL: rows}, images)
  enough = len(originals.others) * FEWEST >= min(len(reference), LIMIT)
  if enough:
    chosen = np.random.default_rng(seed).permutation(len(originals.others))
    others = originals.others[np.sort(chosen[: min(len(reference), LIMIT)])]
  else:  # a half of the originals stands in for others
    half = len(reference) // 2
    others = reference[half:][:LIMIT]
    found = found._replace(features={ORIGINAL: rows, HALF: rows[:half]})
  return _with_ladder(found, others, trained, drawing) if len(others) > 1 else found


def _with_ladder(found: Measured, others: np.ndarray, trained: Trained, drawing: Drawing) -> Measured:
  """Adds the features and the squared errors of the ladder, made of other originals [.., H, W, C]."""
  levels, channels = trained.spec.levels, trained.model.image.channels
  rungs = ladder.rungs_of(others[..., :channels], levels)
  job = passes.Pass(
    ladder.measure,
    trained.model,
    levels,
    batch_size=trained.config.eval.batch_size,
    options=ladder.Wanted(drawing.extractor.static, rungs, channels),
  )
  key = jax.random.fold_in(drawing.key, 1)
  measured = passes.over_images(job, drawing.extractor.weights, others, key, drawing.where)
  rows = {name: measured['features'][name] for name in ladder.indices(rungs)}
  return found._replace(features={**found.features, **rows}, rungs=rungs, errors=measured['errors'])


def _everything(found: dict[str, Any]) -> dict[str, Any]:
  return found


def _without_images(found: dict[str, Any]) -> dict[str, Any]:
  return {**found, 'images': {}}


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  names = {name: None for part in parts for name in part}
  return {name: np.concatenate([part[name] for part in parts if name in part]) for name in names}


def _ordered(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns arrays in the order of KINDS; jit returns names in alphabetical order."""
  names = sorted(arrays, key=lambda name: KINDS.index(name) if name in KINDS else 0)
  return {name: arrays[name] for name in names}


def _measure(job: passes.Pass, weights: Any, keys: Array, x: Array) -> dict[str, dict[str, Any]]:
  """Returns the wanted measures of reconstructions of a batch x [B, H, W, C]."""
  wanted, model, bound = job.options, job.model, job.bound(weights['model'])
  extractor, true = wanted.extractor, x[..., : wanted.channels]
  mean = clipped(jax.vmap(model.family.mean)(bound.predict(keys, x)))
  scores = {name: score(mean, true) for name, score in image_errors.SCORES.items()}
  scores['laplacian_variance'] = image_errors.laplacian_variance(mean)
  if extractor.maps is not None:
    found = extractors.perceptual_distance(extractor, weights['features'], mean, true)
    scores['perceptual_distance'] = found
  images = {KINDS[0]: mean}
  return {'scores': scores, 'features': _features(wanted, weights, images), 'images': images}


def _measure_new(job: passes.Pass, weights: Any, keys: Array, x: Array) -> dict[str, dict[str, Any]]:
  """Returns features of new images, one of each kind for each of the keys [B]; x is not used."""
  images = generate(job.bound(weights['model']), keys)
  return {'features': _features(job.options, weights, images), 'images': images}


def _measure_originals(
  job: passes.Pass, weights: Any, keys: Array, x: Array
) -> dict[str, dict[str, Any]]:
  """Returns the sharpness and the features of a batch x [B, H, W, C]."""
  images = {ORIGINAL: x[..., : job.options.channels]}
  sharpness = {'laplacian_variance': image_errors.laplacian_variance(images[ORIGINAL])}
  return {'scores': sharpness, 'features': _features(job.options, weights, images)}


def _features(wanted: Wanted, weights: Any, images: dict[str, Array]) -> dict[str, Array]:
  """Returns features by kind of images, if they are wanted."""
  if not wanted.features:
    return {}
  return {kind: extractors.rows(wanted.extractor, weights['features'], x) for kind, x in images.items()}


def generate(bound: Bound, keys: Array) -> dict[str, Array]:
  """Returns clipped new images [B, H, W, C] by kind, for the keys [B]: means, samples at the same z.

  Samples without pixel noise have the noise of the samples, but for that of the floor.
  """
  pairs = jax.vmap(jax.random.split)(keys)
  family, params = bound.model.family, bound.generate(pairs[:, 0])
  found = {KINDS[1]: jax.vmap(family.mean)(params)}
  found[KINDS[2]] = jax.vmap(family.sample)(pairs[:, 1], params)
  if base.has_floor(family):
    found[KINDS[3]] = jax.vmap(base.sampler(family, pixel_noise=False))(pairs[:, 1], params)
  return {kind: clipped(images) for kind, images in found.items()}


def clipped(images: Array) -> Array:
  """Returns images with pixels clipped to [-1, 1]; an infinite pixel becomes NaN, not white."""
  return jnp.where(jnp.isfinite(images), jnp.clip(images, -1, 1), jnp.nan)
