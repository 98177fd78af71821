"""Distances of sets of images from the data, in the features of a network: a section of a report.

Reconstructions of the evaluated images, means of new ones and samples of them are compared with the
evaluated images, in sets of equal size. As many other originals, from the training split, show what a
perfect model would have: it is not 0, and depends on N.

Letters: N images, at most 10,000; F features.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from structured_obs.evaluation import finite, tables
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.image_measures import KINDS, ORIGINAL, OTHERS, Measured
from structured_obs.evaluation.metrics import feature_distances
from structured_obs.evaluation.sections.base import Evaluated, Section, extractor_of


class Distance(NamedTuple):
  """Distances of a set of images from the evaluated ones."""

  images: int  # N of either set
  frechet: float | None  # None for too few images: it needs more images than features
  kernel: feature_distances.Kernel  # KID
  fidelity: feature_distances.Fidelity


class Found(NamedTuple):
  """The results of one extractor."""

  extractor: extractors.Extractor
  distances: Mapping[tuple[str, str], Distance]  # by model and kind of images; other originals first
  not_finite: str = ''  # sentences about the images whose features are not finite


def of_measured(
  measured: Mapping[str, Measured], extractor: extractors.Extractor, split: str = 'test'
) -> Found | None:
  """Returns distances of every model's images; None if there are too few images, or none generated.

  Args:
    measured: of `image_measures.of_models`, with this extractor.
    extractor: of the features.
    split: of the evaluated images.
  """
  if not measured:
    return None
  original, *models = measured
  known = dict(measured[original].features)
  real = known.pop(ORIGINAL)
  if len(real) <= feature_distances.NEIGHBOURS:
    return None
  found = {(other, ''): distance(real, rows) for other, rows in known.items()}
  for name in models:
    for kind, new in measured[name].features.items():
      found[name, kind] = distance(real, new)
  return Found(extractor, found, _not_finite(measured, split))


def _not_finite(measured: Mapping[str, Measured], split: str) -> str:
  """Returns sentences that name images whose features are not finite, and their split."""
  rows: dict[str, dict[str, np.ndarray]] = {}
  for name, one in measured.items():
    for kind, features in one.features.items():
      images = {ORIGINAL: split, KINDS[0]: split, OTHERS: 'other original'}.get(kind, 'new')
      rows.setdefault(f'{images} images', {})[f'{name}: features of {kind}'] = features
  so = 'so they have no distance'
  return ' '.join(filter(None, (finite.sentences(of, images, so) for images, of in rows.items())))


def distance(real: np.ndarray, new: np.ndarray) -> Distance:
  """Returns every distance of two sets of features [N, F] and [M, F]."""
  enough = min(len(real), len(new)) > real.shape[1]
  return Distance(
    images=len(new),
    frechet=feature_distances.frechet(real, new) if enough else None,
    kernel=feature_distances.kernel_distance(real, new),
    fidelity=feature_distances.fidelity(real, new),
  )


EXPLANATION = """\
Frechet is the Frechet distance of Gaussians fitted to the features, which grows with fewer images. KID
is the unbiased squared distance of their means under a cubic kernel, times 1000; ± is its standard
deviation over subsets, if there are several. For both, smaller is better. Precision and density say
whether images look like originals, recall and coverage whether all originals have similar images,
by balls that reach the fifth neighbour. Random and small networks hardly see white noise: their
distances do not show whether samples are grainy. Numbers with other features, or another number of
images, are not comparable with these."""


def text(found: Found) -> str:
  """Returns a Markdown section."""
  counts = sorted({one.images for one in found.distances.values()})
  rows = [['images', 'kind', 'Frechet', '1000 KID', 'precision', 'recall', 'density', 'coverage']]
  known = {pair: one for pair, one in found.distances.items() if np.isfinite(one.kernel.value)}
  for (name, kind), one in known.items():
    spread = '' if np.isnan(one.kernel.deviation) else f' ± {1000 * one.kernel.deviation:.3f}'
    frechet = '' if one.frechet is None else f'{one.frechet:.4f}'
    rows.append(
      [name, kind, frechet, f'{1000 * one.kernel.value:.3f}{spread}']
      + [f'{value:.3f}' for value in one.fidelity]
    )
  extractor = found.extractor
  heading = f'## Distances of features: {extractor}'
  few = (
    f'The Frechet distance needs more images than features; there are {counts[0]} images.'
    if any(one.frechet is None for one in found.distances.values())
    else ''
  )
  said = f'Of {counts[0]} images of each kind, beside as many originals.'
  if not known:
    return tables.paragraphs(heading, found.not_finite)
  table = tables.markdown_table(rows)
  return tables.paragraphs(heading, table, found.not_finite, few, f'{said} {EXPLANATION}')


def as_json(found: Found) -> dict[str, Any]:
  """Returns everything in the table."""
  extractor = found.extractor
  return {
    'features': extractor.name,
    'fingerprint': extractor.fingerprint,
    'distances': {
      ' '.join(filter(None, pair)): {
        'images': one.images,
        'frechet': one.frechet,
        'kid': one.kernel.value,
        'kid_deviation': one.kernel.deviation,
        **one.fidelity._asdict(),
      }
      for pair, one in found.distances.items()
    },
  }


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None if models or data do not have it."""
  found = of_measured(evaluated.measured, extractor_of(evaluated), evaluated.split)
  if found is None:
    return None
  return Section('sample_quality', text(found), as_json(found))
