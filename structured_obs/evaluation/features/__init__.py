"""Feature networks by name, as given on the command line, including a classifier that a run trained.

`of_user` makes an extractor of a user's network; `extract` returns the features of images.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from structured_obs import names
from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation.features import extractor, inception_weights
from structured_obs.evaluation.features.extractor import Extractor, extract, of_user, random_conv
from structured_obs.models.base import Bound, Model, Variables
from structured_obs.runs import checkpoint, restore
from structured_obs.runs import workdir as workdirs

__all__ = [
  'FORMS',
  'Extractor',
  'check_form',
  'extract',
  'find',
  'of_classifier',
  'of_user',
  'random_conv',
]

Array = jax.Array
CLASSIFIER = 'classifier'
FORMS = ('random_conv', 'classifier:WORKDIR', 'inception', 'inception:PATH')
TRAIN = 'python -m launch.train --config=configs/classifier.py'


def find(name: str, image: ImageShape) -> Extractor:
  """Returns the extractor of a name of one of FORMS, for images of this shape.

  Raises:
    FileNotFoundError: there is no such run, checkpoint or file.
    ValueError: the name is unknown, or the run is not of a classifier of such images.
  """
  check_form(name)
  kind, _, path = name.partition(':')
  path = names.local_path('--features', path)
  if kind == CLASSIFIER:
    return of_classifier(path, image)
  return random_conv(image) if kind == FORMS[0] else inception_weights.extractor(path)


def check_form(name: str) -> None:
  """Raises a ValueError unless a name has one of the FORMS."""
  kind, colon, path = name.partition(':')
  if not (name in FORMS[::2] or (kind in (CLASSIFIER, 'inception') and colon and path)):
    near = names.nearest(name, FORMS)
    hint = f'; did you mean {near!r}?' if near else '.'
    raise ValueError(f"--features='{name}' is unknown; it must be one of {', '.join(FORMS)}{hint}")


def of_classifier(workdir: str, image: ImageShape) -> Extractor:
  """Returns a classifier's features before its last layer, at its best checkpoint; its layers are maps.

  Raises:
    FileNotFoundError: there is no run, or it has no checkpoint.
    ValueError: the run is of another kind of model, or of images of another shape.
  """
  data = workdirs.read(Path(workdir))
  kind = data['config']['model']['kind']
  if kind != CLASSIFIER:
    raise ValueError(
      f"--features=classifier:{workdir} names a run with --config.model.kind='{kind}'; name the run of "
      f"a classifier, trained by {TRAIN}."
    )
  seen = ImageShape(*(data['data'][name] for name in ('height', 'width', 'channels')))
  if seen != image:
    raise ValueError(
      f'--features=classifier:{workdir} has images of {_told(seen)}, but the evaluated images have '
      f'{_told(image)}; train a classifier on images of the same shape.'
    )
  best = checkpoint.steps_in(Path(workdir) / checkpoint.BEST)  # empty without validation
  restored = restore.restore(workdir, 'best' if best else 'latest')
  variables = jax.device_get(restored.variables)
  apply, maps = (
    functools.partial(_apply, restored.experiment.model, method) for method in (Bound.embed, Bound.maps)
  )
  return Extractor(CLASSIFIER, extractor.fingerprint(jax.tree.leaves(variables)), apply, maps, variables)


def _apply(model: Model, method: Callable[..., Any], variables: Variables, images: Array) -> Any:
  return method(Bound(model, variables), images)


def _told(image: ImageShape) -> str:
  return ' x '.join(map(str, image))
