"""From a configuration to everything a run is made of, once; and from a workdir back to a model."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from structured_obs import distributions
from structured_obs.config import Config
from structured_obs.data import images as pixels
from structured_obs.data.prepare import DataSpec
from structured_obs.distributions.base import Family, ImageShape
from structured_obs.models import priors, sr_vae_networks
from structured_obs.models.classes import Classes
from structured_obs.objectives import alternating, bounds, constraints, reconstruction
from structured_obs.train import (
  checkpoint,
  configuration,
  discrete,
  feed,
  initial,
  kinds,
  optimizers,
  parallel,
)
from structured_obs.train import schedule as schedules
from structured_obs.train import state as states
from structured_obs.train import step as steps

Array = jax.Array

CHECKPOINTS = 'checkpoints'  # in a workdir: the latest ones
BEST = 'best'  # in a workdir: the one of the best validation ELBO
FLAGS = {'latest': CHECKPOINTS, 'best': BEST}  # what --checkpoint calls them


class Experiment(NamedTuple):
  """What a configuration stands for. Build it once: a second model would be compiled again."""

  config: Config
  spec: DataSpec
  image: ImageShape
  family: Family
  model: Any  # a Linen module with the methods of `models.vae.VAE`
  objective: Any  # (terms, multipliers, step) -> (loss [], metrics)
  optimizer: optax.GradientTransformation
  schedule: schedules.Schedule  # updates made -> learning rate


class Restored(NamedTuple):
  """A trained model, ready to be evaluated."""

  experiment: Experiment
  variables: dict[str, Any]  # {'params': .., 'batch_stats': ..}; averaged parameters where kept
  step: int
  metadata: dict[str, Any]  # of the checkpoint


def resolve(config: Config) -> Config:
  """Returns the configuration, checked, with every option of family, prior and model written out.

  Raises:
    ValueError: naming the field that cannot be.
  """
  configuration.check(config)
  options = distributions.options(config.likelihood.family, **config.likelihood.options)
  likelihood = dataclasses.replace(config.likelihood, options=options)
  prior_options = priors.options_of(config.model.prior, config.model.prior_options)
  model = dataclasses.replace(config.model, prior_options=prior_options)
  if model.kind == 'sr_vae':
    model = dataclasses.replace(model, options=sr_vae_networks.options_of(model.options))
  config = dataclasses.replace(config, likelihood=likelihood, model=model)
  configuration.check_options(config)
  return config


def build(config: Config, spec: DataSpec) -> Experiment:
  """Makes family, model, objective and optimizer of a run.

  Raises:
    ValueError: naming the field of the configuration that cannot be.
  """
  config = resolve(config)
  _check_data(config, spec)
  family = distributions.family(config.likelihood.family, **config.likelihood.options)
  discrete.check(config, family, spec)
  image = ImageShape(spec.height, spec.width, spec.channels)
  model = kinds.KINDS[config.model.kind](config, family, image)
  if spec.class_counts:
    model = model.clone(label_classes=Classes(tuple(spec.class_counts), spec.levels))
  initial.check(model, config)
  held = constraints_of(config)
  return Experiment(
    config=config,
    spec=spec,
    image=image,
    family=family,
    model=model,
    objective=bounds.negative_elbo(config.objective.beta, held, parallel.AXIS, fit_of(config)),
    optimizer=optimizers.make_optimizer(
      config.optim,
      config.train.steps,
      constraints.ascend(config.objective.multiplier_rate) if held else None,
      config.model.kernel_features > 0,
    ),
    schedule=schedules.learning_rate(config.optim, config.train.steps),
  )


def constraints_of(config: Config) -> dict[str, constraints.Constraint]:
  """Returns the constraints that a configuration asks for, by the name of the statistic."""
  objective, held = config.objective, {}
  if objective.kl_bound > 0:
    held['kl_z'] = constraints.Constraint(objective.kl_bound, damping=objective.damping)
  if objective.entropy_bound > 0:
    bound = objective.entropy_bound * config.likelihood.options['rank']
    held['excess_entropy'] = constraints.Constraint(bound, damping=objective.damping)
  return held


def fit_of(config: Config) -> alternating.Fit:
  """Returns what the loss of a configuration has in the place of log p(x|z)."""
  objective = config.objective
  loss: Any = None
  if objective.reconstruction == configuration.PAPER_LOSS:
    noise, epsilon = config.likelihood.options['noise'], objective.epsilon or None
    loss = alternating.of_kernels(
      functools.partial(reconstruction.paper_loss, noise=noise, epsilon=epsilon)
    )
  elif objective.reconstruction:
    loss = alternating.of_images(reconstruction.make(objective.reconstruction))
  return alternating.Fit(
    reconstruction=loss,
    weight=objective.reconstruction_weight,
    white_steps=objective.white_steps,
    boundary=objective.kernel_boundary if config.model.kernel_features else None,
  )


def _check_data(config: Config, spec: DataSpec) -> None:
  """Raises a ValueError if the model or the objective is not for this kind of data."""
  given = spec.condition > 0 and not spec.class_counts
  if given != (config.model.kind in kinds.CONDITIONED):
    raise ValueError(
      f"--config.model.kind is '{config.model.kind}', but --config.data.source '{config.data.source}' "
      f'comes {"with" if given else "without"} the means of its images: '
      f"{'a model that is given them' if given else 'a model that needs none'} is of kind "
      f"{', '.join(kind for kind in kinds.KINDS if (kind in kinds.CONDITIONED) == given)}."
    )
  if config.objective.dequantize and not spec.levels:
    raise ValueError(
      f"--config.objective.dequantize must be False for --config.data.source '{config.data.source}', "
      "which is of real numbers: there is no level whose width the noise could have."
    )


def run_keys(experiment: Experiment) -> tuple[Array, Array, Array]:
  """Returns the keys of a run: of the initialisation, of the training and of the validation."""
  initial, training, validation = jax.random.split(jax.random.key(experiment.config.train.seed), 3)
  return initial, training, validation


def init_state(
  experiment: Experiment, key: Array, images: np.ndarray | None = None
) -> states.TrainState:
  """Returns the state before the first step, on the default device.

  Where the initialisation depends on data it is that of the run's first batch, with the noise of the
  first step, all of it on one device of each process: so it is the same for any number of devices.

  Args:
    experiment: of `build`.
    key: of the initialisation.
    images: [N, H, W, C], the training split, as stored; needed if the initialisation depends on data.

  Raises:
    ValueError: the initialisation depends on data, and there are none, or the first batch's images are
      all the same.
  """
  dependent, first = initial.data_dependent(experiment.model), None
  if dependent and images is not None:
    first = jnp.asarray(feed.global_batch(experiment.config.train, images, 0))
  state = initial.run_once(functools.partial(_init, experiment), key, first)
  if dependent:
    initial.check_finite(state.params['model'], images is not None)
  return state


def _init(experiment: Experiment, key: Array, batch: Array | None) -> states.TrainState:
  config, model = experiment.config, experiment.model
  dependent = initial.data_dependent(model)
  size = config.train.batch_size if dependent else 1
  model_key, image_key = jax.random.split(key)
  keys, x = image_key[None], jnp.zeros((size, *experiment.spec.stored), jnp.float32)
  if dependent:
    data_keys, keys = steps.step_keys(run_keys(experiment)[1], 0, size, None)
    x = x if batch is None else make_preprocess(config, experiment.spec)(data_keys, batch)
  variables = model.init(model_key, keys, x)
  multipliers = constraints.initial_multipliers(constraints_of(config))
  return states.create(variables, experiment.optimizer, config.optim.ema_decay > 0, multipliers)


def make_preprocess(config: Config, spec: DataSpec) -> steps.Preprocess:
  """Returns `(keys [B], stored images [B, ...]) -> float32 of their shape`: what a step does first.

  It augments as configured, scales to [-1, 1] and dequantises.
  """

  def one(key: Array, image: Array) -> Array:
    augment_key, noise_key = jax.random.split(key)
    data = config.data
    image = pixels.augment(augment_key, image, data.flip, data.shift, data.turn)
    x = pixels.to_unit(image, spec.levels)
    if config.objective.dequantize:
      x = pixels.dequantize(noise_key, x, spec.levels, spec.channels)
    return x

  return jax.vmap(one)


def make_step(experiment: Experiment, mesh: Mesh) -> steps.TrainStep:
  """Returns the compiled-on-first-use step over the mesh, by the configured mapping."""
  config = experiment.config
  update = steps.make_train_step(
    experiment.model,
    experiment.objective,
    experiment.optimizer,
    make_preprocess(config, experiment.spec),
    axis_name=parallel.AXIS,
    ema_decay=config.optim.ema_decay,
    accumulate=config.train.accumulate,
  )
  return parallel.MAPPINGS[config.train.mapping](update, mesh)


def state_shapes(experiment: Experiment) -> states.TrainState:
  """Returns the shapes of the state; computes nothing."""
  return jax.eval_shape(lambda key: _init(experiment, key, None), jax.random.key(0))


def abstract_state(experiment: Experiment, mesh: Mesh) -> states.TrainState:
  """Returns the shapes of the state with the sharding it has in a run over the mesh."""
  of_leaf = functools.partial(jax.ShapeDtypeStruct, sharding=parallel.replicated(mesh))
  return jax.tree.map(lambda leaf: of_leaf(leaf.shape, leaf.dtype), state_shapes(experiment))


def restore(workdir: str | Path, which: str | int = 'best') -> Restored:
  """Returns a model of a run, on the first local device.

  Args:
    workdir: of the run.
    which: 'best' by validation ELBO, 'latest', or the step of a checkpoint that is still kept.

  Raises:
    FileNotFoundError: if there is no such checkpoint.
    ValueError: if the checkpoint does not fit its own configuration, or is damaged.
  """
  directory, step = locate(Path(workdir), which)
  try:
    metadata = checkpoint.read_metadata(directory, step)
    config = configuration.from_dict(metadata['config'])
    experiment = build(config, DataSpec(**metadata['data']))
    mesh = parallel.make_mesh(jax.local_devices()[:1])
    state = checkpoint.load(directory, step, abstract_state(experiment, mesh))
  except checkpoint.DamagedError as error:
    raise checkpoint.DamagedError(f'{error}\nThe run {_choice(Path(workdir), str(which))}') from error
  return Restored(experiment, states.evaluation_variables(state), step, metadata)


def locate(workdir: Path, which: str | int) -> tuple[Path, int]:
  """Returns the directory and the step of a checkpoint: see `restore`."""
  found = {name: checkpoint.steps_in(workdir / name) for name in FLAGS.values()}
  for name, steps_there in found.items():
    if steps_there and FLAGS.get(str(which)) == name:
      return workdir / name, steps_there[-1]
    if str(which).isdecimal() and int(which) in steps_there:
      return workdir / name, int(which)
  if not any(found.values()):
    raise FileNotFoundError(
      f"{workdir} has no checkpoint '{which}' nor any other; go on with its training until it has "
      'saved one.'
    )
  raise FileNotFoundError(f"{workdir} has no checkpoint '{which}'; it {_choice(workdir)}")


def _choice(workdir: Path, but: str = '') -> str:
  """Returns which checkpoints there are, and the flags, but for one, that name them."""
  found = {flag: checkpoint.steps_in(workdir / name) for flag, name in FLAGS.items()}
  flags = [f'--checkpoint={flag}' for flag, there in found.items() if there and flag != but]
  flags.append('--checkpoint=STEP')
  there = f'has the steps {found["latest"]}, and best {found["best"]}'
  return f'{there}; restore one by {" or ".join(flags)}.'
