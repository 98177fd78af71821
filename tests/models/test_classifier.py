"""The classifier: log softmax of what it makes of an image, whatever class that is said to have."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.distributions.base import ImageShape
from structured_obs.models.classes import Classes
from structured_obs.models.classifier import Classifier

IMAGE = ImageShape(5, 6, 1)
THREE = Classes((3, 1, 4), 17)
RNG = np.random.default_rng(0)
PIXELS = RNG.uniform(-1, 1, (4, *IMAGE)).astype(np.float32)
LABELS = np.array([2, 0, 1, 2])


def _model(classes: Classes | None = THREE, norm: str = 'none') -> Classifier:
  family = distributions.family('diagonal')
  return Classifier(family, IMAGE, features=(4, 6), blocks=1, norm=norm, label_classes=classes)


def _with_class(labels: np.ndarray) -> jax.Array:
  planes = np.broadcast_to((labels / 8 - 1)[:, None, None, None], (4, 5, 6, 1))
  return jnp.asarray(np.concatenate([PIXELS, planes], axis=-1), jnp.float32)


def test_terms_are_those_of_the_softmax():
  model, keys = _model(), jax.random.split(jax.random.key(0), 4)
  variables = jax.jit(model.init)(jax.random.key(1), keys, _with_class(LABELS))
  terms = jax.jit(model.apply)(variables, keys, _with_class(LABELS))
  head = jax.tree.map(np.float64, variables['params']['head'])
  rows: Any = np.asarray(model.apply(variables, jnp.asarray(PIXELS), method='embed'), np.float64)
  logits = rows @ head['kernel'] + head['bias']
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  np.testing.assert_allclose(terms.log_p['y'], log_p[np.arange(4), LABELS], rtol=1e-4)
  np.testing.assert_array_equal(terms.stats['accuracy'], log_p.argmax(1) == LABELS)
  assert not terms.log_q
  best = jax.jit(model.apply)(variables, keys, _with_class(log_p.argmax(1)))  # what it sees is the same
  np.testing.assert_allclose(best.log_p['y'], log_p.max(1), rtol=1e-4)
  assert np.all(best.stats['accuracy'] == 1)
  maps: Any = model.apply(variables, jnp.asarray(PIXELS), method='maps')
  assert [layer.shape for layer in maps] == [(4, 5, 6, 4), (4, 3, 3, 6)]
  np.testing.assert_allclose(np.mean(maps[-1], axis=(1, 2)), rows, rtol=1e-5)


def test_what_does_not_fit_is_refused():
  model, keys = _model(), jax.random.split(jax.random.key(0), 4)
  with pytest.raises(ValueError, match='with the class of each behind'):
    jax.eval_shape(model.init, jax.random.key(1), keys, jnp.asarray(PIXELS))
  with pytest.raises(ValueError, match='needs the classes'):
    jax.eval_shape(_model(None).init, jax.random.key(1), keys, _with_class(LABELS))
