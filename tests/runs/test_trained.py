"""What a trained model does: each function compiled once, with the variables as an argument."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.config import Config
from structured_obs.models.base import Bound
from structured_obs.runs import trained as opened
from structured_obs.runs.trained import Trained
from tests.evaluation import linear_gaussian
from tests.train import stub

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 1)), jnp.float32)


def make() -> Trained:
  model = linear_gaussian.LinearGaussian(stub.StubVAE.image)
  variables = {'params': linear_gaussian.variables(model.image)}
  return Trained('it', 'runs/it', Config(), stub.make_prepared().spec, model, variables, 3)


def test_functions_are_compiled_once_and_take_the_variables():
  trained = make()
  expected = trained.bound.reconstruct(None, X)
  np.testing.assert_allclose(trained.reconstruct(X).mean, expected.mean, rtol=1e-5, atol=1e-6)
  compiled: Any = opened._compiled
  programs = compiled._cache_size()
  moved = {**trained.variables['params'], 'b': trained.variables['params']['b'] + 1}
  other = make()._replace(variables={'params': moved})  # an equal model, made again
  found = other.reconstruct(X).mean
  assert compiled._cache_size() == programs
  np.testing.assert_allclose(found, other.bound.reconstruct(None, X).mean, rtol=1e-5, atol=1e-6)
  assert np.abs(found - expected.mean).min() > 0.01


def test_a_model_is_an_argument_of_programs_of_ones_own():
  bound = make().bound
  loss = jax.jit(jax.value_and_grad(lambda bound, x: jnp.sum(bound.reconstruct(None, x).mean)))
  value, gradient = loss(bound, X)
  assert isinstance(gradient, Bound)
  assert value == pytest.approx(float(jnp.sum(bound.reconstruct(None, X).mean)), rel=1e-4)
  assert gradient.variables['params']['b'].shape == (12,)


@pytest.mark.parametrize(
  ('call', 'lack'),
  [
    (lambda trained: trained.generate(jax.random.split(jax.random.key(0), 2)), 'cannot generate'),
    (lambda trained: trained.infer(X), 'has no latents'),
    (lambda trained: trained.decode(X), 'has no latents'),
    (lambda trained: trained.blur_kernels(X), 'not made of a blur kernel'),
    (lambda trained: trained.compress(X), 'has no small image'),
    (lambda trained: trained.super_resolve(X), 'has no small image'),
    (lambda trained: trained.regenerate(X, None), 'has no small image'),
    (lambda trained: trained.embed(X), 'is not a classifier'),
  ],
)
def test_what_a_model_cannot_do_is_said_in_one_sentence(call, lack: str):
  with pytest.raises(ValueError, match=f'A model of the kind LinearGaussian .*{lack}') as caught:
    call(make())
  assert str(caught.value).count('.') == 1
