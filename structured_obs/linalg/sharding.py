"""Functions of arrays that carry explicit shardings.

On a mesh of explicit axes, the default of `jax.make_mesh`, every operation must state how its result
lies on the devices, and loops over a sharded axis are refused. The functions here leave the
shardings inside vmap to the compiler, as on a mesh of automatic axes.

Arrays may lie on such a mesh without a `jax.set_mesh` around the call. New arrays that
a function creates, such as the zeros that a loop starts with, then belong to no mesh and cannot be
combined with them. Inside jit, the functions here place new arrays on that mesh. Outside jit, JAX asks
for `jax.set_mesh`.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

Array = jax.Array
P = ParamSpec('P')
T = TypeVar('T')


def on_own_mesh(function: Callable[P, T]) -> Callable[P, T]:
  """Returns the same function, run on the explicit mesh of its arrays; other arrays are copied there.

  Inside `jax.set_mesh` there is nothing to do.
  """

  @functools.wraps(function)
  def run(*args: P.args, **kwargs: P.kwargs) -> T:
    mesh = _mesh((args, kwargs)) if jax.sharding.get_abstract_mesh().empty else None
    if mesh is None:
      return function(*args, **kwargs)

    def placed(x: Any) -> Any:
      alone = isinstance(x, Array) and _mesh(x) is None
      return jax.sharding.reshard(x, jax.sharding.PartitionSpec()) if alone else x

    with jax.sharding.use_abstract_mesh(mesh):
      args, kwargs = jax.tree.map(placed, (args, kwargs))
      return function(*args, **kwargs)

  return run


def _mesh(tree: Any) -> jax.sharding.AbstractMesh | None:
  """Returns the mesh of explicit axes of the first array that has one."""
  arrays = (a for a in jax.tree.leaves(tree) if isinstance(a, Array))
  meshes = (jax.typeof(a).sharding.mesh for a in arrays)
  explicit = jax.sharding.AxisType.Explicit
  return next((mesh for mesh in meshes if explicit in mesh.axis_types), None)


def by_compiler(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns the same function of arrays [B, ...], with inner shardings that the compiler chooses.

  Its results lie on the devices by their first axis, as the first of the arrays that does.
  """

  def run(*arrays: Array) -> Any:
    shardings = [jax.typeof(array).sharding for array in arrays]
    explicit = [s for s in shardings if any(axes is not None for axes in s.spec)]
    if not explicit:
      return function(*arrays)
    first = next((s for s in explicit if s.spec[0] is not None), explicit[0])
    leading = jax.sharding.PartitionSpec(first.spec[0])
    out = jax.sharding.NamedSharding(first.mesh, leading)
    return jax.sharding.auto_axes(function, out_sharding=out)(*arrays)

  return run
