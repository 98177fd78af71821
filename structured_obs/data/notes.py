"""Collects what a user should know about ingested images: one sentence per fact, with a count.

Facts are collected by the image's index while images are read, and become sentences at the end. They are
reported once, and stay in the `spec.json` of the prepared images.
"""

from collections.abc import Callable, Collection, Mapping

FACTS = {
  'transparent': 'Images with transparent pixels, which are blended with white',
  'frames': 'Files of several frames or pages, of which the first is read',
  'gray': 'Gray images among colour ones, which become RGB',
  'small': 'Images smaller than the wanted size, which are enlarged',
  'unreadable': 'Unreadable images, which are left out',
  'repeated': 'Validation and test images with the same pixels as an image of an earlier split',
}

Seen = dict[str, set[int]]  # indices of images by fact


def seen() -> Seen:
  """Returns an empty record of all facts; threads may add to its sets concurrently."""
  return {fact: set() for fact in FACTS}


def of_images(facts: Mapping[str, Collection[int]], describe: Callable[[int], str]) -> list[str]:
  """Returns one sentence per fact that holds for some image.

  Args:
    facts: indices of images, by key of FACTS.
    describe: index -> name of the image.
  """
  return [
    counted(FACTS[fact], len(which), describe(min(which))) for fact, which in facts.items() if which
  ]


def counted(what: str, count: int, example: str) -> str:
  """Returns one sentence with a count and an example."""
  return f'{what}: {count:,}, such as {example}.' if count > 1 else f'{what}: 1, {example}.'
