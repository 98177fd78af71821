"""All files below a folder, links to other folders included.

A link to a folder is followed, after all folders that lie there themselves, and no folder is read twice:
so links in a circle end, and a link to a folder beside it changes nothing.
"""

import os
from typing import NamedTuple

from structured_obs.data import decode, notes


class Tree(NamedTuple):
  """What lies below a folder."""
  names: list[str]  # of all files but hidden ones, relative, with forward slashes
  notes: list[str]  # sentences on what was not read


def hidden(name: str) -> bool:
  """Tells whether a relative name is of a hidden file or folder, or of macOS's resource forks."""
  return any(part.startswith(('.', '__MACOSX')) for part in name.split('/'))


def walk(path: str) -> Tree:
  """Lists the files below a folder, in no order. Links that lead nowhere are listed as files."""
  names, closed, again = [], [], []
  folders, links, visited = [''], [], set()
  while folders or links:
    links.sort(reverse=True)
    prefix = folders.pop() if folders else links.pop()
    try:
      status = os.stat(os.path.join(path, prefix))
      if (status.st_dev, status.st_ino) in visited:
        again.append(prefix)
        continue
      entries = list(os.scandir(os.path.join(path, prefix)))
    except OSError:
      closed.append(prefix)
      continue
    visited.add((status.st_dev, status.st_ino))
    for entry in entries:
      name = f'{prefix}/{entry.name}' if prefix else entry.name
      if hidden(entry.name):
        continue
      if not os.path.isdir(entry.path):
        names.append(name)
      else:
        (links if entry.is_symlink() else folders).append(name)
  return Tree(names, [*_counted('Folders that may not be opened, and are passed over', closed),
                      *_counted('Links to folders that are read anyway', again)])


def _counted(what: str, names: list[str]) -> list[str]:
  """Returns a sentence that counts folders, or none."""
  return [notes.counted(what, len(names), decode.printable(min(names) or 'itself'))] if names else []
