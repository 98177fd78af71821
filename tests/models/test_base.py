"""Every kind of model fulfils the Protocol, and can do what it declares and nothing else."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from structured_obs import distributions
from structured_obs.distributions.base import ImageShape
from structured_obs.models import KINDS
from structured_obs.models.base import Bound, Model, Traits
from structured_obs.models.classes import Classes
from structured_obs.models.vae import VAE
from structured_obs.objectives.terms import Terms
from structured_obs.runs import configuration, experiment
from tests.evaluation.linear_gaussian import LinearGaussian
from tests.runs import small
from tests.train.stub import StubVAE

IMAGE = ImageShape(4, 8, 1)
FAMILY = distributions.family('diagonal')
SMALL = {'latents': 2, 'features': (4,), 'blocks': 0}
CLASSES = Classes((2, 1), 17)
OTHERS: dict[str, Model] = {  # beside one of every kind
  'vae of blurred noise': VAE(distributions.family('circulant', kernel_size=3), IMAGE, **SMALL),
  'vae with classes': VAE(FAMILY, IMAGE, **SMALL, label_classes=CLASSES),
  'stub': StubVAE(IMAGE.size, image=IMAGE),
  'linear': LinearGaussian(IMAGE),
}
DRAWS = jax.random.split(jax.random.key(0), 3)
# By the method's name: whether a model says that it has it, and a call of it.
CALLS: dict[str, tuple[Callable[[Traits], bool], Callable[..., Any]]] = {
  'reconstruct': (lambda t: t.reconstructs, lambda bound, x: bound.reconstruct(DRAWS, x)),
  'generate': (lambda t: t.generates, lambda bound, x: bound.generate(DRAWS)),
  'infer': (lambda t: t.has_latents, lambda bound, x: bound.infer(None, x)),
  'decode': (lambda t: t.has_latents, lambda bound, x: bound.decode(bound.infer(None, x))),
  'blur_kernels': (lambda t: t.has_blur_kernels, lambda bound, x: bound.blur_kernels(None, x)),
  'compress': (lambda t: t.two_levels, lambda bound, x: bound.compress(x)),
  'upscale': (lambda t: t.two_levels, lambda bound, x: bound.upscale(bound.compress(x))),
  'regenerate': (lambda t: t.two_levels, lambda bound, x: bound.regenerate(DRAWS, x)),
  'super_resolve': (
    lambda t: t.two_levels,
    lambda bound, x: bound.super_resolve(None, bound.compress(x)),
  ),
  'embed': (lambda t: t.classifies, lambda bound, x: bound.embed(x[..., : bound.model.image.channels])),
  'maps': (lambda t: t.classifies, lambda bound, x: bound.maps(x[..., : bound.model.image.channels])),
}


@pytest.mark.parametrize('kind', [*KINDS, *OTHERS])
def test_what_a_model_declares_is_true(kind: str):
  model, channels = _built(kind) if kind in KINDS else _other(kind)
  x = jnp.zeros((3, *model.image[:2], channels), jnp.float32)
  if kind == 'linear':  # whose parameters are given
    variables: Any = {'params': {name: jnp.zeros(shape, jnp.float32) for name, shape in _linear()}}
  else:
    variables = jax.eval_shape(model.init, jax.random.key(0), DRAWS, x)
  bound, seen = Bound(model, variables), jax.eval_shape(Bound.terms, Bound(model, variables), DRAWS, x)
  assert isinstance(seen, Terms)
  assert model.traits.has_prior == (seen.log_q != {})
  for name, (declared, call) in CALLS.items():
    if declared(model.traits):
      found = jax.eval_shape(call, bound, x)
      assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(found)), name
    else:
      with pytest.raises(ValueError, match=f'^A model of the kind {type(model).__name__} .*[.]'):
        jax.eval_shape(call, bound, x)
      assert name == 'blur_kernels' or not hasattr(model, name), name  # of a VAE by its family


def _built(kind: str) -> tuple[Model, int]:
  """A small model of a kind, and the channels of what it is given."""
  config = configuration.resolve(small.config_of(kind))
  spec = small.spec_of(config)
  return experiment.build(config, spec).model, spec.stored[-1]


def _other(name: str) -> tuple[Model, int]:
  return OTHERS[name], IMAGE.channels + (OTHERS[name].label_classes is not None)


def _linear() -> list[tuple[str, tuple[int, ...]]]:
  return [('w', (IMAGE.size, 2)), ('b', (IMAGE.size,)), ('widen', ()), ('offset', ())]
