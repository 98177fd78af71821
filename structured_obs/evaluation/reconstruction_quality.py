"""How good reconstructions are as images: PSNR, SSIM, sharpness, and the spectra of them and new ones.

A reconstruction is the mean of p(x|z) at the mean of q(z|x), clipped to [-1, 1] as in a picture. It
is compared with the stored image, to which no noise is added. New images are means of p(x|z) at
z ~ p(z), and samples at the same z; their spectra are compared with those of other images, the
data's. Of a model without an encoder there are no reconstructions, and this tells nothing of it.

Letters: N images; M of them, at most 128, whose spectra are found; H W C image height, width, channels.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023,
tables 2 to 5 and figures 3 and 6.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.evaluation import image_quality, spectrum, views
from structured_obs.evaluation.results import Trained

Array = jax.Array

SPECTRA = 128  # M
BATCH = 64  # images at a time
SHOWN = 8  # images of a kind in the picture
ORIGINAL = 'original images'
KINDS = ('reconstructions', 'new means', 'new samples')


class Quality(NamedTuple):
  """What was found of one model, or of the original images."""

  scores: Mapping[str, np.ndarray]  # by name: [N] of images, [M] of spectra (`spectrum.Difference`)
  spectra: Mapping[str, np.ndarray]  # mean log spectrum [H, W] of each kind of images
  shown: Mapping[str, np.ndarray]  # the first [8, H, W, C] of each kind


def score_name(field: str, kind: str) -> str:
  """Name of a score: how the spectra of a kind of images differ from those of the originals."""
  return f'log_spectrum_{field}_{kind.replace(" ", "_")}'


def applies(trained: Trained) -> bool:
  """Whether a model has reconstructions of images of levels, with room for a Laplacian."""
  known = hasattr(trained.model, 'infer') and trained.spec.levels > 0
  return known and min(trained.model.image[:2]) >= 3


def of_models(models: Sequence[Trained], images: np.ndarray, seed: int = 0) -> dict[str, Quality]:
  """Quality by the models' names, after that of the originals; {} if there is none to tell of.

  Args:
    models: of the same images.
    images: [N, H, W, C] as stored.
    seed: of the new images.
  """
  usable = [trained for trained in models if applies(trained)]
  if not usable or not len(images):
    return {}
  original, spectra = _of_originals(usable[0], images)
  found = {ORIGINAL: original}
  return found | {trained.name: measure(trained, images, spectra, seed) for trained in usable}


def measure(trained: Trained, images: np.ndarray, spectra: np.ndarray, seed: int = 0) -> Quality:
  """Quality of a model's reconstructions, and of new images.

  Where dm_pix is not installed, there is no 'ssim' among the scores.

  Args:
    trained: with an encoder.
    images: [N, H, W, C] as stored.
    spectra: [M, H, W], log spectra of the first of them.
    seed: of the new images.
  """
  scores: dict[str, list[np.ndarray]] = {}
  reconstructed: list[np.ndarray] = []
  for stored in _batches(images):
    x = views.to_float(stored, trained.spec.levels)
    mean = jax.device_get(reconstruct(trained.model, trained.variables, x))
    for name, values in _scores(mean, views.observed(trained.model, x)).items():
      scores.setdefault(name, []).append(values)
    if sum(map(len, reconstructed)) < len(spectra):
      reconstructed.append(mean)
  kinds = {KINDS[0]: np.concatenate(reconstructed)[: len(spectra)]}
  if trained.model.has_prior:
    kinds |= dict(zip(KINDS[1:], _new_images(trained, len(spectra), seed), strict=True))
  found = {kind: spectrum.log_spectra(array) for kind, array in kinds.items()}
  return Quality(
    {name: np.concatenate(parts) for name, parts in scores.items()} | _differences(found, spectra),
    {kind: array.mean(axis=0) for kind, array in found.items()},
    {kind: array[:SHOWN] for kind, array in kinds.items()},
  )


def _new_images(trained: Trained, count: int, seed: int) -> list[np.ndarray]:
  """Means and samples of images from the prior, [count, H, W, C] each."""
  key, parts = jax.random.key(seed), []
  for index in _batches(np.arange(count, dtype=np.int32)):
    drawn = generate(trained.model, trained.variables, key, jnp.asarray(index))
    parts.append(jax.device_get(drawn))
  return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _differences(found: Mapping[str, np.ndarray], true: np.ndarray) -> dict[str, np.ndarray]:
  """Scores [M] of each kind of images' log spectra [M, H, W] beside the originals'."""
  scores = {}
  for kind, spectra in found.items():
    for field, values in spectrum.difference(spectra, true)._asdict().items():
      scores[score_name(field, kind)] = values
  return scores


def _of_originals(trained: Trained, images: np.ndarray) -> tuple[Quality, np.ndarray]:
  """Quality of the originals, and log spectra [M, H, W] of the first of them.

  Where there are as many again, these take the place of new images, whose spectra differ by chance.
  """
  sharpness, kept = [], []
  for stored in _batches(images):
    x = views.observed(trained.model, views.to_float(stored, trained.spec.levels))
    sharpness.append(image_quality.laplacian_variance(x))
    if sum(map(len, kept)) < 2 * SPECTRA:
      kept.append(x)
  images = np.concatenate(kept)[: 2 * SPECTRA]
  spectra = spectrum.log_spectra(images)
  first, others = spectra[:SPECTRA], spectra[SPECTRA:]
  scores = {'laplacian_variance': np.concatenate(sharpness)}
  if len(others) == SPECTRA:
    scores |= _differences(dict.fromkeys(KINDS[1:], others), first)
  return Quality(scores, {ORIGINAL: first.mean(axis=0)}, {ORIGINAL: images[:SHOWN]}), first


def _scores(mean: np.ndarray, true: np.ndarray) -> dict[str, np.ndarray]:
  found = {
    'psnr_db': image_quality.peak_signal_to_noise(mean, true),
    'laplacian_variance': image_quality.laplacian_variance(mean),
  }
  with contextlib.suppress(ImportError):  # the report says so in the place of the numbers
    found['ssim'] = image_quality.structural_similarity(mean, true)
  return found


def _batches(array: np.ndarray) -> Iterator[np.ndarray]:
  for first in range(0, len(array), BATCH):
    yield np.asarray(array[first : first + BATCH])


@functools.partial(jax.jit, static_argnums=0)
def reconstruct(model: Any, variables: Any, x: Array) -> Array:
  """Means of p(x|z) at the mean of q(z|x), clipped to [-1, 1]. [B, H, W, C]."""
  params = model.apply(variables, None, x, method='reconstruct')
  return jnp.clip(jax.vmap(model.family.mean)(params), -1, 1)


@functools.partial(jax.jit, static_argnums=0)
def generate(model: Any, variables: Any, key: Array, index: Array) -> tuple[Array, Array]:
  """Means and samples of new images [B, H, W, C], which depend on their index and not on the batch."""
  keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(index)
  params = model.apply(variables, keys[:, 0], method='generate')
  mean, sample = jax.vmap(model.family.mean)(params), jax.vmap(model.family.sample)(keys[:, 1], params)
  return jnp.clip(mean, -1, 1), jnp.clip(sample, -1, 1)
