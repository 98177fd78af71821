"""What a ladder says about features: whether distances in them grow with noise and with blur.

Letters: N M images of the two sets; F features.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from structured_obs.evaluation import ladder
from structured_obs.evaluation.image_measures import OTHERS, Measured
from structured_obs.evaluation.metrics import feature_distances

SIGNIFICANT = 2.0  # standard errors
NONE = 'There are too few originals for a ladder of noise and blur: what these features see is unknown.'
RANK_NOTHING = 'Do not rank samples by these distances.'


class Step(NamedTuple):
  """A comparison of two rungs, of which the first must be farther from the originals."""

  worse: str
  better: str
  difference: feature_distances.Difference  # of their KID

  @property
  def passed(self) -> bool:
    """Whether the first is farther, by more than chance."""
    return self.difference.value > SIGNIFICANT * self.difference.standard_error

  @property
  def reversed(self) -> bool:
    """Whether the first is nearer, by more than chance."""
    return self.difference.value < -SIGNIFICANT * self.difference.standard_error


class Verdict(NamedTuple):
  """What a ladder says."""

  text: str  # sentences
  tree: dict[str, Any]  # for JSON


def verdict(real: np.ndarray, rungs: Sequence[np.ndarray], known: Measured) -> Verdict:
  """Judges a ladder.

  Args:
    real: [N, F] features of originals.
    rungs: [M, F] features of each of its rungs.
    known: measures of the originals.
  """
  names = [rung.name or OTHERS for rung in known.rungs]
  steps = [
    Step(
      names[one.worse],
      names[one.better],
      feature_distances.kernel_difference(real, rungs[one.worse], rungs[one.better]),
    )
    for one in ladder.CHECKS
  ]
  values = [feature_distances.kernel_distance(real, rows).value for rows in rungs]
  errors = [float(known.errors[index].mean()) for index in ladder.indices(known.rungs)]
  tree = {
    'in_order': all(step.passed for step in steps),
    'rungs': [
      {'blur': rung.width, 'noise': rung.noise, 'squared_error': error, 'kid': value}
      for rung, error, value in zip(known.rungs, errors, values, strict=True)
    ],
    'steps': [
      {**step.difference._asdict(), 'worse': step.worse, 'better': step.better, 'passed': step.passed}
      for step in steps
    ],
  }
  pairs = [f'{errors[noise]:.4f} ({errors[blurred]:.4f})' for noise, blurred in ladder.PAIRS]
  about = (
    'The ladder: other originals with white noise of this standard deviation, of pixels in [-1, 1], '
    f'and under a Gaussian blur of this width in pixels. The noises have mean squared errors of '
    f'{pairs[0]} and {pairs[1]}, and the blurs, in brackets, the same.'
  )
  return Verdict(f'{about} {_said(steps)}{_weights(values) if tree["in_order"] else ""}', tree)


def _said(steps: Sequence[Step]) -> str:
  wrong = [step for step in steps if not step.passed]
  if not wrong:
    return 'Each step of noise and of blur is farther from the originals by more than chance.'
  parts = []
  for step in wrong:
    found = step.difference
    relation = 'is nearer than' if step.reversed else 'is not told from'
    parts.append(
      f'{step.worse!r} {relation} {step.better!r} (1000 KID {1000 * found.value:+.3f} ± '
      f'{1000 * found.standard_error:.3f})'
    )
  return f'In these features {"; ".join(parts)}. {RANK_NOTHING}'


def _weights(values: Sequence[float]) -> str:
  """Returns a sentence on how much noise counts beside blur."""
  first, second = (
    (values[noise] - values[0]) / (values[blurred] - values[0]) for noise, blurred in ladder.PAIRS
  )
  return f' At the same squared error, noise counts {first:.2g} and {second:.2g} times as much as blur.'
