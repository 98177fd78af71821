"""Masks of the pixels that count: where they come from, and that they stay with their images."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from PIL import Image

from structured_obs.config import Config
from structured_obs.data import prepare
from structured_obs.runs import initial
from tests.data import helpers


def folder_of(path: Path, count: int = 6, hidden: int = 0, size: int = 6) -> str:
  """Gray PNGs whose alpha is 255 or, left of a column that differs, 50: PATH/000.png, ...

  Args:
    path: of the new folder.
    count: images.
    hidden: added to the pixels of little alpha.
    size: of a side.
  """
  path.mkdir()
  for i, image in enumerate(helpers.random_images(count, size, size, 1)):
    alpha = np.where(np.arange(size) < 1 + i % 3, 50, 255) * np.ones((size, 1))
    level = (image[..., 0] + hidden * (alpha == 50)) % 256
    Image.fromarray(np.stack([level, alpha], -1).astype(np.uint8), 'LA').save(path / f'{i:03}.png')
  return f'folder:{path}'


def _prepared(tmp_path: Path, source: str, **fields: Any) -> prepare.Prepared:
  shares = {'validation_fraction': 0.0, 'test_fraction': 0.0, 'split_seed': 0}
  return prepare.prepare(helpers.config(tmp_path, source, **shares, **fields))


def test_alpha(tmp_path: Path):
  source = folder_of(tmp_path / 'images')
  found = _prepared(tmp_path, source, mask='alpha', mask_options={'above': 100})
  assert found.spec.masked
  assert found.spec.stored == (6, 6, 2)
  planes = found.images['train'][..., 1]
  assert set(np.unique(planes)) == {0, 255}
  assert sorted(int(np.sum(one[0] == 0)) for one in planes) == [1, 1, 2, 2, 3, 3]
  everything = _prepared(tmp_path, source, mask='alpha')  # any alpha above 0
  assert np.all(everything.images['train'][..., 1] == 255)
  assert everything.path != found.path
  assert not _prepared(tmp_path, source).spec.masked


def test_masks_are_resized_by_the_nearest_pixel(tmp_path: Path):
  source = folder_of(tmp_path / 'images', count=3)
  options = {'height': 3, 'width': 3, 'mask': 'alpha', 'mask_options': {'above': 100}}
  found = _prepared(tmp_path, source, **options)
  assert found.spec.stored == (3, 3, 2)
  planes = found.images['train'][..., 1]
  assert set(np.unique(planes)) == {0, 255}
  assert sorted(int(np.sum(one[0] == 0)) for one in planes) == [0, 1, 1]


def test_pixels_that_are_not_black(tmp_path: Path):
  images = helpers.random_images(4, channels=3)
  images[:, :2] = 0
  images[:, 0, 0, 2] = 9  # in one channel
  path = tmp_path / 'images.npz'
  np.savez(path, images=images)
  found = _prepared(tmp_path, f'npz:{path}', mask='nonzero')
  stored = found.images['train']
  np.testing.assert_array_equal(stored[..., 3] > 0, np.any(stored[..., :3] > 0, axis=-1))
  assert np.all(stored[:, 0, 0, 3] == 255)
  random = _prepared(
    tmp_path, f'npz:{path}', mask='nonzero', crop='random', height=3, width=2, crops=2
  ).images['train']
  np.testing.assert_array_equal(random[..., 3] > 0, np.any(random[..., :3] > 0, axis=-1))


def _volume(path: Path, voxels: np.ndarray) -> None:
  nibabel.Nifti1Image(voxels.astype(np.float32), np.eye(4)).to_filename(path)


def test_volumes(tmp_path: Path):
  rng = np.random.default_rng(0)
  (tmp_path / 'scans').mkdir()
  for name in ('one', 'two'):
    voxels, inside = rng.uniform(100, 200, (5, 6, 4)), np.zeros((5, 6, 4))
    inside[1:4, 2:5, 1:3] = 1  # on two of the four axial slices
    _volume(tmp_path / 'scans' / f'{name}.nii', voxels * (1 + 9 * inside))
    _volume(tmp_path / 'scans' / f'{name}_brain.nii.gz', inside)
  source = f'nifti:{tmp_path / "scans"}'
  options = {'mask': 'volume', 'mask_options': {'name': '{name}_brain'}}
  found = _prepared(tmp_path, source, **options)
  stored = found.images['train']
  assert stored.shape == (4, 6, 5, 2)  # the masks are no images, and slices without a mask are left out
  np.testing.assert_array_equal(stored[..., 1] > 0, stored[..., 0] > 100)
  with pytest.raises(FileNotFoundError, match=r"mask beside every volume.*'\{name\}_mask'"):
    _prepared(tmp_path, source, mask='volume')


@pytest.mark.parametrize(
  ('fields', 'error'),
  [
    ({'mask': 'volume'}, r'mask=volume needs --config.data.source=nifti:PATH'),
    ({'mask': 'alhpa'}, r"Did you mean 'alpha'"),
    ({'mask': 'nonzero', 'mask_options': {'above': 3}}, r'mask_options.above'),
    ({'mask': 'alpha', 'mask_options': {'above': 255}}, r'mask_options.above'),
  ],
)
def test_masks_that_a_source_has_not_are_refused(tmp_path: Path, fields: dict[str, Any], error: str):
  with pytest.raises(ValueError, match=error):
    _prepared(tmp_path, folder_of(tmp_path / 'images'), **fields)


def test_images_without_a_mask_are_named(tmp_path: Path):
  source = folder_of(tmp_path / 'images')
  helpers.save_png(tmp_path / 'images' / 'opaque.png', helpers.random_images(1, 6, 6)[0])
  with pytest.raises(ValueError, match=r'opaque.png has no alpha channel'):
    _prepared(tmp_path, source, mask='alpha')
  clear = np.zeros((6, 6, 2), np.uint8)
  Image.fromarray(clear, 'LA').save(tmp_path / 'images' / 'opaque.png')
  with pytest.raises(ValueError, match=r'opaque.png has no pixel that counts'):
    _prepared(tmp_path, source, mask='alpha')
  left = _prepared(tmp_path, source, mask='alpha', skip_corrupt=True)
  assert left.spec.skipped == 1
  with pytest.raises(ValueError, match='real numbers'):
    _prepared(tmp_path, 'splines', mask='nonzero')


def test_a_step_moves_masks_with_images_and_adds_no_noise_to_them():
  config = Config()
  config.data.flip, config.data.shift, config.data.turn = True, 2, True
  spec = prepare.DataSpec(
    6, 6, 1, 256, {}, '', '', '', '', '', '', '', False, 0, [], {}, masked=True
  )  # fmt: skip
  image = np.where(helpers.random_images(8, 6, 6, 1) < 128, 20, 200).astype(np.uint8)
  stored = jnp.asarray(np.concatenate([image, np.where(image > 100, 255, 0).astype(np.uint8)], -1))
  x = initial.make_preprocess(config, spec)(jax.random.split(jax.random.key(0), 8), stored)
  assert set(np.unique(x[..., 1])) == {-1, 1}
  np.testing.assert_array_equal(x[..., 1] > 0, x[..., 0] > 0)
  assert len(np.unique(x[..., 0])) > 2
