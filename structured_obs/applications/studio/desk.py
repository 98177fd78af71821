"""An opened run of the studio: its images, what its family can do, and its compiled programs.

Every program has arguments of one shape, whatever was painted: values and noise variances of all pixels
(`edit.Merged`). So it is compiled once per run, at the start or when it is first needed.

Letters: S samples; H W C image height, width, channels.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.applications import components, edit, hiding, subject
from structured_obs.applications.studio import files, session, strokes
from structured_obs.data.prepare import Prepared
from structured_obs.distributions import base, elliptical, gaussian
from structured_obs.distributions.base import Family
from structured_obs.models.base import classes_of
from structured_obs.runs import restore
from structured_obs.runs.trained import Trained

Array = jax.Array

MAX_KNOWN = 32  # subjects whose distributions are kept


class Desk(NamedTuple):
  """A run, and what is kept of its subjects."""

  trained: Trained
  prepared: Prepared
  known: dict[Any, Any]  # by subject, the oldest first

  @property
  def family(self) -> Family:
    """The family of p(x|z)."""
    return self.trained.model.family

  @property
  def image(self) -> base.ImageShape:
    """The shape of the images."""
    return self.trained.model.image


class Abilities(NamedTuple):
  """What a page offers for a run."""

  soft: bool  # painting through noise
  pixel_noise: bool  # samples without the floor of pixel noise
  prior: bool  # new images
  latents: bool  # interpolation in latents
  uploads: bool  # files, and images with noise: the model is given nothing but an image
  classes: int  # of new images; 0 for none
  test_images: int
  components: int


class Base(NamedTuple):
  """A subject on the desk."""

  params: Any  # of p(x|z)
  image: np.ndarray  # [H, W, C]  what was encoded; a sample for a new image
  given: Array | None  # [H, W, ...]  all that was encoded; None for a new image
  mean: np.ndarray  # [H, W, C]


class Known(NamedTuple):
  """What is known of an image, and the distribution that it is a part of."""

  params: Any
  merged: edit.Merged
  exact: bool


class Draws(NamedTuple):
  """How samples are drawn."""

  seed: int = 0
  temperature: float = 1.0  # factor of the standard deviations
  pixel_noise: bool = True
  samples: int = 3  # S


class Result(NamedTuple):
  """The image after all strokes."""

  image: np.ndarray  # [H, W, C]
  implausibility: float  # see `edit.Edited`
  milliseconds: float  # of the compiled program, with its transfers


def open_run(workdir: str, checkpoint: str = 'best', flag: str = '--workdir') -> Desk:
  """Opens a run.

  Args:
    workdir: of the run.
    checkpoint: as of `restore.load`.
    flag: that named the run, in messages.

  Raises:
    FileNotFoundError: there is no run, no such checkpoint or no data.
    ValueError: as `restore.load`, or the studio cannot work with this model.
  """
  trained, prepared = restore.load(workdir, checkpoint)
  check(trained, flag)
  return Desk(trained, prepared, {})


def check(trained: Trained, flag: str = '--workdir') -> None:
  """Raises a ValueError, naming the flag, unless a model has what the studio works with."""
  likelihood = trained.config.likelihood
  wrapped = '+'.join([likelihood.family, *filter(None, likelihood.wrappers)])
  if not elliptical.has_covariance(trained.model.family):
    raise ValueError(
      f'{flag}={trained.workdir}: the studio needs a family with a covariance, and {wrapped} has none; '
      'open a run of a Gaussian family or of a Student t.'
    )


def abilities(desk: Desk) -> Abilities:
  """Returns what a page offers for a run."""
  traits, spec, gauss = desk.trained.model.traits, desk.trained.spec, desk.family.student is None
  params = find(desk, session.Session()).params
  return Abilities(
    soft=gauss,
    pixel_noise=gauss and base.has_floor(desk.family),
    prior=traits.has_prior and traits.generates,
    latents=traits.has_latents,
    uploads=not (spec.condition or spec.masked),
    classes=classes_of(desk.trained.model),
    test_images=len(desk.prepared.images['test']),
    components=min(6, components.default_count(params, desk.image)),
  )


def find(desk: Desk, page: session.Session) -> Base:
  """Returns the subject of a session; it is kept.

  Raises:
    ValueError: as `subject.find`, or an upload is not kept any more.
  """
  return kept(desk, page.subject, lambda: _find(desk, page))


def kept(desk: Desk, name: Any, make: Callable[[], Any]) -> Any:
  """Returns what is kept by a name, or makes it; the oldest of `MAX_KNOWN` entries goes."""
  found = desk.known.get(name)
  if found is None:
    found = make()
    if len(desk.known) >= MAX_KNOWN:
      desk.known.pop(next(iter(desk.known)), None)
    desk.known[name] = found
  return found


def known(desk: Desk, page: session.Session, peek: bool = False) -> Known:
  """Returns what the strokes of a session leave known of its image.

  Args:
    desk: the run.
    page: the session.
    peek: whether the latents of an image with hidden pixels are those of the whole image. Otherwise it
      is encoded as by `hiding.encode`.
  """
  found = find(desk, page)
  painting = strokes.paint(page.strokes, desk.image)
  counted = hiding.counted(desk.trained, found.given)
  merged, exact = strokes.observed(painting, found.image, counted), strokes.is_exact(painting)
  merged = edit.Merged(*(jnp.asarray(one, found.mean.dtype) for one in merged))
  params = found.params
  if painting.hidden.any() and not peek and found.given is not None:
    params = hiding.encode(desk.family, exact, desk.trained.bound, found.given, merged)
  return Known(params, merged, exact)


def mean(desk: Desk, given: Known) -> Result:
  """Returns the image after all strokes: the mean given what is known."""
  start = time.perf_counter()
  image, implausibility = jax.device_get(_mean(desk.family, given.exact, given.params, given.merged))
  return Result(image, float(implausibility), 1000 * (time.perf_counter() - start))


def samples(desk: Desk, given: Known, draws: Draws) -> np.ndarray:
  """Returns images that agree with what is known. [S, H, W, C].

  Raises:
    ValueError: as `edit.apply_merged`.
  """
  how = given.exact, draws.pixel_noise, draws.samples
  key = jax.random.key(draws.seed)
  return np.asarray(_samples(desk.family, how, given, key, _float(given, draws.temperature)))


def deviation(desk: Desk, given: Known, temperature: float = 1.0) -> np.ndarray | None:
  """Returns standard deviations given what is known, [H, W, C]; None if the family has none exactly."""
  found = _deviation(desk.family, given.exact, given, _float(given, temperature))
  return None if found is None else np.asarray(found)


def leading(desk: Desk, page: session.Session, count: int) -> components.Scaled:
  """Returns the leading components of a session's image; they are kept."""

  def make() -> components.Scaled:
    found = find(desk, page)
    return components.scale(desk.family, found.params, jnp.asarray(found.mean), count, (0.0,))

  return kept(desk, ('components', page.subject, count), make)


def correlation(desk: Desk, page: session.Session, pixel: tuple[int, int, int]) -> np.ndarray:
  """Returns the correlations of all pixels with one, in p(x|z) before any stroke. [H, W, C]."""
  at = jnp.asarray(pixel, jnp.int32)
  return np.asarray(_correlation(desk.family, find(desk, page).params, at))


def warm_up(desk: Desk) -> None:
  """Compiles what strokes need: the mean after exact, soft and hidden ones, samples and deviations."""
  able, page = abilities(desk), session.Session()
  stroke = strokes.Stroke(strokes.PAINT, ((0, 0),))
  given = known(desk, session.act(page, stroke))
  mean(desk, given)
  samples(desk, given, Draws())
  deviation(desk, given)
  if able.soft:
    mean(desk, known(desk, session.act(page, stroke._replace(deviation=0.1))))
  known(desk, session.act(page, stroke._replace(tool=strokes.HIDE)))


def _find(desk: Desk, page: session.Session) -> Base:
  if page.subject.startswith(session.UPLOAD):
    file = page.uploads.get(page.subject.removeprefix(session.UPLOAD))
    if file is None:
      raise ValueError('This uploaded image is not kept any more; upload it again.')
    found = subject.of_file(desk.trained, 'upload', files.from_text(file))
  else:
    found = subject.find(desk.trained, desk.prepared, subject.parse(page.subject))
  mean = np.asarray(desk.family.mean(found.params))
  image = hiding.image_of(desk.family, found)
  return Base(found.params, image.astype(mean.dtype), found.given, mean)


def _float(given: Known, number: float) -> Array:
  return jnp.asarray(number, given.merged.value.dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _mean(family: Family, exact: bool, params: Any, merged: edit.Merged) -> tuple[Array, Array]:
  found = edit.apply_merged(family, params, merged, exact)
  return found.mean, found.implausibility


@functools.partial(jax.jit, static_argnums=(0, 1))
def _samples(
  family: Family, how: tuple[bool, bool, int], given: Known, key: Array, temperature: Array
) -> Array:
  exact, pixel_noise, count = how
  params = gaussian.temper(family, given.params, temperature)
  found = edit.apply_merged(family, params, given.merged, exact, pixel_noise)
  return jax.lax.map(found.sample, jax.random.split(key, count))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _deviation(family: Family, exact: bool, given: Known, temperature: Array) -> Array | None:
  params = gaussian.temper(family, given.params, temperature)
  return edit.apply_merged(family, params, given.merged, exact).deviation


@functools.partial(jax.jit, static_argnums=0)
def _correlation(family: Family, params: Any, pixel: Array) -> Array:
  at: Any = tuple(pixel)
  return gaussian.correlation(family, params, at)
