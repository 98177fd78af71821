"""A mixture of a few members of one family: p(x) = sum_k w_k p_k(x).

The components share what a network has in common for them: each has its own covariance, and its own mean
if asked for, around the mean that a decoder predicts. With one mean, and components that begin as one
covariance of several sizes, the tails are heavier than a Gaussian's; trained, the components differ in
shape as well.

A mixture has no Gaussian record: its density, samples, mean, responsibilities and marginal variances are
exact, its entropy takes `kl.entropy_monte_carlo`.

Letters: H W C image height, width, channels; K components.
"""

import functools
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs import option_values
from structured_obs.distributions import base, gaussian, linear, marginals, wrapper_fits
from structured_obs.linalg import products
from structured_obs.option_values import Range

Array = jax.Array
Family = base.Family

LOGITS = 'mixture_logits'  # names of the outputs
OFFSETS = 'mixture_offsets'
MEAN = 'mean'


class Mixture(NamedTuple):
  """Parameters of a mixture."""

  base: Any  # parameters of the components, each field with a leading K
  logits: Array  # [K]  logarithms of the weights, up to a constant


@option_values.checked('mixture')
def family(
  inner: Family[Any],
  components: Annotated[int, Range(1, 64)] = 2,
  own_means: bool = False,
  spread: Annotated[float, Range(1, 1e6)] = 2.0,
) -> Family[Mixture]:
  """Returns the family of mixtures of a base's members.

  Args:
    inner: the base, any family.
    components: K.
    own_means: whether each component has a mean of its own, the predicted one plus an offset.
    spread: factor between the standard deviations of one component and the next for outputs of 0.

  Raises:
    TypeError, ValueError: an option is of another type or out of range, or the base gives probabilities
      of gray levels.
  """
  base.check_density('mixture', inner)
  sizes = [spread ** (k - (components - 1) / 2) for k in range(components)]

  def added(image: base.ImageShape) -> dict[str, base.Shape]:
    found: dict[str, base.Shape] = {LOGITS: (components,)}
    return found | ({OFFSETS: (*image, components)} if own_means else {})

  def outputs(image: base.Shape) -> dict[str, base.Shape]:
    image = base.image_shape(image)
    each = inner.outputs(image)
    each = {n: s if n == MEAN else base.extended(s, components) for n, s in each.items()}
    return linear.merged(each, added(image))

  def from_outputs(emitted: dict[str, Array]) -> Mixture:
    image = base.image_of_outputs(emitted)
    emitted = base.check_outputs(emitted, outputs(image))
    own, each = linear.split(emitted, added(image))
    return Mixture(_components(inner, each, own.get(OFFSETS), sizes), own[LOGITS])

  made = base.Family(
    outputs,
    from_outputs,
    functools.partial(log_prob, inner),
    functools.partial(_draw, inner, True),
    functools.partial(mean, inner),
    log_prior=functools.partial(_log_prior, inner) if inner.log_prior else None,
    mode=functools.partial(mode, inner),
    sample_without_pixel_noise=functools.partial(_draw, inner, False) if base.has_floor(inner) else None,
  )
  fit = functools.partial(
    wrapper_fits.mixture,
    family=made,
    inner=inner,
    sizes=sizes,
    names=(LOGITS, OFFSETS if own_means else None),
    responsibilities=functools.partial(responsibilities, inner),
  )
  return made._replace(fit=fit)


def _components(
  inner: Family[Any], outputs: dict[str, Array], offsets: Array | None, sizes: list[float]
) -> Any:
  """Returns the parameters of all components, each field with a leading K.

  Args:
    inner: the base.
    outputs: of the components, each with a last axis K but the mean [H, W, C].
    offsets: [H, W, C, K], of the means; None for none.
    sizes: [K], factors of standard deviations.
  """
  axes: dict[str, int | None] = dict.fromkeys(outputs, -1)
  if offsets is None:
    axes[MEAN] = None
  else:
    outputs = {**outputs, MEAN: outputs[MEAN][..., None] + offsets}
  params = jax.vmap(inner.from_outputs, (axes,), axis_size=len(sizes))(outputs)
  if set(sizes) == {1.0}:
    return params
  factors = jnp.asarray(sizes, outputs[MEAN].dtype)
  return jax.vmap(functools.partial(gaussian.temper, inner))(params, factors)


def log_prob(inner: Family[Any], params: Mixture, x: Array, mask: Array | None = None) -> Array:
  """Returns the log density of an image, or of its pixels in a mask. [], nats.

  Args:
    inner: the base.
    params: of one image.
    x: [H, W, C]; pixels outside the mask are not read.
    mask: [H, W, C] or [H, W, 1] bool, the pixels that count; None for all.
  """
  density = base.nan_unless_finite(jax.nn.logsumexp(_joint(inner, params, x, mask)))
  return density if mask is None else marginals.zero_for_none(mask, density)


def responsibilities(inner: Family[Any], params: Mixture, x: Array, mask: Array | None = None) -> Array:
  """Returns the probability of each component given an image, or its pixels in a mask. [K].

  Args:
    inner: the base.
    params: of one image.
    x: [H, W, C]; pixels outside the mask are not read.
    mask: [H, W, C] or [H, W, 1] bool, the pixels that count; None for all.
  """
  return jax.nn.softmax(_joint(inner, params, x, mask))


def sample(key: Array, inner: Family[Any], params: Mixture, pixel_noise: bool = True) -> Array:
  """Draws one image. [H, W, C].

  Args:
    key: one jax.random.key.
    inner: the base.
    params: of one image.
    pixel_noise: whether with the base's floor of independent pixel noise.
  """
  key_component, key_image = jax.random.split(key)
  chosen = jax.random.categorical(key_component, _log_weights(params))
  draw = base.sampler(inner, pixel_noise)
  return draw(key_image, _component(params, chosen)) + 0 * jnp.sum(_log_weights(params))


def _draw(inner: Family[Any], pixel_noise: bool, key: Array, params: Mixture) -> Array:
  return sample(key, inner, params, pixel_noise)


def mean(inner: Family[Any], params: Mixture) -> Array:
  """Returns the mean, that of the components' means. [H, W, C]."""
  weights = jnp.exp(_log_weights(params))
  return products.einsum('k,khwc->hwc', weights, jax.vmap(inner.mean)(params.base))


def mode(inner: Family[Any], params: Mixture) -> Array:
  """Returns the mean of the likeliest component. [H, W, C]."""
  return inner.mean(_component(params, jnp.argmax(_log_weights(params))))


def variance(inner: Family[Any], params: Mixture) -> Array:
  """Returns the marginal variances: the components' mean one and that of their means. [H, W, C].

  Args:
    inner: the base, a family with a covariance.
    params: of one image.
  """
  weights = jnp.exp(_log_weights(params))[:, None, None, None]
  own = jax.vmap(functools.partial(gaussian.variance, inner))(params.base)
  moved = jax.vmap(inner.mean)(params.base) - mean(inner, params)
  return jnp.sum(weights * (own + jnp.square(moved)), axis=0)


def _log_prior(inner: Family[Any], params: Mixture) -> Array:
  """Returns the log prior of all components. [], nats."""
  assert inner.log_prior is not None
  return jnp.sum(jax.vmap(inner.log_prior)(params.base))


def _joint(inner: Family[Any], params: Mixture, x: Array, mask: Array | None) -> Array:
  """Returns log w_k + log p_k(x). [K]."""
  arguments = (x,) if mask is None else (x, mask)
  each = jax.vmap(lambda one: inner.log_prob(one, *arguments))(params.base)
  return _log_weights(params) + each


def _component(params: Mixture, k: Array) -> Any:
  return jax.tree.map(lambda leaf: leaf[k], params.base)


def _log_weights(params: Mixture) -> Array:
  """Checks the shapes; returns the normalised log weights, NaN unless all are finite. [K]."""
  base.check_fields(params, Mixture._fields)
  logits = base.check_shape('logits', params.logits, (None,))
  for leaf in jax.tree.leaves(params.base):
    if jnp.shape(leaf)[:1] != logits.shape:
      raise ValueError(
        f'Parameters of the base must have shape ({len(logits)}, ...), a component each; '
        f'got {jnp.shape(leaf)}.'
      )
  return jax.nn.log_softmax(base.all_or_nan(logits))
