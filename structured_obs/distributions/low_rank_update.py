# One file of more than 300 lines: a wrapper and all its operations.
"""A low-rank update of any Gaussian: cov = R + P P^T, R the covariance of a base family.

A base with sparse links or a blur has short-range structure, a factor P of a few columns long-range
structure, such as the lighting of a whole image. A sample is one of the base plus P w, w ~ N(0, I).
`low_rank` is this over independent pixels, with closed forms of its own.

With A the base's whitening, A^T A = R^-1, everything follows from the capacitance of A P
(`linalg.woodbury`), which keeps its digits in float32 where columns of P are almost equal. A density
costs one of the base and the whitening of the columns, and R_P^2 D for R_P columns.

Conditionals: let F be the map that fills in the unobserved pixels of a residual by the base's
conditional mean. |A F r|^2 is then the quadratic form of the observed pixels alone, and so A F is the
whitening behind the posterior of w; the rest is the base's conditional.

Letters: H W C image height, width, channels; D = H W C; R columns of P, as well as the base's
covariance; r = x - mean.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs import option_values
from structured_obs.distributions import (
  base,
  gaussian,
  linear,
  marginals,
  update_conditionals,
  wrapper_fits,
)
from structured_obs.distributions.update_conditionals import Base, Update, whitener
from structured_obs.linalg import products, update_density, woodbury
from structured_obs.option_values import Range, Scale

Array = jax.Array
Family = base.Family

NAME = 'update_factor'  # name of the network output


class LowRankUpdate(NamedTuple):
  """Parameters of a Gaussian with a low-rank update of its covariance."""

  base: Any  # parameters of the base family; its mean is the mean
  cov_factor: Array  # [H, W, C, R]


class Noise(NamedTuple):
  """White noise behind one image."""

  base: Any  # of the base family
  factor: Array  # [R]


@option_values.checked('low_rank_update')
def family(
  inner: Family[Any],
  rank: Annotated[int, Range(0, 4096)] = 25,
  factor_scale: Scale = 0.1,
) -> Family[LowRankUpdate]:
  """Returns a Gaussian family whose covariance is a base's plus P P^T.

  Args:
    inner: the base, a Gaussian family.
    rank: R, columns of the factor; 0 leaves the base as it is.
    factor_scale: factor by which network outputs are multiplied to give the entries of P.

  Raises:
    TypeError, ValueError: the base is not Gaussian, or an option is of another type or out of range.
  """
  base.check_family(inner)
  if inner.gaussian is None:
    raise ValueError('low_rank_update needs a Gaussian family as its base; this one is not Gaussian.')
  of = Base(inner.mean, inner.gaussian, whitener(inner.mean, inner.gaussian.whiten))

  def added(image: base.ImageShape) -> dict[str, base.Shape]:
    return {NAME: (*image, rank)}

  def outputs(image: base.Shape) -> dict[str, base.Shape]:
    image = base.image_shape(image)
    return linear.merged(inner.outputs(image), added(image))

  def from_outputs(emitted: dict[str, Array]) -> LowRankUpdate:
    own, rest = linear.split(emitted, added(base.image_of_outputs(emitted)))
    return LowRankUpdate(inner.from_outputs(rest), factor_scale * own[NAME])

  def mean(params: LowRankUpdate) -> Array:
    return _checked(of, params).mean

  def sample(key: Array, params: LowRankUpdate) -> Array:
    return _reparameterize(of, params, _noise(of, key, params))

  made = base.Family(
    outputs,
    from_outputs,
    functools.partial(_log_prob, of),
    sample,
    mean,
    _primitives(of),
    linear.prior_of(inner),
    inner.kernel,
    linear.kernel_axes_of(inner),
  )
  factor = NAME, factor_scale
  fit = functools.partial(wrapper_fits.low_rank_update, inner=inner, rank=rank, factor=factor)
  return made._replace(fit=functools.partial(fit, family=made))


def _primitives(of: Base) -> base.Gaussian[LowRankUpdate]:
  def own(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.partial(function, of)

  def noise(key: Array, params: LowRankUpdate) -> Noise:
    return _noise(of, key, params)

  inner, image = of.primitives, of.primitives.white_image or of.primitives.whiten
  in_place = of._replace(white=whitener(of.mean, image))
  required = base.in_order(
    noise,
    own(_reparameterize),
    own(_whiten),
    own(_log_det),
    own(_variance),
    own(_covariance_matvec),
    own(_precision_matvec),
    own(_temper),
  )
  return base.Gaussian(
    *required,
    excess_entropy=own(_excess_entropy) if inner.excess_entropy else None,
    condition=own(_condition) if inner.condition else None,
    posterior_mean=own(_posterior_mean) if inner.posterior_mean else None,
    white_image=functools.partial(_white_image, in_place),
    channel_covariance=own(_channel_covariance),
    marginal=own(_marginal) if inner.condition and inner.marginal else None,
    pixel_noise=_pixel_noise(of),
  )


def _log_prob(of: Base, params: LowRankUpdate, x: Array, mask: Array | None = None) -> Array:
  """Returns the log density of an image, or of its pixels in a mask. [], nats."""
  flat = _checked(of, params)
  if mask is not None:
    return marginals.log_prob(_primitives(of), params, flat.mean, x, mask)
  x = base.check_shape('x', x, flat.mean.shape)
  residual = (x - flat.mean).reshape(-1)
  density = update_density.log_density(of.white, params.base, residual, flat.factor)
  floor = x.size * base.LOG_2PI + of.primitives.log_det(params.base)
  return base.nan_unless_finite(density - 0.5 * floor)


def _noise(of: Base, key: Array, params: LowRankUpdate) -> Noise:
  """Returns white noise for `reparameterize`."""
  key_base, key_factor = jax.random.split(key)
  by_column = jnp.zeros_like(_checked(of, params).factor[0])
  return Noise(of.primitives.noise(key_base, params.base), base.white_noise(key_factor, by_column))


def _reparameterize(of: Base, params: LowRankUpdate, noise: Noise) -> Array:
  """Returns the base's image of this noise plus P w. [H, W, C]."""
  flat = _checked(of, params)
  w = base.check_shape('noise.factor', noise.factor, flat.factor.shape[1:])
  moved = products.matmul(flat.factor, w).reshape(flat.mean.shape)
  return base.all_or_nan(of.primitives.reparameterize(params.base, noise.base) + moved)


def _pixel_noise(of: Base) -> base.PixelNoise[LowRankUpdate] | None:
  """Returns the base's floor, if it has one."""
  inner = of.primitives.pixel_noise
  if inner is None:
    return None

  def smooth(params: Any, noise: Any) -> Array:
    return inner.without(params, noise)

  without = of._replace(primitives=of.primitives._replace(reparameterize=smooth))

  def own(noise: Noise) -> Any:
    record: Any = Noise
    of_base = jax.tree.map(lambda _: True, noise.base) if inner.own is None else inner.own(noise.base)
    return record(base=of_base, factor=False)

  return base.PixelNoise(
    functools.partial(_reparameterize, without),
    lambda params, white: inner.draw(params.base, white),
    lambda params, v: inner.covariance_matvec(params.base, v),
    own,
  )


def _whiten(of: Base, params: LowRankUpdate, residual: Array) -> woodbury.Whitened:
  """Returns the coordinates of a residual [H, W, C] whose squared norms add up to r^T cov^-1 r."""
  flat = _checked(of, params)
  residual = base.check_shape('residual', residual, flat.mean.shape)
  return woodbury.whiten(_factorise(of, flat), residual.reshape(-1))


def _white_image(of: Base, params: LowRankUpdate, residual: Array) -> Array:
  """Returns the base's white image of a residual, made white under the update. [H, W, C]."""
  flat = _checked(of, params)
  residual = base.check_shape('residual', residual, flat.mean.shape)
  white = woodbury.whiten_symmetrically(_factorise(of, flat), residual.reshape(-1))
  return white.reshape(residual.shape) if white.size == residual.size else white


def _log_det(of: Base, params: LowRankUpdate) -> Array:
  """Returns log |cov|. [], nats."""
  log_det = _factorise(of, _checked(of, params)).log_det
  return of.primitives.log_det(params.base) + base.nan_unless_finite(log_det)


def _excess_entropy(of: Base, params: LowRankUpdate) -> Array:
  """Returns the base's excess entropy and the entropy that the factor adds, 1/2 log |C|. [], nats."""
  assert of.primitives.excess_entropy is not None
  log_det = _factorise(of, _checked(of, params)).log_det
  return of.primitives.excess_entropy(params.base) + 0.5 * base.nan_unless_finite(log_det)


def _variance(of: Base, params: LowRankUpdate) -> Array:
  """Returns the marginal variances. [H, W, C]."""
  flat = _checked(of, params)
  added = jnp.sum(jnp.square(flat.factor), axis=-1).reshape(flat.mean.shape)
  return base.all_or_nan(of.primitives.variance(params.base) + added)


def _channel_covariance(of: Base, params: LowRankUpdate) -> Array:
  """Returns the covariance of the channels of each pixel. [H, W, C, C]."""
  flat = _checked(of, params)
  factor = flat.factor.reshape(*flat.mean.shape, -1)
  own = gaussian.channel_covariance_of(of.primitives, params.base, flat.mean)
  return base.all_or_nan(own + products.einsum('hwcr,hwdr->hwcd', factor, factor))


def _covariance_matvec(of: Base, params: LowRankUpdate, v: Array) -> Array:
  """Returns cov v. [H, W, C]."""
  flat = _checked(of, params)
  v = base.check_shape('v', v, flat.mean.shape)
  added = products.matmul(flat.factor, products.matmul(v.reshape(-1), flat.factor)).reshape(v.shape)
  return base.all_or_nan(of.primitives.covariance_matvec(params.base, v) + added)


def _precision_matvec(of: Base, params: LowRankUpdate, v: Array) -> Array:
  """Returns cov^-1 v, the transposed whitening of the whitened residual that the factor leaves."""
  white = _whiten(of, params, v).residual
  v = base.upcast(v)
  (product,) = jax.linear_transpose(functools.partial(of.white, params.base), v.reshape(-1))(white)
  return base.all_or_nan(product).reshape(v.shape)


def _temper(of: Base, params: LowRankUpdate, temperature: Array) -> LowRankUpdate:
  """Scales the covariance by temperature^2."""
  temperature = base.checked_temperature(temperature, _checked(of, params).mean)
  tempered = of.primitives.temper(params.base, temperature)
  return LowRankUpdate(tempered, base.upcast(params.cov_factor) * temperature)


def _condition(of: Base, params: LowRankUpdate, x: Array, observed: Array) -> base.Conditional:
  """Returns the distribution of the unobserved pixels given the observed ones, in closed form."""
  update = _checked(of, params)
  x = base.check_shape('x', x, update.mean.shape)
  base.check_mask('observed', observed, update.mean.shape)
  return update_conditionals.condition(of, update, x, jnp.asarray(observed))


def _marginal(of: Base, params: LowRankUpdate, residual: Array, mask: Array) -> tuple[Array, Array]:
  """Returns r_O^T cov_OO^-1 r_O [] and log |cov_OO| [] of the pixels in a mask; see `base.Gaussian`."""
  return update_conditionals.marginal(of, _checked(of, params), residual, mask)


def _posterior_mean(
  of: Base, params: LowRankUpdate, noisy: Array, noise_variance: Array
) -> tuple[Array, Array | None] | None:
  """Returns the mean and variance of the clean image given a noisy one, where the base has them."""
  return update_conditionals.posterior_mean(of, _checked(of, params), noisy, noise_variance)


def _factorise(of: Base, flat: Update) -> woodbury.Capacitance:
  return woodbury.capacitance(flat.factor, jax.tree_util.Partial(of.white, flat.base))


def _checked(of: Base, params: LowRankUpdate) -> Update:
  """Checks the shapes and flattens the pixels."""
  base.check_fields(params, LowRankUpdate._fields)
  mean = of.mean(params.base)
  factor = base.check_shape('cov_factor', params.cov_factor, (*mean.shape, None))
  return Update(params.base, mean, factor.reshape(mean.size, factor.shape[-1]))
