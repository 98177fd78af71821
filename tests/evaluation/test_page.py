"""Reports as pages: everything of the Markdown, escaped, in one file without anything from elsewhere."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from structured_obs.evaluation import page

PNG = b'\x89PNG\r\n\x1a\n and more'
TEXT = """# Evaluation of `runs/x`

data <digits> & more; see [the paper](https://example.org/a?b=1&c=2)

| name | PSNR, dB |
| ---- | -------: |
| a_b  | 12.3 ± 1 |
| <b>  |          |

- **first** of two
- second

## Figure
![A title "here"](figures/x.png)

```sh
python -m launch.train --a="<b>"

| not | a table
```
"""


class _Parser(HTMLParser):
  """Collects tags with their attributes, checks that they close, and keeps the text of each."""

  VOID = ('meta', 'img')

  def __init__(self) -> None:
    super().__init__()
    self.tags, self.open, self.text = [], [], {}

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if self.open:
      self.text.setdefault(self.open[-1], []).append(data)


@pytest.fixture(name='made')
def _made(tmp_path: Path):
  (tmp_path / 'figures').mkdir()
  (tmp_path / 'figures' / 'x.png').write_bytes(PNG)
  path = page.write(tmp_path / 'report.md', [TEXT.strip(), ''], {'Configuration of a': 'x = <1>'})
  assert path.read_text() == TEXT + '\n## Configuration of a\n```\nx = <1>\n```\n'
  parser = _Parser()
  source = (tmp_path / 'report.html').read_text(encoding='utf-8')
  parser.feed(source)
  assert not parser.open
  return source, parser


def test_every_part_of_the_markdown_is_there(made):
  _, parser = made
  assert parser.text['title'] == ['Evaluation of runs/x']
  assert parser.text['button'] == ['name', 'PSNR, dB']
  assert parser.text['td'] == ['a_b', '12.3 ± 1', '<b>']
  assert [tag for tag, _ in parser.tags].count('td') == 4
  assert ''.join(parser.text['p']).startswith('data <digits> & more; see ')
  assert ('a', {'href': 'https://example.org/a?b=1&c=2'}) in parser.tags
  assert parser.text['strong'] == ['first']
  assert [tag for tag, _ in parser.tags].count('li') == 2
  assert 'python -m launch.train --a="<b>"\n\n| not | a table' in parser.text['code']


def test_figures_are_inside_and_nothing_comes_from_elsewhere(made):
  source, parser = made
  (image,) = [attributes for tag, attributes in parser.tags if tag == 'img']
  assert image['alt'] == 'A title "here"'
  head, _, data = image['src'].partition(',')
  assert head == 'data:image/png;base64'
  assert base64.b64decode(data) == PNG
  assert not [
    tag for tag, attributes in parser.tags if tag in ('link', 'iframe') or 'srcset' in attributes
  ]
  assert not re.search(r'(src|url)\s*[=(]\s*["\']?(https?:)?//', source)


def test_the_configuration_is_folded(made):
  _, parser = made
  assert ('details', {}) in parser.tags, 'closed at first'
  assert parser.text['summary'] == ['Configuration of a']
  assert 'x = <1>' in parser.text['code']


def test_it_is_for_small_screens_and_dark_rooms(made):
  source, parser = made
  meta = [attributes for tag, attributes in parser.tags if tag == 'meta']
  assert {'name': 'viewport', 'content': 'width=device-width, initial-scale=1'} in meta
  assert 'prefers-color-scheme: dark' in source


def test_a_missing_figure_is_named(tmp_path: Path):
  assert 'x: gone.png is missing' in page.page('![x](gone.png)', tmp_path)
