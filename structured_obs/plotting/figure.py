"""Creates and saves figures without a display and without global state."""

from pathlib import Path
from typing import Any

DPI = 150
INK = '#333333'
COLORS = ('#1f6fb4', '#d1495b', '#3a8f5c', '#8a5fb0', '#c98a1b', '#4b4b4b')


def make(size: tuple[float, float]) -> Any:
  """Returns a figure of this width and height in inches."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=size, dpi=DPI, facecolor='white')
  FigureCanvasAgg(figure)
  return figure


def inches(figure: Any) -> Any:
  """Returns empty axes over a whole figure, in inches from its lower left corner."""
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set_axis_off()
  width, height = figure.get_size_inches()
  axes.set(xlim=(0, width), ylim=(0, height), autoscale_on=False)
  return axes


def save(figure: Any, path: str | Path) -> Path:
  """Writes a PNG file, creates its directory, and returns its path."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, format='png', dpi=DPI)
  return path
