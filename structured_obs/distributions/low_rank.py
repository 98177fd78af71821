# One file of more than 300 lines: a family and all its operations.
"""Low-rank plus diagonal covariance: cov = P P^T + D.

P is the factor [D, R] of R images. D is a diagonal matrix with one number for all pixels (SOS-VAE: D =
eps I) or one per pixel. A sample is mean + P w + D^1/2 u with w ~ N(0, I_R) and u ~ N(0, I_D), and
conditionals and posteriors are of the same kind, in closed form with R x R matrices. Cost: D R^2 for
log_prob and conditionals, D R for a sample.

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022, equations 2 and 7, by the identities of `linalg.woodbury`.
"""

import functools
import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import base, fits, gaussian, marginals, posterior
from structured_obs.linalg import decompositions, products, woodbury
from structured_obs.option_values import Range, Scale, Variance, When, checked

Array = jax.Array


class LowRank(NamedTuple):
  """Parameters of a low-rank plus diagonal Gaussian."""

  mean: Array  # [H, W, C]
  cov_factor: Array  # [H, W, C, R]
  cov_diag: Array  # [] or [H, W, C], positive


class Noise(NamedTuple):
  """White noise behind one image."""

  factor: Array  # [R]
  diag: Array  # [H, W, C]


class _Flat(NamedTuple):
  """Checked parameters, n = H W C; variances that are not positive or infinite have become NaN."""

  mean: Array  # [n]
  factor: Array  # [n, R]
  diag: Array  # [] or [n]


@checked('low_rank')
def family(
  rank: Annotated[int, Range(0, 4096)] = 25,
  noise_variance: Variance = 1e-5,
  learn_diag: bool = False,
  min_variance: Annotated[Variance, When('learn_diag')] = 1e-6,
  factor_scale: Scale = 0.1,
) -> base.Family[LowRank]:
  """Returns the family of low-rank plus diagonal Gaussians.

  Args:
    rank: R, columns of the factor; 0 leaves independent pixels.
    noise_variance: variance in D, in squared units of the data: that of all pixels, or with
      `learn_diag` the one for a network output of 0.
    learn_diag: whether a network predicts D, one variance per pixel.
    min_variance: smallest variance in D that a network can predict.
    factor_scale: factor by which network outputs are multiplied to give the entries of P.

  Raises:
    TypeError, ValueError: an option is of another type or out of its range.
  """
  floor = min_variance if learn_diag else 0
  if not floor < noise_variance:
    got = f'got min_variance={min_variance} and noise_variance={noise_variance}.'
    raise ValueError(f'low_rank with learn_diag needs min_variance < noise_variance; {got}')
  excess = noise_variance - floor
  # Inverse of softplus, exact for small arguments: log(exp(y) - 1) = y + log(1 - exp(-y)).
  offset = excess + math.log(-math.expm1(-excess))

  def outputs_of(image: base.Shape) -> dict[str, base.Shape]:
    image = base.image_shape(image)
    shapes = {'mean': tuple(image), 'cov_factor': (*image, rank)}
    return shapes | ({'cov_diag': tuple(image)} if learn_diag else {})

  def from_outputs(outputs: dict[str, Array]) -> LowRank:
    outputs = base.check_outputs(outputs, outputs_of(base.image_of_outputs(outputs)))
    diag = jnp.full_like(outputs['mean'], noise_variance, shape=())
    if learn_diag:
      diag = min_variance + jax.nn.softplus(outputs['cov_diag'] + offset)
    return LowRank(outputs['mean'], factor_scale * outputs['cov_factor'], diag)

  required = base.in_order(
    noise, reparameterize, whiten, log_det, variance, covariance_matvec, precision_matvec, temper
  )
  gaussian = base.Gaussian(
    *required,
    excess_entropy=excess_entropy,
    condition=condition,
    posterior_mean=posterior_mean,
    principal_components=principal_components,
    white_image=white_image,
    channel_covariance=channel_covariance,
    pixel_noise=base.PixelNoise(_without_noise, _draw_noise, _noise_matvec, _of_pixels),
    marginal=marginal,
  )
  family = base.Family(outputs_of, from_outputs, log_prob, sample, mean, gaussian)
  fit = functools.partial(fits.low_rank, noise=noise_variance)
  if learn_diag:
    fit = functools.partial(fits.factor_analysis, family=family, noise=(floor, noise_variance))
  return family._replace(fit=functools.partial(fit, rank=rank, factor_scale=factor_scale))


def log_prob(params: LowRank, x: Array, mask: Array | None = None) -> Array:
  """Returns the log density of an image, or of its pixels in a mask. [], nats.

  Float32 is within 0.01 nats of float64, and its gradients within 0.2 %, at 12,288 pixels, rank 25 and
  D = 1e-5, for columns that differ by a factor of 1e-7 to 1 and entries of 0.01 to 30
  (`python -m launch.benchmark --suite=accuracy`), plus what rounding x - mean changes.
  Differentiable to any order, in forward and reverse mode. `low_rank_parts` is for larger images.

  Args:
    params: of one image.
    x: [H, W, C]; pixels outside the mask are not read.
    mask: [H, W, C] or [H, W, 1] bool, the pixels that count; None for all.
  """
  params = _checked(params)
  if mask is not None:
    return _masked_log_prob(params, x, mask)
  x = base.check_shape('x', x, params.mean.shape)
  return _log_density(_flat(params), x.reshape(-1))


def _masked_log_prob(params: LowRank, x: Array, mask: Array) -> Array:
  mean = _checked(params).mean
  mask = marginals.checked_mask(mask, mean.shape)
  rows = _rows(_flat(params), mask)
  # The others become independent pixels, standard normal or of the one variance, with no residual.
  log_diag = jnp.log(rows.diag) if not rows.diag.ndim else 0
  surplus = 0.5 * (mean.size - marginals.number(mask, mean)) * (base.LOG_2PI + log_diag)
  density = _log_density(rows, marginals.masked(mask, x, mean).reshape(-1))
  return marginals.zero_for_none(mask, density + surplus)


def marginal(params: LowRank, residual: Array, mask: Array) -> tuple[Array, Array]:
  """Returns r_O^T cov_OO^-1 r_O [] and log |cov_OO| [] of the pixels in a mask; see `base.Gaussian`."""
  base.check_shape('residual', residual, jnp.shape(params.mean))
  rows = _rows(_flat(params), mask)
  _, cap = _factorise(rows)
  one = marginals.number(mask, residual) * jnp.log(rows.diag) if not rows.diag.ndim else None
  log_det = cap.log_det + (jnp.sum(jnp.log(rows.diag)) if one is None else one)
  return base.squared_norm(woodbury.whiten(cap, residual.reshape(-1))), log_det


def _rows(flat: _Flat, mask: Array) -> _Flat:
  """Returns parameters with only a mask's rows of the factor and, where it is 1 per pixel, of D."""
  shape = (*mask.shape[:2], flat.mean.size // math.prod(mask.shape[:2]))
  rows = jnp.broadcast_to(mask, shape).reshape(-1)
  factor = jnp.where(rows[:, None], flat.factor, 0 * flat.factor)
  return flat._replace(
    factor=factor, diag=jnp.where(rows, flat.diag, 1 + 0 * flat.diag) if flat.diag.ndim else flat.diag
  )


def sample(key: Array, params: LowRank) -> Array:
  """Draws one image. [H, W, C]."""
  return reparameterize(params, noise(key, params))


def mean(params: LowRank) -> Array:
  """Returns the mean. [H, W, C]."""
  return _checked(params).mean


def noise(key: Array, params: LowRank) -> Noise:
  """Returns white noise for `reparameterize`."""
  params, (key_factor, key_diag) = _checked(params), jax.random.split(key)
  by_column = jnp.zeros_like(params.mean, shape=params.cov_factor.shape[-1:])
  return Noise(base.white_noise(key_factor, by_column), base.white_noise(key_diag, params.mean))


def reparameterize(params: LowRank, noise: Noise) -> Array:
  """Returns the image that this noise stands for: mean + P w + D^1/2 u. [H, W, C]."""
  params = _checked(params)
  factor = base.check_shape('noise.factor', noise.factor, params.cov_factor.shape[-1:])
  diag = base.check_shape('noise.diag', noise.diag, params.mean.shape)
  return _reparameterize(_flat(params), Noise(factor, diag)).reshape(diag.shape)


def _without_noise(params: LowRank, noise: Noise) -> Array:
  """Returns mean + P w, the image without the noise of pixels. [H, W, C]."""
  params = _checked(params)
  flat, w = _flat(params), base.check_shape('noise.factor', noise.factor, params.cov_factor.shape[-1:])
  image = flat.mean + woodbury.matmul(flat.factor, w) + 0 * flat.diag
  return base.all_or_nan(image).reshape(params.mean.shape)


def _draw_noise(params: LowRank, white: Array) -> Array:
  return (jnp.sqrt(_flat(params).diag) * white.reshape(-1)).reshape(white.shape)


def _noise_matvec(params: LowRank, v: Array) -> Array:
  return (_flat(params).diag * v.reshape(-1)).reshape(v.shape)


def _of_pixels(_: Noise) -> Noise:
  """Returns which arrays are behind the noise of pixels alone."""
  record: Any = Noise
  return record(factor=False, diag=True)


def whiten(params: LowRank, residual: Array) -> woodbury.Whitened:
  """Returns the coordinates of a residual [H, W, C] whose squared norms add up to r^T cov^-1 r."""
  params = _checked(params)
  residual = base.check_shape('residual', residual, params.mean.shape)
  _, cap = _factorise(_flat(params))
  return woodbury.whiten(cap, residual.reshape(-1))


def white_image(params: LowRank, residual: Array) -> Array:
  """Returns the residual [H, W, C] made white and left in its place.

  It is (D^-1/2 cov D^-1/2)^-1/2 D^-1/2 r.
  """
  params = _checked(params)
  residual = base.check_shape('residual', residual, params.mean.shape)
  _, cap = _factorise(_flat(params))
  return woodbury.whiten_symmetrically(cap, residual.reshape(-1)).reshape(residual.shape)


def log_det(params: LowRank) -> Array:
  """Returns log |cov|. [], nats."""
  diag = _flat(params).diag
  floor = jnp.sum(jnp.log(diag)) if diag.ndim else jnp.size(params.mean) * jnp.log(diag)
  return base.nan_unless_finite(floor) + 2 * excess_entropy(params)


def excess_entropy(params: LowRank) -> Array:
  """Returns the entropy that the factor adds to that of the noise D, 1/2 log |C|. [], nats."""
  return 0.5 * base.nan_unless_finite(_factorise(_flat(params))[1].log_det)


def variance(params: LowRank) -> Array:
  """Returns the marginal variances. [H, W, C]."""
  flat = _flat(params)
  variances = jnp.sum(jnp.square(flat.factor), axis=-1) + flat.diag
  return base.all_or_nan(variances).reshape(jnp.shape(params.mean))


def channel_covariance(params: LowRank) -> Array:
  """Returns the covariance of the channels of each pixel. [H, W, C, C]."""
  flat = _flat(params)
  factor = flat.factor.reshape(jnp.shape(params.cov_factor))
  own = base.independent_channels(
    jnp.broadcast_to(flat.diag, params.mean.size).reshape(params.mean.shape)
  )
  return base.all_or_nan(products.einsum('hwcr,hwdr->hwcd', factor, factor) + own)


def covariance_matvec(params: LowRank, v: Array) -> Array:
  """Returns cov v. [H, W, C]."""
  flat = _flat(params)
  v = base.check_shape('v', v, jnp.shape(params.mean))
  u = v.reshape(-1)
  product = woodbury.matmul(flat.factor, woodbury.matmul(u, flat.factor)) + flat.diag * u
  return base.all_or_nan(product).reshape(v.shape)


def precision_matvec(params: LowRank, v: Array) -> Array:
  """Returns cov^-1 v. [H, W, C]."""
  return (whiten(params, v).residual * jax.lax.rsqrt(_flat(params).diag)).reshape(jnp.shape(v))


def temper(params: LowRank, temperature: Array) -> LowRank:
  """Scales the covariance by temperature^2."""
  params = _checked(params)
  temperature = base.checked_temperature(temperature, params.mean)
  return params._replace(
    cov_factor=params.cov_factor * temperature,
    cov_diag=params.cov_diag * jnp.square(temperature),
  )


def condition(params: LowRank, x: Array, observed: Array) -> base.Conditional:
  """Returns the distribution of the unobserved pixels given the observed ones, in R x R.

  It is low-rank plus diagonal again: with C_O the capacitance of the observed rows and c the posterior
  mean of the factor's noise, the mean is mean + P c and the factor P C_O^-1/2.

  Args:
    params: of one image.
    x: [H, W, C].
    observed: [H, W, C], bool.

  Reference: SOS-VAE, equation 7, without its matrix of the observed pixels' size.
  """
  params = _checked(params)
  x = base.check_shape('x', x, params.mean.shape)
  base.check_mask('observed', observed, params.mean.shape)
  flat, seen, pixels = _flat(params), observed.reshape(-1), x.reshape(-1)
  observed_rows = jnp.where(seen[:, None], flat.factor, 0)
  _, cap = _factorise(flat._replace(factor=observed_rows))
  residual = jnp.where(seen, pixels - flat.mean, 0)
  expected = flat.mean + woodbury.matmul(flat.factor, woodbury.whiten(cap, residual).coefficients)
  rest = _Flat(
    jnp.where(seen, pixels, base.all_or_nan(expected + 0 * flat.diag)),
    jnp.where(seen[:, None], 0, woodbury.matmul(flat.factor, cap.root.T)),
    flat.diag,
  )
  variance = jnp.where(seen, 0, base.all_or_nan(jnp.sum(jnp.square(rest.factor), axis=-1) + flat.diag))
  return base.Conditional(
    mean=rest.mean.reshape(x.shape),
    variance=variance.reshape(x.shape),
    sample=jax.tree_util.Partial(_sample_unobserved, rest, seen, params.mean),
    log_prob=jax.tree_util.Partial(_log_prob_unobserved, rest, seen, params.mean),
    residual=jnp.zeros_like(params.mean, shape=()),
    iterations=jnp.zeros_like(params.mean, jnp.int32, shape=()),
  )


def _sample_unobserved(rest: _Flat, seen: Array, like: Array, key: Array) -> Array:
  factor = rest.factor.reshape(*like.shape, rest.factor.shape[-1])
  drawn = _reparameterize(rest, noise(key, LowRank(like, factor, jnp.ones(()))))
  return jnp.where(seen, rest.mean, drawn).reshape(like.shape)


def _log_prob_unobserved(rest: _Flat, seen: Array, like: Array, x: Array) -> Array:
  # Observed pixels become independent standard normal ones with no residual, whose density is known.
  unobserved = rest._replace(diag=jnp.where(seen, 1, rest.diag))
  pixels = jnp.where(seen, rest.mean, base.check_shape('x', x, like.shape).reshape(-1))
  surplus = 0.5 * base.LOG_2PI * jnp.sum(seen, dtype=pixels.dtype)
  return _log_density(unobserved, pixels) + surplus


def posterior_mean(params: LowRank, noisy: Array, noise_variance: Array) -> tuple[Array, Array]:
  """Returns the mean and variance [H, W, C] of the clean image given a noisy one.

  See `gaussian.posterior_mean`.

  Args:
    params: of one image.
    noisy: [H, W, C].
    noise_variance: [] or [H, W, C]; infinite where a pixel was not observed.
  """
  flat, params = _flat(params), _checked(params)
  noisy = base.check_shape('noisy', noisy, params.mean.shape)
  noise_variance = base.checked_noise_variance(noise_variance, params.mean)
  added = jnp.broadcast_to(noise_variance, noisy.shape).reshape(-1)
  inverse_scale, cap = _factorise(flat._replace(diag=flat.diag + added))
  residual = jnp.where(jnp.isinf(added), 0, noisy.reshape(-1) - flat.mean)
  whitened = woodbury.whiten(cap, residual)
  # E[clean] = mean + P c + D (cov + noise)^-1 r: nothing cancels, however large the noise.
  kept = posterior.shares(flat.diag, added).prior  # of a pixel's own noise, what is left open
  moved = woodbury.matmul(flat.factor, whitened.coefficients)
  own = flat.diag * whitened.residual * inverse_scale
  spread = jnp.sum(jnp.square(woodbury.matmul(flat.factor, cap.root.T)), axis=-1)
  variance = flat.diag * kept + jnp.square(kept) * spread
  return (flat.mean + moved + own).reshape(noisy.shape), variance.reshape(noisy.shape)


def principal_components(params: LowRank, k: int) -> base.PrincipalComponents:
  """Returns the leading eigenpairs of the covariance.

  For D = eps I and k <= R they are those of P; otherwise they are found iteratively.
  """
  flat, params = _flat(params), _checked(params)
  base.check_count('k', k, 1, params.mean.size, 'the number of pixels')
  if flat.diag.ndim or k > min(flat.factor.shape):
    return gaussian.leading_components(functools.partial(covariance_matvec, params), params.mean, k)
  vectors, singular, _ = decompositions.svd(flat.factor)
  values = jnp.square(singular[:k]) + flat.diag
  images = vectors[:, :k].T.reshape(k, *params.mean.shape)
  return base.PrincipalComponents(values, images, jnp.zeros_like(values))


def _flat(params: LowRank) -> _Flat:
  """Checks the shapes, flattens the pixels, and turns variances into NaN unless all are positive."""
  params = _checked(params)
  diag = params.cov_diag.reshape(-1) if params.cov_diag.ndim else params.cov_diag
  factor = params.cov_factor.reshape(params.mean.size, params.cov_factor.shape[-1])
  return _Flat(params.mean.reshape(-1), factor, base.positive_or_nan(diag))


def _checked(params: LowRank) -> LowRank:
  """Checks the shapes."""
  each = jnp.ndim(getattr(params, 'cov_diag', 0)) > 0
  return base.checked(params, cov_factor=(..., None), cov_diag=(...,) if each else ())


def _factorise(flat: _Flat) -> tuple[Array, woodbury.Capacitance]:
  inverse_scale = jax.lax.rsqrt(flat.diag)
  return inverse_scale, woodbury.capacitance(flat.factor, woodbury.by_scale(inverse_scale))


def _log_density(flat: _Flat, pixels: Array) -> Array:
  return base.nan_unless_finite(woodbury.log_density(pixels - flat.mean, flat.factor, flat.diag))


def _reparameterize(flat: _Flat, noise: Noise) -> Array:
  own = jnp.sqrt(flat.diag) * noise.diag.reshape(-1)
  return base.all_or_nan(flat.mean + woodbury.matmul(flat.factor, noise.factor) + own)
