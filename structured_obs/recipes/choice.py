"""Checks the variant that a config file is asked for."""

from collections.abc import Iterable

from structured_obs import names


def choose(variant: str, variants: Iterable[str], file: str) -> str:
  """Returns the variant, or the first one for ''.

  Args:
    variant: as typed.
    variants: all of them.
    file: the config file, for the message.

  Raises:
    ValueError: the file has no such variant.
  """
  variants = tuple(variants)
  variant = variant or variants[0]
  if variant not in variants:
    near = names.nearest(variant, variants)
    hint = f'; did you mean {near!r}?' if near else '.'
    raise ValueError(f'{file} has the variants {", ".join(variants)}; got {variant!r}{hint}')
  return variant
