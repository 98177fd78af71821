"""Every public operation of every registered family as a scalar function of a decoder's outputs."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import FAMILIES, base, gaussian, kl
from structured_obs.distributions.base import Family

Array = jax.Array
Operation = tuple[Callable[..., Array], tuple[Any, ...]]  # a function, its batched arguments
Outputs = dict[str, Array]

SCALE = 0.1  # of the random outputs
NOISE_VARIANCE = 0.1


def operations(size: int, batch: int) -> dict[str, Operation]:
  """Scalar functions of one size x size image and their batched arguments, by family and operation."""
  shape = base.ImageShape(size, size, 1)
  rng = np.random.default_rng(0)
  families = {name: build() for name, build in FAMILIES.items()}
  families['circulant, reflect'] = FAMILIES['circulant'](reflect=True)  # parameters of another type
  x = jnp.asarray(rng.normal(size=(batch, *shape)), jnp.float32)
  outputs, others = (
    {name: _outputs(family, shape, batch, rng) for name, family in families.items()} for _ in range(2)
  )
  found: dict[str, Operation] = {
    f'{name} {operation}': (function, (outputs[name], x))
    for name, family in families.items()
    for operation, function in _of_family(family, shape).items()
  }
  for p, q in _closed_pairs(families, outputs):
    found[f'kl {p} || {q}'] = _divergence(families[p], families[q]), (outputs[p], others[q])
  return found


def _outputs(family: Family[Any], shape: base.ImageShape, batch: int, rng: Any) -> Outputs:
  sizes = family.outputs(shape)
  return {
    name: jnp.asarray(SCALE * rng.normal(size=(batch, *size)), jnp.float32)
    for name, size in sizes.items()
  }


def _of_family(family: Family[Any], shape: base.ImageShape) -> dict[str, Callable[..., Array]]:
  """(outputs, x) -> [] for every operation that the family has."""
  found: dict[str, Callable[[Any, Array], Any]] = {
    'log_prob': lambda p, x: gaussian.log_prob(family, p, x),
    'sample': lambda p, x: gaussian.sample(jax.random.key(0), family, p),
  }
  if family.gaussian is not None:
    found |= _on_gaussian(family, shape)
    found |= _conditionals(family, shape)
    if family.gaussian.excess_entropy is not None:
      found['excess_entropy'] = lambda p, x: gaussian.excess_entropy(family, p)
    if family.gaussian.innovation_variance is not None:
      found['variance_inflation'] = lambda p, x: gaussian.variance_inflation(family, p)

  def scalar(operation: Callable[[Any, Array], Any]) -> Callable[..., Array]:
    return lambda outputs, x: base.squared_norm(
      operation(family.from_outputs(outputs), base.round_to_levels(x, family.levels))
    )

  return {name: scalar(operation) for name, operation in found.items()}


def _on_gaussian(
  family: Family[Any], shape: base.ImageShape
) -> dict[str, Callable[[Any, Array], Any]]:
  pixel = (shape.height // 2, shape.width // 2, 0)
  return {
    'entropy': lambda p, x: gaussian.entropy(family, p),
    'mahalanobis': lambda p, x: gaussian.mahalanobis(family, p, x),
    'variance': lambda p, x: gaussian.variance(family, p),
    'covariance': lambda p, x: gaussian.covariance(family, p),
    'covariance_column': lambda p, x: gaussian.covariance_column(family, p, pixel),
    'correlation': lambda p, x: gaussian.correlation(family, p, pixel),
    'temper': lambda p, x: gaussian.temper(family, p, 0.5),
    'principal_components': lambda p, x: gaussian.principal_components(family, p, 1).values,
  }


def _conditionals(
  family: Family[Any], shape: base.ImageShape
) -> dict[str, Callable[[Any, Array], Any]]:
  observed = jnp.asarray(np.indices(shape).sum(axis=0) % 2 == 0)

  def given(p: Any, x: Array) -> base.Conditional:
    return gaussian.condition(family, p, x, observed)

  def moments(p: Any, x: Array) -> Any:
    conditional = given(p, x)
    return conditional.mean, conditional.variance

  return {
    'condition': moments,
    'condition sample': lambda p, x: given(p, x).sample(jax.random.key(0)),
    'condition log_prob': lambda p, x: given(p, x).log_prob(x),
    'posterior_mean': lambda p, x: gaussian.posterior_mean(family, p, x, NOISE_VARIANCE),
  }


def _closed_pairs(
  families: dict[str, Family[Any]], outputs: dict[str, Outputs]
) -> Iterator[tuple[str, str]]:
  types = {
    name: type(jax.eval_shape(lambda o, f=family: jax.vmap(f.from_outputs)(o), outputs[name]))
    for name, family in families.items()
  }
  return ((p, q) for p in types for q in types if (types[p], types[q]) in kl.CLOSED_FORMS)


def _divergence(family_p: Family[Any], family_q: Family[Any]) -> Callable[..., Array]:
  def divergence(p: Outputs, q: Outputs) -> Array:
    return kl.kl_divergence(family_p, family_p.from_outputs(p), family_q, family_q.from_outputs(q))

  return divergence
