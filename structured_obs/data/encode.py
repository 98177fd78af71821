"""Encodes uint8 arrays as image files, with Pillow.

Letters: T frames; H W image height, width.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from structured_obs.data import decode

ANIMATIONS = ('webp', 'gif')


def png(image: np.ndarray, level: int = 6) -> bytes:
  """Returns a PNG file.

  Args:
    image: uint8 [H, W, 3], or [H, W, 1] gray.
    level: of compression, from 0, fast, to 9, small.
  """
  file = io.BytesIO()
  _picture(image).save(file, 'PNG', compress_level=level)
  return file.getvalue()


def animation(frames: Sequence[np.ndarray], form: str, milliseconds: int = 80) -> bytes:
  """Returns an animation that repeats forever, without loss for WebP, in 256 colours for GIF.

  Args:
    frames: T images, uint8 [H, W, 1 or 3].
    form: of ANIMATIONS.
    milliseconds: of each frame.

  Raises:
    ValueError: the form is unknown, or there are no frames.
  """
  if form not in ANIMATIONS or not len(frames):
    raise ValueError(f'An animation needs frames and one of {", ".join(ANIMATIONS)}; got {form!r}.')
  first, *rest = map(_picture, frames)
  options: dict[str, Any] = {'lossless': True} if form == 'webp' else {}
  file = io.BytesIO()
  first.save(
    file, form.upper(), save_all=True, append_images=rest, duration=milliseconds, loop=0, **options
  )
  return file.getvalue()


def _picture(image: np.ndarray) -> Any:
  plain = image[..., 0] if image.shape[-1] == 1 else image
  return decode.pillow().fromarray(np.ascontiguousarray(plain))
