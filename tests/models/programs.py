"""Methods of a model as programs: operation by operation, jax would compile hundreds of tiny ones."""

import functools
from typing import Any

import jax


def init(model: Any, *args: Any, **options: Any) -> Any:
  """`model.init`, compiled once for a model and the shapes of the arguments."""
  return _program(model, 'init', options)(*args)


def apply(model: Any, variables: Any, *args: Any, **options: Any) -> Any:
  """`model.apply`, compiled once for a model, the options and the shapes of the arguments."""
  options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
  return _program(model, 'apply', options)(variables, *args)


def _program(model: Any, name: str, options: dict[str, Any]) -> Any:
  try:
    return _known(model, name, tuple(options.items()))
  except TypeError:  # a module with a field that has no hash
    return jax.jit(functools.partial(getattr(model, name), **options))


@functools.cache
def _known(model: Any, name: str, options: tuple[tuple[str, Any], ...]) -> Any:
  return jax.jit(functools.partial(getattr(model, name), **dict(options)))
