"""Products in bfloat16: what stays float32, how near the values are, and that a run learns from it."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.config import Config, ModelConfig
from structured_obs.data.prepare import Prepared
from structured_obs.runs import configuration, experiment, metrics_file
from structured_obs.train import loop
from tests.train import stub

ARCHITECTURES = {
  'mirror': {'blocks': 1, 'norm': 'group'},
  'resnet': {'blocks': 1, 'norm': 'batch'},
  'strided': {'norm': 'batch'},
  'upsampling': {'norm': 'none'},
}
OTHERS = {
  'ae': {
    'kind': 'ae', 'blocks': 0, 'covariance': {'features': (4, 8), 'layers': 1, 'sees_mean': True},
  },
  'patch': {'kind': 'covariance', 'network': 'patch', 'context': (4,)},
  'mlp': {'kind': 'covariance', 'network': 'mlp', 'norm': 'batch'},
}  # fmt: skip


def make(compute: str, family: str = 'low_rank', **fields: Any) -> experiment.Experiment:
  """A small model for the stub's images."""
  config = stub.make_config(compute=compute, steps=4)
  kind = fields.pop('kind', 'vae')
  latents = {} if kind == 'covariance' else {'latents': 2}
  config.model = ModelConfig(kind, {'features': (4, 8), **latents, **fields})
  options = {'rank': 2, 'noise_variance': 0.1} if family == 'low_rank' else {}
  config.likelihood = dataclasses.replace(config.likelihood, family=family, options=options)
  spec = stub.make_prepared().spec
  if config.model.kind == 'covariance':
    spec = spec._replace(condition=1)
  return experiment.build(config, spec)


def stored(experiment: experiment.Experiment) -> Any:
  """Images in [-1, 1] as the model is given them."""
  x = np.random.default_rng(0).uniform(-1, 1, (8, *experiment.spec.stored))
  return jnp.asarray(x, jnp.float32)


def products(jaxpr: Any) -> list[str]:
  """Dtypes of the operands of every product and convolution, in functions that are called too."""
  found = []
  for equation in jaxpr.eqns:
    if equation.primitive.name in ('dot_general', 'conv_general_dilated'):
      found += [str(variable.aval.dtype) for variable in equation.invars]
    for value in equation.params.values():
      inner = getattr(value, 'jaxpr', None)
      found += products(inner) if inner is not None and hasattr(inner, 'eqns') else []
  return found


@pytest.mark.parametrize('name', [*ARCHITECTURES, *OTHERS])
@pytest.mark.slow
def test_products_are_bfloat16_and_all_else_is_float32(name: str):
  fields = OTHERS[name] if name in OTHERS else {'architecture': name} | ARCHITECTURES[name]
  exact, rough = make('float32', **fields), make('bfloat16', **fields)
  x, keys = stored(exact), jax.random.split(jax.random.key(0), 8)
  variables = jax.jit(exact.model.init)(jax.random.key(1, impl='rbg'), keys[:1], x[:1])
  shapes: Any = jax.eval_shape(rough.model.init, jax.random.key(1), keys[:1], x[:1])
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}
  jax.tree.map(lambda a, b: None, variables, shapes)  # of one structure

  apply = lambda model: jax.jit(lambda v: model.apply(v, keys, x))  # noqa: E731
  one, other = apply(exact.model)(variables), apply(rough.model)(variables)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert b.dtype == jnp.float32
    np.testing.assert_allclose(a, b, rtol=0.05, atol=0.1)
  assert not np.array_equal(one.log_p['x'], other.log_p['x'])
  in_rough = products(jax.make_jaxpr(lambda v: rough.model.apply(v, keys, x))(variables).jaxpr)
  in_exact = products(jax.make_jaxpr(lambda v: exact.model.apply(v, keys, x))(variables).jaxpr)
  assert 'bfloat16' in in_rough
  assert 'bfloat16' not in in_exact


@pytest.mark.slow
def test_a_run_learns_and_resumes(tmp_path: Path):
  prepared: Prepared = stub.make_prepared()

  def train(steps: int, workdir: Path) -> Any:
    built = make('bfloat16', 'diagonal', features=(4,))
    config: Config = dataclasses.replace(built.config, train=dataclasses.replace(
      built.config.train, steps=steps, accumulate=2, batch_size=8, log_every=1,
      validate_every=100, checkpoint_every=100))  # fmt: skip
    built = built._replace(config=config)
    return loop.train(built, prepared, workdir, {'config': {}, 'data': {}}).state

  whole = jax.device_get(train(8, tmp_path / 'whole'))
  train(4, tmp_path / 'parts')
  resumed = jax.device_get(train(8, tmp_path / 'parts'))
  jax.tree.map(np.testing.assert_array_equal, whole, resumed)
  floats = [leaf for leaf in jax.tree.leaves(whole) if jnp.issubdtype(leaf.dtype, jnp.floating)]
  assert {leaf.dtype for leaf in floats} == {np.dtype('float32')}
  losses = [
    record['loss'] for record in metrics_file.read(tmp_path / 'whole') if record['kind'] == 'train'
  ]
  assert losses[-1] < losses[0]


def test_what_has_no_network_computes_in_float32():
  config = Config()
  config.model.kind, config.train.compute = 'distribution', 'bfloat16'
  with pytest.raises(ValueError, match=r"no effect with .*kind='distribution'; leave it 'float32'"):
    configuration.resolve(config)
  config.train.compute = 'bfloat'
  with pytest.raises(ValueError, match="Did you mean 'bfloat16'"):
    configuration.resolve(config)
