"""Measures a model's images in one pass: their quality and their features.

Every evaluated image is reconstructed once, as the mean of p(x|z) at the mean of q(z|x). Beside it one
new image is drawn: z ~ p(z), the mean of p(x|z) there, and a sample. All are clipped to [-1, 1], as in
a figure. Measures are computed on the device, and only the first few images leave it. Models without an
encoder, and images without gray levels, are not measured.

Letters: N images; L of them, at most 10,000, whose features are computed; M of them, at most 128, that
are kept; H W C image height, width, channels; F features.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.data import pixels
from structured_obs.evaluation import passes
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.metrics import image_errors
from structured_obs.models.base import Bound
from structured_obs.runs.trained import Trained

Array = jax.Array

KEPT = 128  # M
LIMIT = 10_000  # L
ORIGINAL = 'original images'
OTHERS = 'other originals'
KINDS = ('reconstructions', 'new means', 'new samples')


class Measured(NamedTuple):
  """Measures of one model, or of the original images."""

  scores: Mapping[str, np.ndarray]  # [N] float64, by name, of reconstructions; or of originals
  features: Mapping[str, np.ndarray]  # [L, F] by kind of images, or of ORIGINAL and OTHERS
  images: Mapping[str, np.ndarray]  # the first [M, H, W, C] of each kind; 2 M of originals


class Originals(NamedTuple):
  """Images of the data, as stored."""

  images: np.ndarray  # [N, H, W, C], those that are evaluated
  others: np.ndarray  # [.., H, W, C], of another split: stand in for a perfect model's samples


class Wanted(NamedTuple):
  """What to measure of a batch; hashable."""

  extractor: extractors.Extractor  # without its weights
  channels: int  # of an image, without those that a model is given about it
  features: bool = True
  originals: bool = False  # whether the images themselves are measured too
  others: int = 0  # last channels of the input, which hold other images to measure too


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
) -> dict[str, Measured]:
  """Returns measures by the models' names, after those of the originals; {} if there are none.

  Args:
    models: of the same images.
    originals: the images to compare with.
    extractor: of the features.
    seed: of the new images, and of the choice among other originals.
    where: devices to run on.
  """
  usable = [trained for trained in models if applies(trained)]
  if not usable or not len(originals.images):
    return {}
  count = min(len(originals.images), LIMIT)
  others = np.random.default_rng(seed).permutation(len(originals.others))[:count]
  found: dict[str, Measured] = {}
  for trained in usable:
    compared = None if found else originals._replace(others=originals.others[np.sort(others)])
    own, known = _of_model(trained, originals.images, compared, extractor, seed, where)
    found |= {ORIGINAL: known, trained.name: own} if known else {trained.name: own}
  return found


def _of_model(
  trained: Trained,
  images: np.ndarray,
  originals: Originals | None,
  extractor: extractors.Extractor,
  seed: int,
  where: passes.Where,
) -> tuple[Measured, Measured | None]:
  """Returns measures of one model, and of the originals if given, from one compiled program.

  The first M images are measured fully, those up to L for their features, and the rest for scores alone.
  """
  weights, key = {'model': trained.variables, 'features': extractor.weights}, jax.random.key(seed)
  batch_size, channels = trained.config.eval.batch_size, trained.model.image.channels
  behind = None
  if originals is not None and len(originals.others) >= min(len(images), LIMIT):
    behind = originals.others
  wanted = Wanted(
    extractor.static, channels,
    originals=originals is not None, others=0 if behind is None else behind.shape[-1],
  )  # fmt: skip
  found = []
  for first, last in ((0, KEPT), (KEPT, LIMIT), (LIMIT, len(images))):
    if not len(part := images[first:last]):
      continue
    if last > LIMIT:
      wanted = wanted._replace(features=False, others=0)
    elif behind is not None:
      part = np.concatenate([part, behind[first:last]], axis=-1)
    levels, keep = trained.spec.levels, _everything if last <= KEPT else _without_images
    job = passes.Pass(_measure, trained.model, levels, batch_size=batch_size, options=wanted)
    of_part = jax.random.fold_in(key, first)
    least = min(len(images), KEPT)
    found.append(passes.over_images(job, weights, part, of_part, where, keep=keep, least=least))
  own = Measured(**{field: _joined([part[field] for part in found]) for field in Measured._fields})
  if originals is None:
    return own, None
  scores, rows = (_joined([one['originals'][name] for one in found]) for name in ('scores', 'features'))
  shown = pixels.to_unit(images[: 2 * KEPT], trained.spec.levels)[..., :channels]
  return own, Measured(scores, rows, {ORIGINAL: np.asarray(shown, np.float64)})


def _everything(found: dict[str, Any]) -> dict[str, Any]:
  return found


def _without_images(found: dict[str, Any]) -> dict[str, Any]:
  return {**found, 'images': {}}


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  order = (ORIGINAL, OTHERS, *KINDS)  # jit returns names in alphabetical order
  names = sorted(parts[0], key=lambda name: order.index(name) if name in order else 0)
  return {name: np.concatenate([part[name] for part in parts if name in part]) for name in names}


def _measure(job: passes.Pass, weights: Any, keys: Array, x: Array) -> dict[str, dict[str, Any]]:
  """Returns the wanted measures for a batch x [B, H, W, C] of the evaluated images."""
  wanted, model, bound = job.options, job.model, job.bound(weights['model'])
  x, others = x[..., : x.shape[-1] - wanted.others], x[..., x.shape[-1] - wanted.others :]
  extractor, true = wanted.extractor, x[..., : wanted.channels]
  params = bound.predict(keys, x)
  mean = clipped(jax.vmap(model.family.mean)(params))
  scores = {name: score(mean, true) for name, score in image_errors.SCORES.items()}
  scores['laplacian_variance'] = image_errors.laplacian_variance(mean)
  if extractor.maps is not None:
    found = extractors.perceptual_distance(extractor, weights['features'], mean, true)
    scores['perceptual_distance'] = found
  images = {KINDS[0]: mean}
  if model.traits.has_prior and wanted.features:
    images |= dict(zip(KINDS[1:], generate(bound, keys), strict=True))
  told = {'scores': scores, 'features': _features(wanted, weights, images), 'images': images}
  if wanted.originals:
    known = {ORIGINAL: true} | ({OTHERS: others[..., : wanted.channels]} if wanted.others else {})
    sharpness = {'laplacian_variance': image_errors.laplacian_variance(true)}
    told['originals'] = {'scores': sharpness, 'features': _features(wanted, weights, known)}
  return told


def _features(wanted: Wanted, weights: Any, images: dict[str, Array]) -> dict[str, Array]:
  """Returns features by kind of images, if they are wanted."""
  if not wanted.features:
    return {}
  return {kind: extractors.rows(wanted.extractor, weights['features'], x) for kind, x in images.items()}


def generate(bound: Bound, keys: Array) -> tuple[Array, Array]:
  """Returns means of new images and samples of them, clipped, [B, H, W, C] each, for the keys [B]."""
  pairs = jax.vmap(jax.random.split)(keys)
  family, params = bound.model.family, bound.generate(pairs[:, 0])
  mean, sample = jax.vmap(family.mean)(params), jax.vmap(family.sample)(pairs[:, 1], params)
  return clipped(mean), clipped(sample)


def clipped(images: Array) -> Array:
  """Returns images with pixels clipped to [-1, 1]; an infinite pixel becomes NaN, not white."""
  return jnp.where(jnp.isfinite(images), jnp.clip(images, -1, 1), jnp.nan)
