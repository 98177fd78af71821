"""The covariance network: any family, what a pixel sees, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.distributions.base import ImageShape
from structured_obs.models import covariance_network as network
from structured_obs.models.networks.heads import Heads
from tests.models.programs import apply, init

IMAGE = ImageShape(4, 5, 1)
FAMILIES = ('diagonal', 'low_rank', 'sparse_precision', 'dense_precision')


def _model(family: str = 'sparse_precision', image: ImageShape = IMAGE, **options: Any):
  chosen = network.Options(**{'features': (8, 8), 'context': (4,), **options})
  return network.CovarianceNetwork(distributions.family(family), image, chosen)


def _batch(image: ImageShape = IMAGE, count: int = 3) -> tuple[jax.Array, jax.Array]:
  shape = (count, image.height, image.width, 2 * image.channels)
  x = np.random.default_rng(0).normal(size=shape)
  return jax.random.split(jax.random.key(1), count), jnp.asarray(x, jnp.float32)


def _spread(variables: Any) -> Any:
  """Variables away from their start, where everything emitted is about 0."""
  return jax.tree.map(lambda leaf: 3 * leaf + 0.1, variables)


@pytest.mark.parametrize('kind', ['patch', 'mlp'])
@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.slow
def test_density_of_the_image_around_the_mean_it_is_given(family: str, kind: str):
  model, (keys, x) = _model(family, network=kind), _batch()
  variables = _spread(init(model, jax.random.key(0), keys, x))
  terms = apply(model, variables, keys, x)
  params = apply(model, variables, None, x, method='reconstruct')
  np.testing.assert_array_equal(params.mean, x[..., 1:])
  expected = jax.vmap(model.family.log_prob)(params, x[..., :1])
  np.testing.assert_allclose(terms.log_p['x'], expected, rtol=1e-5)
  assert terms.log_q == {}
  # Nothing of the covariance comes from the image itself.
  blind = apply(model, variables, None, x.at[..., 0].set(7.0), method='reconstruct')
  jax.tree.map(np.testing.assert_array_equal, params, blind)


def test_batch_norm_learns_its_statistics():
  model, (keys, x) = _model(network='mlp', norm='batch'), _batch()
  variables = init(model, jax.random.key(0), keys, x)
  _, state = apply(model, variables, keys, x, train=True, mutable=['batch_stats'])
  before, after = (jax.tree.leaves(tree['batch_stats']) for tree in (variables, state))
  assert any(not np.allclose(one, other) for one, other in zip(before, after, strict=True))


def test_the_heads_of_an_mlp_may_read_features_of_any_size():
  (keys, x), emitted = _batch(), []
  for last_norm in (True, False):
    model = _model(network='mlp', last_norm=last_norm)
    variables = init(model, jax.random.key(0), keys, x)
    large = jax.tree.map(lambda leaf: leaf, variables)
    last = large['params']['decoder']['Dense_1']
    large['params']['decoder']['Dense_1'] = jax.tree.map(lambda leaf: 10 * leaf, last)
    both = [apply(model, one, None, x, method='reconstruct').off_diag for one in (variables, large)]
    emitted.append(np.abs(both[1]).max() / np.abs(both[0]).max())
  # ReLU features are 10 times as large; a head is linear in them, unless they are normalised.
  assert emitted[0] < 1.1
  assert emitted[1] > 5


def test_a_pixel_sees_its_window_and_where_the_image_ends():
  image = ImageShape(1, 9, 1)
  model, (keys, x) = _model(image=image, context=(), window=3), _batch(image, 1)
  variables = _spread(init(model, jax.random.key(0), keys, x))

  def emitted(x: jax.Array) -> np.ndarray:
    params = apply(model, variables, None, x, method='reconstruct')
    return np.asarray(params.log_diag)[0, 0, :, 0]

  changed = emitted(x) != emitted(x.at[0, 0, 4, 1].add(1.0))
  np.testing.assert_array_equal(np.flatnonzero(changed), [3, 4, 5])
  flat = emitted(jnp.zeros_like(x))
  np.testing.assert_allclose(flat[1:-1], flat[4], rtol=1e-6)
  assert not np.isclose(flat[0], flat[4])
  assert not np.isclose(flat[0], flat[-1])


def test_with_a_context_a_pixel_sees_everything():
  model, (keys, x) = _model(window=1), _batch()
  variables = _spread(init(model, jax.random.key(0), keys, x))
  other = x.at[0, 0, 0, 1].add(1.0)
  one, two = (apply(model, variables, None, v, method='reconstruct').log_diag[0] for v in (x, other))
  assert np.all(one != two)


def test_every_pixel_emits_its_own_column_of_a_triangle():
  image = ImageShape(2, 2, 1)
  heads = Heads({'off_diag': (6,)})
  features = jnp.eye(4, dtype=jnp.float32).reshape(1, 2, 2, 4)  # which pixel it is
  kernel = jnp.arange(12, dtype=jnp.float32).reshape(4, 3)  # pixel j emits 3 j, 3 j + 1, 3 j + 2
  variables = {'params': {'off_diag': {'kernel': kernel, 'bias': jnp.zeros(3, jnp.float32)}}}
  emitted: Any = heads.apply(variables, features)
  emitted = emitted['off_diag'][0]
  np.testing.assert_array_equal(emitted, [0, 1, 2, 3, 4, 6])
  family = distributions.family('dense_precision', parametrization='raw')
  zeros = jnp.zeros(tuple(image), jnp.float32)
  chol = family.from_outputs({'mean': zeros, 'log_diag': zeros, 'off_diag': emitted}).chol
  np.testing.assert_array_equal(np.tril(chol, -1), [
    [0, 0, 0, 0], [0, 0, 0, 0], [1, 3, 0, 0], [2, 4, 6, 0],
  ])  # fmt: skip


def test_what_is_not_an_image_with_its_mean_is_refused():
  model, (keys, x) = _model(), _batch()
  for wrong in (x[..., :1], x[:, :-1], x[0], x.astype(jnp.int32)):
    with pytest.raises(ValueError, match='images with their means behind them, of shape'):
      init(model, jax.random.key(0), keys, wrong)


def test_it_needs_a_family_with_a_mean():
  model, (keys, x) = _model(), _batch()
  family = model.family._replace(outputs=lambda image: {'logits': tuple(image)})
  with pytest.raises(ValueError, match="no output 'mean'; it has logits"):
    network.CovarianceNetwork(family, IMAGE).init(jax.random.key(0), keys, x)
