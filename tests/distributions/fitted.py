"""What is fitted in tests: every family with its options, every wrapper, and two wrappers together."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from numpy.typing import NDArray

from structured_obs import distributions
from structured_obs.distributions import low_rank_update
from structured_obs.distributions.base import Family
from tests.distributions import cases

IMAGE = (2, 3, 2)
WRAPPERS = {**distributions.WRAPPERS, 'low_rank_update': low_rank_update.family}
OPTIONS: dict[str, dict[str, Any]] = {
  'low_rank_update': {'rank': 2},
  'colour': {'rotation': 'learned'},
  'mixture': {'own_means': True},
}
TOGETHER = ('sparse_precision', 'colour', 'student')


@functools.cache
def family(name: str) -> Family[Any]:
  """The family of a wrapper over independent pixels, or of several wrappers; one record of each."""
  if name == '+'.join(TOGETHER):
    inner = distributions.family(TOGETHER[0], filter_size=3)
    return distributions.wrapped(inner, TOGETHER[1:])
  return WRAPPERS[name](cases.make_family('diagonal', ()), **OPTIONS.get(name, {}))


def every(gaussian: bool) -> pytest.MarkDecorator:
  """Parametrises a test over families and wrappers that are Gaussian, or are not."""
  plain = {str(case): cases.family_of(case) for case in cases.main_cases()}
  found = plain | {name: family(name) for name in (*WRAPPERS, '+'.join(TOGETHER))}
  chosen = {name: each for name, each in found.items() if (each.gaussian is not None) == gaussian}
  cases_of = (pytest.param(each, id=name, marks=_marks(name)) for name, each in chosen.items())
  return pytest.mark.parametrize('family', list(cases_of))


def _marks(name: str) -> tuple[pytest.MarkDecorator, ...]:
  """Sets of options beside the defaults, and several wrappers, are slow tests."""
  return (pytest.mark.slow,) if '=' in name or '+' in name else ()


@functools.cache
def params(family: Family[Any], seed: int = 0) -> Any:
  """Parameters from random outputs."""
  rng, image = np.random.default_rng(seed), distributions.base.ImageShape(*IMAGE)
  shapes = {name: tuple(shape) for name, shape in family.outputs(image).items()}
  outputs = {name: jax.numpy.asarray(0.5 * rng.normal(size=s)) for name, s in shapes.items()}
  return family.from_outputs(outputs)


def images(count: int, image: tuple[int, int, int] = IMAGE, seed: int = 0) -> NDArray[np.float64]:
  """Correlated images with a mean, of no family in particular."""
  rng, size = np.random.default_rng(seed), int(np.prod(image))
  mixing = rng.normal(size=(size, size)) / size**0.5
  return (rng.normal(size=(count, size)) @ mixing + 0.3 * rng.normal(size=size)).reshape(-1, *image)
