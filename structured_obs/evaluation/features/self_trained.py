"""Features of a small network that learns from a run's own training images, in minutes.

What it learns is in `pretext`. Images of every kind of data can be compared in its layers, averaged over
the image, each feature scaled to mean 0 and standard deviation 1 over training images.

The weights are kept beside the prepared images, under a digest of the images and of everything here that
they depend on: all runs and seeds on the same images share them. They do not depend on the devices.

Letters: N training images; B of them in a step; H W C image height, width, channels; F features; h w
those of a layer; K classes.
"""

import functools
import hashlib
import os
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.config import OptimConfig
from structured_obs.data import once, pipeline, pixels
from structured_obs.data.prepare import Prepared
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.features import pretext
from structured_obs.models.classifier import Network
from structured_obs.runs import optimizers

Array = jax.Array
PyTree = Any

NAME = 'self'
VERSION = 1  # of everything here and in `pretext` that the weights depend on, but for `Training`
LEAST = 16  # training images
MOST_CLASSES = 1000
SCALED = 1000  # training images whose features are scaled
RECENT = 50  # steps whose accuracy is told
FILE = 'weights.npz'


class Training(NamedTuple):
  """How the network is trained."""

  widths: tuple[int, ...] = (16, 32, 64)  # features at each resolution, finest first
  steps: int = 600
  batch_size: int = 64
  learning_rate: float = 2e-3
  seed: int = 0


DEFAULT = Training()


class _Of(NamedTuple):
  """A function of this module with how the network was trained: equal, and hashed, by value."""

  function: Callable[..., Any]
  widths: tuple[int, ...]

  def __call__(self, weights: PyTree, images: Array) -> Any:
    return self.function(self.widths, weights, images)


def extractor(
  data: Prepared, say: Callable[[str], None] = lambda line: None, training: Training = DEFAULT
) -> extractors.Extractor:
  """Returns the extractor 'self' of a run's images; trains it first unless its weights are kept.

  Args:
    data: of the run; only its training images and their labels are used.
    say: callback for progress messages.
    training: how to train.

  Raises:
    OSError: the weights cannot be kept.
    ValueError: the images have no gray levels, or masks; there are too few; or kept weights are damaged.
  """
  check(data)
  digest = _digest(data, training)
  path = os.path.join(os.path.dirname(data.path), f'features-{digest[:16]}')
  once.make(path, lambda folder: _make(folder, data, training, say), say)
  weights = _read(os.path.join(path, FILE))
  mark = extractors.fingerprint(jax.tree.leaves(weights))
  apply, maps = _Of(_features, training.widths), _Of(_layers, training.widths)
  return extractors.Extractor(NAME, mark, apply, maps, weights)


def check(data: Prepared) -> None:
  """Raises a ValueError unless a network can be trained on the training images of these data."""
  count, spec = len(data.images['train']), data.spec
  if spec.masked or not spec.levels:
    lack = 'images with masks' if spec.masked else 'real numbers, which have no gray levels'
    raise ValueError(f'--features={NAME} cannot learn from {lack}; use another value of --features.')
  if count < LEAST:
    raise ValueError(
      f'--features={NAME} needs at least {LEAST} training images; {spec.source} has {count}.'
    )


def _digest(data: Prepared, training: Training) -> str:
  spec = data.spec
  settings = (VERSION, *training, spec.sha256, sorted(spec.counts.items()), spec.levels)
  sha = hashlib.sha256(repr(settings).encode())
  sha.update(_classes(data).tobytes())
  return sha.hexdigest()


def _classes(data: Prepared) -> np.ndarray:
  """Returns the class of each training image, 0 .. K - 1, [N] int32; all 0 without useful labels."""
  labels = data.labels.get('train')
  nothing = np.zeros(len(data.images['train']), np.int32)
  if labels is None:
    return nothing
  values, classes = np.unique(labels, return_inverse=True)
  return classes.astype(np.int32) if len(values) <= min(MOST_CLASSES, len(labels) / 2) else nothing


def _make(folder: str, data: Prepared, training: Training, say: Callable[[str], None]) -> None:
  flat, _ = jax.tree_util.tree_flatten_with_path(train(data, training, say))
  with once.storing(folder):
    np.savez(
      os.path.join(folder, FILE), **{'/'.join(entry.key for entry in path): leaf for path, leaf in flat}
    )


def _read(path: str) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  try:
    with open(path, 'rb') as file, np.load(file) as arrays:
      for name in arrays.files:
        *outer, last = name.split('/')
        functools.reduce(lambda node, key: node.setdefault(key, {}), outer, tree)[last] = arrays[name]
  except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
    raise ValueError(
      f'The features of --features={NAME} that were kept in {path} are missing or damaged; remove that '
      'folder, and they are trained again.'
    ) from error
  return tree


def train(data: Prepared, training: Training, say: Callable[[str], None]) -> dict[str, Any]:
  """Returns the trained weights: the 'network', and 'mean' and 'deviation' [F] of its features."""
  images, classes = data.images['train'], _classes(data)
  channels, levels, count = data.spec.channels, data.spec.levels, len(images)
  size, key = min(training.batch_size, count), jax.random.key(training.seed)
  say(
    f'Training --features={NAME} on {count:,} training images, {training.steps} steps; they are kept '
    'for the next evaluation.'
  )
  optim = OptimConfig(
    learning_rate=training.learning_rate, warmup_steps=20, schedule='cosine', clip_norm=1.0
  )
  optimizer = optimizers.make_optimizer(optim, training.steps)
  one = jnp.zeros((1, *data.spec.stored[:2], channels), jnp.float32)
  tasks = pretext.tasks(sum(training.widths), int(classes.max()) + 1)
  params = {'network': network(training.widths).init(key, one, False), 'tasks': tasks}
  params: PyTree = {'model': params, 'multipliers': {}}
  state, accuracies = optimizer.init(params), []

  @jax.jit
  def update(params: PyTree, state: PyTree, key: Array, batch: Array, classes: Array) -> Any:
    x, answers = pretext.corrupted(key, pixels.to_unit(batch, levels))

    def loss(params: PyTree) -> tuple[Array, dict[str, Array]]:
      rows = _means(training.widths, params['model']['network'], x)
      return pretext.losses(params['model']['tasks'], rows, {**answers, 'class': classes})

    grads, right = jax.grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(grads, state, params)
    return jax.tree.map(jnp.add, params, updates), state, right

  for step in range(training.steps):
    rows = pipeline.batch_indices(training.seed, step, count, size)
    batch = np.asarray(images[rows])[..., :channels]
    params, state, right = update(params, state, jax.random.fold_in(key, step), batch, classes[rows])
    accuracies = [*accuracies[1 - RECENT :], right]
  told = {name: float(np.mean([one[name] for one in accuracies])) for name in tasks}
  say('Accuracies: ' + ', '.join(f'{name} {value:.2f}' for name, value in told.items()) + '.')
  return _scaled(training.widths, jax.device_get(params['model']['network']), images, data.spec)


def network(widths: tuple[int, ...]) -> Network:
  """Returns the network with this many features at each resolution, finest first."""
  return Network(widths, 1, 'none', None, None)


def _scaled(widths: tuple[int, ...], weights: PyTree, images: np.ndarray, spec: Any) -> dict[str, Any]:
  rows = np.linspace(0, len(images) - 1, min(len(images), SCALED)).astype(int)
  x = pixels.to_unit(np.asarray(images[rows])[..., : spec.channels], spec.levels)
  means = extractors.Extractor(NAME, '', _Of(_means, widths), weights=weights)
  found = extractors.extract(means, np.asarray(x))
  # A feature that hardly varies over images would otherwise be mostly round-off.
  deviation = found.std(axis=0)
  deviation = np.maximum(deviation, 1e-3 * deviation.max() + 1e-6)
  mean, deviation = found.mean(axis=0).astype(np.float32), deviation.astype(np.float32)
  return {'network': weights, 'mean': mean, 'deviation': deviation}


def _layers(widths: tuple[int, ...], weights: PyTree, images: Array) -> tuple[Array, ...]:
  return _maps(widths, weights['network'], images)


def _features(widths: tuple[int, ...], weights: PyTree, images: Array) -> Array:
  means = _means(widths, weights['network'], images)
  return (means - weights['mean'][None]) / weights['deviation'][None]


def _means(widths: tuple[int, ...], weights: PyTree, images: Array) -> Array:
  return jnp.concatenate([y.mean((1, 2)) for y in _maps(widths, weights, images)], axis=-1)


def _maps(widths: tuple[int, ...], weights: PyTree, images: Array) -> tuple[Array, ...]:
  maps: Any = network(widths).apply(weights, images, False)
  return maps
