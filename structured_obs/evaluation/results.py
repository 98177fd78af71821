"""Scores of trained models on one split, as a table for people and as strict JSON.

Letters: N images; D = H W C.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from structured_obs.config import Config
from structured_obs.data import pixels
from structured_obs.data.prepare import DataSpec
from structured_obs.distributions import elliptical
from structured_obs.evaluation import finite, likelihood, passes, tables
from structured_obs.evaluation.metrics import calibration
from structured_obs.models import vae
from structured_obs.objectives import bounds
from structured_obs.runs import trained as opened
from structured_obs.runs.trained import Trained


class Result(NamedTuple):
  """One model's scores on a split."""

  trained: Trained
  settings: likelihood.Settings
  scores: likelihood.Scores
  # q / D and 1 / nu of training images, [N'] each; None where they were not measured.
  training: tuple[np.ndarray, np.ndarray] | None = None

  @property
  def num_dims(self) -> int | np.ndarray:
    """D, or [N] the number of pixels of each image that count, with all channels."""
    counted = self.scores.counted
    return self.trained.model.image.size if counted is None else counted


class _Quantity(NamedTuple):
  """One line of the table."""

  name: str  # in JSON
  label: str  # in tables
  values: Callable[[Result], np.ndarray]  # [N]
  decimals: int
  of_prior: bool = False  # needs a prior of z, which an autoencoder lacks
  of_covariance: bool = False  # needs one
  is_density: bool = False  # nats, not comparable between densities and probabilities


def evaluate(
  trained: Trained,
  images: np.ndarray,
  settings: likelihood.Settings,
  where: passes.Where = passes.HERE,
  seed: int = 0,
) -> Result:
  """Scores images with the same dequantisation for every model.

  Args:
    trained: the model.
    images: uint8 [N, H, W, C].
    settings: how to score.
    where: devices to run on.
    seed: one seed gives every model the same dequantised images.
  """
  key = jax.random.key(seed)
  scores = likelihood.split_scores(trained.bound, images, key, settings, where)
  return Result(trained, settings, scores)


def settings_of(config: Config, spec: DataSpec, samples: int = 0) -> likelihood.Settings:
  """Returns the settings of a run's configuration, optionally with another number of samples."""
  return likelihood.Settings(
    levels=spec.levels,
    importance_samples=samples or config.eval.importance_samples,
    chunk=config.eval.chunk,
    batch_size=config.eval.batch_size,
    dequantize=config.objective.dequantize,
  )


def check_comparable(first: Trained, others: Sequence[Trained]) -> None:
  """Raises a ValueError unless all models were trained on the same data, dequantised alike.

  A probability of levels is comparable with a density of dequantised images: both bound a code length.
  """
  for other in others:
    if first.spec.sha256 != other.spec.sha256:
      raise ValueError(
        f'{other.workdir} was trained on other images than {first.workdir} ({_images(other)}, '
        f'{_images(first)}; by their SHA-256), so their likelihoods are not comparable.'
      )
    coded = {one.config.objective.dequantize or opened.is_discrete(one) for one in (first, other)}
    if len(coded) > 1:
      raise ValueError(
        f'{other.workdir} and {first.workdir} differ in --config.objective.dequantize, so their '
        'likelihoods are not comparable.'
      )


def _images(trained: Trained) -> str:
  return f'{trained.spec.source} of {" x ".join(map(str, trained.spec.stored))}'


def comparison_table(results: Sequence[Result]) -> str:
  """Returns all scores with standard errors, and paired differences from the first result.

  A Markdown table with aligned columns. For bounds and densities, smaller is better; the last rows, q
  and its spread, are 1 for a perfect Gaussian, and appear if there is a model with a covariance, those
  of training images where they were measured. Differences between a density and a probability of levels
  are shown in bits only. Sentences below name images whose scores are not finite.
  """
  first, *others = results
  header = [f'mean over {len(first.scores.elbo)} images', *(r.trained.name for r in results)]
  header += [f'{other.trained.name} - {first.trained.name}' for other in others]
  lines = [header]
  for q in _quantities(results):
    cells = [
      tables.mean_cell(q.values(result), q.decimals) if _has(result, q) else '' for result in results
    ]
    cells += [
      tables.difference_cell(q.values(other), q.values(first), q.decimals)
      if _comparable(other, first, q)
      else ''
      for other in others
    ]
    lines.append([q.label, *cells])
  if any(found := [_calibration(result) for result in results]):
    spreads = [f'{one.spread:.3f}' if one else '' for one in found]
    lines.append(['its spread, sd(q) / sqrt(2 D)', *spreads, *('' for _ in others)])
  lines += _training_lines(results)
  return tables.paragraphs(tables.markdown_table(lines), _not_finite(results))


def as_json(results: Sequence[Result]) -> dict[str, Any]:
  """Returns everything in the table as nested dictionaries; differences are from the first result."""
  first, *others = results
  quantities, levels = _quantities(results), first.settings.levels
  width = pixels.bin_width(levels) if levels else None
  return {
    'images': len(first.scores.elbo),
    'settings': {**first.settings._asdict(), 'bin_width': width},
    'models': {r.trained.name: _model_json(r, quantities) for r in results},
    'differences': {
      f'{other.trained.name} - {first.trained.name}': {
        q.name: likelihood.paired_difference(q.values(other), q.values(first))._asdict()
        for q in quantities
        if _comparable(other, first, q)
      }
      for other in others
    },
  }


def per_image(results: Sequence[Result]) -> dict[str, np.ndarray]:
  """Returns arrays [N] by 'NAME/SCORE', for np.savez."""
  return {
    f'{result.trained.name}/{score}': values
    for result in results
    for score, values in result.scores.by_name().items()
  }


def _not_finite(results: Sequence[Result]) -> str:
  pairs = [(result, q) for q in _quantities(results) for result in results if _has(result, q)]
  return finite.sentences({f'{one.trained.name}: {q.label}': q.values(one) for one, q in pairs})


def _quantities(results: Sequence[Result]) -> list[_Quantity]:
  """Returns the lines for these models: bits/dim for discrete data, bounds for latent models."""
  levels = results[0].settings.levels
  latent = any(result.trained.model.traits.has_prior for result in results)
  bounds_of_prior = _latent_quantities(results) if latent else []
  encoded = any(result.trained.model.traits.has_latents for result in results)
  density = '-log p(x given mean of z), nats' if latent else '-log p(x given z), nats'
  denoise = all(result.trained.model.traits.denoises for result in results)
  density = density if encoded else f'-log p(x{" given x with noise" if denoise else ""}), nats'
  found = [
    *(quantity._replace(of_prior=True) for quantity in bounds_of_prior),
    _Quantity('reconstruction_nats', density, lambda r: -r.scores.log_prob, 2, is_density=True),
    _Quantity(
      'mahalanobis_per_dim',
      'squared Mahalanobis distance q / D',
      lambda r: r.scores.mahalanobis,
      3,
      of_covariance=True,
    ),
  ]
  known = [quantity for quantity in found if any(_has(result, quantity) for result in results)]
  return [quantity for quantity in known if levels or not quantity.name.endswith('bits_per_dim')]


def _has(result: Result, quantity: _Quantity) -> bool:
  model = result.trained.model
  return (model.traits.has_prior or not quantity.of_prior) and (
    elliptical.has_covariance(model.family) or not quantity.of_covariance
  )


def _comparable(first: Result, other: Result, quantity: _Quantity) -> bool:
  """Returns whether both have a quantity with the same meaning."""
  alike = opened.is_discrete(first.trained) == opened.is_discrete(other.trained)
  return _has(first, quantity) and _has(other, quantity) and (alike or not quantity.is_density)


def _latent_quantities(results: Sequence[Result]) -> list[_Quantity]:
  samples = results[0].settings.importance_samples
  known = {name for result in results for name in result.scores.parts if name.startswith('KL_')}
  latents = 'z from its prior' if known <= {'KL_z'} else 'all latents from their priors'
  iwae = f'negative IWAE-{samples}'
  importance = [
    _Quantity('negative_iwae_nats', f'{iwae}, nats', lambda r: -r.scores.iwae, 2, is_density=True),
    _Quantity('negative_iwae_bits_per_dim', f'{iwae}, bits/dim', lambda r: bits(r, r.scores.iwae), 4),
    _Quantity(
      'iwae_error_nats', f'standard error of an IWAE-{samples}', lambda r: r.scores.iwae_error, 3
    ),
    _Quantity(
      'effective_samples', f'effective samples of {samples}', lambda r: r.scores.effective_samples, 1
    ),
  ]
  return [
    _Quantity('negative_elbo_nats', 'negative ELBO, nats', lambda r: -r.scores.elbo, 2, is_density=True),
    _Quantity(
      'negative_elbo_bits_per_dim', 'negative ELBO, bits/dim', lambda r: bits(r, r.scores.elbo), 4
    ),
    *(importance if samples > 1 else ()),  # with one sample it is the ELBO with more noise
    _Quantity('kl_nats', f'KL of {latents}, nats', lambda r: r.scores.kl, 2),
  ]


def bits(result: Result, log_prob: np.ndarray) -> np.ndarray:
  """Returns bits per dimension [N] of log densities, or of log probabilities of gray levels, in nats."""
  width = 1.0 if opened.is_discrete(result.trained) else pixels.bin_width(result.settings.levels)
  return np.asarray(bounds.bits_per_dim(log_prob, result.num_dims, width))  # type: ignore[arg-type]


def _training_lines(results: Sequence[Result]) -> list[list[str]]:
  """Returns the lines of the table on training images; [] where none were measured."""
  found = [_training_calibration(result) for result in results]
  counts = {len(result.training[0]) for result in results if result.training is not None}
  if not counts:
    return []
  label, empty = f'the first {max(counts)} training images', [''] * (len(results) - 1)
  return [
    [f'q / D of {label}', *(f'{one.mean:.3f}' if one else '' for one in found), *empty],
    ['its spread', *(f'{one.spread:.3f}' if one else '' for one in found), *empty],
  ]


def _training_calibration(result: Result) -> calibration.Calibration | None:
  """Returns the calibration on training images; None where they were not measured."""
  if result.training is None:
    return None
  distances, inverse_dof = result.training
  return calibration.calibration(distances, result.trained.model.image.size, inverse_dof)


def _calibration(result: Result) -> calibration.Calibration | None:
  """Returns the calibration of a family with a covariance; None for others."""
  if not elliptical.has_covariance(result.trained.model.family):
    return None
  scores = result.scores
  return calibration.calibration(scores.mahalanobis, result.num_dims, scores.inverse_dof)


def _model_json(result: Result, quantities: Sequence[_Quantity]) -> dict[str, Any]:
  trained, found, training = result.trained, _calibration(result), _training_calibration(result)
  return {
    'workdir': trained.workdir,
    'step': trained.step,
    'family': trained.config.likelihood.family,
    'options': trained.config.likelihood.options,
    'wrappers': trained.config.likelihood.wrappers,
    'wrapper_options': trained.config.likelihood.wrapper_options,
    'parameters': vae.num_parameters(trained.variables),
    'dequantize': result.settings.dequantize,
    'scores': {
      q.name: likelihood.summarize(q.values(result))._asdict() for q in quantities if _has(result, q)
    },
    'calibration': found._asdict() if found else None,
    'training_calibration': training._asdict() if training else None,
  }
