"""Scales the principal components of a predicted distribution, one row of images per component.

  python -m launch.components --workdir=runs/faces --subject=test:3
  python -m launch.components --workdir=runs/faces --subject=prior:0 --components=25

Draws one sample and multiplies its share of one component by -5 to 5, leaving the rest of it unchanged.
A second figure shows the components alone: the mean and -5 to 5 standard deviations of each. With
--nopixel_noise, the sample lacks the floor of independent pixel noise, in families that have one.

Writes SUBJECT.png, SUBJECT_alone.png and SUBJECT.npz into WORKDIR/components, or --output.
"""

from collections.abc import Sequence

import numpy as np

from launch import common_flags, flags
from structured_obs import plotting
from structured_obs.applications import components
from structured_obs.applications import subject as subjects

_RUN = common_flags.Run(seed='Seed of the sample.', output=True, pixel_noise=True)
_SUBJECT = flags.define_path('subject', 'test:0', subjects.FORMS)
_COMPONENTS = flags.define_integer('components', 0, 'Components to draw; 0 for 10, or all.', 0)


def main(arguments: Sequence[str]) -> None:
  """Draws the components that the flags select."""
  del arguments
  wanted = subjects.parse(_SUBJECT.value)
  trained, prepared = _RUN.open()
  family = trained.model.family
  components.check(family, trained.model.image, _COMPONENTS.value)
  subject = subjects.find(trained, prepared, wanted)
  count = _COMPONENTS.value or components.default_count(subject.params, trained.model.image)
  sample = components.draw(_RUN.key, family, subject.params, _RUN.pixel_noise)
  found = components.scale(family, subject.params, sample, count)

  output = _RUN.directory('components')
  about = f'{subject.name} of {trained.about}'
  marks = {1.0: 'original', -1.0: 'mirrored', 0.0: 'without'}
  headings = _headings(marks)
  labels = [f'{i + 1}' for i in range(count)]
  plotting.image_grid(
    output / f'{subject.name}.png',
    np.asarray(found.samples), labels, headings,
    f'{about}: a sample with one component (row) multiplied (column)',
  )  # fmt: skip
  labels = [f'{i + 1}, {deviation:.2g}' for i, deviation in enumerate(np.asarray(found.deviations))]
  plotting.image_grid(
    output / f'{subject.name}_alone.png',
    np.asarray(found.alone), labels, _headings({0.0: 'mean'}),
    f"{about}: the mean plus multiples (column) of the component's deviation (row: number, size)",
  )  # fmt: skip
  arrays = {name: np.asarray(array) for name, array in found._asdict().items()}
  arrays['factors'] = np.asarray(components.FACTORS)
  np.savez_compressed(output / f'{subject.name}.npz', **arrays)  # type: ignore[arg-type]
  print(f'written to {output}: {subject.name}.png, {subject.name}_alone.png, {subject.name}.npz')
  message = components.warning(found)
  if message:
    print(message)


def _headings(marks: dict[float, str]) -> list[str]:
  """Returns the factors, some of them with what their images are."""
  found = []
  for factor in components.FACTORS:
    name = marks.get(factor)
    found.append(f'{name}\n{factor:g}' if name else f'{factor:g}')
  return found


if __name__ == '__main__':
  flags.run(main)
