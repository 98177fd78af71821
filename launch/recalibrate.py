"""Saves a trained Gaussian model as the Student t that fits its validation images best.

  python -m launch.recalibrate --workdir=runs/vae --output=runs/vae_student

Fits a factor of all standard deviations and the degrees of freedom on the validation split, at the mean
of q(z|x), and writes a new workdir: the same network with the wrapper `student` around its family. All
programs open it, such as launch.evaluate --workdir=runs/vae_student --compare=runs/vae.
"""

import shlex
import sys
from collections.abc import Sequence

from launch import common_flags, flags
from structured_obs.applications import recalibrate

_RUN = common_flags.Run(output=True)


def main(arguments: Sequence[str]) -> None:
  """Fits temperature and degrees of freedom, and saves the model with them."""
  del arguments
  output = _RUN.directory('student')
  trained, prepared = _RUN.open()
  found = recalibrate.fit(trained, prepared.images['validation'])
  print(recalibrate.text(found))
  command = shlex.join(['python', '-m', 'launch.recalibrate', *sys.argv[1:]])
  step = recalibrate.save(trained, _RUN.checkpoint, found.tails, output, command)
  print(f'Step {step} is saved in {output}.')


if __name__ == '__main__':
  flags.run(main)
