"""The smallest model with the interface of the real ones, for exact tests of the training code."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec, Prepared
from structured_obs.devices import mapping as mappings
from structured_obs.devices import mesh as meshes
from structured_obs.distributions import diagonal
from structured_obs.distributions.base import ImageShape
from structured_obs.models.base import Traits
from structured_obs.objectives.terms import Terms
from structured_obs.runs import optimizers, schedule, state
from structured_obs.runs.experiment import Experiment
from structured_obs.train import step

Array = jax.Array


class Head(nn.Module):
  """Two named heads under 'heads', as the real decoders have them."""

  size: int

  @nn.compact
  def __call__(self, hidden: Array) -> tuple[Array, Array]:
    mean = nn.Dense(self.size, name='mean')(hidden)
    log_scale = nn.Dense(1, name='log_scale')(hidden)
    return mean, log_scale


class Decoder(nn.Module):
  """Hidden layer and heads."""

  size: int

  @nn.compact
  def __call__(self, z: Array) -> tuple[Array, Array]:
    return Head(self.size, name='heads')(nn.tanh(nn.Dense(8, name='hidden')(z)))


FAMILY = diagonal.family()


class StubVAE(nn.Module):
  """Dense VAE with two latents; `norm` adds batch normalisation over all devices."""

  size: int
  norm: bool = False
  axis_name: str | None = None
  family: Any = FAMILY
  image: ImageShape = ImageShape(3, 4, 1)  # of `make_prepared`
  label_classes = None
  masked = False
  traits = Traits(reconstructs=False, has_prior=True)

  @nn.compact
  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    flat = x.reshape(x.shape[0], -1)
    hidden = nn.Dense(8, name='encoder')(flat)
    if self.norm:
      hidden = nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name, name='norm')(hidden)
    z_mean = nn.Dense(2, name='z_mean')(nn.tanh(hidden))
    z = z_mean + 0.1 * jax.vmap(lambda key: jax.random.normal(key, (2,), jnp.float32))(keys)
    mean, log_scale = Decoder(self.size, name='decoder')(z)
    error = jnp.sum((flat - mean) ** 2, axis=1) * jnp.exp(-2 * log_scale[:, 0]) / 2
    log_p = {'x': -error - self.size * log_scale[:, 0], 'z': -jnp.sum(z**2, axis=1) / 2}
    log_q = {'z': -jnp.sum((z - z_mean) ** 2, axis=1) * 50}
    return Terms(log_p, log_q, {'kl_z': jnp.sum(z_mean**2, axis=1) / 2})


def objective(
  terms: Terms, multipliers: dict[str, Array], step: Array | int = 0
) -> tuple[Array, dict[str, Array]]:
  """Negative ELBO of the stub and one metric."""
  del multipliers, step
  kl = jnp.mean(terms.stats['kl_z'])
  return kl - jnp.mean(terms.log_p['x']), {'kl_z': kl}


def preprocess(keys: Array, batch: Array) -> Array:
  """[0, 255] to [-1, 1] with uniform noise of one level's width."""
  noise = jax.vmap(lambda key: jax.random.uniform(key, batch.shape[1:], jnp.float32))(keys)
  return (batch.astype(jnp.float32) + noise - 0.5) * (2 / 255) - 1


class PoisonedVAE(StubVAE):
  """The stub, whose likelihood of an image with a white first pixel is NaN."""

  @nn.compact
  def __call__(self, keys: Array, x: Array, train: bool = False) -> Terms:
    terms = super().__call__(keys, x, train)
    poison = jnp.where(x[:, 0, 0, 0] > 0.999, jnp.nan, jnp.ones((), x.dtype))
    return terms._replace(log_p={**terms.log_p, 'x': terms.log_p['x'] * poison})


def make_config(**train: Any) -> Config:
  """A run of a few steps on `make_prepared`'s images, batch 8, without dequantisation."""
  config = Config()
  settings = {
    'steps': 12, 'batch_size': 8, 'log_every': 2, 'validate_every': 4, 'checkpoint_every': 4,
  }  # fmt: skip
  config.train = dataclasses.replace(config.train, **settings | train)
  config.optim.warmup_steps = 2
  config.objective.dequantize = False
  return config


def make_experiment(config: Config, model: type[StubVAE] = StubVAE) -> Experiment:
  """What `experiment.build` makes of the configuration, with the stub in the place of the VAE."""
  spec = make_prepared().spec
  return Experiment(
    config=config,
    spec=spec,
    image=ImageShape(spec.height, spec.width, spec.channels),
    family=FAMILY,
    model=model(size=12, norm=config.model.options.get('norm') == 'batch', axis_name=meshes.AXIS),
    objective=objective,
    optimizer=optimizers.make_optimizer(config.optim, config.train.steps),
    schedule=schedule.learning_rate(config.optim, config.train.steps),
  )


def make_prepared(white: tuple[int, ...] = ()) -> Prepared:
  """20 training, 10 validation, 2 test images of 3 x 4 pixels; `white` have a white first pixel."""
  counts = {'train': 20, 'validation': 10, 'test': 2}
  images = np.random.default_rng(3).integers(0, 200, (32, 3, 4, 1)).astype(np.uint8)
  images[list(white), 0, 0] = 255
  spec = DataSpec(
    height=3, width=4, channels=1, levels=256, counts=counts, source='test', version='0',
    fingerprint='', sha256=f'white {white}', split_rule='', crop='none', resample='area',
    has_labels=False, skipped=0, skipped_names=[], libraries={},
  )  # fmt: skip
  splits = {'train': images[:20], 'validation': images[20:30], 'test': images[30:]}
  return Prepared(spec, splits, dict.fromkeys(splits), '')


def take_steps(
  mapping: str,
  images: np.ndarray,
  steps: int,
  norm: bool = False,
  num_devices: int = 4,
  **options: Any,
) -> tuple[state.TrainState, Any]:
  """State and last metrics of steps of SGD on the stub; 'single' is one device without an axis.

  Args:
    mapping: 'single', or one of `parallel.MAPPINGS`.
    images: [B, 3, 4, 1] uint8, the batch of every step.
    steps: how many.
    norm: whether the stub has batch normalisation.
    num_devices: of a mapping.
    **options: of `step.make_train_step`; with an `ema_decay` the state keeps an average.
  """
  mesh = meshes.make_mesh(jax.devices()[:num_devices])
  axis = None if mapping == 'single' else meshes.AXIS
  model = StubVAE(size=12, norm=norm, axis_name=axis)
  optimizer = optax.sgd(0.01)
  update = step.make_train_step(model, objective, optimizer, preprocess, axis_name=axis, **options)
  keys = jax.random.split(jax.random.key(1), 8)
  variables: Any = model.init(jax.random.key(0), keys, jnp.zeros((8, 3, 4, 1), jnp.float32))
  train_state = state.create(variables, optimizer, keep_ema='ema_decay' in options)
  if mapping == 'single':
    mapped, batch = jax.jit(update, donate_argnums=0), jnp.asarray(images)
  else:
    train_state = meshes.replicate(train_state, mesh)
    mapped = mappings.MAPPINGS[mapping](update, mesh)
    batch = jax.device_put(images, meshes.split(mesh))
  told: Any = {}
  for _ in range(steps):
    train_state, told = mapped(train_state, jax.random.key(2), batch)
  return jax.device_get((train_state, told))
