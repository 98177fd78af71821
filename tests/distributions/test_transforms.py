"""Families under transposition, on explicit meshes and lowered for other platforms."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import FAMILIES, gaussian, kl
from structured_obs.distributions.base import Family, ImageShape
from tests.distributions.cases import tolerance

IMAGE = ImageShape(2, 3, 2)
BATCH = 4
GAUSSIAN = [name for name in FAMILIES if FAMILIES[name]().gaussian is not None]


def outputs(family: Family, key: int = 0) -> dict[str, jax.Array]:
  """Outputs of a network for a batch of images."""
  shapes = {name: (BATCH, *shape) for name, shape in family.outputs(IMAGE).items()}
  keys = jax.random.split(jax.random.key(key), len(shapes))
  drawn = (jax.random.normal(k, shape) for k, shape in zip(keys, shapes.values(), strict=True))
  return {name: 0.3 * x for name, x in zip(shapes, drawn, strict=True)}


def images(key: int) -> jax.Array:
  return jax.random.normal(jax.random.key(key), (BATCH, *IMAGE))


@pytest.mark.parametrize('operation', ['whiten', 'precision_matvec', 'covariance_matvec'])
@pytest.mark.parametrize('name', GAUSSIAN)
@pytest.mark.slow
def test_products_can_be_transposed(name: str, operation: str):
  """<y, A x> = <A^T y, x>, mapped over parameters and images."""
  family = FAMILIES[name]()
  params = jax.vmap(family.from_outputs)(outputs(family))
  product = functools.partial(jax.vmap(getattr(family.gaussian, operation)), params)

  @jax.jit
  def sides(x: jax.Array) -> tuple[jax.Array, ...]:
    forward = product(x)
    y = jax.tree.map(jnp.cos, forward)
    (back,) = jax.linear_transpose(product, x)(y)
    pairs = zip(jax.tree.leaves(y), jax.tree.leaves(forward), strict=True)
    terms = jnp.concatenate([(a * b).ravel() for a, b in pairs])
    return jnp.sum(terms), jnp.sum(back * x), jnp.sum(jnp.abs(terms))

  left, right, size = sides(images(1))  # terms of both signs cancel
  assert abs(left - right) <= tolerance(1e-12, 1e-4) * size


def programs(family: Family) -> dict[str, Callable[..., Any]]:
  """Operations on outputs and an image, and on outputs and a key."""

  def value(emitted, x):
    return family.log_prob(family.from_outputs(emitted), x)

  found: dict[str, Callable[..., Any]] = {
    'log_prob and gradient': jax.value_and_grad(value, (0, 1)),
    'sample': lambda emitted, x: family.sample(jax.random.key(0), family.from_outputs(emitted)),
  }
  primitives = family.gaussian
  if primitives is not None:
    half = np.arange(IMAGE.height)[:, None, None] < IMAGE.height // 2
    observed = np.broadcast_to(half, IMAGE)

    def conditional(emitted, x):
      return gaussian.condition(family, family.from_outputs(emitted), x, jnp.asarray(observed)).mean

    def product(emitted, x):
      return primitives.covariance_matvec(family.from_outputs(emitted), x)

    def variance(emitted, x):
      return primitives.variance(family.from_outputs(emitted)) + x

    found |= {'conditional mean': conditional, 'product': product, 'variance': variance}
  return found


def more_programs(family: Family) -> dict[str, Callable[..., Any]]:
  """Further operations on outputs and an image."""

  def by_noise(emitted, x):
    return jnp.sum(x * family.sample(jax.random.key(0), family.from_outputs(emitted)))

  def curvature(emitted, x):
    params = family.from_outputs(emitted)
    return jnp.sum(jnp.square(jax.grad(functools.partial(family.log_prob, params))(x)))

  found: dict[str, Callable[..., Any]] = {'gradient of a sample': jax.grad(by_noise)}
  if family.gaussian is not None:
    primitives = family.gaussian

    def conditional(emitted, x):
      params = family.from_outputs(emitted)
      rest = gaussian.condition(family, params, x, jnp.asarray(np.arange(x.size).reshape(x.shape) < 3))
      return rest.variance, rest.sample(jax.random.key(0)), rest.log_prob(x)

    def denoised(emitted, x):
      return gaussian.posterior_mean(family, family.from_outputs(emitted), x, 0.1)

    def components(emitted, x):
      del x
      return gaussian.principal_components(family, family.from_outputs(emitted), 2)

    def divergence(emitted, x):
      del x
      params, other = (family.from_outputs({k: s * v for k, v in emitted.items()}) for s in (1, 2))
      return kl.kl_divergence(family, params, family, other)

    def variance(emitted):
      return jnp.sum(primitives.variance(family.from_outputs(emitted)))

    found |= {
      'second derivative': jax.grad(curvature),
      'conditional': conditional,
      'denoised': denoised,
      'components': components,
      'divergence': divergence,
      'gradient of the variance': lambda emitted, x: jax.grad(variance)(emitted),
    }
  return found


@pytest.mark.x64
@pytest.mark.parametrize('within', [True, False], ids=['in the mesh', 'arrays alone'])
@pytest.mark.parametrize('name', [*FAMILIES, 'circulant, mirrored'])
@pytest.mark.slow
def test_explicit_meshes_do_not_stop_tracing(name: str, within: bool):
  options = {'reflect': True} if name not in FAMILIES else {}
  family, mesh = FAMILIES[name.partition(',')[0]](**options), jax.make_mesh((BATCH,), ('data',))
  by_image = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  arguments = jax.device_put((outputs(family), images(1)), by_image)
  with jax.set_mesh(mesh) if within else contextlib.nullcontext():
    for program in (programs(family) | more_programs(family)).values():
      jax.jit(jax.vmap(program)).trace(*arguments)


@pytest.mark.x64
def test_arrays_on_an_explicit_mesh_give_the_same():
  """A solve whose noise lies on no mesh."""
  family, mesh = FAMILIES['sparse_precision'](), jax.make_mesh((BATCH,), ('data',))
  by_image = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  plain = outputs(family)
  draw = jax.vmap(lambda emitted: family.sample(jax.random.key(0), family.from_outputs(emitted)))
  found = jax.jit(draw)(jax.device_put(plain, by_image))
  assert found.sharding.spec[0] == 'data'
  np.testing.assert_allclose(found, jax.jit(draw)(plain), rtol=1e-12)


@pytest.mark.x64
@pytest.mark.parametrize('platform', ['cuda', 'tpu'])
@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.slow
def test_programs_are_lowered_for_other_platforms(name: str, platform: str):
  family = FAMILIES[name]()
  with jax.enable_x64(False):
    arguments = jax.tree.map(lambda a: a.astype(jnp.float32), (outputs(family), images(1)))
    for program in programs(family).values():
      traced = jax.jit(jax.vmap(program)).trace(*arguments)
      text = traced.lower(lowering_platforms=(platform,)).as_text()
      assert 'lapack' not in text
