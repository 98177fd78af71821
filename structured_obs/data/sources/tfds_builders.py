"""tensorflow_datasets builders of mnist, cifar10 and celeb_a that need no TensorFlow.

The library's own builders of these three import TensorFlow. These read the published archives with
`archives`, keep their order, and write array_record files, which `tfds.data_source` reads back. They are
classes because that is the library's interface. They are not registered: `tfds.builder('mnist')` remains
the library's own.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from structured_obs.data import decode, downloads
from structured_obs.data.sources import tfds_archives


class ArchiveBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Writes one of `archives.ARCHIVES` as array_record."""

  VERSION = tfds.core.Version('3.0.1')
  MANUAL_DOWNLOAD_INSTRUCTIONS = 'The official archives, under their published names.'
  archive: ClassVar[tfds_archives.Archive]

  def _info(self) -> tfds.core.DatasetInfo:
    features: dict[str, Any] = {'image': tfds.features.Image(shape=self.archive.shape)}
    if self.archive.classes:
      features['label'] = tfds.features.ClassLabel(num_classes=self.archive.classes)
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      homepage=self.archive.homepage,
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    folder = os.fspath(dl_manager.manual_dir)
    return {split: self._generate_examples(folder, split) for split in self.archive.splits}

  def _generate_examples(self, folder: str, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    index = -1
    for index, (image, label) in enumerate(self.archive.read(folder, split)):
      content = image if isinstance(image, bytes) else _png(image)
      labelled = {} if label is None else {'label': label}
      yield index, {'image': io.BytesIO(content)} | labelled
    if index < 0:
      files = ' and '.join(tfds_archives.find(self.archive, folder))
      raise decode.UnreadableImage(
        f'{files} in {folder} have no images for the {split} split; put the published files there.'
      )


def _png(image: np.ndarray) -> bytes:
  """Encodes an image without loss; given an array, the library would ask TensorFlow to do it."""
  content = io.BytesIO()
  picture = image[..., 0] if image.shape[-1] == 1 else image
  decode.pillow().fromarray(picture).save(content, 'PNG', compress_level=1)
  return content.getvalue()


class Mnist(ArchiveBuilder, skip_registration=True):
  """70,000 handwritten digits, 28 x 28 gray."""

  archive = tfds_archives.ARCHIVES['mnist']


class Cifar10(ArchiveBuilder, skip_registration=True):
  """60,000 small photographs, 32 x 32 RGB."""

  archive = tfds_archives.ARCHIVES['cifar10']


class CelebA(ArchiveBuilder, skip_registration=True):
  """202,599 aligned faces, 218 x 178 RGB, in the official three-way partition."""

  archive = tfds_archives.ARCHIVES['celeb_a']


BUILDERS: dict[str, type[ArchiveBuilder]] = {'mnist': Mnist, 'cifar10': Cifar10, 'celeb_a': CelebA}


def build(name: str, folder: str, data_dir: str) -> str:
  """Writes the archives in `folder` as array_record under `data_dir`, and returns their folder.

  Args:
    name: of the data set.
    folder: of the archives.
    data_dir: to write to.

  Raises:
    ValueError: an archive is damaged; the message names it.
  """
  tfds.disable_progress_bar()
  builder = BUILDERS[name](data_dir=data_dir, file_format='array_record')
  if not os.path.isdir(builder.data_dir):
    settings = tfds.download.DownloadConfig(manual_dir=folder, try_download_gcs=False)
    try:
      with contextlib.redirect_stdout(io.StringIO()):  # it would print about downloading
        builder.download_and_prepare(download_config=settings)
    except OSError:
      if not os.path.isdir(builder.data_dir):  # otherwise another process has written the same
        raise
  return builder.data_dir


def download(name: str, folder: str) -> None:
  """Fetches the official archives that `folder` lacks, under their published names.

  Raises:
    ConnectionError: a download failed.
    ValueError: a file is not the published one.
  """
  archive = tfds_archives.ARCHIVES[name]
  for file in archive.files[0]:
    path, published = os.path.join(folder, file), archive.sha256[file]
    if not os.path.isfile(path) or downloads.sha256(path) != published:
      downloads.fetch(archive.url + file, path, published)
