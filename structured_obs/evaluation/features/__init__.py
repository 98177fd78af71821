"""Feature networks by name, as given on the command line, including a classifier that a run trained.

`of_user` makes an extractor of a user's network; `extract` returns the features of images.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from structured_obs import names
from structured_obs.data.prepare import Prepared
from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation.features import (
  bands,
  extractor,
  inception_weights,
  random_conv,
  self_trained,
  vgg_weights,
)
from structured_obs.evaluation.features.extractor import Extractor, extract, of_user
from structured_obs.models.base import Bound, Model, Variables
from structured_obs.runs import checkpoint, restore
from structured_obs.runs import workdir as workdirs

__all__ = [
  'DEFAULT',
  'FORMS',
  'Extractor',
  'check_form',
  'extract',
  'find',
  'of_classifier',
  'of_user',
]

Array = jax.Array
CLASSIFIER = 'classifier'
FORMS = (
  bands.NAME,
  self_trained.NAME,
  random_conv.NAME,
  'classifier:WORKDIR',
  'inception',
  'inception:PATH',
  'vgg:PATH',
)
DEFAULT = bands.NAME
TRAIN = 'python -m launch.train --config=configs/classifier.py'


def find(
  name: str,
  image: ImageShape,
  data: Prepared | None = None,
  say: Callable[[str], None] = lambda line: None,
) -> Extractor:
  """Returns the extractor of a name of one of FORMS, for images of this shape.

  Args:
    name: of one of FORMS.
    image: shape of the images.
    data: of the run, whose training images 'self' learns from.
    say: callback for progress messages.

  Raises:
    FileNotFoundError: there is no such run, checkpoint or file.
    ValueError: the name is unknown, the run is not of a classifier of such images, or 'self' cannot
      learn from these data.
  """
  check_form(name)
  kind, _, path = name.partition(':')
  path = names.local_path('--features', path)
  if kind == self_trained.NAME:
    if data is None:
      raise ValueError(f'--features={kind} needs the data of a run, to learn from their images.')
    return self_trained.extractor(data, say)
  if kind in (bands.NAME, random_conv.NAME):
    return (bands.bands if kind == bands.NAME else random_conv.random_conv)(image)
  if kind == CLASSIFIER:
    return of_classifier(path, image)
  return vgg_weights.extractor(path, image) if kind == 'vgg' else inception_weights.extractor(path)


def check_form(name: str) -> None:
  """Raises a ValueError unless a name has one of the FORMS."""
  kind, _, path = name.partition(':')
  with_path = {form.partition(':')[0] for form in FORMS if ':' in form}
  without = {form for form in FORMS if ':' not in form}
  if name not in without and not (kind in with_path and path):
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
