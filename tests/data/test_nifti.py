"""Slices of volumes: which way up, how bright, whose, and what is wrong with a file."""

import os
import re
from importlib import metadata
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel import orientations

from structured_obs.data import decode, prepare
from structured_obs.data.sources import base, nifti
from structured_obs.data.splits import SPLITS
from tests.data import helpers

SHAPE = (9, 11, 7)  # from left to right, back to front, below to above


def save(path: Any, voxels: np.ndarray, axes: str = 'RAS', dtype: Any = np.int16) -> None:
  """Writes a canonical volume [X, Y, Z, ...] as a file whose voxel axes point to these sides."""
  start, end = (orientations.axcodes2ornt(tuple(codes)) for codes in ('RAS', axes))
  turn: Any = orientations.ornt_transform(start, end)
  image = nibabel.Nifti1Image(voxels.astype(dtype), np.eye(4), dtype=dtype)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  image.as_reoriented(turn).to_filename(str(path))


def noise(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
  """Positive voxels all over."""
  return np.random.default_rng(seed).integers(200, 1000, shape)


def folder(path: Any, number: int = 1) -> str:
  """Writes noise of subjects 0, 1, ..., which a dark and `s` black columns of voxels tell apart."""
  for s in range(number):
    for contrast in ('T1', 'T2'):
      voxels = noise(s, (12, 10, 4))
      voxels[:s] = 0
      save(path / f'sub-{s}' / f'{contrast}.nii.gz', voxels)
  return f'nifti:{path}'


def config(tmp_path: Any, source: str, **fields: Any) -> Any:
  """All images to train on, unless the fields say else."""
  fields = {'validation_fraction': 0.0, 'test_fraction': 0.0} | fields
  return helpers.config(tmp_path, source, **fields)


def slices(tmp_path: Any, path: Any, **fields: Any) -> np.ndarray:
  """Prepares a folder, [N, H, W]."""
  return prepare.prepare(config(tmp_path, f'nifti:{path}', **fields)).images['train'][..., 0]


@pytest.mark.parametrize('axes', ['RAS', 'LAS', 'PSR', 'IRA'])
def test_slices_are_the_right_way_up_whatever_the_files_axes(tmp_path, axes):
  voxels = np.full(SHAPE, 500)
  voxels[:3] = 400  # left
  voxels[:, -2:] = 300  # front
  voxels[:, :, -3:] = 200  # top
  save(tmp_path / 'x' / 'brain.nii', voxels, axes)
  gray = np.round(255 * voxels / 500).astype(np.uint8)
  axial = slices(tmp_path, tmp_path / 'x')
  assert np.array_equal(
    axial, [[[gray[x, y, z] for x in range(9)] for y in range(10, -1, -1)] for z in range(7)]
  )
  coronal = slices(tmp_path, tmp_path / 'x', plane='coronal')
  assert np.array_equal(
    coronal, [[[gray[x, y, z] for x in range(9)] for z in range(6, -1, -1)] for y in range(11)]
  )
  sagittal = slices(tmp_path, tmp_path / 'x', plane='sagittal')
  assert np.array_equal(
    sagittal, [[[gray[x, y, z] for y in range(11)] for z in range(6, -1, -1)] for x in range(9)]
  )


def test_white_is_near_the_brightest_voxels_and_black_is_0(tmp_path):
  voxels = np.random.default_rng(0).normal(300, 200, SHAPE)
  voxels[0, 0, 0], voxels[1, 0, 0], voxels[2, 0, 0] = np.nan, np.inf, 1e6
  save(tmp_path / 'x' / 'brain.nii.gz', voxels, dtype=np.float32)
  found = slices(tmp_path, tmp_path / 'x').transpose(2, 1, 0)[:, ::-1]
  whole = np.where(np.isfinite(voxels), voxels, 0)
  white = np.sort(whole[whole > 0])
  white = np.interp(0.995 * (len(white) - 1), np.arange(len(white)), white)
  assert np.max(np.abs(found - np.clip(255 * whole / white, 0, 255))) < 0.51
  assert found[:3, 0, 0].tolist() == [0, 0, 255]
  assert 1 <= np.sum(whole > white) <= 4  # of 693 voxels, about 650 of them positive


def test_slices_that_show_little_are_left_out(tmp_path):
  voxels = np.zeros((10, 10, 5))
  for z, columns in enumerate((0, 1, 3, 6, 10)):
    voxels[:columns, :, z] = 500
  voxels[:, :, :2] += 10  # a fiftieth of white is background
  save(tmp_path / 'x' / 'brain.nii', voxels)
  for fraction, number in ((0.0, 5), (0.1, 4), (0.31, 2), (1.0, 1)):
    assert len(slices(tmp_path, tmp_path / 'x', min_foreground=fraction)) == number
  voxels[:] = 0
  save(tmp_path / 'x' / 'brain.nii', voxels)
  with pytest.raises(
    ValueError, match=r'No axial slice in .* lower --config\.data\.options\.min_foreground'
  ):
    slices(tmp_path, tmp_path / 'x')


def _subjects(images: np.ndarray) -> set[int]:
  return {int(np.sum(np.all(image[..., 0] == 0, axis=0))) for image in images}


def test_no_subject_is_in_two_splits(tmp_path):
  source = folder(tmp_path / 'x', 7)
  tested = set()
  for seed in range(3):
    prepared = prepare.prepare(helpers.config(tmp_path, source, test_fraction=0.3, split_seed=seed))
    assert prepared.spec.counts == {'train': 32, 'validation': 8, 'test': 16}
    assert prepared.spec.split_rule.startswith('test: 0.3 of all subjects, with all their images')
    found = [_subjects(prepared.images[split]) for split in SPLITS]
    assert [len(subjects) for subjects in found] == [4, 1, 2]
    assert set.union(*found) == set(range(7))
    tested |= found[2]
  assert len(tested) > 2


@pytest.mark.parametrize(
  ('name', 'subject'),
  [('a/b/T1.nii.gz', 'a'), ('a/T2.NII', 'a'), ('b.nii.gz', 'b'), ('c.v2.nii', 'c.v2')],
)
def test_a_subject_is_a_folder_or_else_a_file(name, subject):
  assert nifti.subject(name) == subject


def test_a_pattern_of_names_leaves_other_files_out(tmp_path):
  folder(tmp_path / 'x[1]', 3)
  (tmp_path / 'x[1]' / 'sub-1' / 'mask.nii').write_bytes(b'not looked at')
  config = helpers.config(tmp_path, f'nifti:{tmp_path / "x[1]"}/sub-*/T1.nii.gz')
  prepared = prepare.prepare(config)
  assert prepared.spec.counts == dict.fromkeys(SPLITS, 4)
  assert prepared.spec.source == config.source
  with pytest.raises(FileNotFoundError, match=r"x\[1\] whose names below it match 'sub-\*/T3\*'"):
    slices(tmp_path, tmp_path / 'x[1]' / 'sub-*' / 'T3*')


def test_one_subject_cannot_be_divided(tmp_path):
  with pytest.raises(ValueError, match='too few subjects, 1, to train on'):
    prepare.prepare(helpers.config(tmp_path, folder(tmp_path / 'x')))


def test_volumes_of_several_sizes_need_a_size(tmp_path):
  save(tmp_path / 'x' / 'a.nii', noise())
  save(tmp_path / 'x' / 'b.nii', noise(shape=(8, 12, 3)))
  with pytest.raises(ValueError, match=r'differ in size.*a\.nii, axial slice 0 is 11 x 9'):
    slices(tmp_path, tmp_path / 'x')
  assert slices(tmp_path, tmp_path / 'x', height=6, width=5).shape == (10, 6, 5)


def test_random_windows_are_of_the_brain_and_the_same_again(tmp_path):
  voxels = np.zeros((30, 26, 4))
  voxels[18:25, 4:9] = noise(shape=(7, 5, 4))
  save(tmp_path / 'x' / 'brain.nii.gz', voxels)
  fields = {'height': 8, 'width': 6, 'crop': 'random', 'min_foreground': 0.01}
  whole = slices(tmp_path, tmp_path / 'x', min_foreground=0.01)
  found = slices(tmp_path, tmp_path / 'x', crops=5, **fields)
  assert found.shape == (20, 8, 6)
  for k, image in enumerate(found):
    # Five windows of the first slice, then five of the second: each lies in it, around a voxel.
    views = np.lib.stride_tricks.sliding_window_view(whole[k // 5], (8, 6))
    assert np.any(np.all(views == image, axis=(2, 3)))
    assert image[4, 3] > 12
  assert len(np.unique(found, axis=0)) > 10
  again = slices(tmp_path / 'elsewhere', tmp_path / 'x', crops=5, **fields)
  assert np.array_equal(found, again)
  other = slices(tmp_path, tmp_path / 'x', crops=5, split_seed=1, **fields)
  assert not np.array_equal(found, other)
  # One window is the first of five.
  assert np.array_equal(slices(tmp_path, tmp_path / 'x', **fields), found[::5])


def test_the_fingerprint_follows_the_plane_of_this_source_alone(tmp_path):
  images = helpers.folder(tmp_path / 'images', helpers.random_images(3))
  volumes = folder(tmp_path / 'volumes')
  first = prepare.prepare(config(tmp_path, volumes)).spec.fingerprint
  for fields in ({'plane': 'sagittal'}, {'min_foreground': 0.2}):
    assert prepare.prepare(config(tmp_path, volumes, **fields)).spec.fingerprint != first
    with pytest.raises(ValueError, match=r"no such option of --config\.data\.source='folder:"):
      prepare.prepare(config(tmp_path, images, **fields))


def test_what_is_no_volume_of_numbers_is_refused(tmp_path):
  save(tmp_path / 'x' / 'time.nii', noise(shape=(*SHAPE, 3)))
  with pytest.raises(ValueError, match=r'time\.nii has the shape 9 x 11 x 7 x 3, but must be one'):
    slices(tmp_path, tmp_path / 'x')
  colour = np.zeros(SHAPE, [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
  save(tmp_path / 'x' / 'time.nii', colour, dtype=colour.dtype)
  with pytest.raises(ValueError, match=r'time\.nii has voxels of .* one real number per voxel'):
    slices(tmp_path, tmp_path / 'x')
  save(tmp_path / 'x' / 'time.nii', noise(shape=(*SHAPE, 1)))
  assert slices(tmp_path, tmp_path / 'x').shape == (7, 11, 9)


@pytest.mark.parametrize('damage', ['header', 'empty', 'truncated', 'truncated gz', 'not gz'])
def test_a_corrupt_file_is_named_or_left_out(tmp_path, damage):
  save(tmp_path / 'x' / 'a.nii.gz', noise(1))
  bad = tmp_path / 'x' / ('b.nii.gz' if 'gz' in damage else 'b.nii')
  save(bad, noise(2))
  content = bad.read_bytes()
  bad.write_bytes(
    {
      'header': b'\x07' * len(content),
      'empty': b'',
      'not gz': b'voxels' * 99,
      'truncated': content[:900],
      'truncated gz': content[:400],
    }[damage]
  )
  with pytest.raises(
    decode.UnreadableImage, match=rf'{re.escape(str(bad))}.*data\.options\.skip_corrupt'
  ):
    slices(tmp_path, tmp_path / 'x')
  fields = {'skip_corrupt': True, 'crop': 'random', 'height': 3, 'width': 3, 'crops': 2}
  prepared = prepare.prepare(config(tmp_path, f'nifti:{tmp_path / "x"}', **fields))
  assert prepared.spec.counts['train'] == 14
  assert (prepared.spec.skipped, prepared.spec.skipped_names) == (1, [f'{bad.name}, axial slice 0'])


def test_damaged_gzip_inside_is_noticed(tmp_path):
  """Where only the checksum at the end of a file tells that a voxel is wrong."""
  save(tmp_path / 'x' / 'a.nii.gz', noise(shape=(40, 40, 40)))
  content = bytearray((tmp_path / 'x' / 'a.nii.gz').read_bytes())
  content[-8] ^= 0xFF
  (tmp_path / 'x' / 'a.nii.gz').write_bytes(content)
  with pytest.raises(decode.UnreadableImage, match=r'a\.nii\.gz cannot be read'):
    slices(tmp_path, tmp_path / 'x')


@pytest.mark.parametrize('affine', [0.0, np.nan])
def test_a_volume_without_axes_is_corrupt(tmp_path, affine):
  image = nibabel.Nifti1Image(noise().astype(np.int16), None)
  image.header.set_sform(np.full((4, 4), affine), 1)
  (tmp_path / 'x').mkdir()
  image.to_filename(str(tmp_path / 'x' / 'a.nii'))
  with pytest.raises(decode.UnreadableImage, match=r'a\.nii cannot be read'):
    slices(tmp_path, tmp_path / 'x')


def test_what_is_not_there_is_told(tmp_path):
  with pytest.raises(FileNotFoundError, match='does not exist'):
    slices(tmp_path, tmp_path / 'nowhere')
  (tmp_path / 'x').mkdir()
  (tmp_path / 'x' / 'notes.txt').write_text('no volume')
  with pytest.raises(FileNotFoundError, match=r'no volumes in .*\.nii or \.nii\.gz'):
    slices(tmp_path, tmp_path / 'x')
  save(tmp_path / 'x' / 'a.nii', noise())
  for fields, message in (
    ({'plane': 'axail'}, r"data\.options\.plane must .* 'axail'.* Did you mean 'axial'"),
    (
      {'min_foreground': 1.5},
      r'data\.options\.min_foreground must be a number from 0 to 1, but is 1\.5',
    ),
  ):
    with pytest.raises(ValueError, match=message):
      slices(tmp_path, tmp_path / 'x', **fields)


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
  def version(package: str) -> str:
    raise metadata.PackageNotFoundError(package)

  source = folder(tmp_path / 'x')
  monkeypatch.setattr(base.metadata, 'version', version)
  with pytest.raises(ImportError, match=r"nibabel: pip install 'structured_obs\[medical\]'"):
    slices(tmp_path, source.removeprefix('nifti:'))
