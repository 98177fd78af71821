# One file of more than 300 lines: one decoder of all image formats and their errors.
"""Decodes image files to uint8 arrays, and fits them to the size of a run.

`decode` applies the EXIF orientation, blends transparent pixels with white, resolves palettes and scales
16-bit gray to 8 bits. It reads the first frame or page of a file. `fit` makes an image gray or RGB, and
crops and resizes it with Pillow's filters. All but 'nearest' average over the pixels they drop
(anti-aliasing), and round once per axis. Enlarging is allowed.
"""

import contextlib
import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.option_records import Record
from structured_obs.option_values import Count

FILTERS = {
  'area': 'BOX',
  'bilinear': 'BILINEAR',
  'bicubic': 'BICUBIC',
  'lanczos': 'LANCZOS',
  'nearest': 'NEAREST',
}


class RandomCrops(NamedTuple):
  """Options of windows that are drawn once per image."""

  crops: Count = 1  # windows per image


CROPS: dict[str, Record] = {'center': None, 'none': None, 'random': RandomCrops}
# Formats by Pillow's names. Others are refused: some start other programs, as EPS starts Ghostscript.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'DIB', 'GIF', 'TIFF')
# Larger images are refused, because a small file can claim any size. The limit is Pillow's.
MAX_PIXELS = 89_478_485
_UPRIGHT = {
  2: 'FLIP_LEFT_RIGHT',
  3: 'ROTATE_180',
  4: 'FLIP_TOP_BOTTOM',
  5: 'TRANSPOSE',
  6: 'ROTATE_270',
  7: 'TRANSVERSE',
  8: 'ROTATE_90',
}  # by EXIF orientation
_ORIENTATION = 0x112  # the tag's number
# Pillow warns about metadata that is not used here; it raises for unreadable images.
_QUIET = ('ignore', None, Warning, re.compile(r'PIL\.'), 0)
_WITH_ALPHA = ('LA', 'La', 'PA', 'RGBA', 'RGBa', 'P')  # Pillow's modes; a palette may have alpha


class UnreadableImage(ValueError):
  """An image that cannot be decoded; the message names it."""


@contextlib.contextmanager
def reading(what: str, step: str = 'read', advice: str = '') -> Iterator[None]:
  """Turns any error of a decoder into an UnreadableImage that names the file and the step.

  Damaged files make decoders raise almost any error, so all are caught except those that say nothing
  about the file: a missing package (ImportError), too little memory (MemoryError) and interrupts.

  Args:
    what: the object that is read, with its path, such as 'Volume /data/a.nii'.
    step: the step that may fail, as a participle: 'read', 'opened', 'unpacked'.
    advice: a sentence about the fix, if the error does not contain it.
  """
  try:
    yield
  except (UnreadableImage, ImportError, MemoryError):
    raise
  except Exception as error:
    wrong = f'{printable(what)} cannot be {step}: {_reason(error)}'.rstrip('.')
    raise UnreadableImage(f'{wrong}. {advice}' if advice else wrong) from error


def _reason(error: Exception) -> str:
  """Returns an error's message in one short line, with its type if the message alone says little."""
  message = printable(' '.join(str(getattr(error, 'strerror', None) or error).split()))[:300]
  kind = type(error).__name__
  if not message:
    return kind
  return message if ' ' in message else f'{kind}: {message}'  # as for a KeyError


def printable(text: str) -> str:
  """Returns a text as one line that any UTF-8 stream accepts.

  Escapes control characters and line breaks, which file names may contain, and bytes of names that are
  not UTF-8.
  """
  if text.isprintable():
    return text
  return ''.join(one.encode('unicode_escape').decode() if _breaks(one) else one for one in text)


def _breaks(character: str) -> bool:
  """Returns whether a character is not printable within a line."""
  category = unicodedata.category(character)
  return category[0] == 'C' or category in ('Zl', 'Zp')


class Decoded(NamedTuple):
  """A decoded image file."""

  pixels: np.ndarray  # uint8 [H, W, 1] for gray images, [H, W, 3] for all others
  facts: tuple[str, ...]  # keys of `notes.FACTS`
  alpha: np.ndarray | None = (
    None  # uint8 [H, W], if the file has an alpha channel or a transparent colour
  )


class Target(NamedTuple):
  """The target of `fit`."""

  height: int  # pixels; 0 keeps the image's own
  width: int  # pixels; 0 keeps the image's own
  channels: int  # 1, 3, or 0: the image's own
  crop: str  # one of CROPS
  resample: str  # one of FILTERS


def check(config: DataConfig) -> None:
  """Checks fields of the section `data` against each other.

  Raises:
    ValueError: naming the fields, their values and what is allowed.
  """
  if config.crop == 'random' and not (config.height and config.width):
    raise ValueError(
      "--config.data.crop=random needs the size of the windows: set --config.data.height and "
      "--config.data.width, such as --config.data.height=32 --config.data.width=32."
    )
  if config.turn and config.height and config.width and config.height != config.width:
    raise ValueError(
      f'--config.data.turn needs square images, but --config.data.height={config.height} and '
      f'--config.data.width={config.width} differ.'
    )


def target(config: DataConfig) -> Target:
  """Returns the size, crop and filter of a resolved section `data`."""
  return Target(config.height, config.width, config.channels, config.crop, config.resample)


def pillow() -> Any:
  """Returns the PIL.Image module, or raises an ImportError that names the extra."""
  try:
    from PIL import Image
  except ImportError as error:
    raise missing('pillow') from error
  if _QUIET not in warnings.filters:
    warnings.filterwarnings('ignore', module=_QUIET[3].pattern)
  return Image


def missing(package: str, extra: str = 'data') -> ImportError:
  """Returns the error that says how to install a package of an extra."""
  return ImportError(f"This source of images needs {package}: pip install 'structured_obs[{extra}]'.")


def decode(file: BinaryIO | str, name: str) -> np.ndarray:
  """Returns the pixels of one image file; see `read`."""
  return read(file, name).pixels


def read(file: BinaryIO | str, name: str, max_pixels: int = MAX_PIXELS) -> Decoded:
  """Reads one image file.

  Args:
    file: path or open binary file.
    name: of the file in messages.
    max_pixels: largest number of pixels, compared with the header before anything is decoded.

  Raises:
    UnreadableImage: the file is damaged, truncated, not an image in one of FORMATS, or has more than
      `max_pixels` pixels.
  """
  image_module = pillow()
  with reading(f'Image {name}'):
    if isinstance(file, str):
      _check_regular(file)
    try:
      opened = image_module.open(file, formats=FORMATS)
    except image_module.UnidentifiedImageError as error:
      raise ValueError('it is damaged, or not one of PNG, JPEG, WebP, BMP, GIF and TIFF') from error
    with opened:
      if not opened.width * opened.height:
        raise ValueError('it has no pixels')
      if opened.width * opened.height > max_pixels:
        raise ValueError(
          f'it has {opened.width} x {opened.height} pixels, more than the limit of {max_pixels:,}; '
          'shrink it'
        )
      return _decoded(opened)


def _check_regular(path: str) -> None:
  """Raises an error unless a path is a regular file: reading a named pipe would block."""
  try:
    mode = os.stat(path).st_mode
  except OSError as error:
    if os.path.islink(path):
      raise ValueError('it is a broken link') from error
    raise
  if not stat.S_ISREG(mode):
    raise ValueError('it is not a regular file')


def _decoded(opened: Any) -> Decoded:
  """Decodes the first frame of an opened Pillow image, turned upright."""
  opened.load()
  image, facts = opened, []
  method = _UPRIGHT.get(_orientation(opened))
  if method:
    image = image.transpose(pillow().Transpose[method])
  pixels, alpha = _pixels(image)
  if alpha is not None and alpha.min() < 255:
    facts.append('transparent')
  if _has_more_frames(opened):
    facts.append('frames')
  return Decoded(pixels.reshape(*pixels.shape[:2], -1), tuple(facts), alpha)


def _orientation(opened: Any) -> Any:
  """Returns the EXIF orientation, or None; metadata may be damaged while pixels are intact."""
  try:
    return opened.getexif().get(_ORIENTATION)
  except Exception:
    return None


def _has_more_frames(opened: Any) -> bool:
  """Returns whether an image has more frames or pages, not counting a JPEG's second views of a scene."""
  try:
    return opened.format != 'MPO' and bool(getattr(opened, 'is_animated', False))
  except Exception:  # in the second frame, which is not needed here
    return True


def _pixels(image: Any) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns uint8 [H, W] or [H, W, 3] and the alpha channel [H, W], None if there is none."""
  if image.mode.startswith('I'):
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
      raise ValueError(f'its values, {values.min()} to {values.max()}, do not fit 16 bits')
    clear = values == image.info.get('transparency', -1)
    alpha = np.where(clear, 0, 255).astype(np.uint8) if 'transparency' in image.info else None
    return np.where(clear, 255, (values + 128) // 257).astype(np.uint8), alpha
  if image.mode == 'F':
    raise ValueError('its pixels are floating-point numbers of unknown range')
  gray = image.mode in ('1', 'L', 'LA', 'La')
  if image.mode not in _WITH_ALPHA and 'transparency' not in image.info:
    mode = 'L' if gray else 'RGB'
    return np.asarray(image if image.mode == mode else image.convert(mode)), None
  layers = np.asarray(image.convert('LA' if gray else 'RGBA'))
  blended = _on_white(layers[..., :-1], layers[..., -1:])
  known = image.mode != 'P' or 'transparency' in image.info
  return blended, layers[..., -1] if known else None


def _on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
  """Blends uint8 colours [H, W, C] with white where alpha [H, W, 1] is below 255."""
  if alpha.min() == 255:
    return colours
  wide, opacity = colours.astype(np.uint16), alpha.astype(np.uint16)  # sums stay below 2^16
  return ((wide * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def fit(image: np.ndarray, to: Target) -> np.ndarray:
  """Converts, crops and resizes one image; in place of random windows it takes the centred one.

  Args:
    image: uint8 [H, W, 1 or 3]; or real numbers, which keep their size.
    to: the size, channels, crop and filter.

  Returns:
    uint8 [to.height or H, to.width or W, to.channels or C]. Gray is 0.299 R + 0.587 G + 0.114 B.

  Raises:
    ValueError: an image of real numbers would have to change.
  """
  rows, columns, channels = image.shape
  height, width, wanted = to.height or rows, to.width or columns, to.channels or channels
  if image.shape == (height, width, wanted):
    return image
  if image.dtype != np.uint8:
    raise ValueError(
      f'These images have {rows} x {columns} real numbers, whose size is fixed; leave '
      '--config.data.height, --config.data.width and --config.data.channels at 0.'
    )
  image_module = pillow()
  picture = image_module.fromarray(image[..., 0] if channels == 1 else image)
  if wanted != channels:
    picture = picture.convert('L' if wanted == 1 else 'RGB')
  if (rows, columns) != (height, width):
    box = None if to.crop == 'none' else _window(rows, columns, height, width)
    if to.crop == 'random' and height <= rows and width <= columns:
      box = _centred(rows, columns, height, width)
    picture = picture.resize((width, height), image_module.Resampling[FILTERS[to.resample]], box)
  return np.asarray(picture).reshape(height, width, wanted)


def _window(rows: int, columns: int, height: int, width: int) -> tuple[int, int, int, int]:
  """Returns the largest centred window (left, top, right, bottom) of the target's aspect."""
  tall = min(rows, max(1, round(columns * height / width)))
  wide = min(columns, max(1, round(rows * width / height)))
  return _centred(rows, columns, tall, wide)


def _centred(rows: int, columns: int, height: int, width: int) -> tuple[int, int, int, int]:
  """Returns the centred window (left, top, right, bottom) of this size."""
  top, left = (rows - height) // 2, (columns - width) // 2
  return left, top, left + width, top + height
