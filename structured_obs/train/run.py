"""A run from its configuration to its last line: what can be refused is, before anything starts."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from structured_obs.config import Config
from structured_obs.data import prepare
from structured_obs.train import checks, distributed, dry_run, finished, lock, loop, metrics
from structured_obs.train import experiment as experiments
from structured_obs.train import workdir as workdirs

_say = functools.partial(print, flush=True)  # a log that is a file shows each line at once


class Options(NamedTuple):
  """How to run, as opposed to what."""

  workdir: str = ''
  command: str = ''  # what the user typed; printed to resume the run
  dry_run: bool = False  # say what would be done, write nothing
  tensorboard: bool = False  # write event files
  allow_config_change: bool = False  # go on although the configuration or the data changed
  allow_older_checkpoint: bool = False  # resume although that loses more than an hour of training
  cluster: distributed.Cluster = distributed.Cluster()


def run(
  config: Config, options: Options, say: Callable[[str], None] = _say
) -> loop.Outcome | None:
  """Trains, or goes on training, what `config` describes in `options.workdir`.

  Returns:
    How the run ended; None after a dry run.

  Raises:
    ValueError: for anything in the configuration, the workdir or the data that cannot be.
    FileNotFoundError: if the data are not where they should be.
    ImportError: naming the extra that is missing.
    loop.NonFiniteError: if the loss stays infinite or NaN.
  """
  config = experiments.resolve(config)
  if not options.workdir and not options.dry_run:
    raise ValueError('--workdir is missing; it names the directory that the run writes to.')
  workdir = Path(options.workdir)
  if not options.dry_run:
    workdirs.check(workdir, config, options.allow_config_change)
  if config.train.start_from and not (workdir / workdirs.FILE).exists():
    workdirs.read(Path(config.train.start_from))
  if options.tensorboard:
    metrics.check_tensorboard()
  distributed.initialize(options.cluster)
  prepared = _prepare(config, say)
  count = prepared.spec.counts['train']
  checks.check_batch(config, count, jax.device_count(), jax.process_count())
  experiment = experiments.build(config, prepared.spec)
  if options.dry_run:
    if distributed.primary():
      say(dry_run.report(experiment))
    return None
  workdirs.check_data(workdir, prepared.spec, options.allow_config_change)
  about = workdirs.describe(config, prepared.spec, options.command)
  distributed.barrier('checked')  # nobody writes before everybody has looked
  with contextlib.ExitStack() as stack:
    stack.enter_context(workdirs.explained(workdir, options.command))
    if distributed.primary():
      stack.enter_context(lock.held(workdir, say))
      # Another training may have begun and ended since the first look.
      workdirs.check_config(workdir, config, options.allow_config_change)
      workdirs.check_data(workdir, prepared.spec, options.allow_config_change)
    outcome = loop.train(
      experiment, prepared, workdir, about, options.tensorboard, options.allow_older_checkpoint
    )
    report = finished.write_report(workdir) if outcome.reason != 'stopped' else None
  if distributed.primary():
    if report:
      say(f'Report: {report}')
    say(farewell(outcome, config, options))
  return outcome


def farewell(outcome: loop.Outcome, config: Config, options: Options) -> str:
  """Returns how the run ended and the commands that come next."""
  ended = {
    'finished': f'Finished: {outcome.step} of {config.train.steps} steps.',
    'stopped': f'Stopped and saved after step {outcome.step} of {config.train.steps}.',
    'early': f'Stopped early after step {outcome.step}: {config.train.patience} validations in a '
    'row brought no improvement.',
  }[outcome.reason]
  best = outcome.standing
  if best.best is not None:
    ended += f' Best validation ELBO {best.best:.3f} nats per image, at step {best.best_step}.'
  elif best.nonfinite:
    ended += (
      f' There is no best checkpoint: in each of {best.nonfinite} validations the ELBO of some images '
      'was NaN or infinite.'
    )
  flags = f'--workdir={options.workdir}' + (' --checkpoint=latest' if best.best is None else '')
  commands = [
    f'  evaluate:  python -m launch.evaluate {flags}',
    f'  sample:    python -m launch.sample {flags}',
  ]
  if config.model.kind == 'classifier':
    features = f'--features=classifier:{options.workdir}'
    commands = [f'  evaluate:  python -m launch.evaluate {features} --workdir=RUN']
  return '\n'.join([
    ended,
    *([f'  resume:    {options.command}'] if options.command else []),
    *commands,
  ])


def _prepare(config: Config, say: Callable[[str], None]) -> prepare.Prepared:
  """Opens the data; on several hosts process 0 ingests first, so that the others find it done."""
  if not distributed.primary():
    distributed.barrier('prepared')
    return prepare.prepare(config.data)
  prepared = prepare.prepare(config.data, say)
  distributed.barrier('prepared')
  return prepared
