"""Trains two VAEs on real images, with independent pixels and with a low-rank covariance.

  python -m launch.demo

Both use configs/digits.py: the same network and the same 8x8 digits, but different distributions of the
pixels. Prints one table over the test images, and writes it with figures and scores per image into
--workdir. Run again, it resumes where it stopped and trains nothing twice.
"""

from collections.abc import Sequence
from pathlib import Path

from configs import digits
from launch import flags
from structured_obs.evaluation import compare
from structured_obs.train import run

VARIANTS = ('diagonal', 'low_rank')

_WORKDIR = flags.define_path('workdir', 'runs/demo', 'Directory of the two runs.')
_SAMPLES = flags.define_integer('samples', 0, "Importance samples; 0 for the config's.", 0)
_STEPS = flags.define_integer('steps', 0, "Training steps; 0 for the config's.", 0)


def main(arguments: Sequence[str]) -> None:
  """Trains, evaluates and compares the variants."""
  del arguments
  workdirs = {variant: str(Path(_WORKDIR.value) / variant) for variant in VARIANTS}
  for variant, workdir in workdirs.items():
    if not _train(variant, workdir):
      return
  print()
  request = compare.Request(samples=_SAMPLES.value)
  found = compare.evaluate(workdirs, _WORKDIR.value, request, print)
  print(f'\n{found.text}')
  print(f'\npicture  {found.report.parent / "figures" / "samples.png"}\nreport   {found.report}')


def _train(variant: str, workdir: str) -> bool:
  """Trains a variant to its end; returns False after a signal to stop."""
  config = digits.get_config(variant)
  if _STEPS.value:
    config.train.steps = _STEPS.value
  print(f'\nTraining {variant} in {workdir}')
  command = f'python -m launch.demo --workdir={_WORKDIR.value}'
  command += f' --steps={_STEPS.value}' if _STEPS.value else ''
  outcome = run.run(config, run.Options(workdir=workdir, command=command))
  return outcome is not None and outcome.reason != 'stopped'


if __name__ == '__main__':
  flags.run(main)
