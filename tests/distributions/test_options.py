"""Options of every family: the type and the range of each are checked before anything is built."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.distributions import FAMILIES, base, blur_kernels, diagonal, low_rank, scaled

pytestmark = pytest.mark.x64  # checks are alike in both precisions

IMAGE = base.ImageShape(2, 2, 1)
# By the type of an option: values of another type, and numbers that no option of the type may be or
# that are at the edge of what one may be.
WRONG_TYPES: dict[type, tuple[Any, ...]] = {
  bool: (1, 0, 2, None, 'yes', 1.0),
  int: (True, 1.5, 3.0, None, '3', np.nan, np.inf, np.bool_(True), [3]),
  float: (True, None, '0.1', [0.1], 1j, np.bool_(True)),
  str: (1, None, True, b'none'),
}
NUMBERS: dict[type, tuple[Any, ...]] = {
  bool: (),
  int: (-1, 0, 3, 10**9, 10**400),
  float: (np.nan, np.inf, -np.inf, -1, 0, 1e-300, 1e-12, 1, 1e12, 1e300, 10**400),
  str: ('', 'no such', 'Softmax'),
}
OPTIONS = [(name, option) for name in FAMILIES for option in distributions.options(name)]
each_option = pytest.mark.parametrize(('name', 'option'), OPTIONS, ids=str)


def _both(name: str, **overrides: Any) -> list[functools.partial[Any]]:
  """The two ways to give an option: by the name of the family, and to its constructor."""
  return [
    functools.partial(distributions.options, name, **overrides),
    functools.partial(FAMILIES[name], **overrides),
  ]


@each_option
def test_wrong_types_are_refused_by_name(name: str, option: str):
  kind = type(distributions.options(name)[option])
  for value in WRONG_TYPES[kind]:
    for build in _both(name, **{option: value}):
      with pytest.raises(TypeError, match=f'option {option} of {name} must be .*; got'):
        build()


@each_option
@pytest.mark.slow
def test_a_number_is_refused_by_name_or_works(name: str, option: str):
  """What is accepted gives a distribution: of its samples, the log density is a number."""
  kind = type(distributions.options(name)[option])
  for value in NUMBERS[kind]:
    family, error = _built(name, {option: value})
    if family is None:
      assert name in error
      assert option in error
    else:
      _assert_works(family)


def _built(name: str, overrides: dict[str, Any]) -> tuple[base.Family[Any] | None, str]:
  """The family, or the sentence with which it is refused, the same in both ways."""
  found, sentences = [], set()
  for build in _both(name, **overrides):
    try:
      found.append(build())
    except ValueError as error:
      sentences.add(str(error))
  assert bool(found) != bool(sentences)
  assert len(sentences) <= 1
  return (None, sentences.pop()) if sentences else (found[-1], '')


def _assert_works(family: base.Family[Any]) -> None:
  outputs = {name: jnp.zeros(shape, jnp.float32) for name, shape in family.outputs(IMAGE).items()}
  params = family.from_outputs(outputs)
  x = family.sample(jax.random.key(0), params)
  assert np.isfinite(family.log_prob(params, x))


@pytest.mark.parametrize('name', list(FAMILIES))
def test_numbers_of_numpy_are_numbers(name: str):
  for option, value in distributions.options(name).items():
    if isinstance(value, float):
      FAMILIES[name](**{option: np.float32(value)})
    elif isinstance(value, int) and not isinstance(value, bool):
      FAMILIES[name](**{option: np.int64(value)})


def test_a_whole_number_is_one_for_a_float():
  assert distributions.options('diagonal', max_scale=3)['max_scale'] == 3


@pytest.mark.parametrize(('name', 'overrides', 'message'), [
  ('diagonal', {'initial_scale': 20.0}, 'diagonal needs 0 < min_scale < initial_scale < max_scale'),
  ('low_rank', {'rank': -1}, 'rank of low_rank must be a whole number from 0 to 4096; got -1'),
  ('low_rank', {'learn_diag': True, 'min_variance': 1.0}, 'needs min_variance < noise_variance'),
  ('sparse_precision', {'filter_size': 4}, 'must be an odd whole number from 1 to 99; got 4'),
  ('sparse_precision', {'prior': 'gamma'}, "one of 'none', 'normal', 'wishart', 'coefficients'; got"),
  ('circulant', {'parametrization': 'winer'}, "Did you mean 'wiener'"),
  ('circulant', {'noise': 1e-9}, 'must be a number from 1e-08 to 1e.15; got 1e-09'),
  ('circulant', {'floor': 9e-5}, 'must be a number from 0.0001 to'),
  ('scaled_circulant', {'min_scale': 1.0}, 'scaled_circulant needs 0 < min_scale < initial_scale'),
  ('discretized_logistic_mixture', {'levels': 257}, 'levels of .* from 2 to 256; got 257'),
  ('discretized_logistic_mixture', {'max_log_scale': -2.0}, 'needs min_log_scale < initial_log_scale'),
])  # fmt: skip
def test_the_sentence_says_what_would_be_right(name: str, overrides: dict[str, Any], message: str):
  assert re.search(message, _built(name, overrides)[1])


def test_positional_options_and_those_of_a_base_are_checked():
  with pytest.raises(TypeError, match='option rank of low_rank must be a whole number from 0 to 4096'):
    low_rank.family(1.5)  # pyright: ignore[reportArgumentType]
  with pytest.raises(ValueError, match='option min_scale of scaled must be a number from 1e-15'):
    scaled.family(diagonal.family(), min_scale=-1)


@pytest.mark.parametrize('change', [{'floor': -1.0}, {'noise': np.nan}, {'epsilon': np.inf}])
def test_a_spectrum_is_checked_where_it_is_used(change: dict[str, float]):
  spectrum = blur_kernels.Spectrum()._replace(**change)
  with pytest.raises(ValueError, match=f'option {next(iter(change))} of a spectrum'):
    blur_kernels.log_eigenvalues((jnp.ones((2, 2)),), spectrum)
