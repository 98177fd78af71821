"""Prepares the images of a config without training: stores them as one array that all runs share.

  python -m launch.prepare_data --config=configs/digits.py
  python -m launch.prepare_data --config=configs/folder.py --config.data.source=folder:~/faces \
      --config.data.height=64 --config.data.width=64

Prints the number of images, their shape, where they are stored and their SHA-256. `--verify` reads an
array that was prepared before and compares its SHA-256. Nothing is downloaded without
--config.data.options.download.
"""

from collections.abc import Sequence

from absl import flags as absl_flags

from launch import flags
from structured_obs.data import prepare

_CONFIG = flags.define_config()
_VERIFY = absl_flags.DEFINE_bool('verify', False, 'Read the array back and compare its SHA-256.')


def main(arguments: Sequence[str]) -> None:
  """Prepares the images and describes them."""
  del arguments
  prepared = prepare.prepare(_CONFIG.value.data, print, _VERIFY.value)
  spec = prepared.spec
  counts = ', '.join(f'{count:,} {split}' for split, count in spec.counts.items())
  print(f'{spec.source} ({spec.version})')
  print(f'images   {counts}; {spec.split_rule}')
  print(
    f'shape    {spec.height} x {spec.width} x {spec.channels}, '
    f'{f"{spec.levels} levels" if spec.levels else "real numbers, with their means"}'
    f'{", labelled" if spec.has_labels else ""}'
  )
  if spec.skipped:
    print(
      f'skipped  {spec.skipped:,} corrupt: {", ".join(spec.skipped_names)}'
      f'{" ..." if spec.skipped > len(spec.skipped_names) else ""}'
    )
  for note in spec.notes:
    print(f'note     {note}')
  print(f'in       {prepared.path}')
  print(f'sha256   {spec.sha256}{", verified" if _VERIFY.value else ""}')


if __name__ == '__main__':
  flags.run(main)
