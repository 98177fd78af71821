"""What is measured of a model's images, all in one pass: their quality, and their features.

Every evaluated image is reconstructed once, as the mean of p(x|z) at the mean of q(z|x), and one new
image is drawn beside it: z ~ p(z), the mean of p(x|z) there, and a sample. All are clipped to [-1, 1],
as in a picture. What is wanted of them is found where they are, and the images of the first few alone
leave the device. Of a model without an encoder, or of images that are no levels, nothing is measured.

Letters: N images; L of them, at most 10,000, whose features are found; M of them, at most 128, that are
kept; H W C image height, width, channels; F features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.evaluation import features, image_quality, passes
from structured_obs.evaluation.results import Trained

Array = jax.Array

KEPT = 128  # M
LIMIT = 10_000  # L
ORIGINAL = 'original images'
OTHERS = 'other originals'
KINDS = ('reconstructions', 'new means', 'new samples')


class Measured(NamedTuple):
  """What was found of one model, or of the original images."""

  scores: Mapping[str, np.ndarray]  # [N] float64, by name, of reconstructions; or of originals
  features: Mapping[str, np.ndarray]  # [L, F] by kind of images, or of ORIGINAL and OTHERS
  images: Mapping[str, np.ndarray]  # the first [M, H, W, C] of each kind; of originals 2 M


class Originals(NamedTuple):
  """Images of the data, as stored."""

  images: np.ndarray  # [N, H, W, C], those that are evaluated
  others: np.ndarray  # [.., H, W, C], of another split; as many are what a perfect model would draw


class Wanted(NamedTuple):
  """What is to be found of a batch; hashable."""

  extractor: features.Extractor  # without its weights
  channels: int  # of an image, without what a model is given about it
  similarity: bool  # whether SSIM is among the scores
  features: bool = True
  images: bool = True


def applies(trained: Trained) -> bool:
  """Whether a model has reconstructions of images of levels, with room for a Laplacian."""
  known = hasattr(trained.model, 'infer') and trained.spec.levels > 0
  return known and min(trained.model.image[:2]) >= 3


def of_models(
  models: Sequence[Trained], originals: Originals, extractor: features.Extractor, seed: int = 0,
  where: passes.Where = passes.HERE,
) -> dict[str, Measured]:
  """What was found by the models' names, after that of the originals; {} if there is none to tell of.

  Args:
    models: of the same images.
    originals: what they are compared with.
    extractor: of the features.
    seed: of the new images, and of the choice among other originals.
    where: devices to run on.
  """
  usable = [trained for trained in models if applies(trained)]
  if not usable or not len(originals.images):
    return {}
  found = {ORIGINAL: _of_originals(usable[0], originals, extractor, seed, where)}
  for trained in usable:
    weights = {'model': trained.variables, 'features': extractor.weights}
    job = _pass(_measure, trained, trained.model, extractor)
    found[trained.name] = _of_parts(job, weights, originals.images, KEPT, seed, where)
  return found


def _of_originals(
  trained: Trained, originals: Originals, extractor: features.Extractor, seed: int, where: passes.Where
) -> Measured:
  """The same of images as they are stored; with features of as many others, where there are some."""
  job, weights = _pass(_measure_originals, trained, None, extractor), extractor.weights
  found = _of_parts(job, weights, originals.images, 2 * KEPT, 0, where)
  count, others = min(len(originals.images), LIMIT), originals.others
  if len(others) < count:
    return found
  chosen = np.sort(np.random.default_rng(seed).permutation(len(others))[:count])
  known = _of_parts(job, weights, others[chosen], 0, 0, where).features[ORIGINAL]
  return found._replace(features={**found.features, OTHERS: known})


def _pass(
  measure: Callable[..., Any], trained: Trained, model: Any, extractor: features.Extractor
) -> passes.Pass:
  similarity = image_quality.has_structural_similarity()
  wanted = Wanted(extractor.static, trained.model.image.channels, similarity)
  batch_size = trained.config.eval.batch_size
  return passes.Pass(measure, model, trained.spec.levels, batch_size=batch_size, options=wanted)


def _of_parts(
  job: passes.Pass, weights: Any, images: np.ndarray, kept: int, seed: int, where: passes.Where
) -> Measured:
  """Measures the first M images, the others up to L, and the rest, of which ever less is wanted."""
  found, key = [], jax.random.key(seed)
  for first, last in ((0, kept), (kept, LIMIT), (LIMIT, len(images))):
    if len(part := images[first:last]):
      wanted = job.options._replace(images=last <= kept, features=last <= LIMIT)
      of_part = jax.random.fold_in(key, first)
      found.append(
        passes.over_images(job._replace(options=wanted), weights, part, of_part, where)
      )
  return Measured(**{field: _joined([part[field] for part in found]) for field in Measured._fields})


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  order = (ORIGINAL, *KINDS)  # jit returns names in the alphabet's order
  names = sorted(parts[0], key=lambda name: order.index(name) if name in order else 0)
  return {name: np.concatenate([part[name] for part in parts if name in part]) for name in names}


def _measure(job: passes.Pass, weights: Any, keys: Array, x: Array) -> dict[str, dict[str, Array]]:
  """What is wanted of a model's images, for a batch x [B, H, W, C] of the evaluated ones."""
  wanted, model, variables = job.options, job.model, weights['model']
  extractor, true = wanted.extractor, x[..., : wanted.channels]
  params = model.apply(variables, None, x, method='reconstruct')
  mean = clipped(jax.vmap(model.family.mean)(params))
  scores = {
    'psnr_db': image_quality.peak_signal_to_noise(mean, true),
    'laplacian_variance': image_quality.laplacian_variance(mean),
  }
  if wanted.similarity:
    scores['ssim'] = image_quality.structural_similarity(mean, true)
  if extractor.maps is not None:
    found = features.perceptual_distance(extractor, weights['features'], mean, true)
    scores['perceptual_distance'] = found
  images = {KINDS[0]: mean}
  if model.has_prior and wanted.features:
    images |= dict(zip(KINDS[1:], generate(model, variables, keys), strict=True))
  return _told(wanted, weights['features'], scores, images)


def _measure_originals(
  job: passes.Pass, weights: Any, keys: Array, x: Array
) -> dict[str, dict[str, Array]]:
  del keys
  images = x[..., : job.options.channels]
  scores = {'laplacian_variance': image_quality.laplacian_variance(images)}
  return _told(job.options, weights, scores, {ORIGINAL: images})


def _told(
  wanted: Wanted, weights: Any, scores: dict[str, Array], images: dict[str, Array]
) -> dict[str, dict[str, Array]]:
  """The fields of `Measured`, with what is not wanted left out."""
  rows = {}
  if wanted.features:
    rows = {kind: features.rows(wanted.extractor, weights, x) for kind, x in images.items()}
  return {'scores': scores, 'features': rows, 'images': images if wanted.images else {}}


def generate(model: Any, variables: Any, keys: Array) -> tuple[Array, Array]:
  """Means of new images and samples of them, clipped, [B, H, W, C] each, by the keys [B]."""
  pairs = jax.vmap(jax.random.split)(keys)
  params = model.apply(variables, pairs[:, 0], method='generate')
  mean, sample = jax.vmap(model.family.mean)(params), jax.vmap(model.family.sample)(pairs[:, 1], params)
  return clipped(mean), clipped(sample)


def clipped(images: Array) -> Array:
  """Returns images as in a picture, with pixels in [-1, 1]; an infinite pixel is NaN, and not white."""
  return jnp.where(jnp.isfinite(images), jnp.clip(images, -1, 1), jnp.nan)
