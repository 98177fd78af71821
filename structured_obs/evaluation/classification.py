"""Scores a classifier on a split, and reports its training.

Letters: N images.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.evaluation import finite, likelihood, page, passes, tables
from structured_obs.models.base import Variables
from structured_obs.runs.trained import Trained

Array = jax.Array
Scores = dict[str, np.ndarray]  # [N] each: 'accuracy', 0 or 1, and 'log_prob' of the class, nats


def scores(trained: Trained, images: np.ndarray, where: passes.Where = passes.HERE) -> Scores:
  """Returns scores of images [N, H, W, C + 1], stored with their class."""
  size = trained.config.eval.batch_size
  job = passes.Pass(_score, trained.model, trained.spec.levels, batch_size=size)
  return passes.over_images(job, trained.variables, images, jax.random.key(0), where)


def _score(job: passes.Pass, variables: Variables, keys: Array, x: Array) -> dict[str, Array]:
  terms = job.bound(variables).terms(keys, x)
  log_p = terms.log_p['y']
  # If scores are NaN, none of them is the largest.
  accuracy = jnp.where(jnp.isfinite(log_p), terms.stats['accuracy'], jnp.nan)
  return {'accuracy': accuracy, 'log_prob': log_p}


def write_report(trained: Trained, images: Mapping[str, np.ndarray]) -> Path:
  """Writes `report.md` into the workdir of a finished run; returns the path.

  Args:
    trained: the best checkpoint of the run.
    images: of the splits; 'validation' and 'test' are scored if they have any.
  """
  lines, bad = [['split', 'images', 'accuracy', '-log p(class given image), nats']], []
  for split in ('validation', 'test'):
    if len(images[split]):
      found = scores(trained, images[split])
      accuracy, log_prob = (likelihood.summarize(v) for v in (found['accuracy'], -found['log_prob']))
      count = str(accuracy.num_images)
      lines.append([split, count, tables.cell(accuracy, 4), tables.cell(log_prob, 4)])
      bad.append(finite.sentences(found, f'{split} images'))
  parts = [
    f'# {trained.name}: a classifier of {trained.spec.source}',
    f'Checkpoint of step {trained.step} of at most {trained.config.train.steps}; '
    f'{len(trained.spec.class_counts)} classes.',
    tables.markdown_table(lines),
    *bad,
    '## Next steps',
    f'```sh\npython -m launch.evaluate --workdir=RUN --features=classifier:{trained.workdir}\n```',
  ]
  path = Path(trained.workdir) / 'report.md'
  return page.write(path, parts, page.configurations([trained]))
