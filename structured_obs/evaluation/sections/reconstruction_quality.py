"""Quality of reconstructions as images: PSNR, SSIM, sharpness, and spectra, also of new images.

A reconstruction is the mean of p(x|z) at the mean of q(z|x), clipped to [-1, 1] as in a figure. It is
compared with the stored image, without noise. New images are means of p(x|z) at z ~ p(z), and samples at
the same z; their spectra are compared with those of other images of the data. Everything comes from
`image_measures`.

Letters: N images; M of them, at most 128, whose spectra are computed; H W C image height, width,
channels.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023,
tables 2 to 5 and figures 3 and 6.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from structured_obs.evaluation.image_measures import KINDS, ORIGINAL, Measured
from structured_obs.evaluation.metrics import spectrum
from structured_obs.evaluation.sections import image_measures

SHOWN = 8  # images of a kind in the figure


class Quality(NamedTuple):
  """Quality of one model's images, or of the original images."""

  scores: Mapping[str, np.ndarray]  # by name: [N] of images, [M] of spectra (`spectrum.Difference`)
  spectra: Mapping[str, np.ndarray]  # mean log spectrum [H, W] of each kind of images
  shown: Mapping[str, np.ndarray]  # the first [8, H, W, C] of each kind


def score_name(field: str, kind: str) -> str:
  """Returns the name of a score: how spectra of a kind of images differ from the originals'."""
  return f'log_spectrum_{field}_{kind.replace(" ", "_")}'


def of_measured(measured: Mapping[str, Measured]) -> dict[str, Quality]:
  """Returns quality by the models' names, after that of the originals; {} if there are no measures.

  If there are as many further originals as spectra of the originals, they stand in for new images, with
  spectra that differ by chance.
  """
  if not measured:
    return {}
  original, *models = measured
  true = _spectra(measured[original].images)[ORIGINAL]
  first, others = true[: image_measures.KEPT], true[image_measures.KEPT :]
  chance = {kind: others for kind in KINDS[1:] if len(others) == len(first)}
  found = {original: _quality(measured[original], chance, first)}
  found[original] = found[original]._replace(spectra={ORIGINAL: first.mean(axis=0)})
  return found | {
    name: _quality(measured[name], _spectra(measured[name].images), first) for name in models
  }


def _quality(one: Measured, spectra: Mapping[str, np.ndarray], true: np.ndarray) -> Quality:
  """Returns quality from log spectra [M, H, W] of each kind, compared with the originals' [M, H, W].

  Where there are more of one than of the other, only as many of its first ones are compared.
  """
  scores = dict(one.scores)
  for kind, own in spectra.items():
    count = min(len(own), len(true))
    for field, values in spectrum.difference(own[:count], true[:count])._asdict().items():
      scores[score_name(field, kind)] = values
  return Quality(
    scores,
    {kind: own.mean(axis=0) for kind, own in spectra.items()},
    {kind: images[:SHOWN] for kind, images in one.images.items()},
  )


def _spectra(images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {kind: spectrum.log_spectra(own) for kind, own in images.items()}
