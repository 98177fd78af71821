"""Distances of sets of images from the data, in the features of a network: a section of a report.

Reconstructions of the evaluated images, means of new ones and samples of them are compared with the
original images. Other originals show what a perfect model would have: it is not 0, and depends on N.
The same originals with noise and blur (`ladder`) show what the features see.

Letters: N images; F features.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from structured_obs.distributions import base as distributions
from structured_obs.evaluation import finite, ladder, ladder_checks, tables
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.image_measures import HALF, KINDS, ORIGINAL, OTHERS, Measured
from structured_obs.evaluation.metrics import feature_distances
from structured_obs.evaluation.sections.base import Evaluated, Section, extractor_of


class Distance(NamedTuple):
  """Distances of a set of images from the originals."""

  images: int  # of the set
  reference: int  # originals
  frechet: float
  kernel: feature_distances.Kernel  # KID
  fidelity: feature_distances.Fidelity


class Found(NamedTuple):
  """The results of one extractor."""

  extractor: extractors.Extractor
  features: int  # F
  distances: Mapping[tuple[str, str], Distance]  # by model and kind of images; the ladder first
  ladder: ladder_checks.Verdict | None = None  # None for too few images
  not_finite: str = ''  # sentences about the images whose features are not finite


def of_measured(
  measured: Mapping[str, Measured], extractor: extractors.Extractor, split: str = 'test'
) -> Found | None:
  """Returns distances of every model's images; None if there are too few images.

  Args:
    measured: of `image_measures.of_models`, with this extractor.
    extractor: of the features.
    split: of the evaluated images.
  """
  if not measured:
    return None
  original, *models = measured
  known = measured[original]
  real = known.features[ORIGINAL]
  if len(real) <= feature_distances.NEIGHBOURS:
    return None
  beside = known.features.get(HALF, real)
  rungs = [known.features[index] for index in ladder.indices(known.rungs)]
  rungs = rungs if rungs and min(len(beside), len(rungs[0])) > feature_distances.NEIGHBOURS else []
  found = {
    (OTHERS, rung.name): distance(beside, rows) for rung, rows in zip(known.rungs, rungs, strict=False)
  }
  for name in models:
    for kind, new in measured[name].features.items():
      if len(new) > feature_distances.NEIGHBOURS:
        found[name, kind] = distance(real, new)
  verdict = ladder_checks.verdict(beside, rungs, known) if rungs else None
  return Found(extractor, real.shape[1], found, verdict, _not_finite(measured, known, split))


def _not_finite(measured: Mapping[str, Measured], known: Measured, split: str) -> str:
  """Returns sentences that name images whose features are not finite, and their split."""
  rows: dict[str, dict[str, np.ndarray]] = {}
  for name, one in measured.items():
    for kind, features in one.features.items():
      of_split = {ORIGINAL: split, HALF: split, KINDS[0]: split}
      images = 'other original' if kind.isdecimal() else of_split.get(kind, 'new')
      rows.setdefault(f'{images} images', {})[f'{name}: features of {_told(kind, known)}'] = features
  so = 'so they have no distance'
  return ' '.join(filter(None, (finite.sentences(of, images, so) for images, of in rows.items())))


def _told(kind: str, known: Measured) -> str:
  return f'the ladder, {known.rungs[int(kind)].name or OTHERS}' if kind.isdecimal() else kind


def distance(real: np.ndarray, new: np.ndarray) -> Distance:
  """Returns every distance of two sets of features [N, F] and [M, F]."""
  return Distance(
    images=len(new),
    reference=len(real),
    frechet=feature_distances.frechet(real, new),
    kernel=feature_distances.kernel_distance(real, new),
    fidelity=feature_distances.fidelity(real, new),
  )


EXPLANATION = """\
Frechet is the Frechet distance of Gaussians fitted to the features, which grows with fewer images. KID
is the unbiased squared distance of their means under a cubic kernel, times 1000; ± is its standard
deviation over subsets, if there are several. For both, smaller is better. Precision and density say
whether images look like originals, recall and coverage whether all originals have similar images,
by balls that reach the fifth neighbour. Numbers with other features, or another number of images, are
not comparable with these."""


MODES = 'New samples are modes of p(x|z): the mean of the likeliest component at every pixel.'


def text(found: Found, notes: str = '') -> str:
  """Returns a Markdown section.

  Args:
    found: the results.
    notes: sentences about what is left out.
  """
  heading = f'## Distances of features: {found.extractor}'
  rows = [['images', 'kind', 'N', 'Frechet', '1000 KID', 'precision', 'recall', 'density', 'coverage']]
  known = {pair: one for pair, one in found.distances.items() if np.isfinite(one.kernel.value)}
  if not known:
    return tables.paragraphs(heading, found.not_finite)
  for (name, kind), one in known.items():
    spread = '' if np.isnan(one.kernel.deviation) else f' ± {1000 * one.kernel.deviation:.3f}'
    rows.append(
      [name, kind, f'{one.images}', f'{one.frechet:.4f}', f'{1000 * one.kernel.value:.3f}{spread}']
      + [f'{value:.3f}' for value in one.fidelity]
    )
  said = ' '.join(filter(None, (_compared(found), EXPLANATION)))
  steps = found.ladder.text if found.ladder else ladder_checks.NONE
  parts = heading, tables.markdown_table(rows), found.not_finite, steps, _few(found), notes, said
  return tables.paragraphs(*parts)


def _compared(found: Found) -> str:
  references = {one.reference for (name, _), one in found.distances.items() if name != OTHERS}
  own = {one.reference for (name, _), one in found.distances.items() if name == OTHERS}
  counts = [f'N images beside {count} originals.' for count in sorted(references)]
  if own - references:
    counts.append(
      'Too few other originals are at hand: the ladder is made of one half of the originals, beside '
      f'the {max(own)} of the other half.'
    )
  return ' '.join(counts)


def _few(found: Found) -> str:
  """Returns a warning where a covariance of features is singular; '' otherwise."""
  least = min(min(one.images, one.reference) for one in found.distances.values())
  if least > found.features:
    return ''
  return (
    f'The Frechet distance needs more images than features: with {least} images and {found.features} '
    'features the fitted covariances are singular, and it is far too large. Use KID, more images or '
    'features with fewer numbers.'
  )


def as_json(found: Found) -> dict[str, Any]:
  """Returns everything in the table."""
  extractor = found.extractor
  return {
    'features': extractor.name,
    'fingerprint': extractor.fingerprint,
    'numbers': found.features,
    'ladder': found.ladder.tree if found.ladder else None,
    'distances': {
      ' '.join(filter(None, pair)): {
        'images': one.images,
        'reference': one.reference,
        'frechet': one.frechet,
        'kid': one.kernel.value,
        'kid_deviation': one.kernel.deviation,
        **one.fidelity._asdict(),
      }
      for pair, one in found.distances.items()
    },
  }


def left_out(evaluated: Evaluated) -> str:
  """Returns a sentence about the models that have no samples without pixel noise; '' if all do."""
  models = [one.trained for one in evaluated.found if one.trained.name in evaluated.measured]
  lacking = [
    one.name
    for one in models
    if one.model.traits.has_prior and not distributions.has_floor(one.model.family)
  ]
  if not lacking:
    return ''
  return (
    f'No {KINDS[3]} of {", ".join(lacking)}: a family without a floor of independent pixel noise has '
    'none to leave away.'
  )


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None if models or data do not have it."""
  found = of_measured(evaluated.measured, extractor_of(evaluated), evaluated.split)
  if found is None:
    return None
  notes = ' '.join(filter(None, (MODES if evaluated.sample_mode == 'mode' else '', left_out(evaluated))))
  return Section('sample_quality', text(found, notes), as_json(found))
