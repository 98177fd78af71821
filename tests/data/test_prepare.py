# One file of more than 300 lines: prepare, from all sides.
"""From a source to a cached array: content, splits, errors, and what may go wrong with files."""

import dataclasses
import json
import os
import shutil
import sys
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from sklearn import datasets

from structured_obs.data import decode, ingest, prepare
from structured_obs.data.sources import base
from structured_obs.data.splits import SPLITS
from tests.data import helpers


def _rows(prepared: prepare.Prepared) -> np.ndarray:
  """All images of all splits, sorted, to compare them as sets."""
  images = np.concatenate([prepared.images[split] for split in SPLITS])
  return np.sort(np.array([image.tobytes() for image in images]))


def _bytes(images: np.ndarray) -> np.ndarray:
  return np.sort(np.array([image.tobytes() for image in images]))


def test_digits_are_all_there_with_their_labels(tmp_path):
  prepared = prepare.prepare(helpers.config(tmp_path, 'digits'))
  spec = prepared.spec
  assert (spec.height, spec.width, spec.channels, spec.levels) == (8, 8, 1, 17)
  assert spec.counts == {'train': 1455, 'validation': 162, 'test': 180}
  bunch: Any = datasets.load_digits()
  known = {
    image.astype(np.uint8).tobytes(): label
    for image, label in zip(bunch.images, bunch.target, strict=True)
  }
  assert np.array_equal(_rows(prepared), _bytes(bunch.images.astype(np.uint8)))
  for split in SPLITS:
    labels = helpers.labels(prepared, split)
    assert labels.tolist() == [known[image.tobytes()] for image in prepared.images[split]]


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
  images = helpers.random_images(20)
  source = helpers.folder(tmp_path / 'faces', images)
  helpers.save_png(tmp_path / 'faces' / '.hidden.png', images[0])
  (tmp_path / 'faces' / 'notes.txt').write_text('not an image')
  prepared = prepare.prepare(helpers.config(tmp_path, source))
  assert prepared.spec.counts == {'train': 16, 'validation': 2, 'test': 2}
  assert np.array_equal(_rows(prepared), _bytes(images))
  by_name = [images[i].tobytes() for k in range(3) for i in range(k, 20, 3)]
  for split in SPLITS:
    rows = [by_name.index(image.tobytes()) for image in prepared.images[split]]
    assert rows == sorted(rows)
    assert prepared.labels[split] is None


def test_a_zip_and_a_copy_of_a_folder_give_the_same_pixels(tmp_path):
  images = helpers.random_images(12)
  source = helpers.folder(tmp_path / 'a', images)
  shutil.copytree(tmp_path / 'a', tmp_path / 'b')
  shutil.make_archive(str(tmp_path / 'c'), 'zip', tmp_path / 'a')
  specs = [
    prepare.prepare(helpers.config(tmp_path, name, height=3, width=3)).spec
    for name in (source, f'folder:{tmp_path / "b"}', f'folder:{tmp_path / "c.zip"}')
  ]
  assert len({spec.sha256 for spec in specs}) == 1


def test_the_fingerprint_follows_what_determines_the_result(tmp_path):
  source = helpers.folder(tmp_path / 'x', helpers.random_images(10))
  config = helpers.config(tmp_path, source)
  first = prepare.prepare(config).spec.fingerprint

  def changed(**fields):
    return prepare.prepare(dataclasses.replace(config, **fields)).spec.fingerprint != first

  assert not changed(flip=True, shift=3, residency='host')
  for fields in (
    {'height': 4},
    {'channels': 1},
    {'limit': 9},
    {'split_seed': 1},
    {'crop': 'none'},
    {'resample': 'lanczos'},
    {'test_fraction': 0.2},
    {'options': {'skip_corrupt': True}},
  ):
    assert changed(**fields)
  helpers.save_png(tmp_path / 'x' / 'new.png', helpers.random_images(1)[0])
  assert changed()


def test_a_second_call_reads_nothing(tmp_path, monkeypatch):
  config = helpers.config(tmp_path, 'digits')
  first = prepare.prepare(config)
  monkeypatch.setattr(ingest, 'write', None)
  again = prepare.prepare(config)
  assert again.spec == first.spec
  assert isinstance(again.images['train'], np.memmap)
  assert not again.images['train'].flags.writeable


@pytest.mark.parametrize('limit', [3, 10, 100])
def test_limit_keeps_every_split_and_some_of_the_same_images(tmp_path, limit):
  whole = prepare.prepare(helpers.config(tmp_path, 'digits'))
  part = prepare.prepare(helpers.config(tmp_path, 'digits', limit=limit))
  assert sum(part.spec.counts.values()) == limit
  for split in SPLITS:
    assert part.spec.counts[split] >= 1
    members = {image.tobytes() for image in whole.images[split]}
    assert all(image.tobytes() in members for image in part.images[split])


def test_no_split_where_the_fraction_is_zero(tmp_path):
  fields = {'validation_fraction': 0.0, 'test_fraction': 0.0}
  spec = prepare.prepare(helpers.config(tmp_path, 'digits', **fields)).spec
  assert spec.counts == {'train': 1797, 'validation': 0, 'test': 0}


def _broken_folder(tmp_path) -> str:
  source = helpers.folder(tmp_path / 'x', helpers.random_images(12))
  (tmp_path / 'x' / '01' / '004.png').write_bytes(b'\x89PNG\r\n\x1a\nbroken')
  return source


def test_a_corrupt_image_is_named_and_leaves_no_cache(tmp_path):
  with pytest.raises(
    ValueError, match=r'01/004\.png cannot be read.*--config.data\.options\.skip_corrupt=True'
  ):
    prepare.prepare(helpers.config(tmp_path, _broken_folder(tmp_path)))
  assert os.listdir(tmp_path / 'cache') == []


def test_corrupt_images_can_be_skipped(tmp_path):
  prepared = prepare.prepare(
    helpers.config(tmp_path, _broken_folder(tmp_path), skip_corrupt=True), verify=True
  )
  assert (prepared.spec.skipped, prepared.spec.skipped_names) == (1, ['01/004.png'])
  expected = np.delete(helpers.random_images(12), 4, 0)
  assert np.array_equal(_rows(prepared), _bytes(expected))


def test_only_corrupt_images_are_an_error(tmp_path):
  for i in range(4):
    (tmp_path / f'{i}.png').write_bytes(b'')
  with pytest.raises(ValueError, match=r'None of 4 images is readable; the first is'):
    prepare.prepare(helpers.config(tmp_path, f'folder:{tmp_path}', skip_corrupt=True))


def test_mixed_sizes_need_a_target(tmp_path):
  source = helpers.folder(tmp_path / 'x', helpers.random_images(9))
  helpers.save_png(tmp_path / 'x' / 'z.png', helpers.random_images(1, 8, 8, 1)[0])
  with pytest.raises(ValueError, match=r'6 x 5 x 3.*z\.png is 8 x 8 x 1') as caught:
    prepare.prepare(helpers.config(tmp_path, source))
  flags = [word for word in str(caught.value).split() if word.startswith('--')]
  assert flags == ['--config.data.height=6', '--config.data.width=5.']
  with pytest.raises(ValueError, match=r'one size, such as by --config\.data\.width=5\.$'):
    prepare.prepare(helpers.config(tmp_path, source, height=7))
  to = {'height': 4, 'width': 4, 'channels': 1}
  prepared = prepare.prepare(helpers.config(tmp_path, source, **to))
  assert prepared.images['train'].shape[1:] == (4, 4, 1)


@pytest.mark.parametrize(
  ('source', 'error', 'words'),
  [
    ('digit', ValueError, "did you mean 'digits'"),
    ('fotos', ValueError, "did you mean 'photos'"),
    ('folders:/x', ValueError, "did you mean 'folder:PATH'"),
    ('folder', ValueError, "must have the form 'folder:PATH'"),
    ('digits:3', ValueError, "must have the form 'digits'"),
    ('folder:/no/such/place', FileNotFoundError, '/no/such/place: this folder does not exist'),
    ('folder:EMPTY', FileNotFoundError, 'There are no images in .*must have files ending in .png'),
    ('folder:FILE', ValueError, 'neither a folder nor a zip'),
  ],
)
def test_sources_that_are_not_there(tmp_path, source, error, words):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'file').write_text('x')
  for mark in ('empty', 'file'):
    source = source.replace(mark.upper(), str(tmp_path / mark))
  with pytest.raises(error, match=words):
    prepare.prepare(helpers.config(tmp_path, source))


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'test_fraction': 1.0}, 'data.test_fraction must be a number of at least 0 and below 1'),
    ({'limit': 2}, 'data.limit=2 is less than .* at least --config.data.limit=3'),
    ({'validation_fraction': float('nan')}, 'and below 1, but is nan'),
    ({'test_fraction': -0.1}, 'and below 1, but is -0.1'),
    ({'split_seed': -1}, 'of at least 0, but is -1'),
  ],
)
def test_impossible_splits_are_refused(tmp_path, fields, words):
  with pytest.raises(ValueError, match=words):
    prepare.prepare(helpers.config(tmp_path, 'digits', **fields))


def test_too_few_images_to_split(tmp_path):
  source = helpers.folder(tmp_path / 'x', helpers.random_images(2))
  with pytest.raises(ValueError, match='too few images, 2'):
    prepare.prepare(helpers.config(tmp_path, source))


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'PIL', None)
  np.savez(tmp_path / 'x.npz', image=helpers.random_images(5))
  with pytest.raises(ImportError, match=r"pip install 'structured_obs\[data\]'"):
    prepare.prepare(helpers.config(tmp_path, f'npz:{tmp_path / "x.npz"}', height=3))


@pytest.mark.parametrize('damage', ['truncate', 'shape', 'spec', 'gone'])
def test_a_damaged_cache_is_noticed(tmp_path, damage):
  config = helpers.config(tmp_path, 'digits', limit=30)
  path = prepare.prepare(config).path
  file = os.path.join(path, 'images.npy')
  if damage == 'truncate':
    os.truncate(file, os.path.getsize(file) - 1)
  elif damage == 'shape':
    np.save(file, np.zeros((29, 8, 8, 1), np.uint8))
  elif damage == 'spec':
    os.truncate(os.path.join(path, 'spec.json'), 20)
  else:
    os.remove(file)
  with pytest.raises(ValueError, match=r'altered after they were written.*Delete that folder'):
    prepare.prepare(config)
  shutil.rmtree(path)
  prepare.prepare(config)


def test_a_changed_pixel_is_found_when_asked_for(tmp_path):
  config = helpers.config(tmp_path, 'digits', limit=30)
  path = prepare.prepare(config, verify=True).path
  with open(os.path.join(path, 'images.npy'), 'r+b') as file:
    file.seek(-5, os.SEEK_END)
    file.write(b'\x11')
  prepare.prepare(config)
  with pytest.raises(ValueError, match='SHA-256'):
    prepare.prepare(config, verify=True)


@pytest.mark.parametrize(
  ('file', 'old', 'new'),
  [
    ('spec.json', b'"levels": 17', b'"levels": 16'),
    ('spec.json', b'"train"', b'"trbin"'),
    ('spec.json', b'"counts": {', b'"counts": 3, "x": {'),
    ('spec.json', b'{', b'[1, {'),
    ('labels.npy', b'\x03\0\0\0', b'\x02\0\0\0'),
    ('labels.npy', b'NUMPY', b'NUMPX'),
    ('images.npy', b"'fortran_order': False", b"'fortran_order': True "),
  ],
)
def test_any_changed_byte_of_the_small_files_is_noticed(tmp_path, file, old, new):
  config = helpers.config(tmp_path, 'digits', limit=30)
  path = os.path.join(prepare.prepare(config).path, file)
  with open(path, 'rb') as stream:
    content = stream.read()
  assert old in content
  with open(path, 'wb') as stream:
    stream.write(content.replace(old, new, 1))
  with pytest.raises(ValueError, match=r'altered after they were written.*Delete that folder'):
    prepare.prepare(config)


def test_few_images_are_in_memory_at_a_time(tmp_path):
  lock, alive, most = threading.Lock(), 0, 0

  def count(change):
    nonlocal alive, most
    with lock:
      alive += change
      most = max(most, alive)

  def load(index):
    del index
    image = np.zeros((2, 2, 1), np.uint8)
    count(1)
    weakref.finalize(image, count, -1)
    return image, None

  records = base.Records(500, load, str, 'test', threads=4)
  target = decode.target(helpers.config(tmp_path, ''))
  written = ingest.write(str(tmp_path / 'x.npy'), ingest.Job(records, range(500), target))
  assert len(written.rows) == 500
  assert most < 25


def test_spec_json_holds_the_spec(tmp_path):
  prepared = prepare.prepare(helpers.config(tmp_path, 'digits', limit=30))
  with open(os.path.join(prepared.path, 'spec.json'), encoding='utf-8') as file:
    assert json.load(file) == prepared.spec._asdict()
  assert prepared.spec.libraries['numpy'] == np.__version__
  assert 'seed 0' in prepared.spec.split_rule
