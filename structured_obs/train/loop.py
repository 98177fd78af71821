# One file of more than 300 lines: the loop is one object, whose parts share its state.
"""The training loop: dispatches steps, watches them, validates, saves, and stops at any step.

At most `steps_in_flight` steps run on the devices at once, and only the metrics of finished steps are
fetched. A checkpoint is complete: a resumed run continues bitwise as the original would have.
"""

import collections
import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from structured_obs.data import pipeline
from structured_obs.data.prepare import Prepared
from structured_obs.devices import hosts
from structured_obs.devices import mesh as meshes
from structured_obs.evaluation import likelihood
from structured_obs.evaluation.figures import validation
from structured_obs.evaluation.metrics import variance_inflation
from structured_obs.models.base import Bound
from structured_obs.runs import checkpoint, initial, metrics_file
from structured_obs.runs import workdir as workdirs
from structured_obs.runs.experiment import Experiment
from structured_obs.runs.state import TrainState, evaluation_variables
from structured_obs.train import feed, metrics, nonfinite, resume, terminal
from structured_obs.train import start as starts
from structured_obs.train import step as steps
from structured_obs.train.signals import Stopper

Array = jax.Array


class Standing(NamedTuple):
  """What the host remembers of a run; part of every checkpoint's metadata."""

  best: float | None = None  # validation ELBO, nats per image; None before the first validation
  best_step: int = 0
  waited: int = 0  # validations since the best one
  skipped: int = 0  # updates dropped since the first step
  nonfinite: int = 0  # validations without a result, because an image's ELBO was not finite


class Outcome(NamedTuple):
  """How a run ended."""

  step: int
  reason: str  # 'finished', 'stopped' by a signal, or 'early' by patience
  standing: Standing
  state: TrainState


class Run(NamedTuple):
  """The constant parts of a run."""

  experiment: Experiment
  prepared: Prepared
  mesh: Mesh
  workdir: Path
  about: dict[str, Any]  # contents of run.json
  latest: Path  # directory of the latest checkpoints
  best: Path  # directory of the best one
  recorder: metrics.Recorder
  check_there: Callable[[int], None]  # of `workdir.watched`


class NonFiniteError(ValueError):
  """The loss, its gradient or the state stayed infinite or NaN."""


def train(
  experiment: Experiment,
  prepared: Prepared,
  workdir: Path,
  about: dict[str, Any],
  tensorboard: bool = False,
  allow_older: bool = False,
) -> Outcome:
  """Trains from the workdir's newest undamaged checkpoint, or from the start, to the end or a signal.

  Args:
    experiment: of `experiment.build`.
    prepared: the data.
    workdir: exists, and holds this run or nothing; see `workdir.check`.
    about: metadata of every checkpoint.
    tensorboard: whether to write event files.
    allow_older: whether damaged checkpoints may cost more than an hour of training.

  Raises:
    NonFiniteError: train.max_nonfinite consecutive steps were not finite, or the state to be saved is
      not.
    ValueError: the newest checkpoint does not match the model, or all checkpoints are damaged.
    OSError: a file could not be written, or the workdir is gone.
  """
  config = experiment.config.train
  if hosts.primary() and not (workdir / workdirs.FILE).exists():
    workdirs.write(workdir, about)
  hosts.barrier('workdir')
  with contextlib.ExitStack() as stack:
    recorder = metrics.Recorder(workdir, config.steps, tensorboard, hosts.primary(), _coding(experiment))
    run = Run(
      experiment, prepared, meshes.make_mesh(), workdir, about,
      workdir / checkpoint.CHECKPOINTS, workdir / checkpoint.BEST,
      stack.enter_context(recorder), stack.enter_context(workdirs.watched(workdir)),
    )  # fmt: skip
    state, standing = _begin(run, allow_older)
    stopper = stack.enter_context(Stopper())
    return _Loop(run, state, standing).drive(stopper)


def _coding(experiment: Experiment) -> terminal.Coding | None:
  """Returns how the terminal shows an ELBO in bits/dim; None for models whose ELBO is no code length."""
  if not experiment.model.traits.has_prior:
    return None
  dequantize = experiment.config.objective.dequantize
  return terminal.coding(experiment.spec, dequantize, experiment.family.levels > 0)


def _begin(run: Run, allow_older: bool) -> tuple[TrainState, Standing]:
  """Returns where to start: the newest undamaged checkpoint, or a fresh state."""
  if hosts.primary():
    checkpoint.clean(run.latest)
    checkpoint.clean(run.best)
  config, found = run.experiment.config.train, None
  if workdirs.candidates(run.workdir):
    like = initial.abstract_state(run.experiment, run.mesh)
    found = resume.newest(run.workdir, like, config.batch_size, allow_older, run.recorder.say)
  if found:
    state, standing = found.state, Standing(**found.metadata['standing'])
    if found.directory != run.latest:
      checkpoint.save(run.latest, state, found.metadata, config.keep)
    if standing.best_step == found.step:
      # A kill between the two saves of a new best state left only the first; saving is idempotent.
      checkpoint.save(run.best, state, found.metadata, keep=1)
  else:
    if metrics_file.read(run.workdir):
      run.recorder.say('There are records but no checkpoint; the training restarts at step 0.')
    key, _, _ = initial.run_keys(run.experiment)
    state = initial.init_state(run.experiment, key, run.prepared.images['train'])
    if config.start_from:
      state, said = starts.take_over(run.experiment, state, run.prepared.images['train'])
      run.recorder.say(said)
    state = meshes.replicate(state, run.mesh)
    standing = Standing()
  if hosts.primary():
    workdirs.write(run.workdir, run.about)  # only now: a refused checkpoint must not change files
  run.recorder.resume(found.step if found else 0)
  if found:
    run.recorder.say(f'Resumed from step {found.step}.')
  return state, standing


class _Loop:
  """The changing parts of a run: state, standing, and the steps in flight."""

  def __init__(self, run: Run, state: TrainState, standing: Standing):
    _, train_key, validation_key = initial.run_keys(run.experiment)
    self.run = run
    self.state = state
    self.standing = standing
    self.step = int(jax.device_get(state.step))
    self.flight: collections.deque[tuple[int, dict[str, Array]]] = collections.deque()
    self.meter = metrics.Meter(run.experiment.config.train.batch_size)
    self.learning_rate = jax.jit(run.experiment.schedule)
    self.key = meshes.replicate(train_key, run.mesh)
    self.validation_key = meshes.replicate(validation_key, run.mesh)

  def drive(self, stopper: Stopper) -> Outcome:
    """Trains until the last step, until patience ends, or until a signal."""
    config = self.run.experiment.config
    update = steps.make_step(self.run.experiment, self.run.mesh)
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
    """Validates and saves at the steps where either is due."""
    config = self.run.experiment.config.train
    last = self.step == config.steps
    validate = last or self.step % config.validate_every == 0
    save = stop or last or self.step % config.checkpoint_every == 0
    if not (validate or save):
      return
    self.run.check_there(self.step)
    self._retire(0)
    with self.meter.pause():
      improved = validate and self._validate()
      if save or improved or self._out_of_patience():
        self._save(improved)
      if validate or stop:
        self._draw()

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
    self.run.check_there(step)
    made = jax.device_put(np.int32(step - 1 - self.standing.skipped))  # updates before this one
    rate = float(jax.device_get(self.learning_rate(made)))
    values = {**self.meter.read(), 'learning_rate': rate, 'skipped': self.standing.skipped}
    self.run.recorder.record(step, 'train', values)

  def _validate(self) -> bool:
    """Records the validation ELBO; returns whether it is the best so far."""
    experiment, spec = self.run.experiment, self.run.experiment.spec
    bound = Bound(experiment.model, evaluation_variables(self.state))
    images = self.run.prepared.images['validation']
    elbo = likelihood.split_elbo(
      bound,
      images,
      self.validation_key,
      spec.levels,
      batch_size=experiment.config.eval.batch_size,
      mesh=self.run.mesh,
      dequantize=experiment.config.objective.dequantize,
    )
    if not elbo.size:
      return False
    told = self._summarize(elbo)
    inflation = variance_inflation.variance_inflation(bound, images, spec.levels)
    if inflation is not None:
      told['variance_inflation'] = float(np.max(inflation))
    self.run.recorder.record(self.step, 'validation', told)
    warning = variance_inflation.warning(inflation, experiment.config.eval.inflation_threshold)
    if warning:
      self.run.recorder.say(warning)
    value, best = told['elbo'], self.standing.best
    improved = math.isfinite(value) and (best is None or value > best)
    if improved:
      self.standing = self.standing._replace(best=value, best_step=self.step, waited=0)
    else:
      self.standing = self.standing._replace(waited=self.standing.waited + 1)
    return improved

  def _draw(self) -> None:
    """Writes the picture of a validation; a run does not end where that fails."""
    run = self.run
    if not hosts.primary():
      return
    try:
      variables = evaluation_variables(self.state)
      image = validation.write(run.workdir, run.experiment, variables, run.prepared, self.step)
    except OSError as error:
      run.recorder.say(f'Warning: {run.workdir / validation.FILE} is not written: {error}')
      return
    if image is not None:
      run.recorder.picture(self.step, image)

  def _summarize(self, elbo: np.ndarray) -> dict[str, float]:
    """Returns mean and standard error; both are NaN, with a warning, if any value is not finite."""
    wrong = np.flatnonzero(~np.isfinite(elbo))
    if not wrong.size:
      value, standard_error, _ = likelihood.summarize(elbo)
      return {'elbo': value, 'standard_error': standard_error}
    self.standing = self.standing._replace(nonfinite=self.standing.nonfinite + 1)
    self.run.recorder.say(
      f'Warning: the ELBO of {wrong.size} of {elbo.size} validation images is NaN or infinite at step '
      f'{self.step}; the first is image {wrong[0]} of the split, with {elbo[wrong[0]]}. This validation '
      'has no mean and counts as no improvement.'
    )
    return {'elbo': math.nan, 'standard_error': math.nan, 'nonfinite_images': float(wrong.size)}

  def _save(self, improved: bool) -> None:
    """Saves the state, latest before best, so that the best is never newer than where a run resumes."""
    self.run.check_there(self.step)
    what = f'The states after step {self.step}, which are not saved,'
    hosts.agree(what, lambda: checkpoint.digests(self.state))
    metadata = {**self.run.about, 'standing': self.standing._asdict()}
    try:
      checkpoint.save(self.run.latest, self.state, metadata, self.run.experiment.config.train.keep)
      if improved:
        checkpoint.save(self.run.best, self.state, metadata, keep=1)
    except checkpoint.NonFiniteStateError as error:
      raise NonFiniteError(
        f'{error} It is not saved; the checkpoints of steps {checkpoint.steps_in(self.run.latest)} are. '
        'Continue from the last of them with a smaller --config.optim.learning_rate or a '
        '--config.optim.clip_norm, and --allow_config_change.'
      ) from error

  def _out_of_patience(self) -> bool:
    patience = self.run.experiment.config.train.patience
    return 0 < patience <= self.standing.waited

  def _give_up(self, step: int) -> None:
    config = self.run.experiment.config.train
    sentence = 'The loss or its gradient stayed non-finite; process 0 reports details.'
    if hosts.primary():
      # Updates since then were dropped, so the step began with these parameters.
      state = self.state._replace(step=np.int32(step - 1))
      batch = pipeline.global_batch(config, self.run.prepared.images['train'], step - 1)
      sentence = nonfinite.explain(self.run.experiment, state, self.key, batch, self.run.workdir)
    raise NonFiniteError(sentence)

  def _outcome(self, reason: str) -> Outcome:
    return Outcome(self.step, reason, self.standing, self.state)
