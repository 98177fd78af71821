"""Which pixels of an image count: a mask, stored as one more channel behind everything else.

The mask is white where a pixel counts and black elsewhere. It passes through storage, batches, flips,
turns and shifts with the image, and is never dequantised. Where images are resized, it is resized by the
nearest pixel, whatever filter the image has, so that it stays a mask.
"""

from typing import Annotated, NamedTuple

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import decode
from structured_obs.data.sources import base
from structured_obs.option_records import Record
from structured_obs.option_values import Range

NONE, ALPHA, NONZERO, VOLUME = 'none', 'alpha', 'nonzero', 'volume'


class Alpha(NamedTuple):
  """Options of masks from an alpha channel."""

  above: Annotated[int, Range(0, 254)] = 0  # pixels of an alpha above this, of 255, count


class Volume(NamedTuple):
  """Options of masks from volumes."""

  # Name of the volume of a mask, in the folder of the image's volume and without .nii or .nii.gz; {name}
  # stands for that volume's own name.
  name: str = '{name}_mask'


# By --config.data.mask: 'none'; 'alpha', the alpha channel of image files; 'nonzero', pixels that are
# not black in all channels; 'volume', the positive voxels of a volume beside each volume of images.
MASKS: dict[str, Record] = {NONE: None, ALPHA: Alpha, NONZERO: None, VOLUME: Volume}


def check(config: DataConfig, records: base.Records, source: str) -> None:
  """Raises a ValueError unless the images of a source can have these masks.

  Args:
    config: with a mask.
    records: of the source.
    source: its name.
  """
  if not records.levels:
    raise ValueError(
      f'--config.data.mask={config.mask} needs images of gray levels, but --config.data.source={source} '
      'has real numbers; leave --config.data.mask=none.'
    )
  kinds = {ALPHA: 'folder:PATH', VOLUME: 'nifti:PATH'}
  if config.mask in kinds and records.mask is None:
    raise ValueError(
      f'--config.data.mask={config.mask} needs --config.data.source={kinds[config.mask]}, but the '
      f'source is {source}; use --config.data.mask=nonzero or none.'
    )


def plane(records: base.Records, index: int, image: np.ndarray) -> np.ndarray:
  """Returns the mask of an image as a picture, uint8 [H, W, 1]: levels - 1 where a pixel counts, else 0.

  Args:
    records: of the source; without masks of its own, pixels that are not 0 in all channels count.
    index: of the image.
    image: uint8 [H, W, C], before it is cropped or resized.

  Raises:
    UnreadableImage: no pixel counts, or the mask has another size than the image.
  """
  counts = np.any(image > 0, axis=-1) if records.mask is None else records.mask(index)
  if counts.shape != image.shape[:2]:
    raise decode.UnreadableImage(
      f'Image {records.describe(index)} has {image.shape[0]} x {image.shape[1]} pixels, but its mask '
      f'has {" x ".join(map(str, counts.shape))}'
    )
  return np.where(counts, records.levels - 1, 0).astype(np.uint8)[..., None]


def fitted(picture: np.ndarray, to: decode.Target, name: str) -> np.ndarray:
  """Returns a mask [H, W, 1] in the size of a run.

  Args:
    picture: of `plane`.
    to: the target of its image.
    name: of the image in messages.

  Raises:
    UnreadableImage: no pixel counts.
  """
  found = decode.fit(picture, to._replace(channels=1, resample='nearest'))
  if not found.any():
    raise decode.UnreadableImage(f'Image {name} has no pixel that counts: its mask is empty')
  return found
