"""Sets pixels of a predicted image or hides some, and updates the others by its covariance.

  python -m launch.edit --workdir=runs/faces --subject=test:3 --rectangle=10,20,3,3,0.5/-0.2/-0.6
  python -m launch.edit --workdir=runs/faces --rectangle=4,6,3,3,-0.5,0.1 --rectangle=9,9,2,2,0
  python -m launch.edit --workdir=runs/faces --edit_image=new.png --edit_mask=where.png --deviation=0.1
  python -m launch.edit --workdir=runs/faces --subject=test:3 --hide=16,0,16,32

A rectangle is row,column,height,width,value or red/green/blue, and optionally a deviation. Pixels are
counted from 0; values range from -1, black, to 1. An edit can also be two files: the values, and a mask
that is bright where they apply. A deviation above 0 makes an edit soft: values observed with noise of
this standard deviation. Edits are applied in turn, rectangles first, and all of them hold at the end.
--hide=row,column,height,width hides a region: all other pixels are seen as they are in the image, and
samples show what could be there. Latents are then those of the seen pixels, or with --peek of the whole
image. Rectangles and files change what is seen.
--nopixel_noise leaves the floor of independent pixel noise out of samples, in families that have one.

Writes SUBJECT.png, which shows every step, and SUBJECT.npz into WORKDIR/editing, or --output. Edits that
are implausible under the predicted distribution trigger a warning.
"""

from collections.abc import Sequence

import numpy as np
from absl import flags as absl_flags

from launch import common_flags, flags
from structured_obs import plotting
from structured_obs.applications import edit, edit_history, edit_input, hiding
from structured_obs.applications import subject as subjects

_RUN = common_flags.Run(seed='Seed of the samples.', output=True, pixel_noise=True)
_SUBJECT = flags.define_path('subject', 'test:0', subjects.FORMS)
_RECTANGLE = absl_flags.DEFINE_multi_string('rectangle', [], edit_input.FORM)
_HIDE = absl_flags.DEFINE_multi_string(
  'hide', [], f'Region to hide, {edit_input.REGION_FORM}; all other pixels are seen.'
)
_PEEK = absl_flags.DEFINE_bool('peek', False, 'Whether latents see what --hide hides.')
_IMAGE = flags.define_multi_path('edit_image', 'File with the values of an edit.')
_MASK = flags.define_multi_path('edit_mask', 'File with the mask of an edit.')
_DEVIATION = flags.define_float(
  'deviation', 0.0, 'Standard deviation of edits from files; 0 for exact ones.', 0
)
_SAMPLES = flags.define_integer('samples', 3, 'Samples after each edit.', 0)


def main(arguments: Sequence[str]) -> None:
  """Makes the edits of the flags and draws them."""
  del arguments
  if not _RECTANGLE.value and not _IMAGE.value and not _HIDE.value:
    raise ValueError(
      'There is nothing to edit; add --rectangle, --hide, or --edit_image and --edit_mask.'
    )
  if _PEEK.value and not _HIDE.value:
    raise ValueError('--peek is about what --hide hides; add --hide.')
  if len(_IMAGE.value) != len(_MASK.value):
    raise ValueError('Every --edit_image needs an --edit_mask; give as many of both.')
  regions = [edit_input.parse_region(text) for text in _HIDE.value]
  rectangles = [edit_input.parse_rectangle(text) for text in _RECTANGLE.value]
  files = [edit_input.read_files(*pair) for pair in zip(_IMAGE.value, _MASK.value, strict=True)]
  wanted = subjects.parse(_SUBJECT.value)
  trained, prepared = _RUN.open()
  edits = [edit_input.of_rectangle(one, trained.model.image) for one in rectangles]
  edits += [edit_input.of_files(one, subjects.target(trained), _DEVIATION.value) for one in files]
  hidden = edit_input.of_regions(regions, trained.model.image)
  subject = subjects.find(trained, prepared, wanted)
  if hidden.any():
    subject, edits = hiding.hide(trained, subject, hidden, edits, _PEEK.value)
  draws = edit_history.Draws(_SAMPLES.value, _RUN.pixel_noise)
  history = edit_history.run(trained.model.family, subject.params, edits, _RUN.key, draws)

  output = _RUN.directory('editing')
  rows, headings = edit_history.rows(history, edits, hides=bool(hidden.any()))
  title = f'Edits of {subject.name}: {trained.about}'
  plotting.image_rows(output / f'{subject.name}.png', rows, headings, title)
  np.savez_compressed(output / f'{subject.name}.npz', **edit_history.arrays(history))  # type: ignore[arg-type]
  print(f'written to {output}: {subject.name}.png, {subject.name}.npz')
  print(_about(float(history.implausibility[-1]), int(hidden.sum())))


def _about(implausibility: float, hidden: int) -> str:
  if hidden and np.isfinite(implausibility):
    return f'{hidden} pixels hidden; all others are seen as they are, or as edited'
  return edit.warning(implausibility) or f'implausibility {implausibility:.2g}, where about 1 is usual'


if __name__ == '__main__':
  flags.run(main)
