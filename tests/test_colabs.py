"""Every notebook runs from top to bottom, offline, and is committed without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

COLABS = sorted((Path(__file__).parents[1] / 'colabs').glob('*.ipynb'))


@pytest.mark.parametrize('path', COLABS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings('ignore')  # of the notebook client's own event loop
def test_notebook_runs(path, monkeypatch):
  monkeypatch.setenv('COLAB_STEPS', '3')
  monkeypatch.setenv('COLAB_FAMILIES', 'diagonal,low_rank')
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # most of the time would be compilation
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


@pytest.mark.parametrize('path', COLABS, ids=lambda path: path.stem)
def test_notebook_has_a_badge_and_no_outputs(path):
  notebook = nbformat.read(path, as_version=4)
  assert 'colab-badge.svg' in notebook.cells[0].source
  for cell in notebook.cells:
    if cell.cell_type == 'code':
      assert not cell.outputs
      assert cell.execution_count is None


def test_there_are_notebooks():
  assert COLABS
