"""Every notebook runs from top to bottom, offline, and is stored with small pictures."""

import base64
import importlib.util
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from colabs import store

COLABS = sorted(store.FOLDER.glob('*.ipynb'))
MOST = 1_500_000  # bytes of all notebooks


@pytest.mark.slow
@pytest.mark.parametrize('path', COLABS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings('ignore')  # of the notebook client's own event loop
def test_notebook_runs(path, monkeypatch):
  monkeypatch.setenv('COLAB_STEPS', '3')
  monkeypatch.setenv('COLAB_FAMILIES', 'diagonal,low_rank')
  monkeypatch.setenv('MPLBACKEND', 'module://matplotlib_inline.backend_inline')
  notebook = nbformat.read(path, as_version=4)
  client = NotebookClient(notebook, timeout=240, kernel_name='python3')
  client.execute(cwd=str(path.parent))
  pictures = [
    output
    for cell in notebook.cells
    if cell.cell_type == 'code'
    for output in cell.outputs
    if output.output_type == 'display_data'
  ]
  assert pictures


def _outputs(path: Path) -> list[Any]:
  cells = nbformat.read(path, as_version=4).cells
  return [output for cell in cells if cell.cell_type == 'code' for output in cell.outputs]


@pytest.mark.parametrize('path', COLABS, ids=lambda path: path.stem)
def test_notebook_is_stored_with_small_outputs(path):
  notebook = nbformat.read(path, as_version=4)
  assert 'colab-badge.svg' in notebook.cells[0].source
  assert notebook.cells[store.INSTALL].source == store.install_source()
  assert all(cell.get('execution_count') is None for cell in notebook.cells)
  outputs = _outputs(path)
  assert {output.output_type for output in outputs} == {'stream', 'display_data'}
  pictures = [output.data['image/png'] for output in outputs if 'image/png' in output.get('data', {})]
  assert len(pictures) >= 3
  for picture in pictures:
    raw = base64.b64decode(picture)
    image = Image.open(io.BytesIO(raw))
    assert len(raw) <= store.BYTES
    assert image.width <= store.SIZES[0][0]
    assert np.asarray(image.convert('L')).std() > 5  # a picture of nothing is one colour
  text = ''.join(output.get('text', '') for output in outputs)
  assert not re.search(r'Traceback|Error|/tmp/|/home/|/root/', text)


@pytest.mark.parametrize('path', COLABS, ids=lambda path: path.stem)
def test_notebook_ends_with_what_pip_alone_does_not_bring(path):
  last = nbformat.read(path, as_version=4).cells[-1].source
  assert 'python -m launch.' in last
  assert last.index('!git clone') < last.index('%cd structured_obs') < last.index('!python -m launch.')


def test_there_are_notebooks_and_they_are_small():
  assert COLABS
  assert sum(path.stat().st_size for path in COLABS) < MOST


def test_outputs_are_stored_small():
  noise = np.random.default_rng(0).integers(0, 256, (600, 1500, 3)).astype(np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(noise).save(buffer, 'PNG')
  encoded = base64.b64encode(buffer.getvalue()).decode()
  data = {'image/png': encoded, 'text/plain': '<Figure>', 'application/json': {}}
  made = store.small(nbformat.v4.new_output('display_data', data=data))
  assert made is not None
  assert [*made.data] == ['image/png']
  image = Image.open(io.BytesIO(base64.b64decode(made.data['image/png'])))
  assert image.size == (480, 192)  # the smallest: noise cannot be compressed
  assert len(image.getcolors() or []) <= 32
  assert store.small(nbformat.v4.new_output('stream', name='stderr', text='warning')) is None
  lines = ''.join(f'{i}\n' for i in range(100))
  text = store.small(nbformat.v4.new_output('stream', name='stdout', text=f'/tmp/tmpx1_/a\n{lines}'))
  assert text is not None
  assert text.text.startswith('runs/a\n0\n')
  assert text.text.endswith('98\n99\n')
  assert len(text.text.splitlines()) == store.LINES + 1


@pytest.mark.parametrize(
  ('packages', 'hardware', 'asked', 'restart'),
  [
    ({'jax': '0.10.1', 'jaxlib': '0.10.0'}, 'nvidia-smi', ['jax==0.10.1', 'jaxlib==0.10.0'], False),
    ({'jax': '1.0', 'jaxlib': '1.0'}, '', ['jax==1.0', 'jaxlib==1.0'], False),
    ({'jax': '0.7.2', 'jax-cuda12-plugin': '0.7.2'}, 'nvidia-smi', ['jax[cuda12]'], True),
    ({'jax': '0.9.9', 'jax-cuda13-plugin': '0.9.9'}, 'nvidia-smi', ['jax[cuda13]'], True),
    ({'jax': '0.7.2', 'libtpu': '0.0.17'}, '', ['jax[tpu]'], True),
    ({}, '', ['jax'], True),
  ],
)
def test_the_project_is_installed_for_the_accelerator(packages, hardware, asked, restart, monkeypatch):
  def version(name: str) -> str:
    if name not in packages:
      raise metadata.PackageNotFoundError(name)
    return packages[name]

  commands: list[list[str]] = []
  monkeypatch.setattr(metadata, 'version', version)
  monkeypatch.setattr(shutil, 'which', lambda name: name if name == hardware else None)
  monkeypatch.setattr(os.path, 'exists', lambda path: False)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  monkeypatch.setattr(subprocess, 'run', lambda command, check: commands.append(command))
  script = str(store.FOLDER / 'install.py')
  if restart:
    with pytest.raises(SystemExit, match='restart the session'):
      runpy.run_path(script)
  else:
    runpy.run_path(script)
  assert commands[0][:4] == [sys.executable, '-m', 'pip', 'install']
  assert commands[0][5].startswith('structured_obs[data] @ git+https')
  assert commands[0][6:] == asked
