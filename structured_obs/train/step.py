"""One update, as one device sees it.

The function that `make_train_step` returns is the same for a single device, `jax.shard_map` and
`jax.pmap`. Under `shard_map` with its check of varying types, the gradient with respect to replicated
parameters is already summed over the devices. The usual `pmean(grads)` then leaves that sum, too large
by the number of devices, without an error. Casting the parameters to varying ones first makes the
gradient the device's own under either mapping, and one `pmean` gives that of the global batch.

A device's images can be cut into parts that are processed in turn, to fit a large batch into little
memory. Every image keeps its position in the global batch, and with it its keys. The parts have equal
sizes, so the mean of their means is the mean: the update is the same up to round-off, unless the loss of
an image depends on the others (batch norm, a constraint on a mean), which `checks.check` refuses. On
CPUs parts only save memory: XLA uses slow code for convolutions in a loop there. A step of a small VAE,
64 images of 32 x 32 x 3, took 45 s in 4 parts and 1.9 s in one.

Letters: B images of one device in one step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from structured_obs.devices import keys as image_keys
from structured_obs.devices import mapping
from structured_obs.devices import mesh as meshes
from structured_obs.devices.mapping import Metrics, TrainStep
from structured_obs.models.base import Bound, Model
from structured_obs.runs import initial
from structured_obs.runs.experiment import Experiment
from structured_obs.runs.initial import Preprocess
from structured_obs.runs.state import TrainState

Array = jax.Array
PyTree = Any
Part = tuple[Array, Array, Array]  # keys of the data and of the model [B], and the stored images
Gradient = tuple[Array, Metrics, PyTree, PyTree]  # loss, metrics, model_state, grads


def make_train_step(
  model: Model,
  objective: Callable[..., tuple[Array, Metrics]],
  optimizer: optax.GradientTransformation,
  preprocess: Preprocess,
  *,
  axis_name: str | None = None,
  ema_decay: float = 0.0,
  accumulate: int = 1,
) -> TrainStep:
  """Returns the update `(state, key, batch) -> (state, metrics)`, pure and without host calls.

  `batch` is uint8 [B, H, W, C], this device's share of the global batch, and `key` that of the run. An
  update whose loss or gradient is not finite is dropped: parameters, model state, optimizer state
  and moving average stay unchanged, and only the counters advance.

  Args:
    model: to train.
    objective: (terms, multipliers, step) -> (loss [], metrics), a mean over its images.
    optimizer: of the tree {'model', 'multipliers'}.
    preprocess: turns stored images into the model's.
    axis_name: the mapped axis over devices; None for one device without mapping.
    ema_decay: of the moving average, if the state keeps one.
    accumulate: number of parts that a device's images are cut into.
  """
  gradient = make_gradient(model, objective, preprocess, axis_name, accumulate)

  def train_step(state: TrainState, key: Array, batch: Array) -> tuple[TrainState, Metrics]:
    local = gradient(state, key, batch)
    loss, metrics, model_state, grads = _mean_over(axis_name, local)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params: PyTree = optax.apply_updates(state.params, updates)
    proposed = state._replace(
      params=params,
      model_state=model_state,
      opt_state=opt_state,
      ema=_average(state, params['model'], ema_decay),
    )
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), proposed, state)
    skipped = jnp.where(finite, 0, state.skipped + 1).astype(jnp.int32)
    told = {
      **metrics,
      'loss': loss,
      'grad_norm': grad_norm,
      'param_norm': optax.tree.norm(state.params['model']),
      'skipped': skipped,
    }
    return kept._replace(step=state.step + 1, skipped=skipped), told

  return train_step


def make_gradient(
  model: Model,
  objective: Callable[..., tuple[Array, Metrics]],
  preprocess: Preprocess,
  axis_name: str | None,
  accumulate: int = 1,
) -> Callable[[TrainState, Array, Array], Gradient]:
  """Returns `(state, key, batch) -> (loss, metrics, model_state, grads)` of one device's images.

  Args:
    model: to train.
    objective: (terms, multipliers, step) -> (loss [], metrics), a mean over its images.
    preprocess: turns stored images into the model's.
    axis_name: the mapped axis over devices; None for one device without mapping.
    accumulate: number of parts that a device's images are cut into.

  Raises:
    ValueError: by the returned function, when traced: `accumulate` does not divide B, or the model keeps
      statistics of batches.
  """

  def of_part(state: TrainState, params: PyTree, part: Part) -> Gradient:
    data_keys, model_keys, images = part
    x = preprocess(data_keys, images)

    def loss_fn(params: PyTree) -> tuple[Array, tuple[Metrics, PyTree]]:
      bound = Bound(model, {'params': params['model'], **state.model_state})
      terms, model_state = bound.training_terms(model_keys, x)
      loss, metrics = objective(terms, params['multipliers'], state.step)
      return loss, (metrics, model_state)

    (loss, (metrics, model_state)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    return loss, metrics, model_state, grads

  def gradient(state: TrainState, key: Array, batch: Array) -> Gradient:
    params = _varying(state.params, axis_name)  # see the module's docstring
    whole = (*image_keys.step_keys(key, state.step, batch.shape[0], axis_name), batch)
    if accumulate == 1:
      return of_part(state, params, whole)
    if jax.tree.leaves(state.model_state):
      raise ValueError('accumulate must be 1 for a model that keeps batch statistics.')
    compiled = jax.jit(of_part)  # traced once, for its shapes and for the scan
    mean = _mean_over_parts(lambda part: compiled(state, params, part), whole, accumulate, axis_name)
    return mean[0], mean[1], state.model_state, mean[3]

  return gradient


def _mean_over_parts(
  function: Callable[[Part], PyTree], whole: Part, count: int, axis_name: str | None
) -> PyTree:
  """Returns the mean of `function(part)` over `count` equal parts of the images, one at a time."""
  size = whole[2].shape[0]
  if size % count:
    raise ValueError(f'accumulate must divide the {size} images of a device; got {count}.')
  parts = jax.tree.map(lambda a: a.reshape(count, size // count, *a.shape[1:]), whole)
  shapes = jax.eval_shape(function, jax.tree.map(lambda a: a[0], parts))
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

  def add(total: PyTree, part: Part) -> tuple[PyTree, None]:
    return jax.tree.map(jnp.add, total, function(part)), None

  total, _ = jax.lax.scan(add, _varying(zeros, axis_name), parts)
  return jax.tree.map(lambda leaf: leaf / count, total)


def _varying(tree: PyTree, axis_name: str | None) -> PyTree:
  if axis_name is None:
    return tree
  return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis_name, to='varying'), tree)


def _mean_over(axis_name: str | None, tree: PyTree) -> PyTree:
  return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def _average(state: TrainState, params: PyTree, decay: float) -> PyTree | None:
  """Returns the moving average; its decay starts near 0, to forget the initial parameters soon."""
  if state.ema is None:
    return None
  count = state.step.astype(jnp.float32)
  step_size = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
  return optax.incremental_update(params, state.ema, step_size)


def make_step(experiment: Experiment, mesh: Mesh) -> TrainStep:
  """Returns the step over the mesh by the configured mapping; it compiles at its first call."""
  config = experiment.config
  update = make_train_step(
    experiment.model,
    experiment.objective,
    experiment.optimizer,
    initial.make_preprocess(config, experiment.spec),
    axis_name=meshes.AXIS,
    ema_decay=config.optim.ema_decay,
    accumulate=config.train.accumulate,
  )
  return mapping.MAPPINGS[config.train.mapping](update, mesh)
