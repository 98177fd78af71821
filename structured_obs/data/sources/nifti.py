"""`nifti:PATH`: slices of all volumes (.nii, .nii.gz) in a folder and the folders below it.

If masks or other contrasts are there too, PATH may end in a pattern of names, which begins at the first
part with a '*', '?' or '[': for `nifti:~/hcp/*/T1w*.nii.gz` the folder is ~/hcp. A star matches slashes
too.

A volume is turned to the closest canonical axes, without interpolation, and cut along its voxels.
'axial' slices have the front at the top, 'coronal' and 'sagittal' ones the head; the subject's left, or
in sagittal ones the back, is at the left. Voxels become gray levels, whatever their unit: 0 and below
is black, NaN and infinity become black, and 99.5 % of a volume's positive voxels are below white.
Slices that show too little are left out.

Slices of one subject are always in one of the training, validation and test splits. A subject is a
folder directly below PATH with everything in it; a file directly in PATH is a subject of its own. If
several files of a subject are directly in PATH, move them to a folder per subject.
"""

import fnmatch
import functools
import os
from typing import Annotated, Any, NamedTuple

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import decode, headers, ingest, notes
from structured_obs.data.sources import base as bases
from structured_obs.data.sources import nifti_slices, tree
from structured_obs.option_values import Choice, Range

EXTENSIONS = ('.nii', '.nii.gz')
PLANES = ('axial', 'coronal', 'sagittal')
WHITE = 99.5  # percentile of a volume's positive voxels that becomes white
_SCALING = 2  # raise it when the same volume would get other gray levels
_PADDING = 4096  # bytes that a file may have after its voxels; with more, its header is wrong


class Options(NamedTuple):
  """Which slices of a volume become images."""

  plane: Annotated[str, Choice(PLANES)] = 'axial'
  min_foreground: Annotated[float, Range(0, 1)] = 0.1  # least fraction of pixels that are not near black


def find(config: DataConfig, path: str) -> bases.Source:
  """Lists the volumes in a folder, or those whose names match a pattern, without opening them.

  Raises:
    FileNotFoundError: there is no folder at `path`, or it has no such volumes.
    ValueError: the path covers the whole machine.
  """
  base, pattern = _divided(os.path.abspath(os.path.expanduser(path)))
  found = tree.walk(base)
  volumes = {name for name in found.names if name.lower().endswith(EXTENSIONS)}
  names = sorted(name for name in volumes if fnmatch.fnmatchcase(name, pattern))
  if not names:
    fitting = '' if pattern == '*' else f' whose names below it match {pattern!r}'
    raise FileNotFoundError(
      f'There are no volumes in {decode.printable(base)}{fitting}: it must have '
      f'files ending in {" or ".join(EXTENSIONS)}, directly or in folders below.'
    )
  with_masks: dict[str, str] = {}
  if config.mask == 'volume':
    with_masks = nifti_slices.beside(names, volumes, base, config.mask_options, EXTENSIONS)
    names = list(with_masks)
  of_volumes = list(with_masks.values())
  content = [(name, bases.stamp(os.path.join(base, name))) for name in (*names, *of_volumes)]
  cut = config.options['plane'], config.options['min_foreground']
  name = decode.printable(base if pattern == '*' else os.path.join(base, pattern))
  identity = bases.digest([base, content, *cut, _SCALING])
  files = names, of_volumes
  return bases.Source(f'nifti:{name}', identity, lambda: _open(base, files, config, found.notes))


def _divided(path: str) -> tuple[str, str]:
  """Splits a path into a folder and a pattern of names below it, '*' if the path has none.

  Raises:
    FileNotFoundError: the folder does not exist.
    ValueError: the folder is the whole machine.
  """
  base, parts = path, []
  while not os.path.isdir(base):
    base, last = os.path.split(base)
    parts.insert(0, last)
  if parts and not any(sign in parts[0] for sign in '*?['):
    named = os.path.join(base, parts[0])
    wrong = 'is a file' if os.path.exists(named) else 'does not exist'
    raise FileNotFoundError(
      f'--config.data.source=nifti:{decode.printable(named)} {wrong}; name the folder of the '
      'volumes: --config.data.source=nifti:PATH.'
    )
  if base == os.path.dirname(base):
    raise ValueError(
      f'--config.data.source=nifti:{path} would search this whole machine; '
      'name a folder below it: --config.data.source=nifti:PATH.'
    )
  return base, '/'.join(parts) or '*'


def subject(name: str) -> str:
  """Returns the subject of a volume, from its name relative to the source's folder."""
  top, slash, _ = name.partition('/')
  return top if slash else top[: top.lower().rindex('.nii')]


def _open(
  path: str, files: tuple[list[str], list[str]], config: DataConfig, passed_over: list[str]
) -> bases.Records:
  """Returns random access to the slices that show enough; reads every volume to find them.

  Args:
    path: of the folder.
    files: names of the volumes, and of their masks, if there are any.
    config: which slices to take.
    passed_over: sentences about other files.
  """
  names, of_volumes = files
  release, plane = bases.version('nibabel', 'medical'), config.options['plane']
  least = config.options['min_foreground']
  if not config.options['skip_corrupt']:
    _check(path, names)
  # Slices of one volume follow each other, so the cached volume is nearly always the right one.
  read = functools.lru_cache(maxsize=1)(lambda k: _slices(os.path.join(path, names[k]), plane))

  @functools.lru_cache(maxsize=1)
  def counted(k: int) -> np.ndarray:
    mask = _cut(_voxels(os.path.join(path, of_volumes[k])) > 0, plane)
    nifti_slices.check(mask, read(k), (of_volumes[k], names[k]))
    return mask

  found, dark = nifti_slices.bright(names, read, counted if of_volumes else None, least)
  if not found:
    raise ValueError(
      f'No {plane} slice in {decode.printable(path)} has a fraction of '
      f'{least} of its pixels brighter than the background; lower '
      '--config.data.options.min_foreground.'
    )

  def load(index: int) -> bases.Example:
    volume, position = found[index]
    return read(volume)[position], None

  def counts(index: int) -> np.ndarray:
    volume, position = found[index]
    return counted(volume)[position]

  def describe(index: int) -> str:
    volume, position = found[index]
    return f'{decode.printable(names[volume])}, {plane} slice {position}'

  flag = '--config.data.options.min_foreground'
  less = f'Volumes left out, since every {plane} slice shows less than {flag}'
  told = [notes.counted(less, len(dark), decode.printable(name)) for name in dark[:1]]
  subjects = [subject(names[volume]) for volume, _ in found]
  groups = np.unique(np.array(subjects), return_inverse=True)[1]
  return bases.Records(
    len(found),
    load,
    describe,
    release,
    groups=groups,
    notes=lambda: [*passed_over, *told],
    mask=counts if of_volumes else None,
  )


def _check(path: str, names: list[str]) -> None:
  """Checks all headers before reading any voxels, which may take long.

  Raises:
    UnreadableImage: naming the volumes with invalid headers.
  """
  errors = []
  for name in names:
    try:
      _load(os.path.join(path, name))
    except decode.UnreadableImage as error:
      errors.append(error)
  if errors:
    raise ingest.unreadable([str(error) for error in errors], f'{len(names):,} volumes') from errors[0]


def _load(path: str) -> Any:
  """Opens a volume: reads and checks its header, but not its voxels.

  Raises:
    UnreadableImage: the file is damaged, or not one three-dimensional volume of real numbers.
  """
  import nibabel

  shown = decode.printable(path)
  with decode.reading(f'Volume {path}'):
    if not os.path.isfile(path):
      raise ValueError('it is not a regular file, or a broken link')
    image: Any = nibabel.load(path)
    shape, dtype = image.shape, image.get_data_dtype()
    if len(shape) < 3 or min(shape) < 1 or any(size != 1 for size in shape[3:]):
      raise decode.UnreadableImage(
        f'Volume {shown} has the shape {" x ".join(map(str, shape))}, but must be one non-empty volume '
        'in three dimensions; save one of its volumes, or their mean, instead'
      )
    if dtype.kind not in 'iuf':
      raise decode.UnreadableImage(
        f'Volume {shown} has voxels of {dtype}, but must have one real number per voxel'
      )
    declared = _declared(image)
    if not _packed(path):
      headers.compare(declared, os.path.getsize(path), _PADDING)
  return image


def _packed(path: str) -> bool:
  """Returns whether a file is compressed, so that only reading it reveals its size."""
  return path.lower().endswith('.gz')


def _declared(image: Any) -> int:
  """Returns a file's size in bytes by its header, after checking that its voxels fit memory."""
  headers.size(image.shape, np.float64)
  first = image.header.single_vox_offset if image.header.is_single else 0
  if image.dataobj.offset < first:
    raise ValueError(
      f'by its header voxels begin at byte {image.dataobj.offset}, inside the header '
      f'itself, which ends at byte {first}'
    )
  return image.dataobj.offset + headers.size(image.shape, image.get_data_dtype())


def _slices(path: str, plane: str) -> np.ndarray:
  """Reads the slices of a volume, uint8 [S, H, W, 1]; raises as `_voxels` does."""
  return _cut(_gray(_voxels(path)), plane)[..., None]


def _voxels(path: str) -> np.ndarray:
  """Reads the voxels of a volume along canonical axes, [X, Y, Z].

  Raises:
    UnreadableImage: the file is damaged, truncated or not a volume.
  """
  from nibabel import orientations

  image = _load(path)
  with decode.reading(f'Volume {path}'):
    if _packed(path):  # reads to the end, where the checksum is: nibabel stops before it
      headers.compare(_declared(image), headers.unpacked(path), _PADDING)
    wide = np.promote_types(image.get_data_dtype(), np.float64)
    with np.errstate(over='raise', invalid='ignore'):  # no finite voxel may become infinite
      voxels = np.asarray(image.dataobj, wide).reshape(image.shape[:3])
      # Now ordered from left, back and below to right, front and above.
      voxels = orientations.apply_orientation(voxels, orientations.io_orientation(image.affine))
    if not np.isfinite(voxels).any():
      raise ValueError('none of its voxels is a finite number')
  return voxels


def _cut(levels: np.ndarray, plane: str) -> np.ndarray:
  """Cuts a canonical volume [X, Y, Z] into slices [S, H, W]."""
  if plane == 'axial':
    return levels[:, ::-1].transpose(2, 1, 0)
  upright = levels[:, :, ::-1]
  return upright.transpose(1, 2, 0) if plane == 'coronal' else upright.transpose(0, 2, 1)


def _gray(voxels: np.ndarray) -> np.ndarray:
  """Scales voxels to gray levels, uint8 of the same shape; NaN and infinity become black."""
  voxels = np.where(np.isfinite(voxels), voxels, 0)
  positive = voxels[voxels > 0]
  if not positive.size:
    return np.zeros(voxels.shape, np.uint8)
  with np.errstate(over='ignore'):
    shade = np.clip(voxels / np.percentile(positive, WHITE), 0, 1)
  # Rounded from float32, so that the unit, which moves float64's last digit, decides no tie.
  return np.round((255 * shade).astype(np.float32)).astype(np.uint8)


KIND = bases.Kind(find, (Options, bases.Files), 'PATH')
