"""Invalid options of the families, generated from their signatures."""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from structured_obs import distributions
from structured_obs.distributions.base import ImageShape
from tests.campaigns import outcomes

NEVER: dict[type, tuple[Any, ...]] = {
  float: (math.nan, -math.inf, '0.5', True, None),
  int: (1.5, '7', True, None, math.nan),
  bool: (2, 'yes', 0.5),
  str: (3, 'unknown', None),
  tuple: ('abc', 3),
}
PERHAPS: dict[type, tuple[Any, ...]] = {
  float: (math.inf, -1.0, 0.0, 1e-30, 1e30),
  int: (-1, 0, 2, 10**6),
  bool: (True, False),
  str: (),
  tuple: (),
}


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields a case for every family, option and value; new families and options join by themselves."""
  del seed
  for family in distributions.FAMILIES:
    for option, default in distributions.options(family).items():
      kind = type(default) if type(default) in NEVER else float
      for possible, values in ((False, NEVER[kind]), (True, PERHAPS[kind])):
        for value in values:
          if value is None and default is None:
            continue
          run = functools.partial(_run, family, option, value, possible)
          name = f'{family}({option}={value!r})'
          yield outcomes.Case('option', name, run, (option, option.replace('_', ' ')))


def _run(family: str, option: str, value: Any, possible: bool, folder: Path) -> str:
  """Makes a family; one that is accepted must have a finite density at its plain white distribution."""
  del folder
  options = distributions.options(family, **{option: value})
  made = distributions.family(family, **options)
  image = ImageShape(5, 6, 1)

  def density() -> jax.Array:
    outputs = {name: jnp.zeros(shape, jnp.float32) for name, shape in made.outputs(image).items()}
    return made.log_prob(made.from_outputs(outputs), -jnp.ones(image, jnp.float32))

  if isinstance(value, int) and value > 1000:  # its shapes alone
    jax.eval_shape(density)
    return outcomes.ACCEPTED
  value_there = float(density())
  outcomes.expect(possible, f'accepted; log p of black = {value_there:.4g}')
  outcomes.expect(math.isfinite(value_there), f'accepted, but log p of black = {value_there}')
  return outcomes.ACCEPTED
