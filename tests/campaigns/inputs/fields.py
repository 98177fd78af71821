"""Values that no field of the configuration can have, generated from its dataclasses."""

import atexit
import contextlib
import dataclasses
import functools
import math
import shutil
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.config import Config
from structured_obs.data import prepare
from structured_obs.devices import mesh as meshes
from structured_obs.runs import checks, configuration, experiment, initial
from structured_obs.runs import workdir as workdirs
from structured_obs.train import step
from tests.campaigns import outcomes

# Of each type: values that no field can have, and values that some fields can have.
NEVER: dict[type, tuple[Any, ...]] = {
  float: (math.nan, math.inf, -math.inf, '0.5', None, True),
  int: (1.5, '7', None, True, math.nan),
  bool: (2, 'yes', None),
  str: (3, None, 'unknown', b'x'),
  tuple: (None, 'abc', 3, (1.5,), (None,)),
  dict: (None, 'abc', {'unknown': 1}, [1]),
}
PERHAPS: dict[type, tuple[Any, ...]] = {
  float: (-1.0, 0.0, 1e-300, 1e300, 2),
  int: (-1, 0, 2**31, -(2**63)),
  bool: (),
  str: ('',),
  tuple: ((), (0,), (-1,), ('x',), [4]),
  dict: (),
}
# Strings that name a place or a set of data: any text may be one.
FREE_TEXT = ('data.cache_dir', 'data.manual_dir', 'train.start_from')


def cases(seed: int) -> Iterator[outcomes.Case]:
  """Yields a case for every field and value; new fields join by themselves."""
  del seed
  for section in dataclasses.fields(Config):
    for field in dataclasses.fields(getattr(Config(), section.name)):
      name = f'{section.name}.{field.name}'
      kind = typing.get_origin(field.type) or field.type
      assert isinstance(kind, type)
      free = kind is str and name in FREE_TEXT
      for value in NEVER[kind]:
        run = functools.partial(_run, section.name, field.name, value, free and isinstance(value, str))
        yield outcomes.Case('field', f'{name}={value!r}', run, (field.name,))
      for value in PERHAPS[kind]:
        run = functools.partial(_run, section.name, field.name, value, True)
        yield outcomes.Case('field', f'{name}={value!r}', run, (field.name,))


def base(cache_dir: str = '') -> Config:
  """Returns the smallest configuration that trains on digits."""
  config = Config()
  config.data.cache_dir = cache_dir or cache()
  config.model.latents, config.model.features, config.model.blocks = 2, (4,), 0
  config.train.steps, config.train.batch_size = 4, 16
  return config


@functools.cache
def cache() -> str:
  """Returns where digits are cached: in a folder that outlives the cases."""
  path = tempfile.mkdtemp(prefix='campaign-digits-')
  atexit.register(shutil.rmtree, path, ignore_errors=True)
  return path


def _run(section: str, field: str, value: Any, possible: bool, folder: Path) -> str:
  """Starts a run up to its first step, traced; a value that no field can have must be refused."""
  config = base()
  part = dataclasses.replace(getattr(config, section), **{field: value})
  config = dataclasses.replace(config, **{section: part})
  with contextlib.chdir(folder):  # 'unknown' is a good name of a folder
    start(config, folder)
  outcomes.expect(possible, 'accepted')
  return outcomes.ACCEPTED


def start(config: Config, folder: Path) -> None:
  """Does all that a run does before it computes, and traces a step."""
  config = configuration.resolve(config)
  workdirs.check(folder / 'run', config, allow_change=False)
  prepared = prepare.prepare(config.data)
  checks.check_batch(config, prepared.spec.counts['train'], 1, 1)
  built = experiment.build(config, prepared.spec)
  mesh = meshes.make_mesh(jax.devices()[:1])
  state = initial.abstract_state(built, mesh)
  batch = jax.ShapeDtypeStruct((config.train.batch_size, *prepared.spec.stored), prepared.spec.dtype)
  jax.eval_shape(step.make_step(built, mesh), state, jax.random.key(0), batch)
  rate = np.asarray(built.schedule(jnp.asarray(0)))
  outcomes.expect(np.isfinite(rate), f'a learning rate of {rate}')
