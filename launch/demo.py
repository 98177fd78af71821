"""Trains VAEs that differ in the distribution of their pixels, and compares them on test images.

  python -m launch.demo

Uses configs/demo.py: 5,000 real MNIST digits, one network, and three distributions: independent pixels,
a low-rank covariance and a sparse precision. --recipe=digits takes configs/digits.py instead: 8x8 digits
and the first two, which is quicker. Prints the table, and writes it, with the picture, into --workdir.
Run again, it resumes where it stopped and trains nothing twice.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags as absl_flags

from configs import demo, digits
from launch import flags
from structured_obs.applications import overview, overview_picture
from structured_obs.runs import metrics_file, restore
from structured_obs.train import run

RECIPES: dict[str, tuple[Any, tuple[str, ...]]] = {
  'demo': (demo.get_config, demo.VARIANTS),
  'digits': (digits.get_config, ('diagonal', 'low_rank')),
}

_WORKDIR = flags.define_path('workdir', 'runs/demo', 'Directory of the runs.')
_RECIPE = absl_flags.DEFINE_enum('recipe', 'demo', list(RECIPES), 'Config file of the models.')
_STEPS = flags.define_integer('steps', 0, "Training steps; 0 for the config's.", 0)
_NUM_IMAGES = flags.define_integer('num_images', 500, 'Test images to score; 0 for all.', 0)


def main(arguments: Sequence[str]) -> None:
  """Trains and compares the variants."""
  del arguments
  root = Path(_WORKDIR.value)
  _, variants = RECIPES[_RECIPE.value]
  for variant in variants:
    if not _train(variant, str(root / variant)):
      return
  opened = [restore.load(root / variant, 'best', variant) for variant in variants]
  models, prepared = [trained for trained, _ in opened], opened[0][1]
  images = prepared.images['test'][: _NUM_IMAGES.value or None]
  print(f'Scoring {", ".join(variants)} on {len(images)} test images', flush=True)
  found = overview.of_each(
    lambda trained: overview.score(trained, images, _speed(root / trained.name)), models
  )
  print(f'\n{overview.table(found)}\n\n{overview.verdict(found)}\n')
  print('Drawing the picture', flush=True)
  picture = overview_picture.draw(root / 'figures' / 'overview.png', models, images)
  report = overview.write(root, found, picture, _command(), models)
  best = root / variants[-1]
  print(f'picture  {picture}\nreport   {report.with_suffix(".html")}')
  print('\nPaint on these digits in the browser:')
  print(f'  make studio        or: python -m launch.studio --workdir={best}')
  print('More scores, slowly:')
  others = ','.join(str(root / name) for name in variants[1:])
  print(f'  python -m launch.evaluate --workdir={root / variants[0]} --compare={others} --samples=20')


def _command() -> str:
  command = f'python -m launch.demo --workdir={_WORKDIR.value}'
  for flag in (_RECIPE, _STEPS, _NUM_IMAGES):
    command += '' if flag.value == flag.default else f' --{flag.name}={flag.value}'
  return command


def _speed(workdir: Path) -> float:
  """Returns images per second in training, the median over the records."""
  records = metrics_file.read(workdir)
  found = [record['images_per_second'] for record in records if record.get('images_per_second')]
  return float(np.median(found)) if found else float('nan')


def _train(variant: str, workdir: str) -> bool:
  """Trains a variant to its end; returns False after a signal to stop."""
  config = RECIPES[_RECIPE.value][0](variant)
  if _STEPS.value:
    config.train.steps = _STEPS.value
  print(f'\nTraining {variant} in {workdir}', flush=True)
  outcome = run.run(config, run.Options(workdir=workdir, command=_command(), report=False))
  return outcome is not None and outcome.reason != 'stopped'


if __name__ == '__main__':
  flags.run(main)
