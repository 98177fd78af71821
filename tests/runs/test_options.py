# One file of more than 300 lines: finding options, changing them and comparing what is built.
"""No option is ever ignored: each one changes what is built, or a sentence refuses it.

All options of all records are found by themselves. Each is set to another valid value, which
follows from its annotation, under every kind of model and whatever else can be chosen. Then the program
must be another one, which is traced and never compiled, or the optimizer, the schedule, the plan of the
data, or what loops and evaluations read; or else the value is refused by name.
"""

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions, option_records, option_values
from structured_obs.config import Config
from structured_obs.data import prepare, sources
from structured_obs.data.sources import tfds
from structured_obs.data.sources.base import Source
from structured_obs.devices import mesh as meshes
from structured_obs.models import KINDS
from structured_obs.objectives import constraints, reconstruction
from structured_obs.option_records import Group, Groups, OneOf
from structured_obs.option_values import Option, Where
from structured_obs.runs import configuration, initial, schedule
from structured_obs.runs import experiment as experiments
from tests.runs import small

ROOT = Path(__file__).resolve().parents[2]
NO_OPTION = ('data.source', 'data.cache_dir')  # a place, each of which has its own test
# Read as they are by loops and evaluations, whatever the model: each must stand in one of these folders.
READ = {'train': ('train', 'runs', 'data', 'devices'), 'eval': ('evaluation', 'train')}


def text(function: Any, *arguments: Any) -> str:
  """The program of a function, with the digests of its constants."""
  program = jax.make_jaxpr(function)(*arguments)
  constants = [np.asarray(one).tobytes() for one in program.consts]
  return re.sub(r'0x[0-9a-f]+', '', str(program)) + str(constants)


class Built:
  """What a configuration becomes, part by part, each made when it is asked for."""

  PARTS = ('read', 'schedule', 'images', 'samples', 'state', 'optimizer', 'program')

  def __init__(self, config: Config):
    self.config = configuration.resolve(config)
    self.spec = small.spec_of(self.config)
    self.experiment = experiments.build(self.config, self.spec)
    self._made: dict[str, Any] = {}

  def part(self, name: str) -> Any:
    """One of PARTS."""
    if name not in self._made:
      self._made[name] = getattr(self, name)()
    return self._made[name]

  def read(self) -> dict[str, Any]:
    """What loops and evaluations read as it is."""
    train = {k: v for k, v in vars(self.config.train).items() if k != 'compute'}
    data = {'residency': self.config.data.residency}
    return {
      'train': train,
      'eval': vars(self.config.eval),
      'data': data,
      'ema': self.config.optim.ema_decay,
    }

  def schedule(self) -> list[float]:
    """Learning rates."""
    return [float(self.experiment.schedule(jnp.asarray(count))) for count in (0, 1, 3, 9)]

  def images(self) -> tuple[str, str]:
    """What makes the images: from files, and in a step."""
    source = Source('digits', '', lambda: pytest.fail('is not opened'))
    plan = prepare._fingerprint(self.config.data, source)
    keys, images = (
      jax.random.split(jax.random.key(0), 2),
      jnp.zeros((2, *self.spec.stored), self.spec.dtype),
    )
    return plan, text(initial.make_preprocess(self.config, self.spec), keys, images)

  def samples(self) -> str:
    """What draws an image."""
    family, image = self.experiment.family, self.experiment.image
    outputs = {k: jnp.zeros(shape, jnp.float32) for k, shape in family.outputs(image).items()}
    draw = lambda key, outputs: family.sample(key, family.from_outputs(outputs))  # noqa: E731
    return text(draw, jax.random.key(0), outputs)

  def state(self) -> Any:
    """Shapes of the parameters, and of what the optimizer keeps."""
    return initial.state_shapes(self.experiment)

  def optimizer(self) -> str:
    """The update by a gradient."""
    state = self.part('state')
    gradient = lambda g, s, p: self.experiment.optimizer.update(g, s, p)  # noqa: E731
    return text(gradient, state.params, state.opt_state, state.params)

  def program(self) -> str:
    """Initialisation, terms and loss, as on one of several devices."""
    key = jax.random.key(0)
    x = jnp.zeros((2, *self.spec.stored), jnp.float32)
    held = experiments.multipliers_of(self.config)

    def loss(key: jax.Array, x: jax.Array) -> Any:
      keys = jax.random.split(key, 2)
      terms, _ = cast(Any, self.experiment.model).init_with_output(key, keys, x, train=True)
      return self.experiment.objective(terms, held, jnp.zeros((), jnp.int32))

    axes = jax.sharding.PartitionSpec()
    mapped = jax.shard_map(loss, mesh=meshes.make_mesh(), in_specs=axes, out_specs=axes, check_vma=False)
    return text(mapped, key, x)


def differ(one: Built, other: Built) -> bool:
  """Whether two configurations become something else; the cheapest parts are compared first."""
  return any(one.part(name) != other.part(name) for name in Built.PARTS)


def others(option: Option, value: Any) -> Iterator[Any]:
  """Other valid values of an option, by its annotation."""
  kind, item = option_values.base_of(option)
  group, groups, one = option.rule(Group), option.rule(Groups), option.rule(OneOf)
  if group or groups:
    yield from _of_group(group, value) if group else _of_groups(groups, value)
    return
  for candidate in _candidates(option, kind, item, value, one):
    try:
      option_values.checked_value(Where('--config', ''), 'x', option, candidate)
    except ValueError:
      continue
    if candidate != value:
      yield candidate


def _candidates(option: Option, kind: Any, item: Any, value: Any, one: OneOf | None) -> list[Any]:
  known = option_values.choices(option)
  if known:
    return list(known)
  if item is str:
    return [('mean:3',)]
  if item:
    return [(*value, 3), value[:-1]]
  if kind is bool:
    return [not value]
  if kind is str:
    return ['/elsewhere'] if not one else list(one.records)
  steps = (value * 0.5, value * 2, value + 0.1, 0.5)
  return [value + 1, value + 2, value - 1] if kind is int else list(steps)


def _of_group(group: Any, value: Any) -> list[Any]:
  first, option = next(iter(option_records.options_of(group.record).items()))
  return [{}] if value else [{first: option.default}]


def _of_groups(groups: Any, value: Any) -> list[Any]:
  found = [{k: v for k, v in value.items() if k != name} for name in value]
  for name, record in groups.records.items():
    option, wanted = next(iter(option_records.options_of(record).items()))
    if name not in value:
      found.append({**value, name: {option: next(others(wanted, wanted.default))}})
  return found


def walk(record: Any, values: Mapping[str, Any], rules: Any = None, path: str = '') -> Iterator[Any]:
  """Every option there is for these values: its path, itself and its value."""
  every = option_records.available(record, values, Where('--config', ''))
  for name, option in every.items():
    option = option._replace(rules=(*option.rules, *((rules[name],) if name in (rules or {}) else ())))
    yield f'{path}{name}', option, values[name]
    one, group, groups = option.rule(OneOf), option.rule(Group), option.rule(Groups)
    if one and one.options:
      chosen = one.records[option_records.chosen_name(one, values[name])]
      yield from walk(chosen, values[one.options], path=f'{path}{one.options}.')
    if group and values[name]:
      yield from walk(group.record, values[name], path=f'{path}{name}.')
    for key in values[name] if groups else ():
      yield from walk(cast(Any, groups).records[key], values[name][key], path=f'{path}{name}.{key}.')


def every_option(config: Config) -> list[tuple[str, Option, Any]]:
  """All options of a configuration that is filled in."""
  found = []
  for section in dataclasses.fields(Config):
    part = getattr(config, section.name)
    rules = sources.rules() if section.name == 'data' else configuration.RULES[section.name]
    found += list(walk(type(part), vars(part), rules, f'{section.name}.'))
  nested = {name for name, _, _ in found if any(other.startswith(f'{name}.') for other, _, _ in found)}
  plain = [entry for entry in found if not entry[0].endswith('options') and entry[0] not in NO_OPTION]
  return [entry for entry in plain if entry[0] not in nested or not entry[1].rule(Groups)]


def changed(config: Config, path: str, option: Option, value: Any) -> Config:
  """The configuration with one option set; what a choice has of its own begins anew."""
  config = copy.deepcopy(config)
  section, *inner, name = path.split('.')
  node: Any = vars(getattr(config, section))
  for step in inner:
    node = node[step]
  one = option.rule(OneOf)
  if one:
    mine, its = (one.records[option_records.chosen_name(one, v)] for v in (node[name], value))
    place = node if not one.options else {}
    for other in option_records.possible(mine) - option_records.possible(its):
      place.pop(other, None)
    if one.options:
      node[one.options] = {}
  node[name] = value
  if path == 'model.kind':
    config.model.options = copy.deepcopy(small.SMALL.get(value, {}))
  return config


def ignored(config: Config, only: str = '') -> list[str]:
  """The options that change nothing and are not refused."""
  config = configuration.resolve(config)
  built, found = Built(config), []
  for path, option, value in every_option(config):
    if path.startswith(only) and not _counts(built, config, path, option, value):
      found.append(path)
  return found


def _counts(built: Built, config: Config, path: str, option: Option, value: Any) -> bool:
  """Whether the first other value that is not refused makes a difference; or all are refused."""
  refused = False
  for other in others(option, value):
    try:
      return differ(built, Built(changed(config, path, option, other)))
    except ValueError:
      refused = True
  return refused


def choices() -> list[tuple[str, str, str]]:
  """Kind, option and name of whatever can be chosen in the options of a kind of model."""
  found = []
  for kind, made in KINDS.items():
    for name, option in option_records.options_of(made.options).items():
      one = option.rule(OneOf)
      found += [(kind, name, value) for value in (one.known if one else ()) if value != option.default]
  return found


@pytest.mark.parametrize('kind', list(KINDS))
@pytest.mark.slow
def test_every_option_counts_for_every_kind_of_model(kind: str):
  assert ignored(small.config_of(kind)) == []


@pytest.mark.parametrize(('kind', 'name', 'value'), choices())
@pytest.mark.slow
def test_so_do_those_of_whatever_a_model_chooses(kind: str, name: str, value: str):
  config = small.config_of(kind)
  config.model.options = config.model.options | {name: value}
  if value == 'realnvp' and kind == 'sr_vae':  # whose latents are of 2 x 2
    config.model.options['prior_options'] = {'scales': 1}
  every = configuration.RULES['model']['kind'].records[kind]
  known = option_records.available(every, {name: value}, Where('--config', ''), strict=False)
  config.model.options = {k: v for k, v in config.model.options.items() if k in known}
  own = option_records.options_of(
    cast(Any, option_records.options_of(every)[name].rule(OneOf)).records[value]
  )
  for only in own or [name]:
    assert ignored(config, f'model.options.{only}') == []


@pytest.mark.parametrize('family', list(distributions.FAMILIES))
@pytest.mark.slow
def test_so_do_those_of_every_family(family: str):
  config = small.config_of('vae')
  config.likelihood.family = family
  if 'levels' in distributions.options(family):
    config.objective.dequantize, config.likelihood.options = False, {'levels': 17}
  if 'rank' in distributions.options(family):
    config.objective.constraints = {name: {'bound': 1.0} for name in constraints.CONSTRAINTS}
  assert ignored(config, 'likelihood') + ignored(config, 'objective.constraints') == []


# The others have the record of 'l1'.
@pytest.mark.parametrize('loss', ['', 'l1', reconstruction.PAPER_LOSS])
@pytest.mark.slow
def test_so_do_those_of_a_loss_and_of_a_network_of_kernels(loss: str):
  config = small.config_of('vae')
  config.likelihood.family = 'circulant'
  config.model.options |= {'kernel': {'features': 3}, 'covariance': {'features': (4,)}}
  config.objective.reconstruction = loss
  assert ignored(config, 'objective') == []
  if not loss:
    assert ignored(config, 'model.options.kernel') + ignored(config, 'model.options.covariance') == []


@pytest.mark.parametrize('name', list(schedule.SCHEDULES))
def test_so_do_those_of_every_schedule(name: str):
  config = small.config_of('vae')
  config.optim.schedule = name
  config.optim.schedule_options = {'decay': 0.5} if name == 'exponential' else {}
  config.optim.learning_rate = 1.0
  assert ignored(config, 'optim') == []


@pytest.mark.parametrize('name', list(sources.SOURCES))
def test_so_do_those_of_every_source(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
  """The images are others, or another error says what is missing."""
  for file in ('a/b.nii', 'a/b.png', f'x.{name}'):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
  np.savez(tmp_path / 'x.npz', images=np.zeros((3, 4, 4), np.uint8))
  monkeypatch.setattr(tfds, '_download', lambda config, name: pytest.fail('was downloaded'))
  paths = {'folder': tmp_path, 'nifti': tmp_path, 'npz': tmp_path / 'x.npz', 'tfds': 'mnist'}
  config = Config()
  argument = paths.get(name, tmp_path / f'x.{name}') if sources.kind_of(name).argument else ''
  config.data.source = f'{name}:{argument}'.rstrip(':')
  config.data.crop, config.data.height, config.data.width = 'random', 4, 4
  first = configuration.filled(config)
  for path, option, value in every_option(first):
    if path.startswith(('data.options.', 'data.crop_options.')):
      other = changed(first, path, option, next(others(option, value)))
      assert _plan(other) != _plan(first), path


def _plan(config: Config) -> str:
  data = configuration.filled(config).data
  absent = Source('', '', lambda: pytest.fail('is not opened'))
  try:
    return prepare._fingerprint(data, sources.find(data))
  except (FileNotFoundError, pytest.fail.Exception) as error:
    return str(error) + prepare._fingerprint(data, absent)


def test_what_is_read_as_it_is_stands_in_the_code():
  for section, folders in READ.items():
    files = [path for folder in folders for path in (ROOT / 'structured_obs' / folder).rglob('*.py')]
    code = '\n'.join(path.read_text() for path in files)
    fields = vars(getattr(Config(), section))
    missing = [
      name for name in fields if not re.search(rf'(config|train|eval|settings)\.{name}\b', code)
    ]
    assert missing == [], section


def test_the_test_would_notice(monkeypatch: pytest.MonkeyPatch):
  """An option that nothing reads is found."""
  build = KINDS['classifier'].build
  deaf = lambda options, *rest: build({**options, 'blocks': 1}, *rest)  # noqa: E731
  monkeypatch.setitem(KINDS, 'classifier', KINDS['classifier']._replace(build=deaf))
  assert ignored(small.config_of('classifier'), 'model') == ['model.options.blocks']
