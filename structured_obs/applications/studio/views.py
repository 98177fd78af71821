"""The views of the studio: what a run says about the image of a session, as pictures and arrays.

Letters: T frames; K components; H W C image height, width, channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.applications import components, denoise, denoising, interpolate
from structured_obs.applications.studio import desk as desks
from structured_obs.applications.studio import session, strokes
from structured_obs.applications.studio.desk import Desk, Draws
from structured_obs.evaluation.metrics import image_errors

LATENTS, NOISE = BETWEEN = ('latents', 'noise')
MAX_STEPS = 60


class Settings(NamedTuple):
  """What a page has chosen, beside the session."""

  draws: Draws = Draws()
  peek: bool = False  # whether hidden pixels are seen by the encoder
  sigma: float = 0.3  # standard deviation of the noise to remove; pixels in [-1, 1]
  amounts: tuple[float, ...] = ()  # of the components, in standard deviations
  from_sample: bool = False  # whether the components move a sample instead of the mean
  pixel: tuple[int, int, int] = (0, 0, 0)  # row, column and channel that others are correlated with
  between: str = LATENTS  # of BETWEEN
  other: int = 1  # test image at the end of an interpolation in latents
  path: str = 'gaussian'  # of `paths.PATHS`
  steps: int = 16  # T


class Picture(NamedTuple):
  """One picture of a view."""

  caption: str
  image: np.ndarray  # [H, W, C]
  kind: str = 'pixels'  # of `plotting.colours.KINDS`
  mark: tuple[int, int] | None = None  # row and column of a marked pixel
  limit: float | None = None  # end of the scale; None takes the largest value

  def end(self) -> float:
    """Returns the end of this picture's own scale."""
    if self.kind == 'pixels':
      return 1.0
    largest = np.abs(self.image[np.isfinite(self.image)]).max(initial=0.0)
    return float(largest if self.limit is None else self.limit) or 1.0


class View(NamedTuple):
  """What a page shows of one run."""

  pictures: tuple[Picture, ...]
  frames: np.ndarray  # [T, H, W, C], of an animation
  moving: bool = False  # whether the page shows the animation
  note: str = ''  # sentences


def edited(desk: Desk, page: session.Session, settings: Settings) -> View:
  """Returns the mean, samples and standard deviations given what was painted or hidden."""
  found, given = desks.find(desk, page), desks.known(desk, page, settings.peek)
  result, drawn = desks.mean(desk, given), desks.samples(desk, given, settings.draws)
  spread = desks.deviation(desk, given, settings.draws.temperature)
  pictures = [_original(page, found), Picture('mean', result.image)]
  pictures += [Picture(f'sample {i + 1}', image) for i, image in enumerate(drawn)]
  note = ''
  if spread is not None:
    pictures.append(Picture('standard deviation', spread, 'size'))
  else:
    note = 'This family has no exact standard deviations at this size.'
  if page.strokes and not any(one.tool == strokes.HIDE for one in page.strokes):
    pictures.append(Picture('change of the mean', result.image - found.mean, 'signed'))
  return View(tuple(pictures), np.stack([*drawn, result.image]), note=note)


def denoised(desk: Desk, page: session.Session, settings: Settings) -> View:
  """Returns the image with noise, and what is left after removing it.

  Raises:
    ValueError: as `denoising.check`.
  """
  trained = desk.trained
  denoising.check(trained, denoising.Settings(settings.sigma, seed=settings.draws.seed))
  clean = desks.find(desk, page).image[None]
  noisy = denoise.add_noise(jax.random.key(settings.draws.seed), jnp.asarray(clean), settings.sigma)
  found = denoising.methods(
    trained, noisy, denoising.Settings(settings.sigma, project=False, seed=settings.draws.seed)
  )
  spread = found.pop(denoising.DEVIATION, None)
  pictures = [Picture('clean', clean[0])]
  for name, images in {'noisy': np.asarray(noisy), **found}.items():
    ratio = float(image_errors.peak_signal_to_noise(images, clean)[0])
    pictures.append(Picture(f'{name}, {ratio:.1f} dB', images[0]))
  frames = np.stack([picture.image for picture in pictures])
  if spread is not None:
    pictures.append(Picture(f'standard deviation of the {_last(found)}', spread[0], 'size'))
  note = 'PSNR in decibels, larger is better. ' + denoising.noise_note(
    trained, denoising.Settings(settings.sigma)
  )
  return View(tuple(pictures), frames, note=note.strip())


def moved(desk: Desk, page: session.Session, settings: Settings) -> View:
  """Returns the image moved along its leading components, and the components."""
  count = max(1, len(settings.amounts))
  found, scaled = desks.find(desk, page), desks.leading(desk, page, count)
  start = jnp.asarray(found.mean)
  if settings.from_sample:
    empty = page._replace(actions=(page.subject,), done=1)
    draws = settings.draws._replace(samples=1)
    start = jnp.asarray(desks.samples(desk, desks.known(desk, empty), draws)[0])
  amounts = np.zeros(count) if not settings.amounts else np.asarray(settings.amounts)
  sweep = [
    np.asarray(components.shift(start, scaled, jnp.asarray(factor * amounts, start.dtype)))
    for factor in np.linspace(-1, 1, 15)
  ]
  deviations = np.asarray(scaled.deviations)
  pictures = [
    Picture('a sample' if settings.from_sample else 'mean', np.asarray(start)),
    Picture('moved', sweep[-1]),
    Picture('the other way', sweep[0]),
  ]
  pictures += [
    Picture(f'component {i + 1}, sd {deviations[i]:.2g}', vector, 'signed')
    for i, vector in enumerate(np.asarray(scaled.vectors))
  ]
  return View(tuple(pictures), np.stack(sweep), note=components.warning(scaled))


def correlated(desk: Desk, page: session.Session, settings: Settings) -> View:
  """Returns the correlations of all pixels with one."""
  row, column, channel = settings.pixel
  found, image = desks.find(desk, page), desks.correlation(desk, page, settings.pixel)
  at = f'({row}, {column})'
  pictures = [Picture('mean', found.mean, mark=(row, column))]
  names = ('red', 'green', 'blue') if image.shape[-1] == 3 else ('',)
  own = f' {names[channel]}' if names[channel] else ''
  for i, name in enumerate(names):
    caption = f'{name} with {at}{own}' if name else f'correlation with {at}'
    pictures.append(Picture(caption, image[..., i : i + 1], 'signed', (row, column), 1.0))
  scale = np.asarray(image[..., channel : channel + 1])
  return View(
    tuple(pictures), scale[None], note='Correlations before any stroke: blue is -1, white 0, red 1.'
  )


def interpolated(desk: Desk, page: session.Session, settings: Settings) -> View:
  """Returns an animation between two images, in latents, or between two samples, in noise.

  Raises:
    ValueError: the model has no latents, or the image is new and was never encoded.
  """
  found, steps = desks.find(desk, page), min(max(settings.steps, 2), MAX_STEPS)
  if settings.between == NOISE:
    way = interpolate.Way(steps, settings.path, settings.draws.pixel_noise)
    key = jax.random.key(settings.draws.seed)
    frames = np.asarray(interpolate.line(desk.family, way, found.params, key))
    note = 'From one sample of this image to another: the network is evaluated once, the noise moves.'
  else:
    if found.given is None:
      raise ValueError(
        'A new image has no encoding to start from; choose a test image or an upload, or interpolate '
        'in noise.'
      )
    other = desks.find(desk, session.Session((f'test:{settings.other}',)))
    assert other.given is not None
    ends = jnp.stack([found.given, other.given])
    frames = np.asarray(interpolate.line_between_images(desk.trained.bound, ends, steps, settings.path))
    note = f'Means from this image to test image {settings.other}.'
  middle = frames[len(frames) // 2]
  pictures = Picture('start', frames[0]), Picture('middle', middle), Picture('end', frames[-1])
  return View(pictures, frames, True, note)


VIEWS: dict[str, Callable[[Desk, session.Session, Settings], View]] = {
  'Edit': edited,
  'Denoise': denoised,
  'Components': moved,
  'Correlation': correlated,
  'Interpolate': interpolated,
}


def arrays(view: View) -> dict[str, np.ndarray]:
  """Returns the arrays of a view by name, for an .npz file."""
  found = {
    picture.caption.partition(',')[0].replace(' ', '_'): picture.image for picture in view.pictures
  }
  return {**found, 'frames': view.frames}


def _original(page: session.Session, found: desks.Base) -> Picture:
  return Picture('a sample of it' if found.given is None else 'original', found.image)


def _last(found: dict[str, np.ndarray]) -> str:
  return [*found][-1]
