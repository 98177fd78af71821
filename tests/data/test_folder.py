"""Folders and zip archives as users have them: links, other files, damage, classes, odd names."""

import io
import os
import warnings
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from structured_obs.data import prepare
from structured_obs.data.sources import folder, tree
from tests.data import helpers

_ALL = {'validation_fraction': 0.0, 'test_fraction': 0.0}


def _gray(level: int, side: int = 4) -> np.ndarray:
  return np.full((side, side, 1), level, np.uint8)


def _folder(path: Any, **levels: int) -> str:
  """Writes one gray image for each name, `cat__a` being cat/a.png."""
  for name, level in levels.items():
    helpers.save_png(path / f'{name.replace("__", "/")}.png', _gray(level))
  return f'folder:{path}'


def _prepare(tmp_path: Any, source: str, **fields: Any) -> tuple[prepare.Prepared, list[str]]:
  """Prepares all images as training images; also returns the lines that were said."""
  said: list[str] = []
  return prepare.prepare(helpers.config(tmp_path, source, **(_ALL | fields)), said.append), said


def _levels(prepared: prepare.Prepared) -> list[int]:
  return prepared.images['train'][:, 0, 0, 0].tolist()


def _png(image: np.ndarray) -> bytes:
  content = io.BytesIO()
  Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, 'PNG')
  return content.getvalue()


def _zip(path: Any, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> str:
  with warnings.catch_warnings(), zipfile.ZipFile(path, 'w', method) as archive:
    warnings.simplefilter('ignore')  # of names that repeat
    for name, content in members:
      archive.writestr(name, content)
  return f'folder:{path}'


@pytest.mark.parametrize('first', ['gray', 'colour'])
def test_one_colour_image_makes_all_rgb(tmp_path, first):
  colour = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
  helpers.save_png(tmp_path / 'x' / f'{"z" if first == "gray" else "a"}.png', colour)
  source = _folder(tmp_path / 'x', m=9)
  Image.fromarray(np.full((4, 4), 200 * 257, np.uint16)).save(tmp_path / 'x' / 'deep.png')
  prepared, said = _prepare(tmp_path, source)
  assert prepared.images['train'].shape == (3, 4, 4, 3)
  order = [np.repeat(_gray(200), 3, -1), np.repeat(_gray(9), 3, -1)]
  expected = [*order, colour] if first == 'gray' else [colour, *order]
  assert np.array_equal(prepared.images['train'], expected)
  assert 'Gray images among colour ones, which become RGB: 2, such as deep.png.' in prepared.spec.notes
  assert set(prepared.spec.notes) <= set(said)
  labelled = helpers.config(tmp_path, source, channels=1, **_ALL)
  assert prepare.prepare(labelled).spec.notes == []


def test_only_gray_images_stay_gray_and_that_is_said(tmp_path):
  source = _folder(tmp_path / 'x', a=3, b=200)
  prepared, _ = _prepare(tmp_path, source)
  assert prepared.spec.channels == 1
  assert '--config.data.channels=3' in prepared.spec.notes[0]
  coloured, said = _prepare(tmp_path, source, channels=3)
  assert coloured.spec.channels == 3
  assert coloured.spec.notes == []
  assert len(said) == 1


def test_members_of_one_name_are_all_read(tmp_path):
  members = [
    ('a.png', _png(_gray(10))),
    ('b.png', _png(_gray(30))),
    ('a.png', _png(_gray(200))),
    ('bad.png', b'x'),
    ('bad.png', b''),
  ]
  prepared, _ = _prepare(tmp_path, _zip(tmp_path / 'x.zip', members), skip_corrupt=True)
  assert _levels(prepared) == [10, 200, 30]
  assert prepared.spec.skipped_names == ['bad.png', 'bad.png (2)']


def test_members_with_dots_in_their_paths_are_not_hidden(tmp_path):
  members = [('./a.png', _png(_gray(10))), ('../b.png', _png(_gray(30))), ('./.c.png', _png(_gray(50)))]
  prepared, _ = _prepare(tmp_path, _zip(tmp_path / 'x.zip', members))
  assert _levels(prepared) == [10, 30]


@pytest.mark.parametrize('damage', ['data', 'encrypted', 'too large'])
@pytest.mark.parametrize('method', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_members_are_named_and_can_be_skipped(tmp_path, monkeypatch, method, damage):
  noise = helpers.random_images(3, 20, 20)
  source = _zip(tmp_path / 'x.zip', [(f'{i}.png', _png(noise[i])) for i in range(3)], method)
  with zipfile.ZipFile(tmp_path / 'x.zip') as archive:
    start = archive.infolist()[1].header_offset
  content = bytearray((tmp_path / 'x.zip').read_bytes())
  if damage == 'data':
    content[start + 40 : start + 100] = bytes(value ^ 255 for value in content[start + 40 : start + 100])
  elif damage == 'encrypted':
    entry = content.index(b'PK\x01\x02', content.index(b'PK\x01\x02') + 4)
    content[start + 6] |= 1
    content[entry + 8] |= 1
  else:
    monkeypatch.setattr(folder, 'MAX_MEMBER', len(_png(noise[0])))
    members = [('0.png', _png(noise[0])), ('1.png', bytes(10_000)), ('2.png', _png(noise[2]))]
    _zip(tmp_path / 'x.zip', members, method)
    content = (tmp_path / 'x.zip').read_bytes()
    monkeypatch.setattr(folder, 'MAX_MEMBER', 9_999)
  (tmp_path / 'x.zip').write_bytes(content)
  words = r'x\.zip:1\.png cannot be read: .*--config\.data\.options\.skip_corrupt=True'
  with pytest.raises(ValueError, match=words):
    _prepare(tmp_path, source)
  prepared, _ = _prepare(tmp_path, source, skip_corrupt=True)
  assert np.array_equal(prepared.images['train'], noise[[0, 2]])


def test_a_damaged_archive_is_named(tmp_path):
  source = _zip(tmp_path / 'x.zip', [('a.png', _png(_gray(1)))])
  content = (tmp_path / 'x.zip').read_bytes()
  (tmp_path / 'x.zip').write_bytes(content.replace(b'PK\x01\x02', b'PK\x01\x00'))
  with pytest.raises(ValueError, match=r'Zip archive .*x\.zip cannot be opened: '):
    _prepare(tmp_path, source)


def test_all_unreadable_files_are_listed_at_once(tmp_path):
  source = _folder(tmp_path / 'x', **{f'{i:02}': i for i in range(20)})
  for i in range(1, 14):
    (tmp_path / 'x' / f'{i:02}.png').write_bytes(b'\x89PNG\r\n\x1a\nbroken')
  os.symlink('/nowhere.png', tmp_path / 'x' / '00a.png')
  os.symlink('00b.png', tmp_path / 'x' / '00b.png')
  os.mkfifo(tmp_path / 'x' / '00c.png')
  with pytest.raises(ValueError, match=r'^16 of 23 images cannot be read:') as caught:
    _prepare(tmp_path, source)
  lines = str(caught.value).splitlines()
  assert [line.partition(' be read: ')[2] for line in lines[1:4]] == [
    'it is a broken link',
    'it is a broken link',
    'it is not a regular file',
  ]
  assert [os.path.basename(line.split(' cannot be read: ')[0]) for line in lines[1:11]] == [
    '00a.png',
    '00b.png',
    '00c.png',
    *(f'{i:02}.png' for i in range(1, 8)),
  ]
  assert lines[11] == '  and 6 more'
  assert '--config.data.options.skip_corrupt=True' in lines[12]
  prepared, _ = _prepare(tmp_path, source, skip_corrupt=True)
  assert _levels(prepared) == [0, *range(14, 20)]
  assert prepared.spec.skipped == 16
  assert prepared.spec.notes[-1] == 'Unreadable images, which are left out: 16, such as 00a.png.'


def test_a_split_of_unreadable_images_only_is_refused(tmp_path):
  source = _folder(tmp_path / 'x', a=1, b=2, c=3)
  fields = {'validation_fraction': 0.1, 'test_fraction': 0.1, 'skip_corrupt': True}
  whole, _ = _prepare(tmp_path, source, **fields)
  level = whole.images['test'][0, 0, 0, 0]
  (tmp_path / 'x' / f'{"abc"[level - 1]}.png').write_bytes(b'')
  with pytest.raises(ValueError, match=r'None of the 1 images of the test split .*data\.split_seed=1'):
    _prepare(tmp_path, source, **fields)


def test_links_are_followed_and_circles_end(tmp_path):
  source = _folder(tmp_path / 'x', a=1, real__b=2)
  _folder(tmp_path / 'elsewhere', c=3, deep__d=4)
  _folder(tmp_path, outside=5)
  links = {
    'x/link': tmp_path / 'elsewhere',
    'x/again': tmp_path / 'elsewhere',
    'x/self': '.',
    'x/real/up': '..',
    'x/alias': 'real',
    'elsewhere/parent': tmp_path,
    'x/f.png': 'a.png',
  }
  for name, target in links.items():
    os.symlink(target, tmp_path / name)
  found = tree.walk(str(tmp_path / 'x'))
  assert sorted(found.names) == ['a.png', 'again/c.png', 'again/deep/d.png', 'f.png', 'real/b.png']
  assert any('5, such as again/parent' in note for note in found.notes)
  prepared, _ = _prepare(tmp_path, source)
  assert _levels(prepared) == [1, 3, 4, 1, 2]


def test_what_was_passed_over_or_changed_is_said(tmp_path):
  source = _folder(tmp_path / 'x', a=1, b=2)
  helpers.save_png(tmp_path / 'x' / 'big.png', _gray(7, 9))
  for name in ('c.HEIC', 'd.heic', 'e.txt', 'README', '.hidden'):
    (tmp_path / 'x' / name).write_bytes(b'x')
  frames = [Image.new('L', (8, 8), level) for level in (50, 60)]
  frames[0].save(tmp_path / 'x' / 'moving.gif', save_all=True, append_images=frames[1:])
  Image.new('LA', (8, 8), (0, 0)).save(tmp_path / 'x' / 'clear.png')
  Image.new('L', (8, 8), 90).save(tmp_path / 'x' / 'scan.tif')
  prepared, said = _prepare(tmp_path, source, height=8, width=8, channels=1)
  assert _levels(prepared) == [1, 2, 7, 255, 50, 90]
  notes = '\n'.join(prepared.spec.notes)
  for words in (
    '2 .heic, 1 .txt, 1 without an ending.',
    'are blended with white: 1, clear.png',
    'of which the first is read: 1, moving.gif',
    'smaller than the wanted size, which are enlarged: 2, such as a.png',
  ):
    assert words in notes
  assert said[1:] == prepared.spec.notes


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  _folder(tmp_path / 'x', a=1)
  config = helpers.config(tmp_path, 'folder:~/x', **_ALL)
  config.cache_dir = '~/kept'
  assert os.path.dirname(prepare.prepare(config).path) == str(tmp_path / 'kept')


def test_images_that_are_in_two_splits_are_counted(tmp_path):
  source = _folder(tmp_path / 'x', **{f'{i:02}': i % 10 for i in range(20)})
  prepared, _ = _prepare(tmp_path, source, validation_fraction=0.2, test_fraction=0.2)
  known, repeated = set(_levels(prepared)), 0
  for split in ('validation', 'test'):
    here = prepared.images[split][:, 0, 0, 0].tolist()
    repeated += sum(level in known for level in here)
    known |= set(here)
  assert repeated > 0
  assert any(f'an earlier split: {repeated}, such as' in note for note in prepared.spec.notes)


@pytest.mark.parametrize('kind', ['folder', 'zip', 'nested zip'])
def test_sub_folders_are_classes(tmp_path, kind):
  source = _folder(tmp_path / 'x', dog__b=7, dog__c=8, cat__a=9)
  if kind != 'folder':
    top = 'pets/' if kind == 'nested zip' else ''
    members = {'dog/b.png': 7, 'dog/c.png': 8, 'cat/a.png': 9}
    source = _zip(tmp_path / 'x.zip', [(top + name, _png(_gray(k))) for name, k in members.items()])
  prepared, _ = _prepare(tmp_path, source, labels=True)
  assert list(prepared.spec.class_names) == ['cat', 'dog']
  assert list(prepared.spec.class_counts) == [1, 2]
  assert helpers.labels(prepared, 'train').tolist() == [0, 1, 1]
  assert prepared.images['train'][:, 0, 0].tolist() == [[9, 0], [7, 1], [8, 1]]
  assert _prepare(tmp_path, source)[0].labels['train'] is None


@pytest.mark.parametrize(
  ('extra', 'words'),
  [('c', r'c\.png in .* lies outside of them'), ('dog__deep__c', r'dog/deep/c\.png in .* lies deeper')],
)
def test_images_outside_of_class_folders_are_refused(tmp_path, extra, words):
  source = _folder(tmp_path / 'x', dog__b=7, cat__a=9, **{extra: 1})
  with pytest.raises(ValueError, match=words + r'.*--config\.data\.labels=False'):
    _prepare(tmp_path, source, labels=True)


def test_names_may_hold_any_bytes(tmp_path):
  place = os.fsencode(tmp_path) + b'/\xff dir'
  os.mkdir(place)
  content = {b'\xfe.png': _png(_gray(1)), b'new\nline.png': _png(_gray(2)), b'\xfd.png': b''}
  for name in content:
    with open(place + b'/' + name, 'wb') as file:
      file.write(content[name])
  prepared, said = _prepare(tmp_path, f'folder:{os.fsdecode(place)}', skip_corrupt=True)
  assert _levels(prepared) == [2, 1]
  assert prepared.spec.skipped_names == ['\\udcfd.png']
  for text in (*said, prepared.spec.source, *prepared.spec.notes, *prepared.spec.skipped_names):
    assert '\n' not in text
    text.encode()
