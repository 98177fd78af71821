"""Reports values that are not finite: a sentence that names the images they belong to.

One NaN or infinite value makes every mean over images NaN. No image is left out silently, and no
infinite mean hides the others. The sentence says how many images are affected and names the first of
them, to help find the cause.

Letters: N images.
"""

from collections.abc import Mapping

import numpy as np

NAMED = 5  # images whose indices a sentence names


def of_images(values: np.ndarray) -> np.ndarray:
  """Returns whether all values [N, ...] of each image are finite. [N] bool."""
  return np.logical_and.reduce(np.isfinite(values), axis=tuple(range(1, values.ndim)))


def sentences(
  values: Mapping[str, np.ndarray], images: str = 'images', so: str = 'so the result is NaN'
) -> str:
  """Returns sentences about values that are not finite; '' if all are finite.

  Args:
    values: [N, ...] each, by name, such as 'low_rank: negative ELBO'.
    images: name of the N rows, such as 'test images'.
    so: what follows for the results.

  Returns:
    One sentence per set of images; values that are not finite for the same images share one.
  """
  together: dict[tuple[int, tuple[int, ...]], list[str]] = {}
  for name, rows in values.items():
    bad = np.flatnonzero(~of_images(rows))
    if len(bad):
      together.setdefault((len(rows), tuple(bad.tolist())), []).append(name)
  return ' '.join(
    f'Not finite for {len(bad)} of {count} {images} ({_named(bad)}), {so}: {"; ".join(names)}.'
    for (count, bad), names in together.items()
  )


def _named(bad: tuple[int, ...]) -> str:
  more = ', ...' if len(bad) > NAMED else ''
  return f'{"index" if len(bad) == 1 else "indices"} {", ".join(map(str, bad[:NAMED]))}{more}'
