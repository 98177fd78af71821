"""`nifti:PATH`: slices of all volumes (.nii, .nii.gz) in a folder and the folders below it.

Where masks or other contrasts lie there too, PATH may go on as a pattern of the names: of
`nifti:~/hcp/*/T1w*.nii.gz` the folder is ~/hcp. A star stands for slashes as well.

A volume is turned to the closest canonical axes, without interpolation, and cut along its voxels:
'axial' slices have the front at the top, 'coronal' and 'sagittal' ones the head, and the subject's
left, or in sagittal ones the back, is at the left. Voxels become gray levels: 0 and below is black,
and 99.5 % of the positive voxels of a volume lie below white. Slices that show too little are left
out.

Slices of one subject are never divided between the training, validation and test images. A subject
is a folder directly below PATH with all that is in it; a file directly in PATH is one of its own. So
where several files of a subject lie flat in PATH, they must be moved to a folder for each subject.
"""

import difflib
import fnmatch
import functools
import gzip
import os
import struct
import zlib
from typing import Any

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import crops, decode, folder, sources

EXTENSIONS = ('.nii', '.nii.gz')
PLANES = ('axial', 'coronal', 'sagittal')
WHITE = 99.5  # percentile of a volume's positive voxels that becomes white
_PIECE = 1 << 20  # bytes read at once for a checksum


def find(config: DataConfig, path: str) -> sources.Source:
  """Lists the volumes in a folder, or those whose names fit a pattern, without opening them.

  Raises:
    FileNotFoundError: where there is no folder at `path`, or no such volume in it.
    ValueError: where data.plane or data.min_foreground cannot be.
  """
  if config.plane not in PLANES:
    near = difflib.get_close_matches(config.plane, PLANES, 1, 0)[0]
    raise ValueError(f'--config.data.plane is {config.plane!r}, which is none of {", ".join(PLANES)}; '
                     f'did you mean {near!r}?')
  if not 0 <= config.min_foreground <= 1:
    raise ValueError('--config.data.min_foreground is a fraction of the pixels and must lie in [0, 1], '
                     f'but is {config.min_foreground}.')
  path, pattern = _divided(os.path.abspath(os.path.expanduser(path)))
  if not os.path.isdir(path):
    raise FileNotFoundError(f'--config.data.source names the folder {path}, which does not exist or is '
                            'none; give the folder that holds the volumes.')
  names = [name for name in folder.walk(path, EXTENSIONS) if fnmatch.fnmatchcase(name, pattern)]
  if not names:
    fitting = '' if pattern == '*' else f' whose names below it fit {pattern!r}'
    raise FileNotFoundError(f'There is no volume in {path}{fitting}: it must hold files ending in '
                            f'{" or ".join(EXTENSIONS)}, directly or in folders below.')
  content = [(name, sources.stamp(os.path.join(path, name))) for name in names]
  identity = sources.digest([path, content, config.plane, config.min_foreground])
  return sources.Source(f'nifti:{path if pattern == "*" else os.path.join(path, pattern)}', identity,
                        lambda: _open(path, names, config.plane, config.min_foreground))


def _divided(path: str) -> tuple[str, str]:
  """Divides a path into a folder, which need not be there, and a pattern of names below it."""
  root, parts = path, []
  while not os.path.isdir(root):
    root, last = os.path.split(root)
    parts.insert(0, last)
  pattern = '/'.join(parts)
  return (root, pattern) if any(sign in pattern for sign in '*?[') else (path, '*')


def subject(name: str) -> str:
  """Returns whose volume a file is, by its name relative to the source's folder."""
  top, slash, _ = name.partition('/')
  return top if slash else top[:top.lower().rindex('.nii')]


def _open(path: str, names: list[str], plane: str, min_foreground: float) -> sources.Records:
  """Gives random access to the slices that show enough; reads every volume to find them."""
  release = sources.version('nibabel', 'medical')
  for name in names:
    _check(os.path.join(path, name))
  # Slices of one volume follow each other, so the volume in hand is nearly always the one asked for.
  read = functools.lru_cache(maxsize=1)(lambda k: _slices(os.path.join(path, names[k]), plane))
  found: list[tuple[int, int]] = []  # volume and slice
  for k in range(len(names)):
    try:
      shown = np.mean(crops.foreground(read(k)), axis=(1, 2)) >= min_foreground
      found += [(k, int(position)) for position in np.flatnonzero(shown)]
    except decode.UnreadableImage:
      found.append((k, 0))  # fails again when it is asked for, where corrupt images are dealt with
  if not found:
    raise ValueError(f'No {plane} slice in {path} has a fraction of {min_foreground} of its pixels '
                     'brighter than the background; lower --config.data.min_foreground.')

  def load(index: int) -> sources.Example:
    volume, position = found[index]
    return read(volume)[position], None

  def describe(index: int) -> str:
    volume, position = found[index]
    return f'{names[volume]}, {plane} slice {position}'

  subjects = np.array([subject(names[volume]) for volume, _ in found])
  _, groups = np.unique(subjects, return_inverse=True)
  return sources.Records(len(found), load, describe, release, groups=groups)


def _check(path: str) -> None:
  """Raises a ValueError where a volume is not one of numbers in three dimensions."""
  try:
    image = _load(path)
  except decode.UnreadableImage:
    return  # told later, with all that is to be said of corrupt images
  shape = image.shape
  if len(shape) < 3 or any(size != 1 for size in shape[3:]):
    raise ValueError(f'{path} has the shape {" x ".join(map(str, shape))}, but must be one volume in '
                     'three dimensions; save one of its volumes, or their mean, in its place.')
  if image.get_data_dtype().kind not in 'iuf':
    raise ValueError(f'{path} holds {image.get_data_dtype()}, but must hold one real number for each '
                     'voxel.')


def _load(path: str) -> Any:
  """Opens a volume: its header is read, its voxels are not."""
  import nibabel
  from nibabel import filebasedimages, spatialimages
  try:
    return nibabel.load(path)
  # nibabel lets all of these through on damaged files.
  except (filebasedimages.ImageFileError, spatialimages.HeaderDataError, OSError, EOFError,
          ValueError, KeyError, struct.error, zlib.error) as error:
    raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> decode.UnreadableImage:
  """Says in one line that a volume cannot be read, and why."""
  return decode.UnreadableImage(f'Volume {path} cannot be read: {" ".join(str(error).split())}')


def _check_sum(path: str) -> None:
  """Reads a compressed file to its end, where gzip's checksum is; nibabel stops before it."""
  if path.lower().endswith('.gz'):
    with gzip.open(path) as file:
      while file.read(_PIECE):
        pass


def _slices(path: str, plane: str) -> np.ndarray:
  """Reads the slices of a volume, uint8 [S, H, W, 1].

  Raises:
    UnreadableImage: where the file is damaged, truncated or no volume.
  """
  import nibabel
  from nibabel import orientations
  image = _load(path)
  try:
    _check_sum(path)
    canonical: Any = nibabel.as_closest_canonical(image)
    voxels = np.asarray(canonical.dataobj, np.float32)
  except (orientations.OrientationError, OSError, EOFError, ValueError, zlib.error) as error:
    raise _unreadable(path, error) from error
  voxels = voxels.reshape(voxels.shape[:3])  # from left, back and below to right, front and above
  return _cut(_gray(voxels), plane)[..., None]


def _cut(levels: np.ndarray, plane: str) -> np.ndarray:
  """Cuts a canonical volume [X, Y, Z] into slices [S, H, W]."""
  if plane == 'axial':
    return levels[:, ::-1].transpose(2, 1, 0)
  upright = levels[:, :, ::-1]
  return upright.transpose(1, 2, 0) if plane == 'coronal' else upright.transpose(0, 2, 1)


def _gray(voxels: np.ndarray) -> np.ndarray:
  """Scales voxels to gray levels, uint8 of the same shape; what is no number is black."""
  voxels = np.nan_to_num(voxels, nan=0., posinf=0., neginf=0.)
  positive = voxels[voxels > 0]
  if not positive.size:
    return np.zeros(voxels.shape, np.uint8)
  white = np.percentile(positive, WHITE)
  return np.round(255 * np.clip(voxels / white, 0, 1)).astype(np.uint8)
