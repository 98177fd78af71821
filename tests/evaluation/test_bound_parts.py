"""The parts of a bound, of a model with two observed variables and two latents."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import config, distributions
from structured_obs.evaluation import likelihood, results, tables
from structured_obs.evaluation.likelihood import Settings
from structured_obs.evaluation.sections import bound_parts
from structured_obs.models.base import Bound, Traits
from structured_obs.objectives import bounds
from structured_obs.runs import trained as opened
from tests.evaluation import two_level
from tests.evaluation.test_report import IMAGE, SPEC

NAMES = ['RE_x', 'RE_y', 'KL_z', 'KL_u']
MODEL = two_level.TwoLevel(IMAGE)
DISCRETE = distributions.family('discretized_logistic_mixture', levels=17)


def _result(model=MODEL, offset: float = -3e5, **changes) -> results.Result:
  """Scores of a model; of a discrete one, those of the model itself, whose family is not called."""
  variables = two_level.variables(offset)
  trained = opened.Trained('two', 'two', config.Config(), SPEC, model, variables, 1)
  images = np.random.default_rng(0).integers(0, 17, (9, *IMAGE)).astype(np.uint8)
  settings = Settings(17, 40, chunk=7, batch_size=4, dequantize=False)._replace(**changes)
  scores = likelihood.split_scores(Bound(MODEL, variables), images, jax.random.key(3), settings)
  return results.Result(trained, settings, scores)


@pytest.mark.parametrize('discrete', [False, True])
def test_parts_add_up_to_the_bound(discrete: bool):
  result = _result(MODEL.clone(family=DISCRETE) if discrete else MODEL)
  parts = result.scores.parts
  assert list(parts) == NAMES
  total = np.sum([*parts.values()], axis=0)
  assert total.dtype == np.float64
  np.testing.assert_allclose(total, -result.scores.elbo, rtol=1e-15)
  bits = np.mean(total) / (IMAGE.size * math.log(2)) - (0 if discrete else math.log2(0.125))
  table = results.as_json([result])['models']['two']['scores']
  assert abs(table['negative_elbo_bits_per_dim']['mean'] - bits) < 1e-6
  assert table['negative_iwae_bits_per_dim']['mean'] <= bits
  tree = bound_parts.as_json([result])['two']
  assert abs(sum(tree[name]['bits_per_dim']['mean'] for name in NAMES) - bits) < 1e-6
  assert abs(sum(tree[name]['nats']['mean'] for name in NAMES) - np.mean(total)) < 1e-6


def test_parts_are_means_over_the_samples():
  """Each against its own terms, drawn again; a large density keeps its decimals."""
  result = _result(importance_samples=3)
  x = jnp.asarray(np.random.default_rng(0).integers(0, 17, (9, *IMAGE)) / 8 - 1, jnp.float32)
  keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(jax.random.key(3), i))[1])(np.arange(9))
  variables = two_level.variables(0.0)
  sampled = [
    Bound(MODEL, variables).terms(jax.vmap(jax.random.fold_in, (0, None))(keys, k), x) for k in range(3)
  ]
  for name, part in result.scores.parts.items():
    kind, _, variable = name.partition('_')
    terms = [-t.log_p[variable] if kind == 'RE' else bounds.kl(t, variable) for t in sampled]
    expected = np.mean(np.asarray(terms, np.float64), axis=0) + (3e5 if name == 'RE_x' else 0)
    np.testing.assert_allclose(part, expected, rtol=2e-5, atol=0.04 if name == 'RE_x' else 1e-5)
  np.testing.assert_allclose(result.scores.kl, result.scores.parts['KL_z'] + result.scores.parts['KL_u'])


def test_table_and_arrays():
  other = _result(offset=0.0)
  other = other._replace(trained=other.trained._replace(name='other'))
  found = [_result(), other]
  lines = bound_parts.text(found).splitlines()
  rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines if '|' in line]
  assert rows[0] == ['part of -ELBO', 'two, nats', 'two, bits/dim', 'other, nats', 'other, bits/dim']
  assert [row[0] for row in rows[2:]] == [*NAMES, 'sum']
  assert rows[-1][2] == tables.cell(
    likelihood.summarize(results.bits(found[0], found[0].scores.elbo)), 4
  )
  arrays = bound_parts.per_image(found)
  assert sorted(arrays) == sorted(f'{name}/{part}' for name in ('two', 'other') for part in NAMES)
  assert 'all latents' in results.comparison_table(found)


def test_real_numbers_have_no_bits():
  result = _result()
  result = result._replace(settings=result.settings._replace(levels=0))
  assert 'bits' not in bound_parts.text([result]).partition('Minus')[0]
  assert set(bound_parts.as_json([result])['two']['RE_y']) == {'nats'}


def test_a_model_without_latents_has_no_parts():
  result = _result(MODEL.clone(traits=Traits()))
  assert not bound_parts.applies(result)
  assert bound_parts.applies(_result())
