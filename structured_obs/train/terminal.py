"""Lines about a training for people: aligned, with the names and units that they use.

metrics.jsonl has every metric under its own name; here the usual ones are in the same place of every
line.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from structured_obs.data import pixels
from structured_obs.data.prepare import DataSpec
from structured_obs.objectives import bounds

# Names of metrics.jsonl in the order of a line, and those of a line. Others follow under their own.
NAMES = {
  'loss': 'loss',
  'elbo': 'ELBO',
  'standard_error': '±',
  'bits_per_dim': 'bits/dim',
  'stats/kl_z': 'KL',
  'stats/accuracy': 'accuracy',
  'stats/excess_entropy': 'entropy above noise',
  'stats/factor_variance': 'variance of P',
  'stats/variance': 'variance',
  'stats/log_prior': 'log prior',
  'kernel_error': 'kernel error',
  'reconstruction': 'reconstruction loss',
  'multipliers/kl_z': 'multiplier of KL',
  'multipliers/excess_entropy': 'multiplier of entropy',
  'multipliers/factor_variance': 'multiplier of variance',
  'variance_inflation': 'variance inflation',
  'nonfinite_images': 'images not finite',
  'grad_norm': 'gradient',
  'skipped': 'skipped steps',
  'images_per_second': 'images/s',
}
# Left to metrics.jsonl: what follows from others, or changes little.
QUIET = ('param_norm', 'learning_rate', 'stats/entropy')
_CONSTRAINED = ('excess_entropy', 'factor_variance')  # shown where a multiplier holds them
_NUMBER = 8  # characters of a number


class Coding(NamedTuple):
  """How an ELBO in nats per image becomes bits per dimension."""

  num_dims: int  # D = H W C
  width: float  # of one gray level in [-1, 1]; 1 for probabilities of levels

  def bits(self, elbo: float) -> float:
    """Returns bits per dimension."""
    return float(bounds.bits_per_dim(elbo, self.num_dims, self.width))  # type: ignore[arg-type]


def coding(spec: DataSpec, dequantize: bool, discrete: bool) -> Coding | None:
  """Returns the coding of a run's images; None where an ELBO bounds no code length.

  Args:
    spec: of the images.
    dequantize: whether a model of densities sees images with the noise of one gray level.
    discrete: whether the model has probabilities of gray levels.
  """
  if not spec.levels or spec.masked or not (dequantize or discrete):
    return None
  num_dims = spec.height * spec.width * spec.channels
  return Coding(num_dims, 1.0 if discrete else pixels.bin_width(spec.levels))


def terms(values: Mapping[str, float], code: Coding | None = None) -> str:
  """Returns metrics as 'NAME NUMBER  NAME NUMBER', numbers of one width.

  Args:
    values: by the names of metrics.jsonl.
    code: adds bits/dim behind an ELBO.
  """
  shown = {name: value for name, value in values.items() if _shown(name, values)}
  if code is not None and 'elbo' in shown:
    shown['bits_per_dim'] = code.bits(shown['elbo'])
  names = [name for name in NAMES if name in shown] + [name for name in shown if name not in NAMES]
  return '  '.join(f'{_name(name)} {_number(name, shown[name])}' for name in names)


def line(kind: str, step: int, steps: int, text: str) -> str:
  """Returns a whole line: 'train', 'validation' or another kind, the step of all, and its terms."""
  return f'{kind:<10} {step:>{len(str(steps))}}/{steps}  {text}'


def _shown(name: str, values: Mapping[str, float]) -> bool:
  kind, _, term = name.partition('/')
  if kind in ('log_p', 'log_q'):
    return 'elbo' not in values
  if name == 'loss':
    return not math.isclose(values[name], -values.get('elbo', math.nan), rel_tol=1e-5)
  if kind == 'stats' and term in _CONSTRAINED:
    return f'multipliers/{term}' in values
  return name not in QUIET and not (name == 'skipped' and not values[name])


def _name(name: str) -> str:
  kind, _, term = name.rpartition('/')
  if kind in ('log_p', 'log_q'):
    return f'{kind.replace("_", " ")}({term})'
  return NAMES.get(name) or term.replace('_', ' ')


def _number(name: str, value: float) -> str:
  """Returns a number of fixed decimals, where its size allows, so that lines can be compared."""
  special: dict[str, Callable[[float], str]] = {
    'bits_per_dim': lambda x: f'{x:.4f}',
    'images_per_second': lambda x: f'{x:.0f}',
    'standard_error': lambda x: f'{x:.2f}',
  }
  if name in special:
    return special[name](value).rjust(5 if name != 'bits_per_dim' else 7)
  small = 0 < abs(value) < 0.01 or abs(value) >= 1e6
  return (f'{value:.2e}' if small else f'{value:.{_decimals(value)}f}').rjust(_NUMBER)


def _decimals(value: float) -> int:
  return 4 if abs(value) < 10 else 2 if abs(value) < 1e4 else 0
