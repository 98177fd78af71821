"""Runs that have trained, evaluated on the same images and compared: one table, one report."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from structured_obs.evaluation import report, results, sections
from structured_obs.train import finished, parallel


class Request(NamedTuple):
  """What to evaluate, and how."""

  split: str = 'test'
  checkpoint: str = 'best'  # see `experiment.restore`
  num_images: int = 0  # the first so many; 0 for all
  samples: int = 0  # of the importance-weighted bound; 0 for the first run's configuration
  seed: int = 0  # of the dequantisation and the latents


DEFAULT = Request()


class Compared(NamedTuple):
  """What was found."""

  text: str  # the table, what its numbers are, and the sections behind it
  report: Path  # Markdown; figures, scores as JSON and by image lie beside it


def evaluate(
  workdirs: Mapping[str, str | Path],
  directory: str | Path,
  request: Request = DEFAULT,
  say: Callable[[str], None] = lambda line: None,
) -> Compared:
  """Evaluate runs, differences being from the first one, and write the report.

  Args:
    workdirs: of the runs, by the names that they have in tables.
    directory: that the report is written to.
    request: which images and how many samples.
    say: is given a line of text when the evaluation starts.

  Raises:
    FileNotFoundError: there is no run, no checkpoint or no data.
    ValueError: the runs were not trained on the same data.
  """
  opened = [finished.load(path, request.checkpoint, name) for name, path in workdirs.items()]
  models, splits = [trained for trained, _ in opened], opened[0][1].images
  results.check_comparable(models[0], models[1:])
  images = splits[request.split][: request.num_images or None]
  say(f'Evaluating {", ".join(workdirs)} on {len(images)} images of the {request.split} split.')
  settings = results.settings_of(models[0].config, models[0].spec, request.samples)
  mesh = parallel.make_mesh()
  found = [results.evaluate(trained, images, settings, mesh, request.seed) for trained in models]
  further = sections.make(
    sections.Evaluated(found, request.split, images, splits, request.seed)
  )
  about: dict[str, Any] = {
    'split': request.split, 'checkpoint': request.checkpoint, 'seed': request.seed
  }
  written = report.write_evaluation(directory, found, images, about, further)
  parts = [results.comparison_table(found), results.explanation(found)]
  return Compared('\n\n'.join([*parts, *(section.text for section in further)]), written)
