"""A report as a web page beside its Markdown: one file, with the figures, that needs no network.

Converts what reports are made of: headings, paragraphs, lists, tables, figures, blocks of code, and
code, links and bold text within a line. Tables are sorted by a click on a column's name. Everything else
is escaped and shown as it is.
"""

import base64
import contextlib
import html
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from structured_obs.evaluation import tables
from structured_obs.runs import configuration
from structured_obs.runs import workdir as workdirs
from structured_obs.runs.trained import Trained

NOTHING: Mapping[str, str] = MappingProxyType({})

_FIGURE = re.compile(r'^!\[(.*)\]\(([^)\s]+)\)$')
_INLINE = (
  (re.compile(r'`([^`]+)`'), r'<code>\1</code>'),
  (re.compile(r'\[([^\]]+)\]\((https?://[^)\s]+)\)'), r'<a href="\2">\1</a>'),
  (re.compile(r'\*\*([^*]+)\*\*'), r'<strong>\1</strong>'),
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2127; --dim: #5b6470; --line: #d5dae0; --back: #ffffff;
  --stripe: #f5f7f9; --link: #1a5fa8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --dim: #9aa5b1; --line: #3a424c;
  --back: #15191e; --stripe: #1d232a; --link: #7db7f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem 1.25rem 3rem; color: var(--ink);
  background: var(--back); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
a { color: var(--link); }
code, pre { font-family: ui-monospace, monospace; font-size: .875em; }
pre { background: var(--stripe); border: 1px solid var(--line); border-radius: 6px; padding: .7rem;
  overflow-x: auto; white-space: pre-wrap; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 11rem; }
tbody tr:nth-child(even) { background: var(--stripe); }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; background: #fff;
  border-radius: 6px; }
details { border: 1px solid var(--line); border-radius: 6px; padding: .5rem .9rem; margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
"""

_SCRIPT = """
const number = cell => { const text = cell.textContent.replace(/,/g, '').trim();
  const value = parseFloat(text); return text === '' ? NaN : value; };
const before = (a, b) => { const x = number(a), y = number(b);
  if (isNaN(x) && isNaN(y)) return a.textContent.localeCompare(b.textContent);
  return isNaN(x) ? 1 : isNaN(y) ? -1 : x - y; };
for (const button of document.querySelectorAll('th button')) button.addEventListener('click', () => {
  const head = button.closest('th'), table = head.closest('table'), column = head.cellIndex;
  const down = head.getAttribute('aria-sort') === 'ascending';
  for (const other of table.querySelectorAll('th')) other.removeAttribute('aria-sort');
  head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => (down ? -1 : 1) * before(a.cells[column], b.cells[column]));
  table.tBodies[0].append(...rows); });
"""


def write(path: Path, parts: Sequence[str], folded: Mapping[str, str] = NOTHING) -> Path:
  """Writes a report as Markdown and, beside it with the suffix .html, as a page.

  Args:
    path: of the Markdown; figures are found from its directory.
    parts: of the text; empty ones are left out.
    folded: plain text at the end by its heading, which the page has closed at first.

  Returns:
    The path of the Markdown.
  """
  text = tables.paragraphs(*parts)
  rest = [f'## {heading}\n```\n{content}\n```' for heading, content in folded.items()]
  path.write_text(tables.paragraphs(text, *rest) + '\n')
  path.with_suffix('.html').write_text(page(text, path.parent, folded), encoding='utf-8')
  return path


def page(text: str, directory: Path, folded: Mapping[str, str] = NOTHING) -> str:
  """Returns a report in Markdown as a whole HTML page.

  Args:
    text: Markdown.
    directory: that figures are relative to; one that is missing is named instead of shown.
    folded: as of `write`.
  """
  title = next((line[2:] for line in text.splitlines() if line.startswith('# ')), 'Report')
  body = '\n'.join(_blocks(text, directory))
  hidden = '\n'.join(_details(heading, content) for heading, content in folded.items())
  plain = re.sub(r'[`*]', '', title)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{html.escape(plain)}</title><style>{_STYLE}</style></head>\n'
    f'<body>\n{body}\n{hidden}\n<script>{_SCRIPT}</script></body></html>\n'
  )


def configurations(models: Sequence[Trained]) -> dict[str, str]:
  """Returns the whole configuration of each model by a heading, one field in a line."""
  return {
    f'Configuration of {trained.name}': '\n'.join(
      f'{name} = {value!r}' for name, value in configuration.flatten(trained.config).items()
    )
    for trained in models
  }


def commands(models: Sequence[Trained], evaluation: str = '') -> str:
  """Returns Markdown with the commands that train these models, and the one that evaluates them.

  Args:
    models: whose workdirs say how they were trained; those that do not are left out.
    evaluation: the command of the evaluation; '' if unknown.
  """
  found = []
  for trained in models:
    with contextlib.suppress(OSError, ValueError, KeyError):
      found.append(workdirs.read(Path(trained.workdir))['command'])
  lines = [*dict.fromkeys(filter(None, found)), *([evaluation] if evaluation else [])]
  return '\n'.join(['## Commands', '```sh', *lines, '```']) if lines else ''


def _blocks(text: str, directory: Path) -> Iterator[str]:
  """Yields the HTML of each block of lines of one kind."""
  lines = iter(_kinds(text.splitlines()))
  for kind, group in itertools.groupby(lines, key=lambda pair: pair[0]):
    content = [line for _, line in group]
    if kind == 'code':
      yield f'<pre><code>{html.escape(chr(10).join(content))}</code></pre>'
    elif kind == 'table':
      yield _table(content)
    elif kind == 'list':
      yield f'<ul>{"".join(f"<li>{_inline(line[2:])}</li>" for line in content)}</ul>'
    elif kind == 'paragraph':
      yield f'<p>{_inline(" ".join(content))}</p>'
    elif kind in ('heading', 'figure'):
      yield from (_heading(line) if kind == 'heading' else _figure(line, directory) for line in content)


def _kinds(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
  """Yields each line with its kind; fences of code are left out, and part it from what is around."""
  fenced = False
  for line in lines:
    if line.startswith('```'):
      fenced = not fenced
      yield 'nothing', line
    elif fenced:
      yield 'code', line
    elif line.startswith('#'):
      yield 'heading', line
    elif line.startswith('|'):
      yield 'table', line
    elif line.startswith('- '):
      yield 'list', line
    elif _FIGURE.match(line):
      yield 'figure', line
    else:
      yield ('paragraph' if line.strip() else 'nothing'), line


def _inline(text: str) -> str:
  found = html.escape(text, quote=True)
  for pattern, tag in _INLINE:
    found = pattern.sub(tag, found)
  return found


def _heading(line: str) -> str:
  marks, _, text = line.partition(' ')
  return f'<h{len(marks)}>{_inline(text)}</h{len(marks)}>'


def _table(lines: Sequence[str]) -> str:
  header, *rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
  rows = [row for row in rows if not all(re.fullmatch(r':?-+:?', cell) for cell in row)]
  head = ''.join(f'<th scope="col"><button>{_inline(cell)}</button></th>' for cell in header)
  body = ''.join(f'<tr>{"".join(f"<td>{_inline(cell)}</td>" for cell in row)}</tr>' for row in rows)
  table = f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
  return f'<div class="wide" tabindex="0">{table}</div>'


def _figure(line: str, directory: Path) -> str:
  found = _FIGURE.match(line)
  assert found is not None
  title, path = html.escape(found[1], quote=True), directory / found[2]
  if not path.is_file():
    return f'<p>{title}: {html.escape(str(found[2]))} is missing.</p>'
  data = base64.b64encode(path.read_bytes()).decode('ascii')
  return f'<figure><img alt="{title}" src="data:image/png;base64,{data}"></figure>'


def _details(heading: str, content: str) -> str:
  text = html.escape(content)
  return f'<details><summary>{_inline(heading)}</summary><pre><code>{text}</code></pre></details>'
