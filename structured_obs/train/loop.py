"""The training loop: dispatches steps, watches them, validates, saves, and can be stopped anywhere.

At any moment at most `steps_in_flight` steps are on the devices; only the metrics of finished steps
are fetched. A checkpoint is the whole truth: what follows from it is bitwise what would have
followed without it.
"""

import collections
import contextlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from structured_obs.data.prepare import Prepared
from structured_obs.evaluation import likelihood, stability
from structured_obs.train import checkpoint, distributed, feed, metrics, nonfinite, parallel, start
from structured_obs.train import experiment as experiments
from structured_obs.train import workdir as workdirs
from structured_obs.train.experiment import Experiment
from structured_obs.train.signals import Stopper
from structured_obs.train.state import TrainState, evaluation_variables

Array = jax.Array


class Standing(NamedTuple):
  """What the host remembers of a run; part of every checkpoint's metadata."""

  best: float | None = None  # validation ELBO, nats per image; None before the first validation
  best_step: int = 0
  waited: int = 0  # validations since the best one
  skipped: int = 0  # updates dropped since the first step


class Outcome(NamedTuple):
  """How a run ended."""

  step: int
  reason: str  # 'finished', 'stopped' by a signal, or 'early' by patience
  standing: Standing
  state: TrainState


class Run(NamedTuple):
  """What does not change while a run lasts."""

  experiment: Experiment
  prepared: Prepared
  mesh: Mesh
  workdir: Path
  about: dict[str, Any]  # what run.json says
  latest: checkpoint.Checkpointer
  best: checkpoint.Checkpointer
  recorder: metrics.Recorder


class NonFiniteError(ValueError):
  """The loss or its gradient stayed infinite or NaN."""


def train(
  experiment: Experiment,
  prepared: Prepared,
  workdir: Path,
  about: dict[str, Any],
  tensorboard: bool = False,
) -> Outcome:
  """Trains from the workdir's latest checkpoint, or from the start, to the end or a signal.

  Args:
    experiment: of `experiment.build`.
    prepared: the data.
    workdir: exists and holds this run or nothing; see `workdir.check`.
    about: goes into every checkpoint's metadata.
    tensorboard: whether to write event files.

  Raises:
    NonFiniteError: after train.max_nonfinite steps in a row that are not finite.
    ValueError: if the latest checkpoint does not fit.
  """
  config = experiment.config.train
  if distributed.primary() and not (workdir / workdirs.FILE).exists():
    workdirs.write(workdir, about)
  distributed.barrier('workdir')
  with contextlib.ExitStack() as stack:
    latest = checkpoint.open_directory(workdir / experiments.CHECKPOINTS, config.keep)
    best = checkpoint.open_directory(workdir / experiments.BEST, 1)
    recorder = metrics.Recorder(workdir, config.steps, tensorboard, distributed.primary())
    run = Run(
      experiment, prepared, parallel.make_mesh(), workdir, about,
      stack.enter_context(latest), stack.enter_context(best), stack.enter_context(recorder),
    )  # fmt: skip
    state, standing = _begin(run)
    stopper = stack.enter_context(Stopper())
    return _Loop(run, state, standing).drive(stopper)


def _begin(run: Run) -> tuple[TrainState, Standing]:
  """Returns where to start: the latest checkpoint, or a fresh state."""
  done = checkpoint.saved_steps(run.latest)
  if done:
    like = experiments.abstract_state(run.experiment, run.mesh)
    state = checkpoint.load(run.latest, done[-1], like)
    metadata = checkpoint.read_metadata(run.latest, done[-1])
    standing = Standing(**metadata['standing'])
    if standing.best_step == done[-1]:
      # A kill between the two saves of a new best one left only the first; saving is idempotent.
      checkpoint.save(run.best, state, metadata)
  else:
    key, _, _ = experiments.run_keys(run.experiment)
    state = experiments.init_state(run.experiment, key, run.prepared.images['train'])
    if run.experiment.config.train.start_from:
      state, said = start.take_over(run.experiment, state, run.prepared.images['train'])
      run.recorder.say(said)
    state = parallel.replicate(state, run.mesh)
    standing = Standing()
  step = done[-1] if done else 0
  if distributed.primary():
    workdirs.write(run.workdir, run.about)  # only now, as a refused checkpoint must change nothing
  run.recorder.resume(step)
  if done:
    run.recorder.say(f'Resumed from step {step}.')
  return state, standing


class _Loop:
  """One run's moving parts: state, standing, and the steps in flight."""

  def __init__(self, run: Run, state: TrainState, standing: Standing):
    _, train_key, validation_key = experiments.run_keys(run.experiment)
    self.run = run
    self.state = state
    self.standing = standing
    self.step = int(jax.device_get(state.step))
    self.flight: collections.deque[tuple[int, dict[str, Array]]] = collections.deque()
    self.meter = metrics.Meter(run.experiment.config.train.batch_size)
    self.learning_rate = jax.jit(run.experiment.schedule)
    self.key = parallel.replicate(train_key, run.mesh)
    self.validation_key = parallel.replicate(validation_key, run.mesh)

  def drive(self, stopper: Stopper) -> Outcome:
    """Trains until the last step, the end of patience, or a signal."""
    config = self.run.experiment.config
    update = experiments.make_step(self.run.experiment, self.run.mesh)
    batches = feed.stream(
      self.run.prepared.images['train'], config.train, config.data.residency, self.run.mesh
    )
    if self._out_of_patience():
      return self._outcome('early')
    with contextlib.closing(batches(self.step, config.train.steps)) as stream:
      for batch in stream:
        self.state, told = update(self.state, self.key, batch)
        self.step += 1
        self.flight.append((self.step, told))
        self._retire(config.train.steps_in_flight - 1)
        stop = stopper.requested(self.step)
        self._visit(stop)
        if self._out_of_patience():
          return self._outcome('early')
        if stop and self.step < config.train.steps:
          return self._outcome('stopped')
    return self._outcome('finished')

  def _visit(self, stop: bool) -> None:
    """Validates and saves where it is time to."""
    config = self.run.experiment.config.train
    last = self.step == config.steps
    validate = last or self.step % config.validate_every == 0
    save = stop or last or self.step % config.checkpoint_every == 0
    if not (validate or save):
      return
    self._retire(0)
    with self.meter.pause():
      improved = validate and self._validate()
      if save or improved or self._out_of_patience():
        self._save(improved)

  def _retire(self, remaining: int) -> None:
    """Waits for the oldest steps until at most `remaining` are in flight."""
    config = self.run.experiment.config.train
    while len(self.flight) > remaining:
      step, told = self.flight.popleft()
      skipped = int(jax.device_get(told['skipped']))  # waits for the step
      self.standing = self.standing._replace(skipped=self.standing.skipped + (skipped > 0))
      self.meter.add(told)
      self.run.recorder.advance(step)
      if step % config.log_every == 0 or step == config.steps:
        self._record(step)
      if skipped >= config.max_nonfinite:
        self._give_up(step)

  def _record(self, step: int) -> None:
    made = jax.device_put(np.int32(step - 1 - self.standing.skipped))  # updates before this one
    rate = float(jax.device_get(self.learning_rate(made)))
    values = {**self.meter.read(), 'learning_rate': rate, 'skipped': self.standing.skipped}
    self.run.recorder.record(step, 'train', values)

  def _validate(self) -> bool:
    """Records the validation ELBO; returns whether it is the best so far."""
    experiment, spec = self.run.experiment, self.run.experiment.spec
    elbo = likelihood.split_elbo(
      experiment.model,
      evaluation_variables(self.state),
      self.run.prepared.images['validation'],
      self.validation_key,
      spec.levels,
      experiment.config.eval.batch_size,
      self.run.mesh,
      experiment.config.objective.dequantize,
    )
    if not elbo.size:
      return False
    value, standard_error, _ = likelihood.summarize(elbo)
    told = {'elbo': value, 'standard_error': standard_error}
    inflation = stability.variance_inflation(
      experiment.model,
      evaluation_variables(self.state),
      self.run.prepared.images['validation'],
      spec.levels,
    )
    if inflation is not None:
      told['variance_inflation'] = float(np.max(inflation))
    self.run.recorder.record(self.step, 'validation', told)
    warning = stability.warning(inflation, experiment.config.eval.inflation_threshold)
    if warning:
      self.run.recorder.say(warning)
    improved = value > (-math.inf if self.standing.best is None else self.standing.best)
    if improved:
      self.standing = self.standing._replace(best=value, best_step=self.step, waited=0)
    else:
      self.standing = self.standing._replace(waited=self.standing.waited + 1)
    return improved

  def _save(self, improved: bool) -> None:
    """Saves the state; the latest first, so that the best is never ahead of what a resume knows."""
    distributed.agree(
      f'The states after step {self.step}, which are not saved,',
      lambda: checkpoint.digests(self.state),
    )
    metadata = {**self.run.about, 'standing': self.standing._asdict()}
    checkpoint.save(self.run.latest, self.state, metadata)
    if improved:
      checkpoint.save(self.run.best, self.state, metadata)

  def _out_of_patience(self) -> bool:
    patience = self.run.experiment.config.train.patience
    return 0 < patience <= self.standing.waited

  def _give_up(self, step: int) -> None:
    config = self.run.experiment.config.train
    sentence = 'The loss or its gradient stayed non-finite; process 0 says more.'
    if distributed.primary():
      # The updates since were dropped, so these are the parameters that the step began with.
      state = self.state._replace(step=np.int32(step - 1))
      batch = feed.global_batch(config, self.run.prepared.images['train'], step - 1)
      sentence = nonfinite.explain(self.run.experiment, state, self.key, batch, self.run.workdir)
    raise NonFiniteError(sentence)

  def _outcome(self, reason: str) -> Outcome:
    return Outcome(self.step, reason, self.standing, self.state)
