"""A figure without a display and without global state, whatever backend is configured."""

from pathlib import Path
from typing import Any

DPI = 150
INK = '#333333'
COLORS = ('#1f6fb4', '#d1495b', '#3a8f5c', '#8a5fb0', '#c98a1b', '#4b4b4b')


def make(size: tuple[float, float]) -> Any:
  """Figure of this width and height in inches."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=size, dpi=DPI, facecolor='white')
  FigureCanvasAgg(figure)
  return figure


def axes(figure: Any, corner: tuple[float, float], shape: tuple[float, float]) -> Any:
  """Axes with this lower left corner (x, y) and of this shape (height, width), in inches."""
  width, height = figure.get_size_inches()
  box = corner[0] / width, corner[1] / height, shape[1] / width, shape[0] / height
  return figure.add_axes(box)


def save(figure: Any, path: str | Path) -> Path:
  """Writes a PNG file, with its directory, and returns its path."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, format='png', dpi=DPI)
  return path
