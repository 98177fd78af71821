"""Which slices of a volume become images, and which of their pixels count with `data.mask=volume`."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from structured_obs.data import crops, decode


def beside(
  names: list[str], volumes: set[str], folder: str, options: Mapping[str, Any], endings: tuple[str, ...]
) -> dict[str, str]:
  """Returns the name of each volume's mask. Volumes that are masks of others are passed over.

  Args:
    names: of the volumes, relative to the folder.
    volumes: names of all volumes there.
    folder: for messages.
    options: of `masks.Volume`.
    endings: of a volume's name.

  Raises:
    FileNotFoundError: a volume has no mask.
  """

  def of(name: str) -> str | None:
    parent, _, own = name.rpartition('/')
    own = own[: own.lower().rindex('.nii')]
    wanted = options['name'].replace('{name}', own)
    tried = ('/'.join(filter(None, (parent, wanted + ending))) for ending in endings)
    return next((one for one in tried if one in volumes and one != name), None)

  found = {name: of(name) for name in names}
  masks = set(found.values())
  without = [name for name, mask in found.items() if mask is None and name not in masks]
  if without:
    raise FileNotFoundError(
      f'--config.data.mask=volume needs a mask beside every volume, but {len(without):,} have none '
      f"named {options['name']!r} (--config.data.mask_options.name); the first is "
      f'{decode.printable(os.path.join(folder, without[0]))}.'
    )
  return {name: mask for name, mask in found.items() if name not in masks and mask is not None}


def check(mask: np.ndarray, slices: np.ndarray, names: tuple[str, str]) -> None:
  """Raises an UnreadableImage unless a mask [S, H, W] has the shape of its volume's slices [S, H, W, 1].

  Args:
    mask: of the volume.
    slices: of the volume.
    names: of the mask and of the volume.
  """
  if mask.shape != slices.shape[:3]:
    of, name = map(decode.printable, names)
    raise decode.UnreadableImage(
      f'Volume {of} is the mask of {name}, but gives {mask.shape} slices, rows and columns instead of '
      f'{slices.shape[:3]}'
    )


def bright(
  names: list[str],
  read: Callable[[int], np.ndarray],
  counted: Callable[[int], np.ndarray] | None,
  least: float,
) -> tuple[list[tuple[int, int]], list[str]]:
  """Returns the volume and position of each slice that shows enough, and the volumes without any.

  Args:
    names: of the volumes.
    read: volume -> its slices [S, H, W, 1].
    counted: volume -> which pixels count [S, H, W], some in each slice that is taken; None for all.
    least: fraction of pixels that are not near black.
  """
  found: list[tuple[int, int]] = []
  dark: list[str] = []
  for k in range(len(names)):
    try:
      shown = np.mean(crops.foreground(read(k)), axis=(1, 2)) >= least
      if counted is not None:
        shown &= counted(k).any(axis=(1, 2))
      found += [(k, int(position)) for position in np.flatnonzero(shown)]
      dark += [] if shown.any() else [names[k]]
    except decode.UnreadableImage:
      found.append((k, 0))  # fails again when loaded, where corrupt images are handled
  return found, dark
