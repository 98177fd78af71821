"""Keeps the work of long passes over images on disk, so that an interrupted pass resumes.

A file's name contains a digest of everything that the numbers depend on: the traced program with the
model and its options, the variables, the key, the images, the versions and the kind of device. A pass
therefore never uses the work of another model or of a changed one. The batch size does not count,
because numbers do not depend on it.
"""

import hashlib
import importlib.metadata
import os
import re
import zipfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SECONDS = 30.0  # between two saves of a pass; a shorter pass is not kept at all


class Work(NamedTuple):
  """A pass over images, and where its work is kept."""

  directory: Path | None  # it need not exist; None keeps nothing
  name: str  # of what is measured
  num_images: int  # N
  identity: Callable[[], tuple[str, Any]]  # digest, and structure of the result; slow at first


def work(
  directory: Path | None, name: str, program: Callable[..., Any], one: Sequence[Any], images: np.ndarray
) -> Work:
  """Describes a pass.

  Args:
    directory: to keep it in; None keeps nothing.
    name: of what is measured.
    program: measures images, and returns a pytree of arrays with the images as first axis.
    one: arguments of `program` for one image, each an array, a key or a pytree of arrays.
    images: [N, ...], as stored: all of them.
  """
  return Work(directory, name, len(images), cache(partial(_identity, program, one, images)))


def load(kept: Work) -> tuple[list[Any], int]:
  """Loads earlier work.

  Returns:
    The pytree of the first n images, in a list, and n; [] and 0 if there is none that is readable, or if
    several processes would have to agree on it.
  """
  directory = _directory(kept)
  if directory is None or not any(directory.glob(f'{kept.name}-*.npz')):
    return [], 0
  digest, structure = kept.identity()
  try:
    with (directory / f'{kept.name}-{digest}.npz').open('rb') as file, np.load(file) as arrays:
      leaves = [arrays[str(i)] for i in range(len(arrays.files))]
    return [jax.tree.unflatten(structure, leaves)], len(leaves[0])
  except (OSError, EOFError, ValueError, zipfile.BadZipFile):  # missing or damaged
    return [], 0


def save(kept: Work, parts: Sequence[Any]) -> None:
  """Keeps measurements, in order and from the first image on, atomically.

  Raises:
    OSError: the file could not be written, with its path; earlier work stays.
  """
  directory = _directory(kept)
  if directory is None:
    return
  whole = jax.tree.map(lambda *arrays: np.concatenate(arrays)[: kept.num_images], *parts)
  directory.mkdir(parents=True, exist_ok=True)
  temporary = directory / f'{kept.name}.tmp'
  try:
    with temporary.open('wb') as file:
      np.savez(file, **{str(i): leaf for i, leaf in enumerate(jax.tree.leaves(whole))})
  except OSError as error:  # a full disk's error has no path
    temporary.unlink(missing_ok=True)
    raise OSError(error.errno, error.strerror, str(temporary)) from error
  os.replace(temporary, directory / f'{kept.name}-{kept.identity()[0]}.npz')


def _directory(kept: Work) -> Path | None:
  return kept.directory if jax.process_count() == 1 else None


def _identity(program: Callable[..., Any], one: Sequence[Any], images: np.ndarray) -> tuple[str, Any]:
  jaxpr, shapes = jax.make_jaxpr(program, return_shape=True)(*one)
  versions = [importlib.metadata.version(name) for name in ('jax', 'jaxlib')]
  # Functions are printed with their addresses, which differ between processes.
  text = re.sub(r'0x[0-9a-f]+', '', str(jaxpr))
  sha = hashlib.sha256('\n'.join([text, *versions, jax.devices()[0].device_kind]).encode())
  for leaf in jax.tree.leaves((jaxpr.consts, one, images)):
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = np.ascontiguousarray(jax.random.key_data(leaf) if is_key else leaf)
    sha.update(f'{array.dtype}{array.shape}'.encode())
    sha.update(array.reshape(-1).view(np.uint8).data)
  return sha.hexdigest()[:32], jax.tree.structure(shapes)
