"""What a dry run says about memory: the verdict against a memory of a given size."""

from typing import Any

import pytest

from structured_obs.data import pipeline
from structured_obs.devices import mesh as meshes
from structured_obs.runs import experiment, initial
from structured_obs.train import dry_run, memory
from tests.train import stub

DEVICES = 4  # they share one memory


@pytest.fixture(scope='module')
def compiled() -> tuple[experiment.Experiment, Any, Any]:
  """An experiment of 64 images a device, its compiled step and the mesh."""
  config = stub.make_config(batch_size=64 * DEVICES)
  built, mesh = stub.make_experiment(config), meshes.make_mesh()
  return built, memory.compile_step(built, mesh), mesh


def limit(monkeypatch: pytest.MonkeyPatch, memory_of_one: float | None) -> None:
  """Lets every device have so many bytes."""
  whole = None if memory_of_one is None else int(DEVICES * memory_of_one)
  monkeypatch.setattr(pipeline, 'device_memory', lambda device: whole)


def test_a_step_needs_its_state_batch_and_temporaries(compiled: Any):
  built, step, mesh = compiled
  state = initial.abstract_state(built, mesh)
  held = sum(leaf.size * leaf.dtype.itemsize for leaf in stub.jax.tree.leaves(state))
  batch = 64 * 3 * 4
  temporary = step.memory_analysis().temp_size_in_bytes
  assert held + batch <= memory.peak(step) - temporary <= held + batch + 512  # key, metrics, pointers
  assert memory.waiting(built, mesh) == 20 * 3 * 4  # all training images lie on every device


def test_a_step_that_fits_compiles_no_other(compiled: Any, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(memory, 'compile_step', None)
  assert memory.verdict(*compiled).startswith('fits: needs about ')
  limit(monkeypatch, None)
  assert 'whose memory is unknown' in memory.verdict(*compiled)
  limit(monkeypatch, 1.0)
  assert 'no --config.train.accumulate makes it fit' in memory.verdict(*compiled)
  built = compiled[0]
  built = built._replace(config=stub.make_config(batch_size=64 * DEVICES))
  built.config.objective.constraints = {'kl': {'bound': 1.0}}
  assert 'objective.constraints.kl, a constraint' in memory.verdict(built, *compiled[1:])


def test_the_number_of_parts_that_would_fit_is_said(compiled: Any, monkeypatch: pytest.MonkeyPatch):
  built, step, mesh = compiled
  parts, whole = memory.peak(memory.compile_step(memory.cut(built, 8), mesh)), memory.peak(step)
  images = memory.waiting(built, mesh)
  assert parts is not None
  assert whole is not None
  assert parts < whole
  limit(monkeypatch, parts + images)
  tried: list[int] = []
  compile_step = memory.compile_step

  def counted(experiment: experiment.Experiment, mesh: Any) -> Any:
    tried.append(experiment.config.train.accumulate)
    return compile_step(experiment, mesh)

  monkeypatch.setattr(memory, 'compile_step', counted)
  found = memory.verdict(built, step, mesh)
  assert found.startswith('does not fit: needs about ')
  assert found.split('train.accumulate=')[1].split()[0] == str(tried[-1])
  assert 2 <= tried[-1] <= 8
  assert len(tried) <= 3


def test_the_report_says_whether_it_fits():
  report = dry_run.report(stub.make_experiment(stub.make_config(accumulate=2)))
  assert '2 images each, in 2 parts' in report
  assert 'estimate    fits: needs about ' in report
  assert 'operations' not in report
