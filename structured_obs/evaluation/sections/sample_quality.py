"""How far sets of images are from the data's, in the features of a network: the section of a report.

Reconstructions of the evaluated images, means of new ones and samples of them are each compared with
the evaluated images, as many of each. What as many other originals have, from the training split, is
what a perfect model would have: it is not 0, and depends on N.

Letters: N images, at most 10,000; F features.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from structured_obs.evaluation import finite, tables
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.image_measures import ORIGINAL, Measured
from structured_obs.evaluation.metrics import feature_distances
from structured_obs.evaluation.sections.base import Evaluated, Section, extractor_of


class Distance(NamedTuple):
  """How far a set of images is from the evaluated ones."""

  images: int  # N of either set
  frechet: float | None  # None for too few images: it needs more of them than features
  kernel: feature_distances.Kernel  # KID
  fidelity: feature_distances.Fidelity


class Found(NamedTuple):
  """What one extractor found."""

  extractor: extractors.Extractor
  distances: Mapping[tuple[str, str], Distance]  # by model and kind of images; other originals first
  not_finite: str = ''  # sentences about the images whose features are not finite


def of_measured(measured: Mapping[str, Measured], extractor: extractors.Extractor) -> Found | None:
  """Distances of every model's images; None where there are too few images, or models without any.

  Args:
    measured: of `image_measures.of_models`, with this extractor.
    extractor: of the features.
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
  rows = {
    f'{name}: features of {kind}': features_of
    for name, one in measured.items()
    for kind, features_of in one.features.items()
  }
  return Found(extractor, found, finite.sentences(rows))


def distance(real: np.ndarray, new: np.ndarray) -> Distance:
  """Every distance of two sets of features [N, F] and [M, F]."""
  enough = min(len(real), len(new)) > real.shape[1]
  return Distance(
    images=len(new),
    frechet=feature_distances.frechet(real, new) if enough else None,
    kernel=feature_distances.kernel_distance(real, new),
    fidelity=feature_distances.fidelity(real, new),
  )


EXPLANATION = """\
Frechet is the Frechet distance of Gaussians fitted to the features, which grows as there are fewer
images; KID is the unbiased squared distance of their means under a cubic kernel, times 1000, ± its
standard deviation over subsets where there are some. Of both, smaller is better. Precision and density
say whether images look like originals, recall and coverage whether all originals have images like them,
by balls that reach the fifth neighbour. Random and small networks hardly see white noise: their
distances do not show whether samples are grainy. Numbers of other features, or of another number of
images, cannot be compared with these."""


def text(found: Found) -> str:
  """A Markdown section."""
  counts = sorted({one.images for one in found.distances.values()})
  rows = [['images', 'kind', 'Frechet', '1000 KID', 'precision', 'recall', 'density', 'coverage']]
  for (name, kind), one in found.distances.items():
    spread = '' if np.isnan(one.kernel.deviation) else f' ± {1000 * one.kernel.deviation:.3f}'
    frechet = '' if one.frechet is None else f'{one.frechet:.4f}'
    rows.append(
      [name, kind, frechet, f'{1000 * one.kernel.value:.3f}{spread}']
      + [f'{value:.3f}' for value in one.fidelity]
    )
  extractor = found.extractor
  heading = f'## Distances of features: {extractor}'
  few = (
    f'There is no Frechet distance of {counts[0]} images: it needs more of them than features.'
    if any(one.frechet is None for one in found.distances.values())
    else ''
  )
  said = f'Of {counts[0]} images of each kind, beside as many originals.'
  table = tables.markdown_table(rows)
  return tables.paragraphs(heading, table, found.not_finite, few, f'{said} {EXPLANATION}')


def as_json(found: Found) -> dict[str, Any]:
  """Everything in the table."""
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
  """Returns this section of an evaluation; None where models or data have no part in it."""
  found = of_measured(evaluated.measured, extractor_of(evaluated))
  if found is None:
    return None
  return Section('sample_quality', text(found), as_json(found))
