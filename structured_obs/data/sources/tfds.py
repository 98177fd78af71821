"""`tfds:NAME`: data sets of tensorflow_datasets on this machine, read without TensorFlow.

Local data are searched in this order: the official archives of mnist, cifar10 and celeb_a in
`manual_dir` (written once as array_record, beside the cache); then any data set prepared with
`file_format='array_record'` in tensorflow_datasets' own folder. NAME may be more specific:
'mnist:3.0.1' selects a version, 'downsampled_imagenet/64x64' a configuration. Only `download=True` uses
the network.
"""

import io
import os
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np

from structured_obs.config import DataConfig
from structured_obs.data import decode, notes
from structured_obs.data.sources import base, folder, tfds_archives
from structured_obs.data.splits import SPLITS
from structured_obs.option_values import Path

_AGAIN = (
  "Delete that folder and prepare the data again with file_format='array_record'; official archives "
  'are prepared automatically.'
)


class Options(NamedTuple):
  """Where a data set may come from."""

  manual_dir: Annotated[str, Path()] = ''  # official archives; '' for tensorflow_datasets' own place
  download: bool = False  # whether to download it if needed


def _library() -> Any:
  """Returns the tensorflow_datasets module, or raises an ImportError that names the extra."""
  try:
    import tensorflow_datasets
  except ImportError as error:
    raise decode.missing('tensorflow-datasets') from error
  return tensorflow_datasets


def _data_dir() -> str:
  """Returns the folder where tensorflow_datasets keeps prepared data."""
  place = os.environ.get('TFDS_DATA_DIR') or os.path.join('~', 'tensorflow_datasets')
  return os.path.abspath(os.path.expanduser(place))


def _manual_dir(config: DataConfig) -> str:
  """Returns the folder where the user keeps official archives."""
  place = config.options['manual_dir'] or os.path.join(_data_dir(), 'downloads', 'manual')
  return os.path.abspath(os.path.expanduser(place))


def _own_dir(config: DataConfig) -> str:
  """Returns the folder where this project's builders write array_record files."""
  cache = config.cache_dir or os.path.join('~', '.cache', 'structured_obs')
  return os.path.join(os.path.abspath(os.path.expanduser(cache)), 'tensorflow_datasets')


def find(config: DataConfig, name: str) -> base.Source:
  """Finds a data set on this machine.

  Raises:
    ConnectionError: a requested download failed.
    FileNotFoundError: it is missing and may not be downloaded; the message says what to put where.
    ImportError: a download is requested and tensorflow_datasets is not installed.
    ValueError: `name` is invalid, or a downloaded file is not the published one.
  """
  parts = name.split('/')
  if os.path.isabs(name) or not all(parts) or parts[0][0] == '~' or {'.', '..'} & set(parts):
    raise ValueError(
      f"--config.data.source=tfds:{name} is invalid; it must name a data set, such as "
      "'tfds:mnist', 'tfds:mnist:3.0.1' or 'tfds:downsampled_imagenet/64x64', not a "
      'folder; the environment variable TFDS_DATA_DIR names the folder of prepared data.'
    )
  local = _find_local(config, name)
  if local is None and config.options['download']:
    _download(config, name)
    local = _find_local(config, name)
  if local is None:
    raise FileNotFoundError(_advice(config, name))
  return local


def _find_local(config: DataConfig, name: str) -> base.Source | None:
  """Looks for official archives, then for prepared data."""
  if name in tfds_archives.ARCHIVES:
    for folder in (_manual_dir(config), os.path.join(_own_dir(config), 'downloads', name)):
      files = tfds_archives.find(tfds_archives.ARCHIVES[name], folder)
      if files:
        content = [(file, base.stamp(os.path.join(folder, file))) for file in files]
        return _from_archives(config, name, folder, base.digest([folder, content]))
  prepared = _prepared(name)
  if prepared is None:
    return None
  files = sorted(file.name for file in os.scandir(prepared) if file.is_file())
  content = [(file, base.stamp(os.path.join(prepared, file))) for file in files]
  return base.Source(f'tfds:{name}', base.digest([prepared, content]), lambda: _open(prepared))


def _from_archives(config: DataConfig, name: str, folder: str, identity: str) -> base.Source:
  """Describes a data set with official archives in `folder`."""
  place = os.path.join(_own_dir(config), identity[:16])
  return base.Source(f'tfds:{name}', identity, lambda: _open_archives(name, folder, place))


def _prepared(name: str) -> str | None:
  """Returns the folder of a prepared data set's newest (or the named) version, or None.

  Raises:
    ValueError: the data set has several configurations and `name` selects none.
  """
  path, _, wanted = name.partition(':')
  root = os.path.join(_data_dir(), path)
  folders = [folder for folder, _, files in os.walk(root) if 'dataset_info.json' in files]
  folders = [folder for folder in folders if wanted in ('', os.path.basename(folder))]
  parents = sorted({os.path.dirname(folder) for folder in folders})
  if len(parents) > 1:
    names = [os.path.relpath(parent, _data_dir()) for parent in parents]
    raise ValueError(f"tfds:{name} has several configurations here; name one: {', '.join(names)}.")
  return max(folders, key=_release, default=None)


def _release(folder: str) -> list[int]:
  """Returns the numbers of a version, [3, 0, 1] for a folder .../3.0.1, to find the newest."""
  return [int(part) for part in os.path.basename(folder).split('.') if part.isdigit()]


def _advice(config: DataConfig, name: str) -> str:
  """Returns what was looked for, and what to do."""
  place = os.path.join(_data_dir(), name.partition(':')[0])
  sentence = f'tfds:{name} is not on this machine: {place} holds no prepared data'
  archive = tfds_archives.ARCHIVES.get(name)
  if archive is None:
    return (
      f'{sentence}. Prepare it there with tensorflow_datasets and '
      "file_format='array_record', name another folder with the environment variable "
      'TFDS_DATA_DIR, or set --config.data.options.download=True.'
    )
  manual = _manual_dir(config)
  absent = ' or '.join(' and '.join(names) for names in tfds_archives.absent(archive, manual))
  if archive.url:
    place, allow = f'from {archive.url}NAME', ', or set --config.data.options.download=True'
  else:
    place, allow = f'by hand from {archive.homepage}', ''
    if config.options['download']:
      sentence = (
        f'--config.data.options.download=True has no effect on tfds:{name}, because its archives are on '
        f'Google Drive, which needs a person; and {sentence}'
      )
  return (
    f'{sentence}, and {manual} lacks {absent}. Get them {place} and put them there, or name '
    f'another folder with --config.data.options.manual_dir=PATH{allow}.'
  )


def _download(config: DataConfig, name: str) -> None:
  """Fetches official archives, or lets tensorflow_datasets prepare one of its own data sets."""
  tfds = _library()
  archive = tfds_archives.ARCHIVES.get(name)
  if archive is None:
    try:
      with decode.reading(f'tfds:{name}', 'downloaded and prepared by tensorflow_datasets'):
        builder = tfds.builder(name, data_dir=_data_dir(), file_format='array_record')
        builder.download_and_prepare(file_format='array_record')
    except ImportError as error:  # most of its builders import TensorFlow, and some more
      raise ImportError(
        f'tensorflow_datasets cannot prepare {name} here: {error}. Install what it '
        'needs, or prepare the data on another machine.'
      ) from error
  elif archive.url:
    from structured_obs.data.sources import tfds_builders

    folder = os.path.join(_own_dir(config), 'downloads', name)
    os.makedirs(folder, exist_ok=True)
    tfds_builders.download(name, folder)


def _open_archives(name: str, folder: str, place: str) -> base.Records:
  """Writes official archives as array_record, unless that was done, and opens them."""
  _library()
  decode.pillow()  # the library encodes and decodes with it
  from structured_obs.data.sources import tfds_builders

  return _open(
    tfds_builders.build(name, folder, place),
    tfds_archives.differing(tfds_archives.ARCHIVES[name], folder),
  )


def _open(prepared: str, remarks: Sequence[str] = ()) -> base.Records:
  """Returns random access to prepared array_record files; `remarks` are added to its notes."""
  tfds = _library()
  decode.pillow()
  with decode.reading(f'Prepared data in {prepared}', 'opened', _AGAIN):
    builder = tfds.builder_from_directory(prepared)
  if builder.info.file_format.value != 'array_record':
    raise ValueError(
      f'{prepared} was prepared as {builder.info.file_format.value}, which only '
      "TensorFlow reads; prepare it again with file_format='array_record'."
    )
  key = _image_feature(tfds, builder.info.features, prepared)
  names = [name for name in SPLITS if name in builder.info.splits]
  if not names:
    raise ValueError(
      f'{prepared} has the splits {", ".join(builder.info.splits)}, but none of {", ".join(SPLITS)}.'
    )
  # Decoded here: the library would decode with OpenCV if that is installed, to other pixels.
  undecoded = {key: tfds.decode.SkipDecoding()}
  with decode.reading(f'Prepared data in {prepared}', 'opened', _AGAIN):
    parts = [builder.as_data_source(split=name, decoders=undecoded) for name in names]
    opened = _Prepared(prepared, f'{builder.name} {builder.version}', key, names, parts)
    return _records(opened, [*remarks, *_unused(builder.info.splits, prepared)])


def _image_feature(tfds: Any, features: Any, prepared: str) -> str:
  """Returns the name of the only image feature."""
  named = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
  images = {key: feature for key, feature in named.items() if isinstance(feature, tfds.features.Image)}
  if 'image' not in images and len(images) != 1:
    raise ValueError(
      f"{prepared} has the features {', '.join(named) or 'none'}; it must have exactly one image "
      "among them, or one named 'image'."
    )
  key = 'image' if 'image' in images else next(iter(images))
  if np.dtype(images[key].np_dtype).kind != 'u':
    raise ValueError(
      f'{prepared} has images of {np.dtype(images[key].np_dtype)}, but must have images '
      'of uint8 or uint16; prepare it again with one of these.'
    )
  return key


class _Prepared(NamedTuple):
  """An open data set."""

  folder: str
  version: str
  key: str  # of the image in an example
  names: list[str]  # of the splits
  parts: list[Any]  # their examples


def _records(opened: _Prepared, remarks: list[str]) -> base.Records:
  """Joins the splits of a data set to one numbered sequence."""
  lengths = [len(part) for part in opened.parts]
  starts = np.cumsum([0, *lengths])
  seen = notes.seen()

  def locate(index: int) -> tuple[int, int]:
    part = int(np.searchsorted(starts, index, 'right')) - 1
    return part, index - int(starts[part])

  def load(index: int) -> base.Example:
    part, row = locate(index)
    name = f'{describe(index)} in {opened.folder}'
    with decode.reading(f'Image {name}'):
      example = opened.parts[part][row]
      content = io.BytesIO(example[opened.key])
    pixels, facts, _ = decode.read(content, name)
    for fact in facts:
      seen[fact].add(index)
    return pixels, _label(example, name)

  def describe(index: int) -> str:
    part, row = locate(index)
    return f'{opened.names[part]}[{row}] of {opened.version}'

  return base.Records(
    int(starts[-1]),
    load,
    describe,
    f'tensorflow_datasets {opened.version}',
    splits=np.repeat([SPLITS.index(name) for name in opened.names], lengths),
    threads=folder.THREADS,
    notes=lambda: [*remarks, *notes.of_images(seen, describe)],
  )


def _unused(splits: Iterable[str], prepared: str) -> list[str]:
  """Returns a sentence about splits that are not for training, validation or test."""
  unused = ', '.join(name for name in splits if name not in SPLITS)
  return [f'{prepared} has splits that are not used: {unused}.'] if unused else []


def _label(example: Any, name: str) -> int | None:
  """Returns the label of an example, or None if it has no whole number as label."""
  label = np.asarray(example.get('label', ''))
  if label.ndim or label.dtype.kind not in 'iu':
    return None
  if not -(2**31) <= label < 2**31:
    raise ValueError(f'{name} has the label {label}, which does not fit 32 bits.')
  return int(label)


KIND = base.Kind(find, (Options, base.Files), 'NAME')
