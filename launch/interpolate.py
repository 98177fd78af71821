"""Draws the ways between four samples of one predicted distribution, on a grid.

  python -m launch.interpolate --workdir=runs/faces --subject=test:3
  python -m launch.interpolate --workdir=runs/faces --subject=prior:0 --steps=7 --path=gaussian

The network is asked once; then the noise of the samples moves, of a low-rank family that of the factor,
with the pixel noise fixed, of any other all of it. --path=slerp keeps the angle between two noises in
equal parts, as the paper; along --path=gaussian every image is a sample. With --nopixel_noise those of a
low-rank family are of its factor alone.

With --images=0,1,2,3 it goes between the latents of these four test images instead, asks the network at
every step, and shows the mean of each image, or the mode of a mixture; --path=straight is a third way.

Writes SUBJECT.png and SUBJECT.npz into WORKDIR/interpolation, or --output.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from absl import flags as absl_flags

from launch import flags
from structured_obs import plotting
from structured_obs.applications import interpolate
from structured_obs.applications import subject as subjects
from structured_obs.runs import restore

_WORKDIR = flags.define_path('workdir', '', 'Directory of the run.')
_CHECKPOINT = absl_flags.DEFINE_string('checkpoint', 'best', "'best', 'latest' or a step.")
_SUBJECT = flags.define_path('subject', 'test:0', subjects.FORMS)
_IMAGES = absl_flags.DEFINE_list('images', [], 'Four test images, to go between their latents.')
_STEPS = flags.define_integer('steps', 9, 'Images on each side of the grid.', 2)
_PATH = absl_flags.DEFINE_enum('path', 'slerp', list(interpolate.PATHS), 'Way between two noises.')
_PIXEL_NOISE = absl_flags.DEFINE_bool('pixel_noise', True, 'Whether low-rank samples have any.')
_SEED = flags.define_integer('seed', 0, 'Of the four samples.', 0)
_OUTPUT = flags.define_path('output', '', 'Directory to write to.')


def main(arguments: Sequence[str]) -> None:
  """Draws what the flags describe."""
  del arguments
  if not _WORKDIR.value:
    raise ValueError('--workdir is missing; it names the directory of the run to draw from.')
  wanted = subjects.parse(_SUBJECT.value)
  trained, prepared = restore.load(_WORKDIR.value, _CHECKPOINT.value)
  output = Path(_OUTPUT.value or Path(_WORKDIR.value) / 'interpolation')
  if _IMAGES.value:
    x = subjects.images_at(trained, prepared, _IMAGES.value)
    images = interpolate.between_images(trained.bound, x, int(_STEPS.value), str(_PATH.value))
    title = f'Between the latents of four images ({_PATH.value}): {trained.name}, step {trained.step}'
    plotting.image_grid(output / 'latents.png', np.asarray(images), title=title)
    np.savez_compressed(output / 'latents.npz', grid=np.asarray(images))
    print(f'written to {output}: latents.png, latents.npz')
    return
  family = trained.model.family
  interpolate.check(family)
  subject = subjects.find(trained, prepared, wanted)
  way = interpolate.Way(_STEPS.value, _PATH.value, _PIXEL_NOISE.value)
  images = interpolate.draw(family, way, subject.params, jax.random.key(_SEED.value))

  title = f'Between four samples of {subject.name} ({_PATH.value}): {trained.name}, step {trained.step}'
  plotting.image_grid(output / f'{subject.name}.png', np.asarray(images), title=title)
  mean = np.asarray(family.mean(subject.params))
  np.savez_compressed(output / f'{subject.name}.npz', grid=np.asarray(images), mean=mean)
  print(f'written to {output}: {subject.name}.png, {subject.name}.npz')


if __name__ == '__main__':
  flags.run(main)
