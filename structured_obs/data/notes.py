"""What a user should know of the images of an ingest: one sentence for each fact, with a count.

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

Seen = dict[str, set[int]]  # by fact: the indices of the images


def seen() -> Seen:
  """Returns a record of all facts, each of no image so far; threads may add to its sets at once."""
  return {fact: set() for fact in FACTS}


def of_images(facts: Mapping[str, Collection[int]], describe: Callable[[int], str]) -> list[str]:
  """Returns one sentence for every fact of some image.

  Args:
    facts: by key of FACTS, the indices of the images.
    describe: index -> name of the image.
  """
  return [
    counted(FACTS[fact], len(which), describe(min(which))) for fact, which in facts.items() if which
  ]


def counted(what: str, count: int, example: str) -> str:
  """Returns one sentence that counts and names an example."""
  return f'{what}: {count:,}, such as {example}.' if count > 1 else f'{what}: 1, {example}.'
