"""Bad inputs by class, each one generated from a seed: files, archives, configurations, commands, paths.

A class is one module and one line in `CLASSES`.
"""

from tests.campaigns import outcomes
from tests.campaigns.inputs import (
  arrays,
  commands,
  fields,
  images,
  options,
  paths,
  published,
  volumes,
  zips,
)

CLASSES = {
  'image file': images.cases,
  'zip archive': zips.cases,
  'array file': arrays.cases,
  'volume': volumes.cases,
  'published archive': published.cases,
  'field of the configuration': fields.cases,
  'option of a family': options.cases,
  'command line': commands.cases,
  'path': paths.cases,
}
COUNT = 290


def cases(seed: int) -> list[outcomes.Case]:
  """Returns every case, with the name of its class as its kind."""
  return [case._replace(kind=kind) for kind, make in CLASSES.items() for case in make(seed)]


def run(count: int, seed: int) -> list[outcomes.Result]:
  """Tries `count` bad inputs, or all for 0, as evenly over the classes as they allow."""
  return [outcomes.judge(case) for case in outcomes.sample(cases(seed), count, seed)]
