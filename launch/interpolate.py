"""Draws interpolations between four samples of one predicted distribution, on a grid.

  python -m launch.interpolate --workdir=runs/faces --subject=test:3
  python -m launch.interpolate --workdir=runs/faces --subject=prior:0 --steps=7 --path=gaussian

The network is evaluated once; only the noise changes between images: for a low-rank family that of the
factor, with fixed pixel noise, for other families all of it. --path=slerp divides the angle between two
noises equally, as in the paper; with --path=gaussian every image on the path is a sample.
--nopixel_noise leaves the floor of independent pixel noise out, in families that have one.

--images=0,1,2,3 interpolates between the latents of these four test images instead. The network is then
evaluated at every step, and the grid shows each image's mean, or the mode of a mixture; --path=straight
is a third path.

Writes SUBJECT.png and SUBJECT.npz into WORKDIR/interpolation, or --output.
"""

from collections.abc import Sequence

import numpy as np
from absl import flags as absl_flags

from launch import common_flags, flags
from structured_obs import plotting
from structured_obs.applications import interpolate, paths
from structured_obs.applications import subject as subjects

_RUN = common_flags.Run(seed='Seed of the four samples.', output=True, pixel_noise=True)
_SUBJECT = flags.define_path('subject', 'test:0', subjects.FORMS)
_IMAGES = absl_flags.DEFINE_list('images', [], 'Four test images; interpolates between their latents.')
_STEPS = flags.define_integer('steps', 9, 'Images on each side of the grid.', 2)
_PATH = absl_flags.DEFINE_enum('path', 'slerp', list(paths.PATHS), 'Path between two noises.')


def main(arguments: Sequence[str]) -> None:
  """Draws the interpolation of the flags."""
  del arguments
  wanted = subjects.parse(_SUBJECT.value)
  trained, prepared = _RUN.open()
  output = _RUN.directory('interpolation')
  if _IMAGES.value:
    x = subjects.images_at(trained, prepared, _IMAGES.value)
    images = interpolate.between_images(trained.bound, x, int(_STEPS.value), str(_PATH.value))
    title = f'Between the latents of four images ({_PATH.value}): {trained.about}'
    plotting.image_grid(output / 'latents.png', np.asarray(images), title=title)
    np.savez_compressed(output / 'latents.npz', grid=np.asarray(images))
    print(f'written to {output}: latents.png, latents.npz')
    return
  family = trained.model.family
  interpolate.check(family)
  subject = subjects.find(trained, prepared, wanted)
  way = interpolate.Way(_STEPS.value, _PATH.value, _RUN.pixel_noise)
  images = interpolate.draw(family, way, subject.params, _RUN.key)

  title = f'Between four samples of {subject.name} ({_PATH.value}): {trained.about}'
  plotting.image_grid(output / f'{subject.name}.png', np.asarray(images), title=title)
  mean = np.asarray(family.mean(subject.params))
  np.savez_compressed(output / f'{subject.name}.npz', grid=np.asarray(images), mean=mean)
  print(f'written to {output}: {subject.name}.png, {subject.name}.npz')


if __name__ == '__main__':
  flags.run(main)
