"""Runs a training from its configuration to its last line; refuses what it can before it starts."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from structured_obs import names
from structured_obs.config import Config
from structured_obs.data import prepare
from structured_obs.devices import hosts, mesh
from structured_obs.evaluation import constraint_report, training_report
from structured_obs.runs import checkpoint, checks, configuration, initial, lock, metrics_file
from structured_obs.runs import experiment as experiments
from structured_obs.runs import workdir as workdirs
from structured_obs.train import dry_run, loop, metrics, start

# Options of jax that change numbers, and fields of the data that identify the images.
NUMERICS = ('jax_enable_x64', 'jax_default_matmul_precision', 'jax_default_prng_impl')
SAME_DATA = (
  'sha256', 'counts', 'height', 'width', 'channels', 'levels', 'condition', 'class_counts', 'masked',
)  # fmt: skip

_say = functools.partial(print, flush=True)  # a log file shows each line at once


class Options(NamedTuple):
  """How to run, as opposed to what to run."""

  workdir: str = ''
  command: str = ''  # as typed; printed to resume the run
  dry_run: bool = False  # describe the run, write nothing
  tensorboard: bool = False  # write event files
  allow_config_change: bool = False  # continue although the configuration or the data changed
  allow_older_checkpoint: bool = False  # resume although that loses more than an hour of training
  cluster: hosts.Cluster = hosts.Cluster()
  report: bool = True  # write a report at the end


def run(config: Config, options: Options, say: Callable[[str], None] = _say) -> loop.Outcome | None:
  """Trains what `config` describes in `options.workdir`, or resumes its training.

  Args:
    config: of the run.
    options: how to run it.
    say: receives lines of progress.

  Returns:
    How the run ended; None after a dry run.

  Raises:
    ValueError: the configuration, the workdir or the data are invalid.
    FileNotFoundError: the data are missing.
    ImportError: an extra is missing; the message names it.
    loop.NonFiniteError: the loss stayed infinite or NaN.
    hosts.PeerLostError: another process of the run ended.
  """
  config = configuration.resolve(config)
  if not options.workdir and not options.dry_run:
    raise ValueError('--workdir is missing; it names the directory that the run writes to.')
  options = options._replace(workdir=names.local_path('--workdir', options.workdir))
  workdir = Path(options.workdir)
  if not options.dry_run:
    workdirs.check(workdir, config, _may_change(options))
  if config.train.start_from and not (workdir / workdirs.FILE).exists():
    workdirs.read(start.source(config))
  if options.tensorboard:
    metrics.check_tensorboard()
  with hosts.joined(options.cluster, say):
    hosts.agree('Configuration and code', lambda: _facts(config, options))
    return _run(config, options, workdir, say)


def _run(
  config: Config, options: Options, workdir: Path, say: Callable[[str], None]
) -> loop.Outcome | None:
  """Runs a configuration that was checked without the data."""
  with during('preparing the data'):
    prepared = _prepare(config, say)
  hosts.agree('The data', lambda: _data_facts(prepared.spec))
  count = prepared.spec.counts['train']
  checks.check_batch(config, count, jax.device_count(), jax.process_count())
  with during('building the model'):
    experiment = experiments.build(config, prepared.spec)
    _check_shapes(experiment)
  if options.dry_run:
    if hosts.primary():
      with during('compiling a step'):
        say(dry_run.report(experiment))
    return None
  workdirs.check_data(workdir, prepared.spec, _may_change(options))
  about = workdirs.describe(config, prepared.spec, options.command)
  hosts.barrier('checked')  # nobody writes before everybody has looked
  with contextlib.ExitStack() as stack:
    stack.enter_context(workdirs.explained(workdir, options.command))
    if hosts.primary():
      stack.enter_context(lock.held(workdir, say))
      # Another training may have started and ended since the first check.
      workdirs.check(workdir, config, _may_change(options), locked=True)
      workdirs.check_data(workdir, prepared.spec, _may_change(options))
    with during('training'):
      outcome = loop.train(
        experiment, prepared, workdir, about, options.tensorboard, options.allow_older_checkpoint
      )
    with during('writing the report'):
      ended = options.report and outcome.reason != 'stopped'
      report = training_report.write(workdir) if ended else None
  if hosts.primary():
    if report:
      say(f'Report: {report}')
    records = metrics_file.read(workdir) if outcome.reason != 'stopped' else []
    notes = constraint_report.sentences(config, experiment.image, records)
    say(farewell(outcome, config, options, notes))
  return outcome


def _may_change(options: Options) -> bool:
  """Returns whether other fields or data are allowed: they cost nothing without a checkpoint."""
  directories = [Path(options.workdir) / name for name in (checkpoint.CHECKPOINTS, checkpoint.BEST)]
  saved = any('tmp' not in path.name for directory in directories for path in directory.glob('*'))
  return options.allow_config_change or not saved


@contextlib.contextmanager
def during(step: str) -> Iterator[None]:
  """Notes on an exception, including interrupts, what was being done when it was raised."""
  try:
    yield
  except BaseException as error:
    error.add_note(f'while {step}')
    raise


def _facts(config: Config, options: Options) -> dict[str, Any]:
  """Returns what must be the same in all processes, except for the data."""
  fields = {
    f'--config.{name}': value
    for name, value in configuration.flatten(config).items()
    if name not in ('data.source', 'data.cache_dir', 'data.options.manual_dir', 'data.options.download')
  }
  found = [0, *checkpoint.steps_in(Path(options.workdir) / checkpoint.CHECKPOINTS)]
  return {
    **fields,
    '--workdir': os.path.abspath(options.workdir),
    '--dry_run': options.dry_run,
    'the newest checkpoint there': found[-1],
    **workdirs.versions(),
    'source of structured_obs (SHA-256)': hosts.source_digest(),
    'the kind of device': jax.local_devices()[0].device_kind,
    **{name: str(getattr(jax.config, name)) for name in NUMERICS},
  }


def _data_facts(spec: prepare.DataSpec) -> dict[str, Any]:
  """Returns what identifies the images, wherever they are stored."""
  return {name: value for name, value in spec._asdict().items() if name in SAME_DATA}


def _check_shapes(experiment: experiments.Experiment) -> None:
  """Raises the errors of the model or the augmentation for this image size; computes nothing."""
  initial.abstract_state(experiment, mesh.make_mesh())
  images = jax.ShapeDtypeStruct((1, *experiment.spec.stored), experiment.spec.dtype)
  preprocess = initial.make_preprocess(experiment.config, experiment.spec)
  jax.eval_shape(preprocess, jax.random.split(jax.random.key(0), 1), images)


def farewell(outcome: loop.Outcome, config: Config, options: Options, notes: Sequence[str] = ()) -> str:
  """Returns how the run ended, notes about that, and the commands that come next."""
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
  return '\n'.join(
    [
      ended,
      *notes,
      *([f'  resume:    {options.command}'] if options.command else []),
      *commands,
    ]
  )


def _prepare(config: Config, say: Callable[[str], None]) -> prepare.Prepared:
  """Opens the data; on several hosts process 0 ingests first, and the others find the result."""
  if not hosts.primary():
    hosts.barrier('prepared')
    return prepare.prepare(config.data)
  prepared = prepare.prepare(config.data, say)
  hosts.barrier('prepared')
  return prepared
