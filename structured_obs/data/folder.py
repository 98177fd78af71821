"""`folder:PATH`: every PNG, JPEG, WebP and BMP file under a folder, or inside a zip archive.

Images are ordered by their name relative to the folder, so a copy of the folder elsewhere gives the
same order and the same splits. Hidden files are passed over.
"""

import io
import os
import posixpath
import zipfile
import zlib

from structured_obs.data import decode, sources

EXTENSIONS = ('.png', '.jpg', '.jpeg', '.webp', '.bmp')
THREADS = min(8, os.cpu_count() or 1)  # Pillow decodes outside the interpreter's lock


def find(path: str) -> sources.Source:
  """Lists the images of a folder or a zip archive, without opening them.

  Raises:
    FileNotFoundError: where there is nothing at `path`, or no image in it.
    ValueError: where `path` is a file, but no zip archive.
  """
  path = os.path.abspath(os.path.expanduser(path))
  if not os.path.exists(path):
    raise FileNotFoundError(f'--config.data.source names the folder {path}, which does not exist.')
  if os.path.isdir(path):
    names = walk(path, EXTENSIONS)
    content = [(name, sources.stamp(os.path.join(path, name))) for name in names]
  elif zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      names = _chosen(archive.namelist(), EXTENSIONS)
    content = [sources.stamp(path)]
  else:
    raise ValueError(f'--config.data.source names {path}, which is neither a folder nor a zip archive.')
  if not names:
    raise FileNotFoundError(f'There is no image in {path}: it must hold files ending in '
                            f'{", ".join(EXTENSIONS)}, directly or in folders below.')
  identity = sources.digest([path, content])
  return sources.Source(f'folder:{path}', identity, lambda: _open(path, names))


def _chosen(names: list[str], extensions: tuple[str, ...]) -> list[str]:
  """Sorts the names with these extensions, without hidden files and macOS's resource forks."""
  def hidden(name: str) -> bool:
    return any(part.startswith(('.', '__MACOSX')) for part in name.split('/'))
  return sorted(name for name in names if name.lower().endswith(extensions) and not hidden(name))


def walk(path: str, extensions: tuple[str, ...]) -> list[str]:
  """Returns the sorted relative names, with forward slashes, of all such files under a folder."""
  names = []
  for folder, _, files in os.walk(path):
    prefix = os.path.relpath(folder, path).replace(os.sep, '/')
    names += [posixpath.normpath(posixpath.join(prefix, file)) for file in files]
  return _chosen(names, extensions)


def _open(path: str, names: list[str]) -> sources.Records:
  """Gives random access to the images of a folder or a zip archive."""
  if os.path.isdir(path):
    def load(index: int) -> sources.Example:
      file = os.path.join(path, names[index])
      return decode.decode(file, file), None
    version = 'folder'
  else:
    archive = zipfile.ZipFile(path)

    def load(index: int) -> sources.Example:
      label = f'{path}:{names[index]}'
      try:
        content = archive.read(names[index])
      except (zipfile.BadZipFile, OSError, EOFError, RuntimeError,
              zlib.error) as error:
        raise decode.UnreadableImage(f'Image {label} cannot be read: {error}') from error
      return decode.decode(io.BytesIO(content), label), None
    version = 'zip archive'
  return sources.Records(len(names), load, lambda i: names[i], version, threads=THREADS)
