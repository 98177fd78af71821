"""`folder:PATH`: every PNG, JPEG, WebP, BMP, GIF and TIFF file in a folder or a zip archive.

Images are ordered by their name relative to the folder, so a copy of the folder elsewhere gives the same
order and the same splits. Hidden files are skipped, and so are files of other kinds, which are counted.
With `data.labels` the class of an image is its sub-folder.
"""

import collections
import io
import os
import zipfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import decode, labels, notes
from structured_obs.data.sources import base, tree

EXTENSIONS = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff')
THREADS = min(8, os.cpu_count() or 1)  # Pillow decodes outside the interpreter's lock
MAX_MEMBER = 1 << 30  # bytes of one file of a zip archive, unpacked
_KINDS = 5  # kinds of other files that a message names


class _Listing(NamedTuple):
  """The images of a folder or a zip archive, in order."""

  names: list[str]  # relative, with forward slashes
  content: list[object]  # changes when the images do
  open: Callable[[], Callable[[int], decode.Decoded]]  # returns a reader of an image by its index
  notes: list[str]
  kind: str


def find(config: DataConfig, path: str) -> base.Source:
  """Lists the images of a folder or a zip archive, without opening them.

  Args:
    config: whether images need labels, and the number of channels.
    path: of the folder or the archive.

  Raises:
    FileNotFoundError: there is nothing at `path`, or it has no images.
    ValueError: `path` is a file but not a zip archive, or images need labels and have none.
  """
  path = os.path.abspath(os.path.expanduser(path))
  shown = decode.printable(path)
  if os.path.isdir(path):
    listing = _folder(path)
  elif os.path.isfile(path) and zipfile.is_zipfile(path):
    listing = _archive(path)
  elif os.path.exists(path):
    raise ValueError(
      f'--config.data.source=folder:{shown} is neither a folder nor a zip archive, '
      'or is a damaged archive.'
    )
  else:
    raise FileNotFoundError(f'--config.data.source=folder:{shown}: this folder does not exist.')
  if not listing.names:
    raise FileNotFoundError(
      ' '.join(
        [
          f'There are no images in {shown}: '
          f'it must have files ending in {", ".join(EXTENSIONS)}, directly '
          'or in folders below.',
          *listing.notes,
        ]
      )
    )
  classes = labels.by_folder(_inside(listing), shown) if config.labels else None
  return base.Source(
    f'folder:{shown}',
    base.digest([path, listing.content]),
    lambda: _open(listing, classes, config),
  )


def _folder(path: str) -> _Listing:
  """Lists the images of a folder and the folders below it."""
  found = tree.walk(path)
  names = sorted(name for name in found.names if _is_image(name))
  files = [os.path.join(path, name) for name in names]
  content: list[object] = [(name, base.stamp(file)) for name, file in zip(names, files, strict=True)]
  return _Listing(
    names,
    content,
    lambda: lambda index: decode.read(files[index], files[index]),
    [*found.notes, *_passed_over(found.names)],
    'folder',
  )


def _archive(path: str) -> _Listing:
  """Lists the images of a zip archive by its members, whose names may repeat."""
  with decode.reading(f'Zip archive {path}', 'opened'), zipfile.ZipFile(path) as archive:
    members = [
      member for member in archive.infolist() if not member.is_dir() and not tree.hidden(member.filename)
    ]
  chosen = sorted(
    (member for member in members if _is_image(member.filename)),
    key=lambda member: (tree.tidy(member.filename), member.header_offset),
  )

  def reader() -> Callable[[int], decode.Decoded]:
    with decode.reading(f'Zip archive {path}', 'opened'):
      archive = zipfile.ZipFile(path)
    return lambda index: _member(archive, chosen[index], f'{path}:{names[index]}')

  names = _unique(tree.tidy(member.filename) for member in chosen)
  return _Listing(
    names, [base.stamp(path)], reader, _passed_over(member.filename for member in members), 'zip archive'
  )


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> decode.Decoded:
  """Reads one image of a zip archive."""
  with decode.reading(f'Image {name}'):
    if member.flag_bits & 1:
      raise ValueError('it is encrypted')
    if member.file_size > MAX_MEMBER:
      raise ValueError(f'it has {member.file_size:,} bytes, more than the limit of {MAX_MEMBER:,}')
    content = archive.read(member)
  return decode.read(io.BytesIO(content), name)


def _inside(listing: _Listing) -> list[str]:
  """Returns the names below the single top folder that many archives have, if there is one."""
  first = {name.partition('/')[0] for name in listing.names}
  deep = all(name.count('/') > 1 for name in listing.names)
  if listing.kind == 'folder' or len(first) > 1 or not deep:
    return listing.names
  return [name.partition('/')[2] for name in listing.names]


def _is_image(name: str) -> bool:
  """Returns whether a file has the name of an image."""
  return name.lower().endswith(EXTENSIONS)


def _unique(names: Iterable[str]) -> list[str]:
  """Numbers names that repeat: a.png, a.png (2)."""
  count: collections.Counter[str] = collections.Counter()
  unique = []
  for name in names:
    count[name] += 1
    unique.append(name if count[name] == 1 else f'{name} ({count[name]})')
  return unique


def _passed_over(names: Iterable[str]) -> list[str]:
  """Returns a sentence that counts other files by their kind, if there are any."""
  kinds = collections.Counter(
    os.path.splitext(name)[1].lower() or 'without an ending' for name in names if not _is_image(name)
  )
  if not kinds:
    return []
  most = ', '.join(f'{count:,} {decode.printable(kind)}' for kind, count in kinds.most_common(_KINDS))
  return [
    f'Files passed over, since images end in {", ".join(EXTENSIONS)}: {most}'
    f'{", ..." if len(kinds) > _KINDS else ""}.'
  ]


def _open(listing: _Listing, classes: labels.Classes | None, config: DataConfig) -> base.Records:
  """Returns random access to the images of a folder or a zip archive."""
  read, seen, channels = listing.open(), notes.seen(), set()

  def load(index: int) -> base.Example:
    pixels, facts, _ = read(index)
    channels.add(pixels.shape[-1])
    for fact in facts:
      seen[fact].add(index)
    return pixels, classes.of_images[index] if classes else None

  def counts(index: int) -> np.ndarray:
    alpha = read(index).alpha
    if alpha is None:
      raise decode.UnreadableImage(
        f'Image {describe(index)} has no alpha channel, which --config.data.mask=alpha needs'
      )
    return alpha > config.mask_options['above']

  def describe(index: int) -> str:
    return decode.printable(listing.names[index])

  def said() -> list[str]:
    gray = 'All images are gray and have 1 channel; --config.data.channels=3 makes them RGB.'
    return [
      *listing.notes,
      *notes.of_images(seen, describe),
      *([gray] if config.channels == 0 and channels == {1} else []),
    ]

  return base.Records(
    len(listing.names),
    load,
    describe,
    listing.kind,
    threads=THREADS,
    notes=said,
    class_names=classes.names if classes else (),
    mask=counts if config.mask == 'alpha' else None,
  )


KIND = base.Kind(find, base.Files, 'PATH')
