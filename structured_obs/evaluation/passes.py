"""Passes over a split: measure something of every image, in bounded memory, over all devices.

An image's noise follows from the key and the image's index in its split, and the rows that pad the last
batch are dropped. Results therefore do not depend on the batch size or the devices, and two models see
the same dequantised images: their difference is paired.

Letters: N images of the split; B images at a time.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from structured_obs.data import pixels
from structured_obs.devices import keys
from structured_obs.evaluation import resume
from structured_obs.models.base import Bound, Model

Array = jax.Array
AXIS = 'batch'


class Pass(NamedTuple):
  """What to measure of a batch; hashable, so that it can be static under jit."""

  # (pass, weights, keys [B], x [B, H, W, C] in [-1, 1]) -> pytree of arrays [B, ...]
  measure: Callable[..., Any]
  model: Model
  levels: int  # gray levels of the images; also the width of the dequantisation noise. 0: real numbers
  dequantize: bool = False  # add uniform noise of one level's width, one draw per image
  batch_size: int = 64  # images at a time over all devices, rounded up to a multiple of them
  options: Any = None  # anything else that `measure` needs, hashable
  name: str = 'images'  # what is measured, in lines of progress

  def bound(self, variables: Any) -> Bound:
    """Returns the model with its variables, inside `measure`."""
    return Bound(self.model, variables)


class Where(NamedTuple):
  """Where passes run, and where their unfinished work is kept."""

  # Devices to spread a batch over, along the axis 'batch'; None for the first local device.
  mesh: Mesh | None = None
  # Directory of unfinished work, see `resume`; None keeps nothing.
  keep: Path | None = None
  say: Callable[[str], None] | None = None  # receives the progress of long passes


HERE = Where()
QUIET = 10.0  # seconds between two lines of progress


class Progress:
  """Says now and then how far a pass is, and when it will end by the speed since its first batch."""

  def __init__(self, name: str, count: int, say: Callable[[str], None] | None):
    """Begins a pass over `count` images."""
    self._name, self._count, self._say = name, count, say
    self._first: tuple[int, float] | None = None  # where the speed is measured from
    self._last = time.monotonic()

  def tell(self, done: int) -> None:
    """Says that `done` images are done, unless it has just said so, or the pass is at its end."""
    now = time.monotonic()
    first = self._first
    if first is None:
      self._first = done, now  # the first batch compiles
    if self._say is None or done >= self._count or now - self._last < QUIET:
      return
    self._last = now
    left = ''
    if first is not None and done > first[0]:
      seconds = round((now - first[1]) / (done - first[0]) * (self._count - done))
      left = f', ETA {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}'
    self._say(f'  {self._name}: {done:,} of {self._count:,} images{left}')


def over_images(
  measured: Pass,
  weights: Any,
  images: np.ndarray,
  key: Array,
  where: Where = HERE,
  *,
  keep: Callable[[Any], Any] = lambda found: found,
  least: int = 1,
) -> Any:
  """Measures every image of a split.

  With `where.keep`, a long pass saves its work now and then, and the same pass finds it later: an
  interrupted one resumes, also with another batch size, and a finished one is not repeated. On several
  hosts nothing is kept, and an evaluation restarts.

  Args:
    measured: what to measure, and of which model.
    weights: the model's variables, or a pytree with them and anything else that `measured.measure`
      needs, on one device or replicated over the mesh.
    images: [N, H, W, C] uint8 levels, or real numbers, as stored; N >= 1.
    key: of the evaluation; use the same one for models to be compared.
    where: devices to run on, and the directory to keep unfinished work in.
    keep: selects from the pytree that `measured.measure` returns; the rest never leaves the devices.
    least: smallest room of a batch, so that passes over few and over many images share one compiled
      program; `measured.batch_size` still limits it.

  Returns:
    The result of `keep`, with arrays [N, ...] float64. On several hosts every process passes the same
    images and gets the whole result.
  """
  mesh = where.mesh or _first_device()
  count, size = len(images), mesh.size
  batch_size = -(-min(measured.batch_size, max(count, least)) // size) * size
  one = (weights, key, np.zeros(1, np.int32), images[:1])

  def program(*arguments: Any) -> Any:
    return keep(_measure_local(measured, *arguments))

  work = resume.work(where.keep, measured.measure.__name__, program, one, images)
  parts, done = resume.load(work)
  weights, key = jax.device_put((weights, key), NamedSharding(mesh, PartitionSpec()))
  begun = saved = time.monotonic()
  progress = Progress(measured.name, count, where.say)
  for first in range(done, count, batch_size):
    rows = np.arange(first, first + batch_size, dtype=np.int32)
    # The last batch is padded with the last image, and its surplus rows are dropped.
    batch = _spread(np.asarray(images[np.minimum(rows, count - 1)]), mesh)
    found = _measure_batch(measured, mesh, weights, key, _spread(rows, mesh), batch)
    parts.append(jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(keep(found))))
    progress.tell(min(first + batch_size, count))
    # A finished pass is kept as a whole, unless it was short.
    since = begun if first + batch_size >= count else saved
    if time.monotonic() - since >= resume.SECONDS:
      resume.save(work, parts)
      saved = time.monotonic()
  return jax.tree.map(lambda *arrays: np.concatenate(arrays)[:count], *parts)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure_batch(
  measured: Pass, mesh: Mesh, weights: Any, key: Array, rows: Array, batch: Array
) -> Any:
  """Measures one batch, replicated. Jitted at module level: compiled once per pass."""
  local = functools.partial(_measure_local, measured)
  whole, cut = PartitionSpec(), PartitionSpec(AXIS)
  specs = {'in_specs': (whole, whole, cut, cut), 'out_specs': cut}
  # Devices exchange nothing; jax's check of that refuses custom_linear_solve, which conditionals use.
  mapped = jax.shard_map(local, mesh=mesh, **specs, check_vma=False)
  return jax.lax.with_sharding_constraint(mapped(weights, key, rows, batch), NamedSharding(mesh, whole))


def _measure_local(measured: Pass, weights: Any, key: Array, rows: Array, batch: Array) -> Any:
  """Measures stored images [B, H, W, C] of a batch, which are rows [B] of the split."""
  levels = measured.levels
  data_keys, model_keys = keys.image_keys(key, rows)
  x = jax.vmap(lambda image: pixels.to_unit(image, levels))(batch)
  if measured.dequantize:
    own = measured.model.image.channels
    x = jax.vmap(lambda k, image: pixels.dequantize(k, image, levels, own))(data_keys, x)
  return measured.measure(measured, weights, model_keys, x)


def _first_device() -> Mesh:
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((1,), (AXIS,), axis_types=auto, devices=jax.local_devices()[:1])


def _spread(rows: np.ndarray, mesh: Mesh) -> Array:
  """Spreads a batch that every process holds over the devices of the mesh."""
  sharding = NamedSharding(mesh, PartitionSpec(AXIS))
  return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])
