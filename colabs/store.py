"""Runs the notebooks and stores them with their outputs, small enough for a repository.

  python -m colabs.store                    # all of them
  python -m colabs.store quickstart supn    # some

The first code cell of every notebook is written from install.py. Pictures are stored as PNG files
of few colours; what a program writes to stderr, the names of temporary directories and the middle of
long texts are left out. COLAB_STEPS=200 in the environment shortens trainings; what is printed in a
notebook says how long they were. Needs the extras data, metrics and test.
"""

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).resolve().parent
INSTALL = 1  # index of the cell that installs the project
BYTES = 70_000  # of a picture, at most, if one of these sizes allows it:
SIZES = ((720, 256), (600, 256), (600, 128), (480, 128), (480, 32))  # width in pixels, number of colours
LINES = 24  # of a text, at most
TEMPORARY = re.compile(re.escape(tempfile.gettempdir()) + r'/\w+')


def main(names: list[str]) -> None:
  """Runs and stores the notebooks of these names; all without any."""
  for path in sorted(FOLDER.glob('*.ipynb')):
    if not names or path.stem in names:
      notebook = nbformat.read(path, as_version=4)
      write(path, executed(notebook))
      print(f'{path.name}: {path.stat().st_size / 1000:.0f} kB', flush=True)


def install_source() -> str:
  """Returns the source of the cell that installs the project."""
  return (FOLDER / 'install.py').read_text(encoding='utf-8').rstrip('\n')


def executed(notebook: Any) -> Any:
  """Returns a notebook with the current cell that installs the project, after a run of all its cells."""
  notebook.cells[INSTALL].source = install_source()
  os.environ['MPLBACKEND'] = 'module://matplotlib_inline.backend_inline'
  NotebookClient(notebook, timeout=3600, kernel_name='python3').execute(cwd=str(FOLDER))
  return notebook


def write(path: Path, notebook: Any) -> None:
  """Writes a notebook with small outputs."""
  for cell in notebook.cells:
    cell.metadata = {}
    if cell.cell_type == 'code':
      cell.execution_count = None
      cell.outputs = [made for output in cell.outputs if (made := small(output)) is not None]
  notebook.metadata = {
    'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'},
    'language_info': {'name': 'python'},
  }
  nbformat.write(notebook, path)


def small(output: Any) -> Any | None:
  """Returns one output as it is stored; None for what is left out."""
  if output.output_type == 'stream':
    if output.name == 'stderr':
      return None
    return nbformat.v4.new_output('stream', name='stdout', text=shortened(output.text))
  data = {}
  for kind, content in output.data.items():
    if kind == 'image/png':
      data[kind] = compressed(content)
    elif kind in ('text/plain', 'text/markdown'):
      data[kind] = TEMPORARY.sub('runs', content)
  if len(data) > 1:
    data.pop('text/plain', None)  # the name of an object
  return nbformat.v4.new_output('display_data', data=data)


def shortened(text: str) -> str:
  """Returns a text without names of temporary directories, and without its middle if it is long."""
  lines = TEMPORARY.sub('runs', text).splitlines(keepends=True)
  if len(lines) > LINES:
    lines = [*lines[: LINES // 2], '...\n', *lines[-LINES // 2 :]]
  return ''.join(lines)


def compressed(encoded: str) -> str:
  """Returns a picture, a PNG file in base64, in the first of SIZES that is small enough, or the last."""
  image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert('RGB')
  stored = b''
  for width, colours in SIZES:
    stored = png(image, min(width, image.width), colours)
    if len(stored) <= BYTES:
      break
  return base64.b64encode(stored).decode()


def png(image: Image.Image, width: int, colours: int) -> bytes:
  """Returns a picture of this width and number of colours as a PNG file."""
  if width < image.width:
    image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
  buffer = io.BytesIO()
  image.quantize(colours, dither=Image.Dither.NONE).save(buffer, 'PNG', optimize=True)
  return buffer.getvalue()


if __name__ == '__main__':
  main(sys.argv[1:])
