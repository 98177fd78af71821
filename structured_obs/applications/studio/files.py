"""Files of the studio: uploads, which are bounded before they are read, and exports.

Letters: T frames; H W C image height, width, channels.
"""

import base64
import binascii
import hashlib
import io
import os
from collections.abc import Mapping, Sequence

import numpy as np

from structured_obs.data import decode, encode

MAX_BYTES = 20 << 20  # of an upload
MAX_PIXELS = 25_000_000


def read_upload(path: str, to: decode.Target, name: str = '') -> tuple[str, str]:
  """Reads an uploaded image, cropped and resized as the data of a run.

  The size of the file and the pixels that its header declares are checked before anything is decoded.

  Args:
    path: of the file.
    to: the size.
    name: of the file for people; '' takes the path's.

  Returns:
    Digest of the image, and a PNG file of it as text, in base64.

  Raises:
    UnreadableImage: the file is not an image, is damaged or is too large; the message names it.
  """
  name = decode.printable(os.path.basename(name or path))[-60:]
  size = os.path.getsize(path)
  if size > MAX_BYTES:
    raise decode.UnreadableImage(
      f'{name} has {size / (1 << 20):.1f} MiB, more than the limit of {MAX_BYTES >> 20} MiB; shrink it.'
    )
  found = decode.fit(decode.read(path, name, MAX_PIXELS).pixels, to)
  file = encode.png(found)
  return hashlib.sha256(file).hexdigest()[:12], to_text(file)


def from_text(text: str) -> np.ndarray:
  """Returns the pixels of an image that `read_upload` returned. uint8 [H, W, 1 or 3].

  Raises:
    UnreadableImage: the text is not such an image.
  """
  try:
    file = base64.b64decode(text, validate=True)
  except (binascii.Error, ValueError) as error:
    raise decode.UnreadableImage('The uploaded image that this browser has kept is damaged.') from error
  return decode.read(io.BytesIO(file), 'that this browser has kept', MAX_PIXELS).pixels


def to_text(file: bytes) -> str:
  """Returns a file in base64."""
  return base64.b64encode(file).decode()


def arrays(found: Mapping[str, np.ndarray]) -> bytes:
  """Returns an .npz file of arrays by name, without pickled objects.

  Raises:
    TypeError: an entry is not an array of numbers.
  """
  for name, array in found.items():
    if np.asarray(array).dtype.hasobject:
      raise TypeError(f'{name} is not an array of numbers.')
  file = io.BytesIO()
  np.savez_compressed(file, **found)  # type: ignore[arg-type]
  return file.getvalue()


def enlarged(image: np.ndarray, least: int = 256) -> np.ndarray:
  """Returns a small image with each pixel repeated until its longer side has `least`. [h, w, C]."""
  factor = max(1, round(least / max(image.shape[:2])))
  return image.repeat(factor, axis=0).repeat(factor, axis=1)


def animation(frames: Sequence[np.ndarray], form: str) -> bytes:
  """Returns a WebP or GIF file of frames, there and back.

  Args:
    frames: T images, uint8 [H, W, 1 or 3].
    form: 'webp' or 'gif'.
  """
  large = [enlarged(frame) for frame in frames]
  return encode.animation(large + large[-2:0:-1], form)
