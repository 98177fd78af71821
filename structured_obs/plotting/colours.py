"""Colours of single images, in the scales of the figures.

Letters: H W C image height, width, channels.
"""

import numpy as np

KINDS = ('pixels', 'signed', 'size')
_MAPS = {'signed': 'RdBu_r', 'size': 'inferno'}


def to_levels(image: np.ndarray, kind: str = 'pixels', limit: float = 1.0) -> np.ndarray:
  """Returns an image as uint8 [H, W, 1 or 3]; values outside of the scale are clipped, NaN is black.

  Args:
    image: [H, W, 1 or 3].
    kind: 'pixels' from -1 to 1; 'signed' from -limit to limit, blue to red, or for colour images each
      channel about gray; 'size' from 0 to limit, the mean of the channels.
    limit: end of the scale.

  Raises:
    ValueError: the kind is unknown.
  """
  if kind not in KINDS:
    raise ValueError(f'kind must be one of {", ".join(KINDS)}; got {kind!r}.')
  scaled = np.asarray(image, np.float32) / np.float32(1 if kind == 'pixels' else limit or 1)
  if kind == 'size':
    return _mapped(scaled.mean(axis=-1), kind)
  unit = (scaled + 1) / 2
  if kind == 'signed' and image.shape[-1] == 1:
    return _mapped(unit[..., 0], kind)
  return np.rint(255 * np.nan_to_num(np.clip(unit, 0, 1))).astype(np.uint8)


def _mapped(unit: np.ndarray, kind: str) -> np.ndarray:
  """Returns colours [H, W, 3] of numbers [H, W] from 0 to 1."""
  import matplotlib

  found = matplotlib.colormaps[_MAPS[kind]](np.nan_to_num(unit), bytes=True)[..., :3]
  return np.where(np.isnan(unit)[..., None], np.uint8(0), found)
