"""Flags of programs that compare sets of images: in which features, and which images."""

from typing import Any

from absl import flags as absl_flags

from launch import flags
from structured_obs.evaluation import features
from structured_obs.evaluation.metrics import feature_distances
from structured_obs.models import intermediate_images

absl_flags.disclaim_key_flags()  # `--help` lists them with the script that defines them


class Images:
  """The flags on images that are compared. Make one per program, at the top of its module."""

  def __init__(self):
    """Defines the flags."""
    self._features = absl_flags.DEFINE_string(
      'features',
      features.DEFAULT,
      f'Network whose features compare images: {", ".join(features.FORMS)}.',
    )
    self._generated = flags.define_integer(
      'generated', 0, 'New images of each model to compare; 0 for as many as are evaluated.', 0
    )
    self._reference = absl_flags.DEFINE_enum(
      'reference', '', ['', 'test', 'validation', 'train'],
      "Split whose images are compared with, as 'train'; '' for the evaluated images.",
    )  # fmt: skip
    self._mode = absl_flags.DEFINE_enum(
      'sample_mode', 'sample', intermediate_images.SAMPLE_MODES, 'How to draw new images to compare.'
    )

  def check(self) -> None:
    """Raises a ValueError, naming the flag, if a value cannot be of any run."""
    features.check_form(self._features.value)
    least = feature_distances.NEIGHBOURS + 1
    if 0 < self._generated.value < least:
      raise ValueError(
        f'--generated={self._generated.value} is too few for a distance of features; it must be 0, for '
        f'as many as are evaluated, or at least {least}.'
      )

  @property
  def fields(self) -> dict[str, Any]:
    """The values, as fields of `compare.Request`."""
    return {
      'features': self._features.value,
      'generated': self._generated.value,
      'reference': self._reference.value,
      'sample_mode': self._mode.value,
    }
