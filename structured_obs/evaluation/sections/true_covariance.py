"""Measures how far predicted covariances are from the true ones, for data where these are known.

Each model is one row of a table, and so are three references: the truth, the best independent pixels
(the true variances), and for each filter size among the models the best sparse factor for each image
(`sparse_precision.from_covariance`), which bounds what a network of that family can reach. Model and
truth have the same mean, so that with S a covariance

  KL(model || truth) = 1/2 [tr(S_truth^-1 S_model) - D + log |S_truth| - log |S_model|].

Training by likelihood minimises KL(truth || model); the paper's tables have KL(model || truth), which
says more about samples. Everything is dense and in float64, from the factors of the precisions.

Letters: N images; B images at a time; D = H W C.

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018, tables 1 and 2.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from structured_obs.data import pixels
from structured_obs.data.sources import synthetic
from structured_obs.distributions import base, sparse_precision
from structured_obs.evaluation import finite, likelihood, tables
from structured_obs.models.base import Params
from structured_obs.runs.trained import Trained

BATCH = 50  # images at a time
TRUTH = 'truth'
VARIANCES = 'true variances, independent'


class Errors(NamedTuple):
  """One distribution's errors per image, [N] float64 each; in nats except the last."""

  negative_log_prob: np.ndarray  # of the image
  expected: np.ndarray  # of an image, its mean over the truth
  kl_to_truth: np.ndarray  # KL(model || truth)
  kl_from_truth: np.ndarray  # KL(truth || model)
  frobenius: np.ndarray  # norm of S_model - S_truth


class Truth(NamedTuple):
  """True distributions of a few images. Float64."""

  mean: np.ndarray  # [B, H, W, C]
  residual: np.ndarray  # [B, D]  of the image
  covariance: np.ndarray  # [B, D, D]
  precision: np.ndarray  # [B, D, D]
  log_det: np.ndarray  # [B]


def judge(models: Sequence[Trained], split: str, images: np.ndarray) -> dict[str, Errors]:
  """Returns errors of the references and of every model, by name; empty if the truth is unknown.

  Args:
    models: trained on the same data; Gaussian.
    split: of the images.
    images: [N, H, W, 2 C], the first of the split.
  """
  if models[0].config.data.source not in synthetic.GENERATORS:
    return {}
  parts: dict[str, list[Errors]] = {}
  for first, truth in enumerate(_truths(models[0], split, images)):
    batch = images[first * BATCH : (first + 1) * BATCH]
    for name, found in _precisions(models, truth, batch).items():
      parts.setdefault(name, []).append(errors(found, truth))
  return {
    name: Errors(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
    for name, found in parts.items()
  }


def errors(precision: np.ndarray, truth: Truth) -> Errors:
  """Returns errors of N(mean, precision^-1), for precisions [B, D, D] float64. [B] each."""
  size = precision.shape[-1]
  log_det, covariance = invert(precision)
  quadratic = np.einsum('bi,bij,bj->b', truth.residual, precision, truth.residual)
  gain = log_det - truth.log_det
  kl_from_truth = 0.5 * (np.sum(precision * truth.covariance, axis=(1, 2)) - size + gain)
  kl_to_truth = 0.5 * (np.sum(truth.precision * covariance, axis=(1, 2)) - size - gain)
  entropy = 0.5 * (size * (1 + base.LOG_2PI) + truth.log_det)
  return Errors(
    negative_log_prob=0.5 * (size * base.LOG_2PI + log_det + quadratic),
    expected=entropy + kl_from_truth,
    kl_to_truth=kl_to_truth,
    kl_from_truth=kl_from_truth,
    frobenius=np.linalg.norm(covariance - truth.covariance, axis=(1, 2)),
  )


def invert(precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns log |S|, [B], and S of precisions [B, D, D]; NaN if one has no inverse."""
  with np.errstate(invalid='ignore', over='ignore'):
    sign, log_det = np.linalg.slogdet(precision)
  known = (sign > 0) & np.isfinite(log_det)
  covariance = np.full(precision.shape, np.nan)
  covariance[known] = np.linalg.inv(precision[known])
  return np.where(known, -log_det, np.nan), covariance


def precisions(family: base.Family, params: Any) -> np.ndarray:
  """Returns precisions of B distributions of a Gaussian family, params with a leading B. [B, D, D]."""
  factors = np.asarray(_factors(family, params), np.float64)
  with np.errstate(invalid='ignore', over='ignore'):  # for factors that are not finite
    return factors @ factors.swapaxes(1, 2)


@functools.partial(jax.jit, static_argnums=0)
def _factors(family: base.Family, params: Any) -> jax.Array:
  """Returns A with A A^T the precision, [B, D, .]: the whitened unit vectors as rows."""
  assert family.gaussian is not None
  whiten = family.gaussian.whiten

  def one(params: Any) -> jax.Array:
    mean = family.mean(params)
    basis = jnp.eye(mean.size, dtype=mean.dtype).reshape(-1, *mean.shape)
    return jax.vmap(lambda unit: ravel_pytree(whiten(params, unit))[0])(basis)

  return jax.lax.map(one, params)


@functools.partial(jax.jit, static_argnums=2)
def best_sparse(mean: jax.Array, covariance: jax.Array, filter_size: int) -> Any:
  """Returns parameters of the sparse factors with the least KL(truth || .), with a leading B.

  Args:
    mean: [B, H, W, C].
    covariance: [B, D, D].
    filter_size: of the factors.
  """
  return jax.lax.map(
    lambda pair: sparse_precision.from_covariance(pair[0], pair[1], filter_size), (mean, covariance)
  )


def filter_sizes(models: Sequence[Trained]) -> list[int]:
  """Returns the filter sizes of the models with a sparse factor, without repetition."""
  found = {
    trained.config.likelihood.options['filter_size']
    for trained in models
    if trained.config.likelihood.family == 'sparse_precision'
  }
  return sorted(found)


def _precisions(models: Sequence[Trained], truth: Truth, images: np.ndarray) -> dict[str, np.ndarray]:
  """Returns precisions [B, D, D] of the references and the models."""
  variances = np.diagonal(truth.covariance, axis1=1, axis2=2)
  found = {TRUTH: truth.precision, VARIANCES: np.eye(variances.shape[1]) / variances[:, None]}
  mean, covariance = jnp.float32(truth.mean), jnp.float32(truth.covariance)
  for size in filter_sizes(models):
    params = best_sparse(mean, covariance, size)
    found[f'best sparse factor, f = {size}'] = precisions(sparse_precision.family(size), params)
  for trained in models:
    found[trained.name] = precisions(trained.model.family, reconstruct(trained, images))
  return found


def reconstruct(trained: Trained, images: np.ndarray) -> Params:
  """Returns parameters of p(x|..) for stored images, with a leading B."""
  return trained.reconstruct(pixels.to_unit(jnp.asarray(images), trained.spec.levels))


def _truths(trained: Trained, split: str, images: np.ndarray) -> Iterator[Truth]:
  """Yields the true distributions of the images, a batch at a time."""
  examples = synthetic.split_examples(trained.config.data, split)
  channels = trained.model.image.channels
  for first in range(0, len(images), BATCH):
    stored = np.asarray(images[first : first + BATCH], np.float64)
    truth = truth_of(list(itertools.islice(examples, len(stored))))
    if not np.allclose(stored[..., channels:], truth.mean, atol=1e-5):
      raise ValueError(f'The images are not the first of the split {split!r} of this source.')
    yield truth


def truth_of(examples: Sequence[synthetic.Example]) -> Truth:
  """Returns the true distributions of a few examples."""
  x, mean, covariance = (np.stack(arrays) for arrays in zip(*examples, strict=True))
  return Truth(
    mean=mean,
    residual=(x - mean).reshape(len(x), -1),
    covariance=covariance,
    precision=np.linalg.inv(covariance),
    log_det=np.linalg.slogdet(covariance)[1],
  )


def table(found: Mapping[str, Errors]) -> str:
  """Returns means ± standard errors over images, and medians for heavy tails, as a Markdown table."""
  truth = found[TRUTH]
  lines = [[
    f'over {len(truth.expected)} images', '-log p(x)', 'above the truth', 'expected -log p',
    'KL(row ‖ truth)', 'its median', 'KL(truth ‖ row)', 'Frobenius distance', 'its median',
  ]]  # fmt: skip
  for name, row in found.items():
    cells = [
      tables.mean_cell(row.negative_log_prob, 2),
      tables.mean_cell(row.negative_log_prob - truth.negative_log_prob, 2),
      tables.mean_cell(row.expected, 2),
      tables.mean_cell(row.kl_to_truth, 2),
      f'{np.median(row.kl_to_truth):.2f}',
      tables.mean_cell(row.kl_from_truth, 2),
      tables.mean_cell(row.frobenius, 2),
      f'{np.median(row.frobenius):.2f}',
    ]
    lines.append([name, *cells])
  return tables.markdown_table(lines)


def text(found: Mapping[str, Errors]) -> str:
  """Returns the table and an explanation of its numbers, as Markdown."""
  bad = finite.sentences(
    {
      f'{name}: {quantity}': values
      for name, row in found.items()
      for quantity, values in row._asdict().items()
    }
  )
  return tables.paragraphs('## Beside the truth', table(found), bad, EXPLANATION)


def per_image(found: Mapping[str, Errors]) -> dict[str, np.ndarray]:
  """Returns arrays [N] by 'truth_known/ROW/QUANTITY', for np.savez."""
  return {
    f'truth_known/{name}/{quantity}': values
    for name, row in found.items()
    for quantity, values in row._asdict().items()
  }


EXPLANATION = (
  'In nats, except the Frobenius norm of the difference between a covariance and the true one. "Above '
  'the truth" is the mean of the differences per image; "expected" is the mean over all images that the '
  'true distribution could have drawn. A sparse factor is the best one for each image given the true '
  'covariance: no network is better in KL(truth ‖ row).'
)


def as_json(found: Mapping[str, Errors]) -> dict[str, Any]:
  """Returns summaries of every row and quantity, and paired differences of -log p(x) from the truth."""
  tree: dict[str, Any] = {}
  for name, row in found.items():
    summaries = {
      quantity: {**likelihood.summarize(values)._asdict(), 'median': float(np.median(values))}
      for quantity, values in row._asdict().items()
    }
    above = likelihood.paired_difference(row.negative_log_prob, found[TRUTH].negative_log_prob)
    tree[name] = {**summaries, 'negative_log_prob_above_truth': above._asdict()}
  return tree
