"""The sections of an evaluation besides its table of scores, one per measurement.

A section is made if models and data allow it. To add one, write a file with a function `section` and add
a line to `SECTIONS`.
"""

from collections.abc import Callable

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


def make(evaluated: Evaluated) -> list[Section]:
  """Returns every section that these models and data allow."""
  if masked.applies(evaluated):
    return [one for one in (section(evaluated) for section in OF_MASKS) if one is not None]
  evaluated = _with_measures(evaluated)
  made = (section(evaluated) for section in SECTIONS)
  return [section for section in made if section is not None]


def _with_measures(evaluated: Evaluated) -> Evaluated:
  """Adds measures that several sections use."""
  models = [result.trained for result in evaluated.found]
  others = evaluated.splits['train' if evaluated.split != 'train' else 'validation']
  originals = image_measures.Originals(evaluated.images, others)
  measured = image_measures.of_models(
    models, originals, extractor_of(evaluated), evaluated.seed, evaluated.where
  )
  return evaluated._replace(measured=measured)


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
