"""Many jitted, batched gradients of every public operation in a row: what hangs or fails is named.

Each operation has a process of its own, which dumps its stacks and ends when its time is over, so that a
deadlock or a crash in one operation is a record like any other, and the next one is called all the same.

  python -m structured_obs.benchmark.robustness OPERATION CALLS SECONDS
"""

import faulthandler
import json
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.benchmark import family_operations
from structured_obs.benchmark.factors import random_factors
from structured_obs.linalg import banded, selected_inverse, sparse_triangular, woodbury

Array = jax.Array
Operation = family_operations.Operation

GRACE = 60  # seconds for a process to start, and to end by itself when its time is over
LINES = 20  # of what a process wrote before it failed


def operations(size: int = 12, batch: int = 4) -> dict[str, Operation]:
  """Every public operation: scalar functions of one image and their batched arguments, by name."""
  return kernels(size, batch) | family_operations.operations(size, batch)


def kernels(size: int, batch: int) -> dict[str, Operation]:
  """The public functions of `linalg`."""
  pattern = sparse_triangular.offsets(5)
  rng = np.random.default_rng(0)
  factors = random_factors(size, pattern, batch)
  side = jnp.asarray(rng.normal(size=(batch, size, size)), jnp.float32)
  columns = jnp.asarray(rng.normal(size=(batch, size * size, 8)), jnp.float32)
  flat = side.reshape(batch, -1)
  diag = jnp.full_like(flat, 0.1)
  band = jax.vmap(lambda factor: banded.gram(banded.from_grid(factor, pattern)))(factors)
  solve, transposed = sparse_triangular.solve, sparse_triangular.solve_transposed
  square = lambda x: jnp.sum(jnp.square(x))  # noqa: E731
  return {
    'sparse solve': (lambda f, x: square(solve(f, x, pattern)), (factors, side)),
    'sparse solve_transposed': (lambda f, x: square(transposed(f, x, pattern)), (factors, side)),
    'sparse log_density': (
      lambda f, x: sparse_triangular.log_density(jnp.log(f.diag), f.weights, x, pattern),
      (factors, side),
    ),
    'exact variances': (lambda f: square(selected_inverse.variances(f, pattern)), (factors,)),
    'banded log_det': (lambda b: banded.log_det(banded.cholesky(b)), (band,)),
    'banded solve': (lambda b, x: square(banded.solve(b, x)), (band, flat)),
    'banded variances': (lambda b: square(banded.variances(banded.cholesky(b))), (band,)),
    'low-rank log_density': (woodbury.log_density, (flat, columns, diag)),
  }


def supervised(name: str, calls: int, timeout: float) -> dict[str, Any]:
  """Call the gradient of one operation many times in a process of its own: a record for JSON.

  The record of a process that ended early has its last lines under 'failure'.

  Args:
    name: of `operations`.
    calls: how many.
    timeout: seconds for all of them, with what comes before the first.
  """
  command = [sys.executable, '-m', __name__, name, str(calls), str(timeout)]
  start = time.perf_counter()
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, timeout=timeout + GRACE, check=False
    )
    if done.returncode == 0:
      return json.loads(done.stdout.splitlines()[-1])
    failure = f'status {done.returncode}: ' + ' | '.join(done.stderr.splitlines()[-LINES:])
  except subprocess.TimeoutExpired:
    failure = f'killed after {timeout + GRACE:g} s'
  seconds = time.perf_counter() - start
  return {'operation': name, 'calls': calls, 'seconds': seconds, 'finite': False, 'failure': failure}


def survive(name: str, operation: Operation, calls: int) -> dict[str, Any]:
  """Call the batched gradient of an operation many times: a record for JSON.

  A gradient that is not finite is one that did not survive, in whichever call.
  """
  function, arguments = operation
  gradient = jax.vmap(jax.grad(function, argnums=tuple(range(len(arguments)))))

  @jax.jit
  def step(*arguments: Any) -> tuple[Any, Array]:
    found = gradient(*arguments)
    checks = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(found)]
    return found, jnp.all(jnp.stack(checks))

  start = time.perf_counter()
  finite = sum(bool(jax.block_until_ready(step(*arguments))[1]) for _ in range(calls))
  seconds = time.perf_counter() - start
  return {'operation': name, 'calls': calls, 'seconds': seconds, 'finite': finite == calls}


def _main(name: str, calls: str, timeout: str) -> None:
  faulthandler.dump_traceback_later(float(timeout), exit=True)
  record = survive(name, operations()[name], int(calls))
  faulthandler.cancel_dump_traceback_later()
  print(json.dumps(record))


if __name__ == '__main__':
  _main(*sys.argv[1:])
