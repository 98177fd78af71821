"""Flags of programs that work on one trained run: which run, which checkpoint, where results go."""

from pathlib import Path

import jax
from absl import flags as absl_flags

from launch import flags
from structured_obs.data.prepare import Prepared
from structured_obs.runs import restore
from structured_obs.runs.trained import Trained

absl_flags.disclaim_key_flags()  # `--help` lists them with the script that defines them


class Run:
  """The run that a program's flags name. Make one per program, at the top of its module."""

  def __init__(
    self, *, checkpoint: bool = True, seed: str = '', output: bool = False, pixel_noise: bool = False
  ):
    """Defines `--workdir` and the other flags.

    Args:
      checkpoint: whether to define `--checkpoint`.
      seed: help of `--seed`; '' does not define it.
      output: whether to define `--output`.
      pixel_noise: whether to define `--pixel_noise`.
    """
    self._workdir = flags.define_path('workdir', '', 'Directory of the run.')
    if checkpoint:
      self._checkpoint = absl_flags.DEFINE_string('checkpoint', 'best', "'best', 'latest' or a step.")
    if seed:
      self._seed = flags.define_integer('seed', 0, seed, 0)
    if output:
      self._output = flags.define_path('output', '', 'Directory to write to.')
    if pixel_noise:
      self._pixel_noise = absl_flags.DEFINE_bool(
        'pixel_noise', True, "Whether samples have the family's floor of independent pixel noise."
      )

  @property
  def workdir(self) -> str:
    """The directory of the run.

    Raises:
      ValueError: the flag is missing.
    """
    if not self._workdir.value:
      raise ValueError('--workdir is missing; it names the directory of a trained run.')
    return self._workdir.value

  @property
  def checkpoint(self) -> str:
    """The value of `--checkpoint`."""
    return self._checkpoint.value

  @property
  def seed(self) -> int:
    """The value of `--seed`."""
    return self._seed.value

  @property
  def pixel_noise(self) -> bool:
    """The value of `--pixel_noise`."""
    return bool(self._pixel_noise.value)

  @property
  def key(self) -> jax.Array:
    """The random key of `--seed`."""
    return jax.random.key(self.seed)

  def open(self) -> tuple[Trained, Prepared]:
    """Returns the trained model and its data; see `restore.load`."""
    return restore.load(self.workdir, self.checkpoint)

  def open_other(self, workdir: str) -> Trained:
    """Returns the model of another run, at the same choice of checkpoint."""
    return restore.load(workdir, self.checkpoint)[0]

  def directory(self, name: str) -> Path:
    """Returns the directory to write to: `--output`, by default the run's directory of this name."""
    return Path(self._output.value or Path(self.workdir) / name)
