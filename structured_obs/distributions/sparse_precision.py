# One file of more than 300 lines: a family and all its operations.
"""Sparse precision, inv(cov) = L L^T, with L on the causal half of a neighbourhood (SUPN).

Letters: H W C image height, width, channels; D = H W C; f filter size, h = f // 2; K = (f^2 - 1) / 2
later neighbours; X links to other channels (`distributions.links`).

Pixels are in raster order and column j of L is stored at pixel j: its diagonal entry exp(log_diag) and
its entries for the K raster-later pixels of an f x f window. Whitening, y = L^T r, is a filter of its
own at each pixel: given all *later* pixels, pixel j is normal with variance exp(-2 log_diag) and mean

  mean_j + sum_k b_jk r_(j + o_k),    b = -off_diag exp(-log_diag).

So an image is generated from its last pixel to its first, by one triangular solve. Neighbours outside
the image are left out. The paper does not fix the order; flipping the image gives the other one.

Cost: D f^2 / 2 for a density, a sample, a covariance column; D W f^3 / 4 for exact variances.

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018, equations 3 to 6.
"""

import functools
import math
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs import option_values
from structured_obs.distributions import base, factor_priors, fits, links, marginals
from structured_obs.linalg import grid_regularized, regression, selected_inverse, sparse_triangular
from structured_obs.option_values import Choice, Range, Scale

Array = jax.Array
Factor = sparse_triangular.Factor

PARAMETRIZATIONS = ('autoregressive', 'raw')
FilterSize = Annotated[int, Range(1, 99, odd=True)]
Channels = Annotated[str, Choice(links.CHANNELS)]
MAX_BAND = 2**26  # entries of a banded matrix that is formed unasked: 256 MiB in float32


class SparsePrecision(NamedTuple):
  """Parameters of a Gaussian whose precision has a sparse Cholesky factor L."""

  mean: Array  # [H, W, C]
  log_diag: Array  # [H, W, C]  log of the diagonal of L
  off_diag: Array  # [H, W, C, K]  column of L at this pixel: its later neighbours in the same channel
  cross: Array  # [H, W, C, X]  its links to other channels


@option_values.checked('sparse_precision')
def family(
  filter_size: FilterSize = 5,
  *,
  channels: Channels = 'none',
  parametrization: Annotated[str, Choice(PARAMETRIZATIONS)] = 'autoregressive',
  min_scale: Scale = 1e-3,
  max_scale: Scale = 10.0,
  initial_scale: Scale = 0.5,
  prior: factor_priors.Name = 'none',
  prior_scale: Annotated[Scale, factor_priors.WITH_PRIOR] = 1.0,
) -> base.Family[SparsePrecision]:
  """Returns the family of Gaussians with a sparse Cholesky factor of the precision.

  Args:
    filter_size: f, odd; 1 leaves independent pixels.
    channels: links between channels: 'none', 'pixel' (within each pixel), 'full' (with every channel of
      every neighbour).
    parametrization: 'autoregressive', where a network predicts b, or 'raw', the entries of L.
    min_scale: smallest standard deviation of a pixel given all later ones that a network can predict, in
      units of the data.
    max_scale: largest such standard deviation.
    initial_scale: the one for network outputs of 0, which mean independent pixels.
    prior: prior of L, a term of the training objective; one of `factor_priors.PRIORS`.
    prior_scale: parameter of the prior.

  Raises:
    TypeError, ValueError: an option is of another type or out of range.
  """
  neighbours = len(sparse_triangular.offsets(filter_size))
  base.check_scales('sparse_precision', min_scale, initial_scale, max_scale)
  bounds = -math.log(max_scale), -math.log(min_scale)
  offset = base.inverse_soft_clip(-math.log(initial_scale), *bounds)

  def outputs(image: base.Shape) -> dict[str, base.Shape]:
    image = base.image_shape(image)
    shape, cross = tuple(image), links.cross_links(channels, neighbours, image.channels)
    shapes = {'off_diag': (*shape, neighbours), 'cross': (*shape, cross)}
    linked = {name: size for name, size in shapes.items() if 0 not in size}
    return {'mean': shape, 'log_diag': shape, **linked}

  def from_outputs(emitted: dict[str, Array]) -> SparsePrecision:
    image = base.image_of_outputs(emitted)
    emitted = base.check_outputs(emitted, outputs(image))
    empty = jnp.zeros_like(emitted['mean'], shape=(*image, 0))
    log_diag = base.soft_clip(emitted['log_diag'] + offset, *bounds)
    off_diag, cross = emitted.get('off_diag', empty), emitted.get('cross', empty)
    params = SparsePrecision(emitted['mean'], log_diag, off_diag, cross)
    return links.masked(params, -jnp.exp(log_diag) if parametrization == 'autoregressive' else None)

  log_prior = factor_priors.log_prior(prior, prior_scale, initial_scale)
  fit = functools.partial(
    fits.sparse_precision,
    filter_size=filter_size,
    channels=channels,
    raw=parametrization == 'raw',
    log_diag=fits.Bounded(*bounds, offset),
  )
  return base.Family(outputs, from_outputs, log_prob, sample, mean, GAUSSIAN, log_prior, fit=fit)


def log_prob(params: SparsePrecision, x: Array, mask: Array | None = None) -> Array:
  """Returns the log density of an image, or of its pixels in a mask. [], nats.

  Args:
    params: of one image.
    x: [H, W, C]; pixels outside the mask are not read.
    mask: [H, W, C] or [H, W, 1] bool, the pixels that count; None for all.

  Reference: SUPN, equation 4, with the constants that it leaves out.
  """
  if mask is not None:
    return marginals.log_prob(GAUSSIAN, params, mean(params), x, mask)
  return base.nan_unless_finite(links.log_density(params, x))


def sample(key: Array, params: SparsePrecision) -> Array:
  """Draws one image. [H, W, C]."""
  return reparameterize(params, noise(key, params))


def mean(params: SparsePrecision) -> Array:
  """Returns the mean. [H, W, C]."""
  return links.checked(params).mean


def noise(key: Array, params: SparsePrecision) -> Array:
  """Returns white noise for `reparameterize`. [H, W, C]."""
  params = links.checked(params)
  return base.white_noise(key, params.mean)


def reparameterize(params: SparsePrecision, noise: Array) -> Array:
  """Returns the image that this noise stands for: mean + L^-T u. [H, W, C]."""
  return mean(params) + links.apply(params, noise, sparse_triangular.solve_transposed)


def whiten(params: SparsePrecision, residual: Array) -> Array:
  """Returns L^T r, white under the model. [H, W, C]."""
  return links.apply(params, residual, sparse_triangular.matvec_transposed)


def log_det(params: SparsePrecision) -> Array:
  """Returns log |cov|. [], nats."""
  return -2 * jnp.sum(_log_diag(params))


def variance(params: SparsePrecision) -> Array:
  """Returns the marginal variances, exact, by selected inversion. [H, W, C]."""
  pattern, factor = links.factor(params)
  grids = jax.vmap(lambda one: selected_inverse.variances(one, pattern.offsets))(factor)
  return base.all_or_nan(links.from_grids(grids, pattern, jnp.shape(params.mean)))


def channel_covariance(params: SparsePrecision) -> Array:
  """Returns the covariance of the channels of each pixel, exact, by selected inversion. [H, W, C, C]."""
  pattern, factor = links.factor(params)
  image = height, width, channels = jnp.shape(params.mean)
  if pattern.split:
    return base.independent_channels(variance(params))
  grid = jax.tree.map(lambda leaf: leaf[0], factor)
  near = selected_inverse.covariances(grid, pattern.offsets, 0, channels - 1)
  near = near.reshape(height, width, channels, 2 * channels - 1)
  rows = [near[:, :, c, channels - 1 - c : 2 * channels - 1 - c] for c in range(channels)]
  return base.all_or_nan(jnp.stack(rows, axis=2)).reshape(*image, channels)


def regularized(params: SparsePrecision, scale: Array, ridge: Array) -> tuple[Array, Array] | None:
  """Returns log |t cov^-1 t + s| [] and the diagonal of its inverse [H, W, C], by a banded factor.

  Args:
    params: of one image.
    scale: [H, W, C], t.
    ridge: [H, W, C], s, not negative and positive where t is 0.

  Returns:
    None for an image whose band has more than `MAX_BAND` entries.
  """
  (pattern, factor), image = links.factor(params), jnp.shape(params.mean)
  scale, ridge = base.check_shape('scale', scale, image), base.check_shape('ridge', ridge, image)
  rows, columns = (max((abs(o[axis]) for o in pattern.offsets), default=0) for axis in (0, 1))
  if factor.diag.size * (rows * factor.diag.shape[-1] + columns + 1) > MAX_BAND:
    return None

  operation = functools.partial(grid_regularized.log_det_and_inverse_diagonal, offsets=pattern.offsets)
  grids = (links.to_grids(a, pattern) for a in (scale, ridge))
  log_dets, inverse = jax.vmap(operation)(factor, *grids)
  return jnp.sum(log_dets), links.from_grids(inverse, pattern, image)


def innovation_variance(params: SparsePrecision) -> Array:
  """Returns the variance of each pixel given all later ones, exp(-2 log_diag). [H, W, C]."""
  return jnp.exp(-2 * _log_diag(params))


def _log_diag(params: SparsePrecision) -> Array:
  """Returns the logs of L's diagonal, NaN unless every entry of L is finite. [H, W, C]."""
  params = links.checked(params)
  return base.all_or_nan(params.log_diag) + jnp.sum(0 * params.off_diag) + jnp.sum(0 * params.cross)


def covariance_matvec(params: SparsePrecision, v: Array) -> Array:
  """Returns cov v, by two triangular solves. [H, W, C]."""
  return links.apply(params, solve(params, v), sparse_triangular.solve_transposed)


def precision_matvec(params: SparsePrecision, v: Array) -> Array:
  """Returns cov^-1 v. [H, W, C]."""
  return links.apply(params, whiten(params, v), sparse_triangular.matvec)


def precision_diagonal(params: SparsePrecision) -> Array:
  """Returns the diagonal of cov^-1: the inverse variances of each pixel given all others. [H, W, C]."""

  def squared(factor: Factor, v: Array, offsets: links.Offsets) -> Array:
    return sparse_triangular.matvec(jax.tree.map(jnp.square, factor), v, offsets)

  params = links.checked(params)
  return links.apply(params, jnp.ones_like(params.mean), squared)  # the rows' squared norms


def solve(params: SparsePrecision, v: Array) -> Array:
  """Returns L^-1 v, of squared norm v^T cov v. [H, W, C]."""
  return links.apply(params, v, sparse_triangular.solve)


def temper(params: SparsePrecision, temperature: Array) -> SparsePrecision:
  """Scales the covariance by temperature^2."""
  params = links.checked(params)
  temperature = base.checked_temperature(temperature, params.mean)
  return params._replace(
    log_diag=params.log_diag - jnp.log(temperature),
    off_diag=params.off_diag / temperature,
    cross=params.cross / temperature,
  )


def last_rows(params: SparsePrecision, rows: int) -> SparsePrecision:
  """Returns the marginal distribution of the last rows of the image, 1 to H.

  Its factor is the last block of L, at no cost.
  """
  params = links.checked(params)
  base.check_count('rows', rows, 1, params.mean.shape[0], 'the height')
  return jax.tree.map(lambda leaf: leaf[leaf.shape[0] - rows :], params)


def given_last_rows(params: SparsePrecision, x: Array, rows: int) -> SparsePrecision:
  """Returns the distribution of the first H - rows rows given the last ones.

  It takes the first block of L and one solve.

  Args:
    params: of one image.
    x: [H, W, C]; its first rows are not read.
    rows: how many of the last rows are observed.

  Raises:
    ValueError: unless 1 <= rows < H.
  """
  params = links.checked(params)
  height = params.mean.shape[0]
  x = base.check_shape('x', x, params.mean.shape)
  base.check_count('rows', rows, 1, height - 1, 'the height less one')
  seen = (jnp.arange(height) >= height - rows)[:, None, None]
  pull = whiten(params, jnp.where(seen, x - params.mean, 0))
  first = links.masked(jax.tree.map(lambda leaf: leaf[: height - rows], params))
  moved = links.apply(first, pull[: height - rows], sparse_triangular.solve_transposed)
  return first._replace(mean=first.mean - moved)


@option_values.checked('sparse_precision')
def from_covariance(
  mean: Array, covariance: Array, filter_size: FilterSize = 5, channels: Channels = 'none'
) -> SparsePrecision:
  """Returns the parameters of least KL(N(mean, covariance) || .), in closed form.

  Each column of L is the regression of its pixel on its later neighbours, which needs those pixels'
  block of the covariance alone.

  Args:
    mean: [H, W, C].
    covariance: [D, D], pixels in C order.
    filter_size: f, odd.
    channels: how the channels are linked, as in `family`.

  Raises:
    TypeError, ValueError: an option is unknown or a shape wrong.
  """
  mean = base.check_shape('mean', mean, (None, None, None))
  covariance = base.check_shape('covariance', covariance, (mean.size, mean.size))
  neighbours = len(sparse_triangular.offsets(filter_size))
  cross = links.cross_links(channels, neighbours, mean.shape[-1])
  pattern = links.interleaved(links.pattern(mean.shape[-1], neighbours, cross), mean.shape[-1])
  count, columns = len(pattern.offsets), mean.shape[1] * mean.shape[2]
  present = jnp.asarray(links.present(pattern, mean.shape).reshape(mean.size, count))
  steps = jnp.asarray([dr * columns + dc for dr, dc in pattern.offsets], jnp.int32)
  neighbours = jnp.arange(mean.size, dtype=jnp.int32)[:, None] + steps[None, :]
  coefficients, variance = regression.on_neighbours(covariance, neighbours, present)
  weights = -coefficients * jax.lax.rsqrt(variance)[:, None]
  grid = weights.reshape(mean.shape[0], columns, count)
  log_diag = -0.5 * jnp.log(variance).reshape(mean.shape)
  return SparsePrecision(mean, log_diag, *links.links_from_grid(grid, pattern, mean.shape))


_REQUIRED = base.in_order(
  noise, reparameterize, whiten, log_det, variance, covariance_matvec, precision_matvec, temper
)
GAUSSIAN: base.Gaussian[SparsePrecision] = base.Gaussian(
  *_REQUIRED,
  regularized=regularized,
  innovation_variance=innovation_variance,
  channel_covariance=channel_covariance,
)
