"""Applies a sequence of edits, with the distribution after each, and draws them.

Letters: E edits; S samples; H W C image height, width, channels.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs import plotting
from structured_obs.applications import edit
from structured_obs.distributions import base, gaussian
from structured_obs.distributions.base import Family

Array = jax.Array


class History(NamedTuple):
  """The predicted distribution, and the distributions after each of the edits in turn."""

  means: np.ndarray  # [E + 1, H, W, C]
  deviations: np.ndarray | None  # [E + 1, H, W, C]; None if the family has none
  samples: np.ndarray  # [E + 1, S, H, W, C]
  touched: np.ndarray  # [E, H, W, C]  the mean before each edit, with its pixels set
  masks: np.ndarray  # [E, H, W, C]  bool, of each edit
  implausibility: np.ndarray  # [E]  after each edit


class Draws(NamedTuple):
  """Samples of each distribution."""

  samples: int = 3  # S
  pixel_noise: bool = True  # whether with the family's floor of independent pixel noise


DRAWS = Draws()


def run(
  family: Family, params: Any, edits: Sequence[edit.Edit], key: Array, draws: Draws = DRAWS
) -> History:
  """Applies edits in turn.

  Args:
    family: a Gaussian family.
    params: of one image.
    edits: E of them, in order.
    key: of the samples; each sample keeps its noise for all edits.
    draws: S, and whether with pixel noise.

  Raises:
    ValueError: as `edit.apply`.
  """
  keys = jax.random.split(key, max(draws.samples, 1))[: draws.samples]
  edit.check(family)
  mean, variance, predicted = _predicted(family, draws.pixel_noise, params, keys)
  means, masks, touched, implausible = [mean], [], [], []
  found = [edit.apply(family, params, edits[: i + 1], draws.pixel_noise) for i in range(len(edits))]
  for one, result in zip(edits, found, strict=True):
    touched.append(jnp.where(one.mask, one.value, means[-1]))
    means.append(result.mean)
    masks.append(one.mask)
    implausible.append(result.implausibility)
  deviations = None
  if found[-1].deviation is not None:
    deviations = [jnp.sqrt(variance), *(one.deviation for one in found)]
  drawn = [predicted, *(np.asarray([one.sample(key) for key in keys]) for one in found)]
  return History(
    means=np.asarray(means),
    deviations=None if deviations is None else np.asarray(deviations),
    samples=np.stack([np.reshape(images, (len(keys), *mean.shape)) for images in drawn]),
    touched=np.asarray(touched),
    masks=np.asarray(masks),
    implausibility=np.asarray(implausible),
  )


def rows(
  history: History, edits: Sequence[edit.Edit] = (), hides: bool = False
) -> tuple[list[plotting.Row], list[str]]:
  """Returns rows and headings of the paper's figure 6: the image, an edit, the image after it, ...

  Below them are the change by each edit, standard deviations, and samples.

  Args:
    history: of the edits.
    edits: the edits, whose values and softness are written under their images; or none.
    hides: whether the first edit is what can be seen of an image, and not a change of it.
  """
  count = len(history.touched)
  at_edits, after = tuple(range(1, 2 * count, 2)), history.means[1:]
  outline = np.zeros((2 * count + 1, *history.masks.shape[1:3]), bool)
  outline[1::2] = history.masks.any(axis=-1)
  line = _between(history.means, history.touched)
  said = [text for one in edits for text in (described(one), '')]
  captions = ('', *said) if edits else ()
  found = [plotting.Row('mean', line, outline=outline, captions=captions)]
  change = _between(np.zeros_like(history.means), after * 0)
  change[2::2] = after - history.means[:-1]
  found.append(plotting.Row('change', change, 'signed', empty=(0, *at_edits)))
  if history.deviations is not None:
    deviations = _between(history.deviations, after * 0)
    found.append(plotting.Row('standard\ndeviation', deviations, 'size', empty=at_edits))
  for i in range(history.samples.shape[1]):
    drawn = _between(history.samples[:, i], after * 0)
    found.append(plotting.Row(f'sample {i + 1}', drawn, empty=at_edits))
  names = ['seen pixels'] * hides + [f'edit {i + 1}' for i in range(count - hides)]
  return found, ['predicted', *(heading for name in names for heading in (name, 'after'))]


def described(one: edit.Edit) -> str:
  """Returns the value and the softness of an edit, such as '0.5, exact' or '-1 to 1, ± 0.1'."""
  values, mask = np.asarray(one.value, np.float64), np.asarray(one.mask)
  parts = []
  for channel in range(values.shape[-1]):
    inside = values[..., channel][mask[..., channel]]
    if inside.size:
      low, high = f'{inside.min():.2g}', f'{inside.max():.2g}'
      parts.append(low if low == high else f'{low} to {high}')
  deviation = float(one.deviation)
  softness = f'soft, ± {deviation:.2g}' if deviation else 'exact'
  return f'{"/".join(parts)}\n{softness}'


def arrays(history: History) -> dict[str, np.ndarray]:
  """Returns arrays by name, for np.savez."""
  return {name: array for name, array in history._asdict().items() if array is not None}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _predicted(
  family: Family, pixel_noise: bool, params: Any, keys: Array
) -> tuple[Array, Array, Array]:
  """Returns mean, variance and one sample per key, before any edit."""
  draw = base.sampler(family, pixel_noise)
  samples = jax.lax.map(lambda key: draw(key, params), keys)
  return family.mean(params), gaussian.variance(family, params), samples


def _between(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
  """Returns E + 1 images and the E between them, as one array [2 E + 1, H, W, C]."""
  found = np.empty((len(outer) + len(inner), *outer.shape[1:]), outer.dtype)
  found[::2], found[1::2] = outer, inner
  return found
