"""Faults planted in the sources, one at a time: the quick tests must find each.

A flipped sign, a missing constant, a wrong axis. Each is planted in a copy of the project, and the quick
tests of the part that it is in run there until the first failure.
"""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.campaigns import outcomes

COUNT = 0
SECONDS = 1500  # for the tests of one part
LEFT_OUT = ('.git', '.venv', 'colabs', 'docs', '*.pyc', '__pycache__')
TESTS_FAILED = 1  # pytest's status where tests ran and some failed


class Fault(NamedTuple):
  """A text of a source file that occurs there once, and what stands there instead."""

  path: str  # from structured_obs/
  text: str
  instead: str
  tests: str  # folder or file of the tests that should notice, from tests/


FAULTS = (
  Fault(
    'linalg/woodbury.py',
    'cap.log_det + quadratic)',
    'cap.log_det - quadratic)',
    'distributions/test_low_rank.py',
  ),
  Fault(
    'linalg/woodbury.py', '(1 - spread) / diag)', 'spread / diag)', 'distributions/test_gradients.py'
  ),
  Fault(
    'linalg/sparse_triangular.py',
    'product, rhs, there, back)',
    'product, rhs, back, there)',
    'linalg/test_sparse_triangular.py',
  ),
  Fault('linalg/decompositions.py', 'jnp.nan', '0.0', 'linalg/test_decompositions.py'),
  Fault(
    'linalg/spectral.py', 'values * counts[:, :, None]', 'values', 'distributions/test_circulant.py'
  ),
  Fault('distributions/diagonal.py', '- 0.5 * base.LOG_2PI', '', 'distributions/test_primitives.py'),
  Fault(
    'distributions/dense_precision.py',
    'jnp.size(params.mean) * base.LOG_2PI + log_det(params)',
    'jnp.size(params.mean) * base.LOG_2PI - log_det(params)',
    'distributions/test_dense_precision.py',
  ),
  Fault(
    'distributions/radial.py',
    '0.5 * (size * (1 + base.LOG_2PI)',
    '0.5 * (size * base.LOG_2PI',
    'distributions/test_operations.py',
  ),
  Fault(
    'distributions/circulant.py',
    'power * jnp.exp(-params.log_spectrum)',
    'power * jnp.exp(params.log_spectrum)',
    'distributions/test_circulant.py',
  ),
  Fault(
    'distributions/posterior.py',
    '- given.log_det + quadratic',
    '+ given.log_det + quadratic',
    'distributions/test_operations.py',
  ),
  Fault('objectives/bounds.py', '- math.log2(width)', '+ math.log2(width)', 'objectives'),
  Fault(
    'objectives/bounds.py',
    'jnp.std(relative, axis=0, ddof=1)',
    'jnp.std(relative, axis=1, ddof=1)',
    'objectives',
  ),
  Fault(
    'objectives/constraints.py',
    'jnp.maximum(0, coefficient)',
    'jnp.minimum(0, coefficient)',
    'objectives',
  ),
  Fault(
    'models/vae.py',
    'jnp.exp(2 * posterior.log_scale)',
    'jnp.exp(posterior.log_scale)',
    'models/test_vae.py',
  ),
  Fault(
    'models/latent_priors/__init__.py',
    '- 0.5 * flat.shape[-1] * base.LOG_2PI',
    '',
    'models/test_latent_priors.py',
  ),
  Fault(
    'data/pixels.py',
    'jax.random.uniform(key, x.shape, x.dtype, -0.5, 0.5)',
    'jax.random.uniform(key, x.shape, x.dtype, 0.0, 1.0)',
    'data/test_images.py',
  ),
  Fault('data/pixels.py', 'mode=\'edge\'', 'mode=\'wrap\'', 'data/test_images.py'),
  Fault(
    'train/step.py',
    'jax.lax.pmean(tree, axis_name)',
    'jax.lax.psum(tree, axis_name)',
    'train/test_step.py',
  ),
  Fault(
    'devices/keys.py',
    'jax.lax.axis_index(axis_name) * count',
    'jax.lax.axis_index(axis_name)',
    'train/test_step.py',
  ),
  Fault('runs/schedule.py', '(done + 1) / max', 'done / max', 'runs/test_optimizers.py'),
  Fault(
    'evaluation/metrics/calibration.py',
    'math.sqrt(float(np.average(found, weights=sizes)))',
    'float(np.average(found, weights=sizes))',
    'evaluation/test_calibration.py',
  ),
  Fault(
    'evaluation/metrics/feature_distances.py',
    'mean + spread - 2 * root',
    'mean + spread - root',
    'evaluation/test_feature_distances.py',
  ),
)


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields a case for each fault."""
  del seed
  for number, fault in enumerate(FAULTS, 1):
    run = functools.partial(_run, fault)
    yield outcomes.Case(fault.path.partition('/')[0], f'{number}: {fault.path}: {fault.instead}', run)


def run(count: int, seed: int) -> list[outcomes.Result]:
  """Plants `count` faults, or all of them for 0."""
  return [outcomes.judge(case, SECONDS) for case in outcomes.sample(list(cases(seed)), count, seed)]


def plant(fault: Fault, root: Path) -> None:
  """Puts a fault into the sources below a folder.

  Raises:
    ValueError: the text does not occur in the file, or more than once.
  """
  path = root / 'structured_obs' / fault.path
  source = path.read_text(encoding='utf-8')
  if source.count(fault.text) != 1:
    raise ValueError(f'{fault.path} has {source.count(fault.text)} times the text {fault.text!r}.')
  path.write_text(source.replace(fault.text, fault.instead), encoding='utf-8')


def _run(fault: Fault, folder: Path) -> str:
  copy = folder / 'copy'
  shutil.copytree(outcomes.ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
  plant(fault, copy)
  command = [sys.executable, '-m', 'pytest', '-x', '-q', '-m', 'not slow', f'tests/{fault.tests}']
  environment = {**os.environ, 'PYTHONPATH': str(copy)}
  done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
  outcomes.expect(done.returncode == TESTS_FAILED, f'status {done.returncode}: {done.stdout[-200:]}')
  return outcomes.RIGHT
