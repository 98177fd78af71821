"""`Distribution` against the functions of one image, for every family; its pytree; its messages."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.distributions import (
  Distribution,
  diagonal,
  discretized_logistic_mixture,
  family,
  gaussian,
  kl,
  low_rank,
)
from structured_obs.distributions.base import ImageShape
from structured_obs.distributions.low_rank import LowRank
from tests.distributions import cases
from tests.distributions.cases import Case, each

pytestmark = pytest.mark.x64  # nothing here depends on the precision

DEFAULTS = [case for case in cases.main_cases() if not case.options]
BATCH = (2, 3)
KEY = jax.random.key(0)
IMAGE = (2, 3, 1)
LOW_RANK = family('low_rank', rank=2)


def _outputs(case: Case, batch: tuple[int, ...]) -> dict[str, jax.Array]:
  shapes = cases.family_of(case).outputs(case.image)
  rng = np.random.default_rng(0)
  scale = cases.OUTPUT_SCALES.get(case.name, 1.0)
  return {name: jnp.asarray(rng.normal(scale=scale, size=(*batch, *s))) for name, s in shapes.items()}


@each(DEFAULTS)
def test_batches_are_images_one_by_one(case: Case):
  record = cases.family_of(case)
  outputs = _outputs(case, BATCH)

  @jax.jit
  def draw(outputs: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, Any]:
    made = Distribution.from_outputs(record, outputs)
    assert (made.batch_shape, made.image_shape) == (BATCH, case.image)
    return made.sample(KEY), made.mean(), made.params

  @jax.jit
  def draw_one(outputs: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    params = record.from_outputs(outputs)
    one = Distribution(record, params)
    assert (one.batch_shape, one.image_shape) == ((), case.image)
    return one.sample(key), record.mean(params), params

  found = draw(outputs)
  keys = jax.random.split(KEY, BATCH)
  for i in ((0, 0), (1, 2)):
    expected = draw_one({name: array[i] for name, array in outputs.items()}, keys[i])
    for batched, single in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(batched[i], single, atol=1e-12)


def test_every_method_has_the_leading_axes():
  zeros = jnp.zeros((*BATCH, *IMAGE))
  made = Distribution(family('diagonal'), diagonal.Diagonal(zeros, zeros))
  tempered = made.temper(jnp.asarray([0.5, 1.0, 2.0]))
  assert tempered.batch_shape == BATCH
  np.testing.assert_allclose(tempered.variance()[0, :, 0, 0, 0], [0.25, 1, 4])

  def numbers(made: Distribution, tempered: Distribution) -> dict[str, Any]:
    x = made.sample(KEY)
    given = made.condition(x, jnp.ones(IMAGE, bool).at[0].set(False))
    return {
      'log_prob': made.log_prob(x),
      'entropy': tempered.entropy(),
      'excess_entropy': made.excess_entropy(),
      'mahalanobis': made.mahalanobis(x),
      'kl': made.kl_divergence(tempered),
      'given.log_prob': given.log_prob(x),
      'given.iterations': given.iterations,
      'given.residual': given.residual,
      'monte_carlo': made.entropy_monte_carlo(KEY, 2).value,
    }

  def images(made: Distribution) -> dict[str, Any]:
    x = made.sample(KEY)
    given = made.condition(x, jnp.ones(IMAGE, bool).at[0].set(False))
    return {
      'sample': x,
      'mean': made.mean(),
      'variance': made.variance(),
      'correlation': made.correlation((0, 1, -1)),
      'column': made.covariance_column((0, 1, -1)),
      'given': given.mean,
      'given.variance': given.variance,
      'given.sample': given.sample(KEY, 2)[1],
      'posterior_mean': made.posterior_mean(x, 0.1)[0],
      'white': made.white_image(x),
    }

  for found, shape in (
    (jax.eval_shape(numbers, made, tempered), BATCH), (jax.eval_shape(images, made), (*BATCH, *IMAGE))
  ):  # fmt: skip
    assert {name: a.shape for name, a in found.items()} == dict.fromkeys(found, shape)
  assert jax.eval_shape(made.covariance).shape == (*BATCH, 6, 6)
  assert jax.eval_shape(made.channel_covariance).shape == (*BATCH, *IMAGE, 1)
  components = jax.eval_shape(lambda: made.principal_components(2))
  assert components.vectors.shape == (*BATCH, 2, *IMAGE)


def _params(mean: Any = (), factor: Any = (), diag: Any = ()) -> LowRank:
  """Parameters by the leading axes of each array."""
  rng = np.random.default_rng(0)
  sizes = (*mean, *IMAGE), (*factor, *IMAGE, 2)
  means, factors = (jnp.asarray(rng.normal(size=size)) for size in sizes)
  return LowRank(means, factors, jnp.asarray(rng.uniform(0.5, 1, size=diag)))


@pytest.mark.parametrize(('params', 'batch'), [
  (_params(), ()),
  (_params(diag=IMAGE), ()),
  (_params((4,), (4,), (4,)), (4,)),
  (_params((4,), (4,), ()), (4,)),
  (_params((4,), (4,), IMAGE), (4,)),
  (_params((4,), (4,), (4, *IMAGE)), (4,)),
  (_params((4,), ()), (4,)),
  (_params((2, 1), (1, 3), (2, 3)), (2, 3)),
  (_params((5, 2, 1), (5, 2, 1), IMAGE), (5, 2, 1)),
  (_params((0,), (0,), (0,)), (0,)),
  (_params((4,), (4,))._replace(cov_diag=0.5), (4,)),  # pyright: ignore[reportArgumentType]
])  # fmt: skip
def test_arrays_without_leading_axes_belong_to_every_image(params: LowRank, batch: tuple[int, ...]):
  made = Distribution(LOW_RANK, params)
  assert made.batch_shape == batch
  variance = made.variance()
  assert variance.shape == (*batch, *IMAGE)
  diag = np.asarray(params.cov_diag)
  diag = diag if diag.shape[-3:] == IMAGE else diag[..., None, None, None]
  expected = np.sum(np.square(params.cov_factor), axis=-1) + diag
  np.testing.assert_allclose(variance, np.broadcast_to(expected, variance.shape), rtol=1e-12)


def _diagonal(*batch: int) -> Distribution[diagonal.Diagonal]:
  arrays = np.random.default_rng(len(batch)).normal(size=(2, *batch, *IMAGE))
  return Distribution(family('diagonal'), diagonal.Diagonal(*jnp.asarray(arrays)))


def test_images_broadcast_against_parameters():
  made = _diagonal(3)
  x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 1, *IMAGE)))
  found = made.log_prob(x)
  for i, j in np.ndindex(4, 3):
    one = jax.tree.map(lambda leaf, j=j: leaf[j], made.params)
    np.testing.assert_allclose(found[i, j], diagonal.log_prob(one, x[i, 0]), rtol=1e-9)
  seen = jnp.ones((4, 1, *IMAGE), bool).at[..., 0, 0, 0].set(False)
  masked = made.log_prob(x, seen)
  first = jax.tree.map(lambda leaf: leaf[0], made.params)
  np.testing.assert_allclose(masked[0, 0], diagonal.log_prob(first, x[0, 0], seen[0, 0]), rtol=1e-9)
  assert masked[0, 0] != found[0, 0]
  noise = jnp.asarray([0.1, 0.2, jnp.inf])
  means, variances = made.posterior_mean(x[0, 0], noise)
  assert variances is not None
  np.testing.assert_allclose(means[2], made.mean()[2], atol=1e-9)
  by_pixel, _ = made.posterior_mean(x[0, 0], jnp.broadcast_to(noise[:, None, None, None], (3, *IMAGE)))
  np.testing.assert_allclose(by_pixel, means, atol=1e-9)


def test_pairs_of_families_broadcast():
  p, q = _diagonal(3), _diagonal(2, 1)
  found = jax.jit(Distribution.kl_divergence)(p, q)
  assert found.shape == (2, 3)
  one, other = jax.tree.map(lambda a: a[1], p.params), jax.tree.map(lambda a: a[0, 0], q.params)
  np.testing.assert_allclose(found[0, 1], kl.kl_divergence(p.family, one, q.family, other), rtol=1e-9)
  estimate = jax.eval_shape(lambda: p.kl_monte_carlo(KEY, q, 2))
  assert estimate.value.shape == estimate.standard_error.shape == (2, 3)


def test_samples_are_independent_and_reproducible():
  made = Distribution(LOW_RANK, jax.tree.map(lambda a: jnp.broadcast_to(a, (3, *a.shape)), _params()))
  drawn = made.sample(KEY, 2)
  assert drawn.shape == (2, 3, *IMAGE)
  assert len(np.unique(np.asarray(drawn)[..., 0, 0, 0])) == 6
  np.testing.assert_array_equal(drawn, made.sample(KEY, (2,)))
  np.testing.assert_array_equal(made.sample(jax.random.PRNGKey(0)), made.sample(jax.random.PRNGKey(0)))


def test_a_distribution_is_a_pytree():
  made = _diagonal(3)
  x = jnp.zeros((3, *IMAGE))
  expected = made.log_prob(x)
  close = np.testing.assert_allclose
  close(jax.jit(Distribution.log_prob)(made, x), expected, rtol=1e-9)
  close(jax.vmap(Distribution.log_prob)(made, x), expected, rtol=1e-9)
  _, scanned = jax.lax.scan(lambda state, one: (state, one.log_prob(x[0])), None, made)
  close(scanned, expected, rtol=1e-9)
  first = jax.tree.map(lambda leaf: leaf[0], made)
  assert isinstance(first, Distribution)
  assert first.family is made.family
  close(first.log_prob(x[0]), expected[0], rtol=1e-9)
  gradient = jax.grad(lambda made: jnp.sum(made.log_prob(x)))(made)
  assert isinstance(gradient, Distribution)
  assert gradient.params.log_scale.shape == made.params.log_scale.shape
  given = jax.jit(Distribution.condition)(made, x, jnp.zeros(IMAGE, bool))
  close(given.log_prob(x), expected, rtol=1e-9)
  assert given.iterations.shape == given.residual.shape == (3,)
  assert repr(made) == 'Distribution(Diagonal, batch_shape=(3,), image_shape=(2, 3, 1))'
  assert repr(jax.tree.map(lambda _: None, made)) == 'Distribution(Diagonal)'


PARAMS = _params((4,), (4,))
UNTYPED: Any = Distribution
MADE: Any = Distribution(LOW_RANK, PARAMS)
FLAT = diagonal.Diagonal(jnp.zeros(IMAGE[1:]), jnp.zeros(IMAGE[1:]))
X = jnp.zeros(IMAGE)
OTHER = diagonal.Diagonal(X, X)


@pytest.mark.parametrize(('wrong', 'error', 'message'), [
  (lambda: UNTYPED(PARAMS, LOW_RANK), TypeError, 'A family is needed'),
  (lambda: UNTYPED(low_rank.family, PARAMS), TypeError, 'A family is needed'),
  (lambda: UNTYPED(LOW_RANK, OTHER).mean(), TypeError, 'Are they of another family'),
  (lambda: UNTYPED(LOW_RANK, X).mean(), TypeError, 'Are they of another family'),
  (lambda: UNTYPED(LOW_RANK, _params((4,), (5,))).mean(), ValueError, 'axes must broadcast'),
  (lambda: UNTYPED(LOW_RANK, _params(diag=(2, 3, 2))).mean(), ValueError,
   r'cov_diag must have shape .* cov_factor \(2, 3, 1, 2\), cov_diag \(2, 3, 2\)'),
  (lambda: UNTYPED(family('diagonal'), FLAT).mean(), ValueError, 'H, W, C'),
  (lambda: UNTYPED.from_outputs(LOW_RANK, {'mean': X}), ValueError, 'cov_factor'),
  (lambda: UNTYPED.from_outputs(LOW_RANK, X), TypeError, 'by their names'),
  (lambda: MADE.log_prob(X[0]), ValueError, r'x must be an array of shape \(..., 2, 3, 1\)'),
  (lambda: MADE.log_prob(0.5), ValueError, 'x must be an array of shape .* got float'),
  (lambda: MADE.log_prob(jnp.zeros((3, *IMAGE))), ValueError, 'Leading axes must broadcast'),
  (lambda: MADE.log_prob(jnp.zeros(IMAGE, int)), TypeError, 'floating-point'),
  (lambda: MADE.condition(X, X), TypeError, 'observed must be a boolean array'),
  (lambda: MADE.sample(3), TypeError, 'key must be one jax.random.key'),
  (lambda: MADE.sample(jax.random.split(KEY, 4)), TypeError, 'key must be one jax.random.key'),
  (lambda: MADE.sample(KEY, (1.5,)), TypeError, 'sample_shape must be a whole number'),
  (lambda: MADE.kl_divergence(PARAMS), TypeError, 'must be a Distribution'),
  (lambda: MADE.mode(), ValueError, 'mode needs a family that is a mixture'),
  (lambda: MADE.correlation((0, 1)), TypeError, 'pixel must be three integers'),
  (lambda: MADE.correlation((0, 3, 0)), ValueError, 'pixel must lie in the image'),
  (lambda: MADE.variance_inflation(), ValueError, 'one after the other'),
  (lambda: MADE.principal_components(7), ValueError, 'k must be from 1'),
])  # fmt: skip
def test_what_is_wrong_is_told(wrong: Callable[[], Any], error: type[Exception], message: str):
  with pytest.raises(error, match=message):
    wrong()


def test_a_family_of_gray_levels_has_no_covariance():
  record = family('discretized_logistic_mixture', components=2)
  shapes = record.outputs(IMAGE)
  made = Distribution.from_outputs(record, {name: jnp.zeros(s) for name, s in shapes.items()})
  assert isinstance(made.params, discretized_logistic_mixture.DiscretizedLogisticMixture)
  for operation in (made.variance, made.entropy, lambda: made.condition(X, X > 0)):
    with pytest.raises(ValueError, match='needs a Gaussian family'):
      operation()


def test_image_shapes_are_plain_tuples():
  for wrong in ((2, 3), 'abc', 5, {'height': 1, 'width': 2, 'channels': 3}):
    with pytest.raises(TypeError, match=r'An image shape is \(height, width, channels\)'):
      LOW_RANK.outputs(wrong)  # pyright: ignore[reportArgumentType]
  for wrong in ((2.0, 3, 1), (0, 3, 1)):
    with pytest.raises((TypeError, ValueError), match='height must be'):
      LOW_RANK.outputs(wrong)  # pyright: ignore[reportArgumentType]
  assert LOW_RANK.outputs([2, 3, 1]) == LOW_RANK.outputs(ImageShape(2, 3, 1))  # pyright: ignore


def test_the_key_comes_first_everywhere():
  one = _params()
  for draw in (gaussian.sample, kl.entropy_monte_carlo):
    with pytest.raises(TypeError, match='order of arguments is: key, family, params'):
      draw(LOW_RANK, one, KEY)  # pyright: ignore[reportArgumentType]
