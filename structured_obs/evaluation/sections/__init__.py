"""The sections of an evaluation besides its table of scores, one per measurement.

A section is made if models and data allow it. To add one, write a file with a function `section` and add
a line to `SECTIONS`.
"""

from collections.abc import Callable

import numpy as np

from structured_obs.evaluation import image_measures
from structured_obs.evaluation.sections import (
  bound_parts,
  closed_form_fits,
  consistency,
  image_quality,
  masked,
  predicted_distributions,
  recalibration,
  sample_quality,
  true_covariance_figures,
  variance_parts,
  whiteness,
)
from structured_obs.evaluation.sections.base import Evaluated, Section, extractor_of
from structured_obs.models import intermediate_images


def make(evaluated: Evaluated) -> list[Section]:
  """Returns every section that these models and data allow."""
  if masked.applies(evaluated):
    return [one for one in (section(evaluated) for section in OF_MASKS) if one is not None]
  evaluated = _with_measures(evaluated)
  made = (section(evaluated) for section in SECTIONS)
  return [section for section in made if section is not None]


def _with_measures(evaluated: Evaluated) -> Evaluated:
  """Adds measures that several sections use."""
  models = [
    trained._replace(model=intermediate_images.by_mode(trained.model, evaluated.sample_mode))
    for trained in (result.trained for result in evaluated.found)
  ]
  measured = image_measures.of_models(
    models,
    _originals(evaluated),
    extractor_of(evaluated),
    evaluated.seed,
    evaluated.where,
    generated=evaluated.generated,
  )
  return evaluated._replace(measured=measured)


def _originals(evaluated: Evaluated) -> image_measures.Originals:
  """Returns the evaluated images, those that features are compared with, and others than these."""
  compared, splits = evaluated.reference or evaluated.split, evaluated.splits
  others = splits['train'] if compared != 'train' else splits.get('test', splits['validation'])
  if compared == 'train' and not len(others):
    others = splits['validation']
  if not evaluated.reference:
    return image_measures.Originals(evaluated.images, others)
  reference, most = splits[evaluated.reference], max(evaluated.generated, image_measures.LIMIT)
  if len(reference) > most:
    chosen = np.random.default_rng(evaluated.seed).permutation(len(reference))[:most]
    reference = reference[np.sort(chosen)]
  return image_measures.Originals(evaluated.images, others, reference)


# Of images with masks: what is of the pixels that count.
OF_MASKS: tuple[Callable[[Evaluated], Section | None], ...] = (bound_parts.section, masked.section)
SECTIONS: tuple[Callable[[Evaluated], Section | None], ...] = (
  bound_parts.section,
  true_covariance_figures.section,
  image_quality.section,
  sample_quality.section,
  predicted_distributions.section,
  variance_parts.section,
  recalibration.section,
  whiteness.section,
  consistency.section,
  closed_form_fits.section,
)
