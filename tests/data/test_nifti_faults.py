"""Volumes in any unit, volumes with damaged headers, and paths that lead nowhere."""

import os
import re
import struct
from typing import Any

import numpy as np
import pytest

from structured_obs.data import decode, prepare, sources
from tests.data.test_nifti import SHAPE, config, noise, save, slices


def _overwrite(path: Any, offset: int, form: str, *values: float) -> None:
  """Changes a field of a header; `form` is as for struct."""
  content = bytearray(path.read_bytes())
  struct.pack_into(form, content, offset, *values)
  path.write_bytes(content)


def test_gray_levels_do_not_depend_on_the_unit(tmp_path):
  """Of any type, also where it leaves float32, or where the header holds the factor."""
  voxels = np.random.default_rng(0).integers(0, 250, SHAPE)
  voxels[0, 0, :3] = -100, 0, 200
  kinds = [
    (1, np.int16),
    (1e39, np.float64),
    (1e41, np.float64),
    (1e-41, np.float64),
    (7e305, np.float64),
    (3e-310, np.float64),
    (1e30, np.float32),
    (10**15, np.int64),
    (2**23 + 1, np.int32),
  ]
  if np.finfo(np.longdouble).max > 1e400:
    kinds.append((np.longdouble('1e400'), np.longdouble))
  for k, (factor, dtype) in enumerate(kinds):
    save(tmp_path / 'x' / f'{k}.nii.gz', np.asarray(voxels.astype(dtype) * dtype(factor)), dtype=dtype)
  positive = np.maximum(voxels, 0)
  for k, dtype in enumerate((np.uint16, np.uint64)):
    save(tmp_path / 'x' / f'unsigned {k}.nii', positive * (1 + k * 2**50), dtype=dtype)
  save(tmp_path / 'x' / 'slope.nii', voxels)
  _overwrite(tmp_path / 'x' / 'slope.nii', 112, '<f', 3e38)
  found = slices(tmp_path, tmp_path / 'x', min_foreground=0.0).reshape(len(kinds) + 3, -1)
  white = np.percentile(voxels[voxels > 0], 99.5)
  expected = np.round(255 * np.clip(voxels / white, 0, 1)).transpose(2, 1, 0)[:, ::-1].ravel()
  assert len(np.unique(expected)) > 100
  for volume in found:
    assert np.array_equal(volume, expected)


def _damaged(path: Any) -> list[str]:
  """Writes a whole volume, a.nii, and others whose headers are damaged, and returns their names."""
  save(path / 'a.nii', noise())
  whole = (path / 'a.nii').read_bytes()
  changes = {
    f'dim {k}': (40, '<8h', dim)
    for k, dim in enumerate(
      (
        (3, -9, 11, 7, 1, 1, 1, 1),
        (3, 32767, 32767, 32767, 1, 1, 1, 1),
        (3, 0, 11, 7, 1, 1, 1, 1),
        (7, *[32767] * 7),
        (-1, *[1] * 7),
        (9, *[1] * 7),
        (2, 99, 7, 1, 1, 1, 1, 1),
        (3, 9, 11, 8, 1, 1, 1, 1),
      )
    )
  }
  changes |= {
    f'offset {k}': (108, '<f', (offset,))
    for k, offset in enumerate((1e30, np.inf, np.nan, -1e9, 0.0, 300.0))
  }
  changes |= {'type': (70, '<h', (999,)), 'complex': (70, '<h', (32,))}
  for name, (offset, form, values) in changes.items():
    (path / f'{name}.nii').write_bytes(whole)
    _overwrite(path / f'{name}.nii', offset, form, *values)
  for name, content in (('much more', whole + bytes(5000)), ('less', whole[:-1])):
    (path / f'{name}.nii').write_bytes(content)
  save(path / 'nan.nii', np.full(SHAPE, np.nan), dtype=np.float32)
  save(path / 'too large.nii', np.full(SHAPE, 1e300), dtype=np.float64)
  _overwrite(path / 'too large.nii', 112, '<f', 1e38)  # its factor
  return sorted({path.name for path in path.iterdir()} - {'a.nii'})


def test_damaged_headers_are_named_or_left_out(tmp_path):
  (tmp_path / 'all').mkdir()
  names = _damaged(tmp_path / 'all')
  assert len(names) == 20
  with pytest.raises(decode.UnreadableImage) as caught:
    slices(tmp_path, tmp_path / 'all')
  lines = str(caught.value).split('\n')
  assert re.match('[12][0-9] of 21 volumes cannot be read:', lines[0])
  assert len(lines) == 13
  assert lines[-1].endswith('set --config.data.options.skip_corrupt=True to leave such images out.')
  skipping = config(tmp_path, f'nifti:{tmp_path / "all"}', skip_corrupt=True)
  prepared = prepare.prepare(skipping)
  assert prepared.spec.counts['train'] == 7
  assert prepared.spec.skipped == len(names)
  source = sources.find(skipping).open()
  refused = []
  for index in range(source.size):
    try:
      source.load(index)
    except decode.UnreadableImage as error:
      refused.append(str(error))
  for name, message in zip(names, refused, strict=True):
    assert str(tmp_path / 'all' / name) in message
    assert '\n' not in message


def test_volumes_without_a_bright_slice_are_told(tmp_path):
  save(tmp_path / 'x' / 'a.nii', noise())
  save(tmp_path / 'x' / 'dark.nii', np.zeros(SHAPE))
  notes = sources.find(config(tmp_path, f'nifti:{tmp_path / "x"}')).open().notes()
  assert len(notes) == 1
  assert re.search(
    r'axial slice shows less than --config\.data\.options\.min_foreground: 1, dark\.nii', notes[0]
  )


@pytest.mark.parametrize(
  ('path', 'error', 'words'),
  [
    ('/missing/*/x', FileNotFoundError, r'nifti:/missing does not exist'),
    ('/missing/a/b*.nii', FileNotFoundError, r'nifti:/missing does not exist'),
    ('/*/x', ValueError, 'search this whole machine.*--config.data.source=nifti:PATH'),
    ('/', ValueError, 'search this whole machine'),
  ],
)
def test_no_pattern_searches_the_whole_machine(tmp_path, monkeypatch, path, error, words):
  def walk(*arguments: Any) -> None:
    raise AssertionError(f'{arguments} is searched')

  monkeypatch.setattr(os, 'walk', walk)
  monkeypatch.setattr(os, 'scandir', walk)
  with pytest.raises(error, match=words):
    slices(tmp_path, path)


def test_a_volume_is_no_folder(tmp_path):
  save(tmp_path / 'x' / 'a.nii', noise())
  with pytest.raises(FileNotFoundError, match=r'a\.nii is a file; name the folder of'):
    slices(tmp_path, tmp_path / 'x' / 'a.nii')


def test_links_and_pipes_end_nothing(tmp_path):
  save(tmp_path / 'x' / 'a.nii', noise())
  save(tmp_path / 'elsewhere' / 'b.nii', noise(1))
  os.symlink(tmp_path / 'elsewhere', tmp_path / 'x' / 'link')
  os.symlink(tmp_path / 'nowhere', tmp_path / 'x' / 'broken.nii')
  os.mkfifo(tmp_path / 'x' / 'pipe.nii.gz')
  with pytest.raises(decode.UnreadableImage, match=r'(?s)2 of 4 volumes.*broken\.nii.*pipe\.nii\.gz'):
    slices(tmp_path, tmp_path / 'x')
  assert len(slices(tmp_path, tmp_path / 'x', skip_corrupt=True)) == 14
