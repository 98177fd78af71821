"""Checks the variant that a config file is asked for."""

from collections.abc import Iterable


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
    raise ValueError(f'{file} has the variants {", ".join(variants)}; got {variant!r}.')
  return variant
