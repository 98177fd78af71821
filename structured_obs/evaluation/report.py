"""Writes reports in Markdown with figures, about a finished training or an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from structured_obs import plotting, strict_json
from structured_obs.data import pixels
from structured_obs.evaluation import (
  constraint_report,
  explanation,
  page,
  results,
  tables,
  training_spread,
)
from structured_obs.evaluation.figures import labels, supn, views
from structured_obs.evaluation.metrics import variance_inflation
from structured_obs.evaluation.results import Result
from structured_obs.evaluation.sections.base import Section
from structured_obs.models import vae
from structured_obs.runs.trained import Trained

Images = Mapping[str, np.ndarray]  # split -> uint8 [N, H, W, C]

SCORED = 1000  # images of a split that the report of a training scores at most
SHOWN = 8  # images in a row of a figure
EIGEN_SIZE = 16384  # largest D for which the report of a training shows principal components


def write_report(
  trained: Trained, images: Images, records: Sequence[Mapping[str, Any]], command: str
) -> Path:
  """Writes `report.md`, the same as `report.html`, and figures into the workdir of a finished run.

  Scores are quick: one sample of z per image, and at most the first 1000 images of a split, so that the
  report is cheap compared with its training. It names the command for full scores.

  Args:
    trained: the best checkpoint of the run.
    images: of the splits; 'validation' and 'test' are scored if they have any.
    records: of metrics.jsonl.
    command: that started the run, and resumes it.

  Returns:
    The path of the report.
  """
  workdir = Path(trained.workdir)
  figures = {
    'Training': plotting.training_curves(workdir / 'figures' / 'curves.png', records),
    'Reconstructions of test images': _picture(trained, images['test'], 'reconstructions.png'),
  }
  if trained.model.traits.has_prior:
    figures['New images, from the prior'] = _picture(trained, None, 'prior.png')
  parts = [
    f'# {trained.name}: {trained.config.likelihood.family} on {trained.spec.source}',
    f'Checkpoint of step {trained.step} of at most {trained.config.train.steps}'
    f'{", the best by the validation ELBO" if len(images["validation"]) else ""}; '
    f'{vae.num_parameters(trained.variables):,} parameters.',
    _scores(trained, images),
    _stability(trained, images),
    constraint_report.section(trained.config, trained.model.image, records),
    *(_figure_text(title, path, workdir) for title, path in figures.items() if path),
    _commands(trained, command),
    _data(trained),
  ]
  return page.write(workdir / 'report.md', parts, page.configurations([trained]))


def write_evaluation(
  directory: str | Path,
  found: Sequence[Result],
  images: np.ndarray,
  about: Mapping[str, Any],
  sections: Sequence[Section] = (),
  shown: Sequence[Trained] = (),
) -> Path:
  """Writes evaluation.json, per_image.npz, report.md, the same as report.html, and figures.

  Args:
    directory: to write to; created if missing.
    found: results on the same images; the others are compared with the first.
    images: [N, H, W, C] uint8, those that were scored.
    about: further entries of the JSON, such as the split and the seed.
    sections: of `sections.make`.
    shown: the models as figures show them, where that is not as they were scored.

  Returns:
    The path of the report.
  """
  directory = Path(directory)
  directory.mkdir(parents=True, exist_ok=True)
  tree, arrays = results.as_json(found), results.per_image(found)
  for section in sections:
    tree[section.name] = section.tree
    arrays |= section.arrays
  (directory / 'evaluation.json').write_text(strict_json.text({**about, **tree}))
  np.savez_compressed(directory / 'per_image.npz', **arrays)  # type: ignore[arg-type]
  models = [result.trained for result in found]
  picture = comparison_picture(directory / 'figures' / 'samples.png', shown or models, images)
  further = supn.write(directory / 'figures', shown or models, images)
  for section in sections:
    further |= section.draw(directory / 'figures') if section.draw else {}
  named = ', '.join(f'`{trained.workdir}` (step {trained.step})' for trained in models)
  details = '; '.join(f'{name} {value}' for name, value in about.items() if name != 'command')
  parts = [
    f'# Evaluation of {named}',
    details,
    results.comparison_table(found),
    training_spread.text(found),
    explanation.text(found),
    *(section.text for section in sections),
    _figure_text('Images', picture, directory),
    *(_figure_text(title, path, directory) for title, path in further.items()),
    page.commands(models, about.get('command', '')),
  ]
  return page.write(directory / 'report.md', parts, page.configurations(models))


def comparison_picture(
  path: str | Path, models: Sequence[Trained], images: np.ndarray, samples: int = 2, seed: int = 0
) -> Path:
  """Draws originals and, for each model, means and samples of p(x|z) at the posterior's mean.

  Args:
    path: of the PNG file.
    models: of the same images.
    images: [N, H, W, C] uint8; the first 8 are shown, and as many new samples of each model.
    samples: rows of samples per model.
    seed: of the samples.
  """
  x = pixels.to_unit(images[:SHOWN], models[0].spec.levels)
  rows = [plotting.Row('original', views.observed(models[0].model, x))]
  for trained in models:
    request = request_of(trained, samples)
    found = views.of_reconstructions(trained.bound, x, jax.random.key(seed), request)
    rows.append(plotting.Row(f'{trained.name}\nmean', found.mean))
    for i, sample in enumerate(found.samples, 1):
      rows.append(plotting.Row(f'{trained.name}\nsample {i}', sample))
  for trained in models:
    if trained.model.traits.has_prior:
      new = views.of_prior(trained.bound, SHOWN, jax.random.key(seed), request_of(trained, samples=1))
      rows.append(plotting.Row(f'{trained.name}\nnew sample', new.samples[0]))
  return plotting.image_rows(path, rows, title=labels.title('Reconstructions and new images', models))


def request_of(trained: Trained, samples: int) -> views.Request:
  """Returns the request of means and samples alone."""
  return views.Request(views.center(trained.model), samples, components=0)


def _picture(trained: Trained, images: np.ndarray | None, name: str) -> Path | None:
  """Draws views of the prior, or of reconstructions if there are images."""
  model, path = trained.model, Path(trained.workdir) / 'figures' / name
  # Components of larger images take long; launch.sample draws them on request.
  components = min(3, model.image.size) if model.image.size <= EIGEN_SIZE else 0
  request = views.Request(views.center(model), components=components)
  key = jax.random.key(0)
  if images is None:
    found = views.of_prior(trained.bound, SHOWN, key, request)
    title = f'New images: {trained.about}'
    return plotting.image_rows(path, views.rows(found, request), title=title)
  if not len(images):
    return None
  x = pixels.to_unit(images[:SHOWN], trained.spec.levels)
  found = views.of_reconstructions(trained.bound, x, key, request)
  rows = views.rows(found, request, views.observed(model, x))
  return plotting.image_rows(path, rows, title=f'Test images: {trained.about}')


def _scores(trained: Trained, images: Images) -> str:
  quick = results.settings_of(trained.config, trained.spec, samples=1)
  texts, scored = [], []
  for split in ('validation', 'test'):
    if len(images[split]):
      found = results.evaluate(trained, np.asarray(images[split][:SCORED]), quick)
      scored, count = [found], len(found.scores.elbo)
      kind = 'all' if count == len(images[split]) else 'the first'
      texts += [f'## On {kind} {count} {split} images', results.comparison_table(scored)]
  return tables.paragraphs(*texts, explanation.text(scored)) if scored else ''


def _stability(trained: Trained, images: Images) -> str:
  """Returns text on the stability of the covariance; '' for families whose covariance cannot explode."""
  shown = images['validation'] if len(images['validation']) else images['test']
  threshold = trained.config.eval.inflation_threshold
  found = variance_inflation.variance_inflation(trained.bound, shown, trained.spec.levels)
  if found is None:
    return ''
  text = (
    'Largest marginal variance over the largest variance of a pixel given those generated before it, '
    f'in {len(found)} images: median {np.median(found):.3g}, largest {np.max(found):.3g}.'
  )
  return '\n\n'.join(['## Stability', text, variance_inflation.warning(found, threshold)]).strip()


def _commands(trained: Trained, command: str) -> str:
  return '\n'.join(
    [
      '## Next steps',
      '```sh',
      f'{command}  # resumes the training',
      f'python -m launch.evaluate --workdir={trained.workdir}',
      f'python -m launch.sample --workdir={trained.workdir}',
      '```',
    ]
  )


def _data(trained: Trained) -> str:
  spec = trained.spec
  counts = ', '.join(f'{count:,} {split}' for split, count in spec.counts.items())
  return '\n'.join(
    [
      '## Data',
      f'- {spec.source} ({spec.version}): {counts}; {spec.split_rule}',
      f'- {spec.height} x {spec.width} x {spec.channels} '
      + (f'pixels of {spec.levels} levels' if spec.levels else 'real numbers, with their means'),
      f'- SHA-256 of the pixels `{spec.sha256}`',
    ]
  )


def _figure_text(title: str, path: Path, directory: Path) -> str:
  return f'## {title}\n![{title}]({path.relative_to(directory).as_posix()})'
