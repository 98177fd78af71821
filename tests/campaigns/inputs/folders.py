"""A folder of healthy images with one other file in it, and what ingesting it must give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from structured_obs.config import DataConfig
from structured_obs.data import prepare
from tests.campaigns import outcomes

SIZE = 8  # pixels, of each side
HEALTHY = 3

Writer = Callable[[Path], Any]  # given the path of the file to write


def noise(seed: int, channels: int = 3) -> np.ndarray:
  """Returns an image of uint8 noise, [SIZE, SIZE, C]."""
  return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, channels), np.uint8)


def config(folder: Path, source: str, **fields: Any) -> DataConfig:
  """Returns a configuration without validation and test images that caches in the folder."""
  options = {name: fields.pop(name) for name in ('skip_corrupt', 'manual_dir') if name in fields}
  splits = {'validation_fraction': 0.0, 'test_fraction': 0.0}
  return DataConfig(source=source, options=options, cache_dir=str(folder / 'cache'), **splits, **fields)


def write_healthy(folder: Path) -> list[np.ndarray]:
  """Writes HEALTHY images, whose names come before all others, and returns their pixels."""
  folder.mkdir(parents=True, exist_ok=True)
  images = [noise(1000 + k) for k in range(HEALTHY)]
  for k, image in enumerate(images):
    Image.fromarray(image).save(folder / f'0{k}.png')
  return images


def ingest(folder: Path, source: str, **fields: Any) -> tuple[np.ndarray, str]:
  """Returns the training images, [N, H, W, C], and all that was said."""
  said: list[str] = []
  prepared = prepare.prepare(config(folder, source, **fields), said.append)
  return np.asarray(prepared.images['train']), '\n'.join([*said, str(prepared.spec.skipped_names)])


def beside_healthy(write: Writer, name: str, check: Callable[[np.ndarray], None] | None) -> Any:
  """Returns a case: a file among healthy images is refused, left out aloud, or read rightly.

  Args:
    write: writes the file.
    name: of the file; it sorts behind the healthy ones.
    check: raises `outcomes.Wrong` unless its pixels [H, W, 3] are right; None where nobody knows.
  """

  def run(folder: Path) -> str:
    healthy = write_healthy(folder / 'x')
    write(folder / 'x' / name)
    found, said = ingest(folder, f'folder:{folder / "x"}', channels=3)
    outcomes.expect(np.array_equal(found[:HEALTHY], healthy), 'the healthy images are not as they were')
    if len(found) == HEALTHY:
      outcomes.expect(Path(name).name in said or 'left out' in said, 'left out without a word')
      return outcomes.REFUSED
    if check is None:
      return outcomes.ACCEPTED
    check(found[HEALTHY])
    return outcomes.RIGHT

  return run


def skipped(write: Writer, name: str) -> Any:
  """Returns a case: with `skip_corrupt`, healthy images are read although a file is bad."""

  def run(folder: Path) -> str:
    healthy = write_healthy(folder / 'x')
    write(folder / 'x' / name)
    found, _ = ingest(folder, f'folder:{folder / "x"}', channels=3, skip_corrupt=True)
    outcomes.expect(np.array_equal(found[:HEALTHY], healthy), 'the healthy images are not as they were')
    return outcomes.RIGHT

  return run
