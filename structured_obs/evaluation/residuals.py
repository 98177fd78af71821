"""Measures residuals x - mean of p(x|z), z the mean of q(z|x), with one compiled program.

  checks     of predicted distributions, see `predictive_checks`; the slow part
  lags       products of pixels at each lag, of residuals and of whitened ones, see `autocorrelation`
  distance   squared Mahalanobis distance per dimension and 1 / nu, for recalibrations

Each pass needs one of them, on its own images; the others cost little time or none. If images are so
large that checks process fewer of them at a time, they have a program of their own. Residuals use the
dequantised images, as likelihoods do. Lags and distances are of families with a covariance only.

Letters: N images; B images at a time; D pixels times channels of one; L lags.
"""

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.distributions import elliptical, gaussian
from structured_obs.evaluation import passes
from structured_obs.evaluation.metrics import autocorrelation, predictive_checks, temperature
from structured_obs.evaluation.metrics.autocorrelation import Whiteness
from structured_obs.evaluation.metrics.predictive_checks import Checks
from structured_obs.evaluation.metrics.temperature import Recalibration
from structured_obs.evaluation.results import Result
from structured_obs.runs.trained import Trained

Array = jax.Array

BATCH = 16  # largest B of checks, and of a program that does everything
LARGE = 32  # largest B of lags and distances alone
MATRICES = 2**26  # limit on entries of the dense [D, D] matrices that checks may need


class Can(NamedTuple):
  """What a program can measure; hashable."""

  checks: bool
  residuals: bool


def checks(
  found: Sequence[Result], images: np.ndarray, seed: int = 0, where: passes.Where = passes.HERE
) -> dict[str, Checks]:
  """Returns checks of predicted distributions by the models' names.

  Args:
    found: results on these images.
    images: [N, H, W, C] as stored; the first few are measured, fewer the larger they are.
    seed: of the samples; the noise is that of the likelihoods with this seed.
    where: devices to run on, and the directory to keep unfinished work in.
  """
  made = {}
  for result in found:
    shown = images[: predictive_checks.num_images(result.trained.model.image.size)]
    scores = _measured('checks', result.trained, shown, seed, where)
    made[result.trained.name] = predictive_checks.of_scores(result, scores)
  return made


def whitenesses(
  models: Sequence[Trained], images: np.ndarray, seed: int = 0, where: passes.Where = passes.HERE
) -> dict[str, Whiteness]:
  """Returns whiteness by the names of models with a covariance, after that of the first's residuals.

  Args:
    models: of the same images.
    images: [N, H, W, C] as stored; the first 256 are measured.
    seed: of the dequantisation.
    where: devices to run on, and the directory to keep unfinished work in.
  """
  made: dict[str, Whiteness] = {}
  for trained in models:
    if elliptical.has_covariance(trained.model.family):
      shown = images[: autocorrelation.SCORED]
      residual, white = _measured('lags', trained, shown, seed, where)
      made.setdefault(autocorrelation.RESIDUAL, autocorrelation.summarize(residual))
      made[trained.name] = autocorrelation.summarize(white)
  return made


def recalibrations(
  found: Sequence[Result], images: np.ndarray, where: passes.Where = passes.HERE
) -> dict[str, Recalibration]:
  """Returns recalibrations by the names of the models with a covariance.

  Args:
    found: results on one split.
    images: of another split, on which the temperatures are fitted; without images there are none.
    where: devices to run on, and the directory to keep unfinished work in.
  """
  made = {}
  for result in found:
    if elliptical.has_covariance(result.trained.model.family) and len(images):
      distance, inverse_dof = distances(result.trained, images, where)
      made[result.trained.name] = temperature.recalibrate(
        distance, result.scores, result.trained.model.image.size, inverse_dof
      )
  return made


def distances(
  trained: Trained, images: np.ndarray, where: passes.Where = passes.HERE
) -> tuple[np.ndarray, np.ndarray]:
  """Returns q / D of images, and 1 / nu, which is 0 for a Gaussian. [N] each.

  Args:
    trained: a model with a covariance.
    images: [N, H, W, C] as stored.
    where: devices to run on, and the directory to keep unfinished work in.
  """
  return _measured('distance', trained, images, 0, where)


def _measured(part: str, trained: Trained, images: np.ndarray, seed: int, where: passes.Where) -> Any:
  """Returns one part of the results of `_measure`, for all images."""
  batch = max(1, min(BATCH, MATRICES // trained.model.image.size**2))
  can = Can(True, elliptical.has_covariance(trained.model.family))
  if batch < BATCH:
    can = Can(part == 'checks', part != 'checks')
  job = passes.Pass(
    _measure, trained.model, trained.spec.levels, trained.config.objective.dequantize,
    batch if can.checks else LARGE, options=can, name='residuals',
  )  # fmt: skip
  weights = {'model': trained.variables, 'checks': np.asarray(part == 'checks')}
  keep = operator.itemgetter(part)
  return passes.over_images(job, weights, images, jax.random.key(seed), where, keep=keep)


def _measure(job: passes.Pass, weights: Mapping[str, Any], keys: Array, x: Array) -> dict[str, Any]:
  """Measures a batch x [B, H, W, C]; checks are 0 unless `weights` ask for them."""
  model, can, made = job.model, job.options, {}
  params = job.bound(weights['model']).predict(keys, x)
  x = x[..., : model.image.channels]
  if can.residuals:
    made['lags'] = jax.vmap(functools.partial(autocorrelation.lags, model.family))(params, x)
    distance = jax.vmap(functools.partial(gaussian.mahalanobis, model.family))(params, x)
    inverse_dof = jax.vmap(functools.partial(elliptical.inverse_dof, model.family))(params)
    made['distance'] = distance / math.prod(x.shape[1:]), inverse_dof
  if can.checks:

    def check() -> dict[str, Array]:
      return jax.vmap(functools.partial(predictive_checks.of_image, model.family))(keys, params, x)

    def nothing() -> dict[str, Array]:
      return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(check))

    made['checks'] = jax.lax.cond(weights['checks'], check, nothing) if can.residuals else check()
  return made
