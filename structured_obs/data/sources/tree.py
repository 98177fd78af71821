"""Lists all files below a folder, including linked folders.

Links to folders are followed after all folders that are there themselves. No folder is read twice, and
no link to a folder that contains it is followed. Cycles therefore end, and a link to a neighbouring
folder changes nothing.
"""

import heapq
import os
from typing import NamedTuple

from structured_obs.data import decode, notes


class Tree(NamedTuple):
  """The contents of a folder."""

  names: list[str]  # of all files but hidden ones, relative, with forward slashes
  notes: list[str]  # sentences about what was not read


def hidden(name: str) -> bool:
  """Returns whether a relative name is that of a hidden file or folder, or of macOS's resource forks."""
  return any(part.startswith(('.', '__MACOSX')) for part in tidy(name).split('/'))


def tidy(name: str) -> str:
  """Returns a relative name without parts such as '.' and '..', which members of archives may have."""
  return '/'.join(part for part in name.split('/') if part not in ('', '.', '..'))


def walk(path: str) -> Tree:
  """Lists the files below a folder, unordered. Broken links are listed as files."""
  names, closed, again = [], [], []
  folders, links, visited = [''], [], set()
  while folders or links:
    prefix = folders.pop() if folders else heapq.heappop(links)
    folder = os.path.join(path, prefix)
    try:
      real = os.path.realpath(folder, strict=True)
      if real in visited or (os.path.islink(folder) and prefix and _holds(real, folder)):
        again.append(prefix)
        continue
      entries = list(os.scandir(folder))
    except OSError:
      closed.append(prefix)
      continue
    visited.add(real)
    for entry in entries:
      name = f'{prefix}/{entry.name}' if prefix else entry.name
      if hidden(entry.name):
        continue
      if not os.path.isdir(entry.path):
        names.append(name)
      elif entry.is_symlink():
        heapq.heappush(links, name)
      else:
        folders.append(name)
  return Tree(
    names,
    [
      *_counted('Folders that may not be opened, and are skipped', closed),
      *_counted('Links to folders that are read anyway or contain the link', again),
    ],
  )


def _holds(real: str, link: str) -> bool:
  """Returns whether a link lies in or below the folder, given by its real path, that it leads to."""
  place = os.path.realpath(os.path.dirname(link))
  return os.path.commonpath([real, place]) == real


def _counted(what: str, names: list[str]) -> list[str]:
  """Returns a sentence that counts folders, if there are any."""
  return [notes.counted(what, len(names), decode.printable(min(names) or 'itself'))] if names else []
