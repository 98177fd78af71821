"""Views of a model's distributions: means, samples, spreads, correlations and components.

Letters: N distributions; S samples of each; k principal components; H W C image height, width and
channels.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import plotting
from structured_obs.devices.keys import numbered_keys
from structured_obs.distributions import elliptical, gaussian
from structured_obs.distributions.base import Family
from structured_obs.models import intermediate_images, masks
from structured_obs.models.base import Bound, Model, classes_of

Array = jax.Array
PICTURES = {  # file and heading, by what was viewed
  'prior': ('prior', 'New images'),
  'reconstruction': ('reconstructions', 'Reconstructions'),
  'regeneration': ('regenerations', 'Generative reconstructions'),
}


class Request(NamedTuple):
  """What to compute for each distribution; hashable, so that it can be static under jit."""

  pixel: tuple[int, int, int]  # row, column and channel of the reference of correlations
  samples: int = 3  # S
  temperature: float = 1.0  # factor of the standard deviations
  components: int = 5  # k; 0 for none
  labels: tuple[int, ...] = ()  # classes of new images, in turn; () lets the model choose


class Views(NamedTuple):
  """Arrays to show. Those that only a Gaussian has are None for other families."""

  mean: np.ndarray  # [N, H, W, C]
  samples: np.ndarray  # [S, N, H, W, C]
  standard_deviation: np.ndarray | None  # [N, H, W, C]
  correlation: np.ndarray | None  # [N, H, W, C], of every pixel with the chosen one
  component_variances: np.ndarray | None  # [k, N], largest first
  components: np.ndarray | None  # [k, N, H, W, C], orthonormal; largest entry positive
  # [N, h, w, c] each, by name: images that a model of several levels drew or saw on the way.
  stages: Mapping[str, np.ndarray] = MappingProxyType({})


def of_prior(bound: Bound, num: int, key: Array, request: Request) -> Views:
  """Returns views of p(x|z) for `num` latents drawn from the prior.

  Args:
    bound: the model.
    num: N.
    key: of the latents and the samples.
    request: what to compute.

  Raises:
    ValueError: a number in the request is out of range.
  """
  _check(bound.model, num, request)
  latent_key, sample_key = jax.random.split(key)
  labels = (jnp.asarray(np.resize(request.labels, num), jnp.int32),) if request.labels else ()
  latent_keys, sample_keys = numbered_keys(latent_key, num), numbered_keys(sample_key, num)
  return _drawn(bound, Bound.generate, (latent_keys, *labels), sample_keys, request)


def of_reconstructions(bound: Bound, x: Array, key: Array, request: Request) -> Views:
  """Returns views of p(x|z) at the mean of each image's posterior.

  Args:
    bound: the model.
    x: [N, H, W, C], floats in [-1, 1].
    key: of the samples.
    request: what to compute.

  Raises:
    ValueError: a number in the request is out of range.
  """
  _check(bound.model, len(x), request)
  keys = numbered_keys(jax.random.fold_in(key, len(x)), len(x))
  return _drawn(bound, Bound.predict, (keys, x), numbered_keys(key, len(x)), request)


def of_regenerations(bound: Bound, x: Array, key: Array, request: Request) -> Views | None:
  """Returns views of images that a two-level model generates from the first level of each image.

  Returns None for a model without this operation.

  Args:
    bound: the model.
    x: [N, H, W, C], floats in [-1, 1].
    key: of the samples.
    request: what to compute.

  Raises:
    ValueError: a number in the request is out of range.
  """
  if not bound.model.traits.two_levels:
    return None
  _check(bound.model, len(x), request)
  latent_key, sample_key = jax.random.split(key)
  arguments = numbered_keys(latent_key, len(x)), x
  return _drawn(bound, Bound.regenerate, arguments, numbered_keys(sample_key, len(x)), request)


def draw(family: Family, params: Any, keys: Array, request: Request) -> Views:
  """Returns views of N distributions of a family.

  Args:
    family: of the distributions.
    params: with a leading N.
    keys: [N].
    request: what to compute.
  """
  views = Views(*jax.device_get(_draw(family, request, params, keys)))
  if views.components is None:
    return views
  flat = views.components.reshape(*views.components.shape[:2], -1)
  largest = np.take_along_axis(flat, np.abs(flat).argmax(axis=-1, keepdims=True), axis=-1)
  sign = np.where(largest < 0, -1, 1).astype(flat.dtype)
  return views._replace(components=(sign * flat).reshape(views.components.shape))


def rows(views: Views, request: Request, originals: np.ndarray | None = None) -> list[plotting.Row]:
  """Returns the rows of a figure, one per view.

  Args:
    views: to show.
    request: of the views.
    originals: [N, H, W, C] in [-1, 1], shown first.
  """
  found = [] if originals is None else [plotting.Row('original', originals)]
  found += [plotting.Row(name, images) for name, images in views.stages.items()]
  found.append(plotting.Row('mean', views.mean))
  found += [plotting.Row(f'sample {i + 1}', sample) for i, sample in enumerate(views.samples)]
  if len(views.samples):
    found.append(plotting.Row('sample 1 - mean', views.samples[0] - views.mean, 'signed'))
  if views.standard_deviation is not None:
    found.append(plotting.Row('standard deviation', views.standard_deviation, 'size'))
  if views.correlation is not None:
    row, column, channel = request.pixel
    gray = views.mean.shape[-1] == 1
    name = f'({row}, {column})' if gray else f'({row}, {column}, {channel})'
    correlation = views.correlation[..., channel : channel + 1]
    found.append(
      plotting.Row(f'correlation with\npixel {name}', correlation, 'signed', (row, column), 1.0)
    )
  components = () if views.components is None else views.components
  finite = [np.abs(one[np.isfinite(one)]).max(initial=0.0) for one in components]
  strongest = float(max(finite, default=0.0)) or None  # one scale for all of them
  for i, component in enumerate(components):
    found.append(plotting.Row(f'component {i + 1}', component, 'signed', limit=strongest))
  return found


def write(
  directory: Path,
  found: Mapping[str, Views | None],
  request: Request,
  originals: np.ndarray,
  title: str,
) -> dict[str, np.ndarray]:
  """Draws one figure for each of the views, and returns all arrays by 'NAME_VIEW'.

  Args:
    directory: to write to.
    found: by a name of `PICTURES`; entries of None are skipped.
    request: of the views.
    originals: [N, H, W, C] in [-1, 1], the images behind all views but the prior's.
    title: end of every figure's title.
  """
  arrays = {'original': originals}
  for name, one in found.items():
    if one is not None:
      file, heading = PICTURES[name]
      shown = rows(one, request, None if name == 'prior' else originals)
      plotting.image_rows(directory / f'{file}.png', shown, title=f'{heading}: {title}')
      arrays |= named(one, name)
  return arrays


def observed(model: Model, x: Array) -> np.ndarray:
  """Returns the images [N, H, W, C] without the further channels that a model is given.

  Pixels that do not count are gray.
  """
  return np.asarray(masks.pixels(model, x))


def named(views: Views, prefix: str) -> dict[str, np.ndarray]:
  """Returns arrays by 'PREFIX_VIEW', for np.savez."""
  found = {**views._replace(stages=None)._asdict(), **views.stages}
  return {f'{prefix}_{name}': array for name, array in found.items() if array is not None}


def parse_pixel(text: Sequence[str], model: Model) -> tuple[int, int, int]:
  """Parses a pixel's row, column and optional channel; without any, returns the central pixel.

  Raises:
    ValueError: unless there are two or three whole numbers. Whether they lie inside is checked later.
  """
  if not text:
    return center(model)
  if len(text) not in (2, 3) or not all(part.strip().isdecimal() for part in text):
    raise ValueError(
      f'--pixel={",".join(text)} is invalid; it must be a row, a column and optionally a channel, '
      'counted from 0, such as --pixel=4,4 or --pixel=4,4,0.'
    )
  row, column, channel = [*map(int, text), 0][:3]
  return row, column, channel


def center(model: Model) -> tuple[int, int, int]:
  """Returns row, column and channel of the central pixel."""
  return model.image.height // 2, model.image.width // 2, 0


def _drawn(
  bound: Bound, method: Callable[..., Any], arguments: Sequence[Any], keys: Array, request: Request
) -> Views:
  """Returns views of the distributions that a method of `Bound` returns, and of intermediate images."""
  params, shown = _watched(method, bound, *arguments)
  return draw(bound.model.family, params, keys, request)._replace(stages=jax.device_get(shown))


@functools.partial(jax.jit, static_argnums=0)
def _watched(method: Callable[..., Any], bound: Bound, *arguments: Any) -> Any:
  return intermediate_images.watched(bound, method, *arguments)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(family: Family, request: Request, params: Any, keys: Array) -> tuple[Any, ...]:
  """Returns the fields of `Views`, on the device."""
  if request.temperature != 1:
    params = jax.vmap(lambda p: gaussian.temper(family, p, request.temperature))(params)

  def sample(i: Array) -> Array:
    return jax.vmap(lambda key, p: family.sample(jax.random.fold_in(key, i), p))(keys, params)

  mean = jax.vmap(family.mean)(params)
  samples = jax.vmap(sample)(jnp.arange(request.samples, dtype=jnp.int32))
  if not elliptical.has_covariance(family):
    return mean, samples, None, None, None, None
  deviation = jnp.sqrt(jax.vmap(functools.partial(gaussian.variance, family))(params))
  correlation = jax.vmap(lambda p: gaussian.correlation(family, p, request.pixel))(params)
  if not request.components:
    return mean, samples, deviation, correlation, None, None
  # One image after the other: some families need a dense [D, D] matrix for each.
  found = jax.lax.map(lambda p: gaussian.principal_components(family, p, request.components), params)
  components = jnp.swapaxes(found.vectors, 0, 1)
  return mean, samples, deviation, correlation, found.values.T, components


def _check(model: Model, num: int, request: Request) -> None:
  if num < 1 or request.samples < 0:
    raise ValueError(
      f'There must be at least one image (--num), and --samples of at least 0; got {num} and '
      f'{request.samples}.'
    )
  if not request.temperature > 0:
    raise ValueError(f'--temperature={request.temperature} is out of range; it must be positive.')
  if request.temperature != 1 and not elliptical.has_covariance(model.family):
    raise ValueError('--temperature applies to families with a covariance; this model has none.')
  shape = tuple(model.image)
  if len(request.pixel) != 3 or not all(
    0 <= at < size for at, size in zip(request.pixel, shape, strict=True)
  ):
    raise ValueError(
      f'--pixel={",".join(map(str, request.pixel))} is outside the image of shape '
      f'{shape}; it is a row, a column and a channel, counted from 0.'
    )
  number = classes_of(model)
  if request.labels and not all(0 <= label < number for label in request.labels):
    raise ValueError(
      f'--labels={",".join(map(str, request.labels))} is invalid: classes are from 0 to {number - 1}.'
      if number
      else '--labels applies to label-conditional models; this model is not one.'
    )
  if not 0 <= request.components <= model.image.size:
    raise ValueError(
      f'--components={request.components} is out of range; it must be from 0 to {model.image.size}.'
    )
