"""Maps functions of one image over the leading axes of arrays, which broadcast as in NumPy.

How many axes of an array are leading follows from the family: the parameters without them are those of
one image. The first array of the parameters, a mean or the like, has them all; any other may have none,
and then belongs to every image. Where an array could be either, its axes are leading ones.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from structured_obs.distributions import base

Array = jax.Array
Shape = tuple[int, ...]

FAILURES = (TypeError, ValueError, IndexError)  # of arrays that do not belong to one image


class Operand(NamedTuple):
  """A pytree of arrays with leading axes."""

  tree: Any
  counts: tuple[int, ...]  # leading axes of each leaf

  @property
  def batch(self) -> Shape:
    """Shape of the leading axes of all leaves together."""
    leaves = jax.tree.leaves(self.tree)
    return broadcast([jnp.shape(a)[:n] for a, n in zip(leaves, self.counts, strict=True)])


class Layout(NamedTuple):
  """What the arrays of a distribution, or the outputs behind it, are per image."""

  counts: tuple[int, ...]  # leading axes of each leaf
  image: base.ImageShape


def of_params(family: base.Family[Any], params: Any) -> Layout:
  """Returns the layout of parameters with leading axes.

  Raises:
    TypeError, ValueError: they are of another family, or do not fit together.
  """
  return _layout(family, params, outputs=False)


def of_outputs(family: base.Family[Any], outputs: Any) -> Layout:
  """Returns the layout of a decoder's outputs with leading axes; raises as `of_params` does."""
  return _layout(family, outputs, outputs=True)


def over(function: Callable[..., Any], *operands: Operand) -> Any:
  """Applies a function of one image's trees along the leading axes of operands, which broadcast.

  Args:
    function: takes one tree for each operand and returns a pytree of arrays.
    *operands: their leading axes broadcast; an axis that an operand lacks is not copied for it.

  Raises:
    ValueError: the leading axes do not broadcast.
  """
  leaves, tree = jax.tree.flatten([operand.tree for operand in operands])
  counts = [count for operand in operands for count in operand.counts]
  batch = broadcast([jnp.shape(a)[:n] for a, n in zip(leaves, counts, strict=True)])
  own = [_own_axes(jnp.shape(a)[:n], batch) for a, n in zip(leaves, counts, strict=True)]
  arrays = [_squeezed(*entry, batch) for entry in zip(leaves, counts, own, strict=True)]

  def one(*arrays: Any) -> Any:
    return function(*tree.unflatten(arrays))

  for axis in reversed(range(len(batch))):
    in_axes = tuple(0 if axis in axes else None for axes in own)
    one = jax.vmap(one, in_axes, axis_size=batch[axis])
  return one(*arrays)


def images(name: str, x: Any, shape: Shape) -> Operand:
  """Returns images with leading axes as an operand.

  Args:
    name: of the argument, for the message.
    x: [..., H, W, C].
    shape: H, W, C.

  Raises:
    ValueError: x is not an array of this shape.
  """
  found = getattr(x, 'shape', None)
  if found is None or found[-3:] != shape:
    got = type(x).__name__ if found is None else f'shape {found}'
    raise ValueError(f'{name} must be an array of shape (..., {", ".join(map(str, shape))}); got {got}.')
  return Operand(x, (len(found) - 3,))


def keys(key: Any, sample_shape: int | Sequence[int], batch: Shape) -> Operand:
  """Returns a key for each image as an operand: the given one itself where there is one image.

  Args:
    key: one jax.random.key.
    sample_shape: images of each entry of the batch, a number or several; they come first.
    batch: shape of the other leading axes.

  Raises:
    TypeError: key is not one key.
    TypeError, ValueError: sample_shape is not made of whole numbers of at least 0.
  """
  sizes = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
  for size in sizes:
    base.check_count('sample_shape', size, 0, 2**31 - 1, 'the largest int32')
  found = getattr(key, 'shape', None)
  typed = found is not None and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
  if found is None or len(found) != (0 if typed else 1):
    got = type(key).__name__ if found is None else f'an array of shape {found}'
    raise TypeError(f'key must be one jax.random.key, split here for all images; got {got}.')
  shape = (*sizes, *batch)
  return Operand(jax.random.split(key, shape) if shape else key, (len(shape),))


def broadcast(shapes: list[Shape]) -> Shape:
  """Returns the shape to which leading axes broadcast; raises ValueError if they do not."""
  try:
    return jnp.broadcast_shapes((), *shapes)
  except ValueError as error:
    found = ', '.join(str(shape) for shape in dict.fromkeys(shapes))
    raise ValueError(f'Leading axes must broadcast to one shape; got {found}.') from error


def _own_axes(shape: Shape, batch: Shape) -> set[int]:
  """Returns the axes of a batch that an array has, and not only by broadcasting."""
  first = len(batch) - len(shape)
  return {first + i for i, size in enumerate(shape) if size == batch[first + i]}


def _squeezed(array: Any, count: int, own: set[int], batch: Shape) -> Any:
  """Returns an array of `count` leading axes without those over which it broadcasts."""
  if count == len(own):
    return array
  kept = [batch[axis] for axis in sorted(own)]
  return jnp.reshape(array, (*kept, *jnp.shape(array)[count:]))


def _layout(family: base.Family[Any], tree: Any, outputs: bool) -> Layout:
  leaves, treedef = jax.tree.flatten(tree)
  # A Python number has no type of its own, and is everybody's.
  known = tuple(
    leaf if isinstance(leaf, int | float) else (jnp.shape(leaf), jnp.result_type(leaf))
    for leaf in leaves
  )
  return _known_layout(family, outputs, treedef, known)


@functools.lru_cache(maxsize=512)
def _known_layout(
  family: base.Family[Any], outputs: bool, treedef: Any, known: tuple[Any, ...]
) -> Layout:
  """Finds the numbers of leading axes with which the arrays are those of one image."""
  ranks = [len(leaf[0]) if isinstance(leaf, tuple) else 0 for leaf in known]
  failures: dict[int, Exception] = {}
  for depth in range(max(ranks, default=0) + 1):
    for counts in _candidates(depth, ranks):
      try:
        image = _image(family, outputs, treedef, known, counts)
        broadcast([leaf[0][:n] for leaf, n in zip(known, counts, strict=True) if n])
      except FAILURES as error:
        failures.setdefault(depth, error)
        if not depth and isinstance(error, TypeError):
          raise
      else:
        return Layout(counts, image)
  error = failures.get((ranks or [0])[0] - 3, failures[0])
  names, _ = jax.tree_util.tree_flatten_with_path(treedef.unflatten(range(len(known))))
  shapes = ', '.join(
    f'{jax.tree_util.keystr(path)[1:]} {known[i][0] if isinstance(known[i], tuple) else ()}'
    for path, i in names
  )
  raise ValueError(f'{error} With their leading axes, the arrays have the shapes {shapes}.') from error


def _candidates(depth: int, ranks: list[int]) -> Iterator[tuple[int, ...]]:
  """Yields the numbers of leading axes, `depth` or 0 each: as many as can be, and then fewer."""
  able = [i for i, rank in enumerate(ranks) if depth and rank >= depth]
  for lacking in range(max(len(able), 1)):
    for without in itertools.combinations(able[1:], lacking):
      yield tuple(depth if i in able and i not in without else 0 for i in range(len(ranks)))


def _image(
  family: base.Family[Any], outputs: bool, treedef: Any, known: tuple[Any, ...], counts: tuple[int, ...]
) -> base.ImageShape:
  """Returns the shape of one image; raises unless its parameters have these shapes."""
  traced = [
    jax.ShapeDtypeStruct(leaf[0][count:], leaf[1])
    for leaf, count in zip(known, counts, strict=True)
    if isinstance(leaf, tuple)
  ]

  def params(arrays: list[Array]) -> Any:
    given = iter(arrays)
    tree = treedef.unflatten([next(given) if isinstance(leaf, tuple) else leaf for leaf in known])
    return family.from_outputs(tree) if outputs else tree

  # The mean of every family checks the shapes of all parameters.
  shape = jax.eval_shape(lambda arrays: family.mean(params(arrays)), traced).shape
  if len(shape) != 3:
    raise ValueError(f'The mean of a distribution over images must have shape (H, W, C); got {shape}.')
  return base.ImageShape(*shape)
