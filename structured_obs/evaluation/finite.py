"""Values that are not finite: which images they belong to, as a sentence for a report.

One value that is NaN or infinite makes every mean over images NaN: no image is left out silently, and
no infinite mean stands for the others. The sentence names how many images are concerned and the first
of them, so that the cause can be looked for.

Letters: N images.
"""

from collections.abc import Mapping

import numpy as np

NAMED = 5  # images whose indices a sentence names


def of_images(values: np.ndarray) -> np.ndarray:
  """Returns for each image whether all of its values [N, ...] are finite. [N] bool."""
  return np.logical_and.reduce(np.isfinite(values), axis=tuple(range(1, values.ndim)))


def sentences(values: Mapping[str, np.ndarray], images: str = 'images') -> str:
  """Returns what there is to say about values that are not finite; '' where all are finite.

  Args:
    values: by what they are, such as 'low_rank: negative ELBO', [N, ...] each.
    images: what the N rows are.

  Returns:
    A sentence for every set of images; what is not finite for the same images shares one.
  """
  together: dict[tuple[int, tuple[int, ...]], list[str]] = {}
  for name, rows in values.items():
    bad = np.flatnonzero(~of_images(rows))
    if len(bad):
      together.setdefault((len(rows), tuple(bad.tolist())), []).append(name)
  return ' '.join(
    f'Not finite for {len(bad)} of {count} {images} ({_named(bad)}), so that the result is NaN: '
    f'{"; ".join(names)}.'
    for (count, bad), names in together.items()
  )


def _named(bad: tuple[int, ...]) -> str:
  more = ', ...' if len(bad) > NAMED else ''
  return f'{"index" if len(bad) == 1 else "indices"} {", ".join(map(str, bad[:NAMED]))}{more}'
