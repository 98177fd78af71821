"""Every operation of a family once, as two functions: compiled once per case, they feed most tests.

It needs nothing but jax and the package, so that it runs in a bare environment too.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from structured_obs.distributions import gaussian, kl
from structured_obs.distributions.base import Family

Array = jax.Array


def all_operations(
  family: Family[Any], params: Any, x: Array, key: Array, observed: Array, noise_variance: Array
) -> dict[str, Any]:
  """Results of every operation by name; the Gaussian ones only where the family is Gaussian."""
  results = dense_operations(family, params, x, key)
  if family.gaussian is None:
    return results
  return results | conditional_operations(family, params, x, key, observed, noise_variance)


def dense_operations(family: Family[Any], params: Any, x: Array, key: Array) -> dict[str, Any]:
  """The plain operations, the matrices behind them and what is made of the whole covariance."""
  results = plain_operations(family, params, x, key)
  if family.gaussian is None:
    return results
  return results | _matrices(family, params, x) | _on_top(family, params, x)


def conditional_operations(
  family: Family[Any], params: Any, x: Array, key: Array, observed: Array, noise_variance: Array
) -> dict[str, Any]:
  """What is known of an image of which some pixels, or noisy ones, are seen; and its density."""
  given = gaussian.condition(family, params, x, observed)
  return {
    'log_prob': gaussian.log_prob(family, params, x),
    'condition.mean': given.mean,
    'condition.variance': given.variance,
    'condition.sample': given.sample(key),
    'condition.log_prob': given.log_prob(x),
    'condition.residual': given.residual,
    'posterior_mean': gaussian.posterior_mean(family, params, x, noise_variance),
  }


def plain_operations(family: Family[Any], params: Any, x: Array, key: Array) -> dict[str, Any]:
  """Those of `all_operations` that a family's own functions are, and the density and samples."""
  results = {
    'log_prob': gaussian.log_prob(family, params, x),
    'sample': gaussian.sample(key, family, params),
    'mean': family.mean(params),
  }
  primitives = family.gaussian
  if primitives is None:
    return results
  noise = primitives.noise(key, params)
  return results | {
    'noise': noise,
    'reparameterize': primitives.reparameterize(params, noise),
    'reparameterize_nothing': primitives.reparameterize(params, jax.tree.map(jnp.zeros_like, noise)),
    'whiten': primitives.whiten(params, x),
    'log_det': primitives.log_det(params),
    'variance': primitives.variance(params),
    'covariance_matvec': primitives.covariance_matvec(params, x),
    'precision_matvec': primitives.precision_matvec(params, x),
    'mahalanobis': gaussian.mahalanobis(family, params, x),
    'entropy': gaussian.entropy(family, params),
  }


def _matrices(family: Family[Any], params: Any, x: Array) -> dict[str, Any]:
  primitives = family.gaussian
  assert primitives is not None
  basis = jnp.eye(x.size, dtype=family.mean(params).dtype).reshape(x.size, *x.shape)

  def whitened(image: Array) -> Array:
    return ravel_pytree(primitives.whiten(params, image))[0]

  results = {}
  if primitives.white_image or isinstance(primitives.whiten(params, x), Array):

    def white(v: Array) -> Array:
      return gaussian.white_image(family, params, family.mean(params) + v).ravel()

    results |= {'white_image': gaussian.white_image(family, params, x)}
    results |= {'white_image_matrix': jax.vmap(white)(basis).T}
  return results | {
    'precision_matrix': jax.vmap(lambda v: primitives.precision_matvec(params, v).ravel())(basis),
    'whiten_matrix': jax.vmap(whitened)(basis).T,
  }


def _on_top(family: Family[Any], params: Any, x: Array) -> dict[str, Any]:
  last = (x.shape[0] - 1, x.shape[1] - 1, x.shape[2] - 1)
  results = {
    'covariance': gaussian.covariance(family, params),
    'covariance_column': gaussian.covariance_column(family, params, last),
    'correlation': gaussian.correlation(family, params, last),
    'principal_components': gaussian.principal_components(family, params, x.size),
    'temper': gaussian.temper(family, params, 0.3),
  }
  assert family.gaussian is not None
  if family.gaussian.excess_entropy is not None:
    results['excess_entropy'] = gaussian.excess_entropy(family, params)
  if (type(params), type(params)) in kl.CLOSED_FORMS:
    results['kl_divergence'] = kl.kl_divergence(family, params, family, params)
  return results


def as_leaves(results: dict[str, Any]) -> dict[str, Array]:
  """Results as a flat dictionary of arrays."""
  flat, _ = jax.tree_util.tree_flatten_with_path(results)
  return {jax.tree_util.keystr(path): jnp.asarray(leaf) for path, leaf in flat}
