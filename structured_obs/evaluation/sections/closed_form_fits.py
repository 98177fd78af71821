"""Compares a distribution fitted by gradients with its optimum in closed form, and with PCA.

A model of kind 'distribution' with the low-rank family has an optimum in closed form, probabilistic PCA:
over all noise variances with a learnt scale, otherwise at the given variance. It is computed from the
same training images, with the variance that dequantisation adds to each pixel, and scored on the same
dequantised images. Plain PCA draws from an R-dimensional plane and so has no density; its samples are
shown beside the model's.

Letters: R rank; H W C image height, width, channels.

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022, section 4.5 and figure 7.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import distributions, plotting
from structured_obs.data import pixels
from structured_obs.distributions import low_rank, probabilistic_pca
from structured_obs.evaluation import finite, likelihood, results, tables
from structured_obs.evaluation.results import Result
from structured_obs.evaluation.sections.base import Evaluated, Figures, Section
from structured_obs.models.distribution import Distribution
from structured_obs.runs.trained import Trained

TRAINING = 1000  # training images to score at most
SIDE = 10  # images along each side of a grid


class Fit(NamedTuple):
  """One trained distribution and the optimum of its family."""

  found: Result  # of the trained one, on the evaluated images
  best: Result  # of the optimum, on the same images
  found_training: Result  # both on training images
  best_training: Result
  images: probabilistic_pca.Moments  # of the training images without dequantisation

  @property
  def rank(self) -> int:
    """R."""
    return self.found.trained.config.likelihood.options['rank']

  @property
  def params(self) -> low_rank.LowRank:
    """Parameters of the trained distribution."""
    return _params(self.found.trained)


def of_results(
  found: Sequence[Result], scored: np.ndarray, training: np.ndarray, seed: int = 0
) -> list[Fit]:
  """Returns the optimum for every result whose family has one.

  Args:
    found: on the same images.
    scored: these images, [N, H, W, C] uint8.
    training: the models' training images.
    seed: of the dequantisation in `found`.
  """
  known = [result for result in found if _has_optimum(result.trained)]
  if not known:
    return []
  levels = known[0].settings.levels
  most = max(1, *(result.trained.config.likelihood.options['rank'] for result in known))
  convert = lambda batch: np.asarray(pixels.to_unit(batch, levels))  # noqa: E731
  images = probabilistic_pca.moments(training, most, convert)
  shown = np.asarray(training[:TRAINING])
  fits = []
  for result in known:
    settings = result.settings._replace(importance_samples=1)
    best = optimum(result, images)
    fits.append(
      Fit(
        result,
        results.evaluate(best, scored, settings, seed=seed),
        results.evaluate(result.trained, shown, settings, seed=seed),
        results.evaluate(best, shown, settings, seed=seed),
        images,
      )
    )
  return fits


def optimum(result: Result, images: probabilistic_pca.Moments) -> Trained:
  """Returns the maximum likelihood distribution of a result's family, as a model of its own."""
  trained, settings = result.trained, result.settings
  options, learnt = trained.config.likelihood.options, _learns_noise(trained)
  if settings.dequantize:
    images = probabilistic_pca.with_noise(images, pixels.noise_variance(settings.levels))
  given = None if learnt else options['noise_variance']
  params = probabilistic_pca.optimum(images, options['rank'], given)
  family = distributions.family(
    'low_rank', rank=options['rank'], noise_variance=float(params.cov_diag), factor_scale=1.0
  )
  heads = {'mean': params.mean, 'cov_factor': params.cov_factor}
  return trained._replace(
    name=f'probabilistic PCA of rank {options["rank"]}',
    model=Distribution(family, trained.model.image),
    variables={'params': {'decoder': {'heads': heads}}},
  )


def text(fits: Sequence[Fit]) -> str:
  """Returns a table per distribution, and an explanation of its numbers, as Markdown."""
  parts = ['## Beside the closed form', *(_table(fit) for fit in fits), *map(_not_finite, fits)]
  parts.append(EXPLANATION)
  if any(_augmented(fit.found.trained) for fit in fits):
    parts.append('The closed form ignores the random flips, turns and shifts of the training.')
  return tables.paragraphs(*parts)


EXPLANATION = (
  '-log p(x) in nats, smaller is better; ± are standard errors over images, for differences those of '
  'the differences per image. Probabilistic PCA maximises the likelihood of the training images, '
  'dequantised, in closed form (Tipping and Bishop, 1999); per cents are of its -log p(x). PCA draws '
  'mean + U diag(sd) w with U the first principal components and w normal: it has no pixel noise and '
  'hence no density.'
)


def as_json(fits: Sequence[Fit]) -> dict[str, Any]:
  """Returns summaries by the distribution's name."""
  return {fit.found.trained.name: _numbers(fit) for fit in fits}


def per_image(fits: Sequence[Fit]) -> dict[str, np.ndarray]:
  """Returns log densities [N] under each optimum, for np.savez."""
  return {f'closed_form/{fit.found.trained.name}/log_prob': fit.best.scores.log_prob for fit in fits}


def draw(path: Path, fit: Fit, seed: int = 0) -> Path:
  """Draws 100 samples of the distribution, the same ones without pixel noise, and 100 samples of PCA."""
  params, key = fit.params, jax.random.key(seed)
  keys = jax.random.split(key, SIDE * SIDE)
  noise = jax.vmap(lambda key: low_rank.noise(key, params))(keys)
  whole = jax.vmap(lambda n: low_rank.reparameterize(params, n))(noise)
  quiet = noise._replace(diag=jnp.zeros_like(noise.diag))
  plane = jax.vmap(lambda n: low_rank.reparameterize(params, n))(quiet)
  grids = [_grid(whole), _grid(plane), _grid(pca_samples(jax.random.fold_in(key, 1), fit))]
  gap = np.ones_like(grids[0][:, :1])  # white
  joined = np.concatenate([grids[0], gap, grids[1], gap, grids[2]], axis=1)
  columns = [''] * joined.shape[1]
  for i, heading in enumerate((
    fit.found.trained.name, 'without its pixel noise', f'PCA with {fit.rank} components'
  )):  # fmt: skip
    columns[i * (SIDE + 1) + SIDE // 2 - 1] = heading
  return plotting.image_grid(path, joined, columns=columns)


def pca_samples(key: jax.Array, fit: Fit) -> np.ndarray:
  """Returns 100 samples of PCA with R components, mean + U diag(sd) w. [100, H, W, C]."""
  weights = np.asarray(jax.random.normal(key, (SIDE * SIDE, fit.rank), jnp.float32), np.float64)
  images = fit.images
  weights = weights * np.sqrt(images.variances[: fit.rank])
  return images.mean + np.einsum('nr,rhwc->nhwc', weights, images.directions[: fit.rank])


def _has_optimum(trained: Trained) -> bool:
  config = trained.config
  return config.model.kind == 'distribution' and config.likelihood.family == 'low_rank'


def _learns_noise(trained: Trained) -> bool:
  """Returns whether the noise variance is learnt. One per pixel has no optimum in closed form."""
  config = trained.config
  return config.model.options['scale'] == 'learned' or config.likelihood.options['learn_diag']


def _augmented(trained: Trained) -> bool:
  data = trained.config.data
  return data.flip or data.turn or data.shift > 0


def _params(trained: Trained) -> low_rank.LowRank:
  keys = jax.random.split(jax.random.key(0), 1)  # unused: there is one distribution for all images
  params = trained.bound.generate(keys)
  return jax.tree.map(lambda leaf: leaf[0], params)


def _grid(images: Any) -> np.ndarray:
  array = np.asarray(images, np.float64)
  return array.reshape(SIDE, SIDE, *array.shape[1:])


def _numbers(fit: Fit) -> dict[str, Any]:
  """Returns everything in the table of one distribution, and the noise variances."""
  tree: dict[str, Any] = {}
  for name, found, best in _pairs(fit):
    difference = likelihood.paired_difference(-found.scores.log_prob, -best.scores.log_prob)
    optimal = likelihood.summarize(-best.scores.log_prob)
    tree[name] = {
      'gradient_fit': likelihood.summarize(-found.scores.log_prob)._asdict(),
      'closed_form': optimal._asdict(),
      'difference': difference._asdict(),
      'difference_per_cent': 100 * difference.mean / abs(optimal.mean),
    }
  tree['noise_variance'] = {
    'gradient_fit': float(jnp.mean(fit.params.cov_diag)),
    'closed_form': float(_params(fit.best.trained).cov_diag),
  }
  tree['variance_of_components'] = float(fit.images.variances[: fit.rank].sum() / fit.images.total)
  return tree


def _pairs(fit: Fit) -> list[tuple[str, Result, Result]]:
  return [
    ('evaluated', fit.found, fit.best),
    ('training', fit.found_training, fit.best_training),
  ]


def _not_finite(fit: Fit) -> str:
  return tables.paragraphs(
    *(
      finite.sentences(
        {one.trained.name: one.scores.log_prob for one in (found, best)}, f'{name} images'
      )
      for name, found, best in _pairs(fit)
    )
  )


def _table(fit: Fit) -> str:
  numbers = _numbers(fit)
  parts = [(name, len(found.scores.log_prob)) for name, found, _ in _pairs(fit)]
  noises = numbers['noise_variance']
  header = ['-log p(x), nats', *(f'{count} {name} images' for name, count in parts), 'noise variance']
  rows = [
    [label, *(_cell(numbers[name][kind]) for name, _ in parts), f'{noises[kind]:.4g}']
    for label, kind in (
      (fit.found.trained.name, 'gradient_fit'),
      (fit.best.trained.name, 'closed_form'),
    )
  ]
  changes = [
    f'{_cell(numbers[name]["difference"])} ({numbers[name]["difference_per_cent"]:.2f} %)'
    for name, _ in parts
  ]
  share = f'PCA of rank {fit.rank}, {100 * numbers["variance_of_components"]:.1f} % of the variance'
  rows += [['their difference', *changes, ''], [share, 'no density', 'no density', '0']]
  return tables.markdown_table([header, *rows])


def _cell(summary: Mapping[str, Any]) -> str:
  return tables.cell(likelihood.Summary(**summary), 3)


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None if models or data do not have it."""
  fits = of_results(evaluated.found, evaluated.images, evaluated.splits['train'], evaluated.seed)
  if not fits:
    return None

  def figures(directory: Path) -> Figures:
    title = 'Samples without a network, and of PCA'
    return {title: draw(directory / 'without_network.png', fits[0])}

  return Section(
    'closed_form',
    text(fits),
    as_json(fits),
    per_image(fits),
    figures,
  )
