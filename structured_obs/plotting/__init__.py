"""Figures: functions from arrays to PNG files. The only package that imports matplotlib.

Figures are drawn without a display and without global state, whatever backend is configured.
"""

from structured_obs.plotting.curves import (
  points_with_errors,
  quantile_quantile,
  signals,
  training_curves,
  uniformity,
)
from structured_obs.plotting.grids import image_grid, mosaic
from structured_obs.plotting.images import Row, image_blocks, image_rows

__all__ = [
  'Row',
  'image_blocks',
  'image_grid',
  'image_rows',
  'mosaic',
  'points_with_errors',
  'quantile_quantile',
  'signals',
  'training_curves',
  'uniformity',
]
