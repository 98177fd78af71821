"""The section on the parts of the variance: how much of the uncertainty is in z, and how much in x.

By the law of total variance, the variance of a new image's value is

  Var[x] = Var_z E[x|z] + E_z Var[x|z],   z ~ p(z),

the variance of the means that the prior gives, and the mean variance of p(x|z), each averaged over the
values of an image. The second is also told without the family's floor of independent pixel noise: this
is what samples without pixel noise show. Beside them stands the variance of the evaluated images, which
a good model's total equals. Nothing is clipped.

Both parts are unbiased averages over draws of z. The variance of a family without a covariance is that
of one sample of each draw.

Letters: N draws of z; B of them at a time; H W C image height, width, channels; D = H W C.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.data import pixels
from structured_obs.distributions import base, elliptical, gaussian
from structured_obs.evaluation import finite, likelihood, passes, tables
from structured_obs.evaluation.sections.base import Evaluated, Section
from structured_obs.runs.trained import Trained

Array = jax.Array

DRAWS = range(256, 1001)  # N is the number of images within these bounds
NUMBERS = 2**25  # entries of all means that are held in memory: N D at most
LEAST = 64  # N even where images are larger


class Parts(NamedTuple):
  """Parts of the variance of one model's images; the means over draws are the parts."""

  of_means: np.ndarray  # [N]  squared distance from the mean image over D, times N / (N - 1)
  given_z: np.ndarray  # [N]  mean variance of p(x|z)
  without_noise: np.ndarray | None  # [N]  without the floor of pixel noise; None without a floor

  @property
  def share_of_z(self) -> float:
    """The part of z over the total."""
    of_means, given_z = np.mean(self.of_means), np.mean(self.given_z)
    return float(of_means / (of_means + given_z))

  def named(self) -> dict[str, np.ndarray]:
    """Returns every part there is by its name in JSON."""
    found = {'of_means': self.of_means, 'given_z': self.given_z, 'without_noise': self.without_noise}
    return {name: values for name, values in found.items() if values is not None}


LABELS = {
  'of_means': 'in z: variance of the means of p(x given z)',
  'given_z': 'in x: mean variance of p(x given z)',
  'without_noise': 'in x, without pixel noise',
}


def applies(trained: Trained) -> bool:
  """Returns whether a model's new images have different distributions."""
  return trained.model.traits.has_prior and trained.model.traits.generates


def of_model(
  trained: Trained, images: np.ndarray, seed: int = 0, where: passes.Where = passes.HERE
) -> Parts:
  """Returns the parts of the variance of a model's new images.

  Args:
    trained: a model to which this applies.
    images: as stored, for the number of draws and the form of a batch; their values are not used.
    seed: of the draws, the same ones for all models of one prior.
    where: devices to run on.
  """
  count = min(max(len(images), DRAWS[0]), DRAWS[-1], max(LEAST, NUMBERS // trained.model.image.size))
  job = passes.Pass(
    _measure, trained.model, trained.spec.levels, batch_size=trained.config.eval.batch_size,
    name='draws of the latents',
  )  # fmt: skip
  key = jax.random.key(seed)
  rows = np.broadcast_to(images[:1], (count, *images.shape[1:]))
  found = passes.over_images(job, trained.variables, rows, key, where)
  means = found['mean'].reshape(count, -1)
  distances = np.mean(np.square(means - np.mean(means, axis=0)), axis=1)
  return Parts(distances * count / (count - 1), found['given_z'], found.get('without_noise'))


def _measure(job: passes.Pass, variables: Any, keys: Array, x: Array) -> dict[str, Array]:
  """Returns the mean [B, H, W, C] and mean variances [B] of p(x|z), z ~ p(z), for the keys [B]."""
  del x
  family, pairs = job.model.family, jax.vmap(jax.random.split)(keys)
  params = job.bound(variables).generate(pairs[:, 0])
  found = {'mean': jax.vmap(family.mean)(params)}
  if not elliptical.has_covariance(family):
    return found | _by_samples(family, pairs[:, 1], params)
  found['given_z'] = jax.vmap(lambda one: jnp.mean(gaussian.variance(family, one)))(params)
  if elliptical.primitives(family).pixel_noise is not None:
    noise = jax.vmap(lambda key, one: _noise_variance(family, key, one))(pairs[:, 1], params)
    found['without_noise'] = found['given_z'] - noise
  return found


def _noise_variance(family: base.Family, key: Array, params: Any) -> Array:
  """Returns the mean variance of the floor. [].

  trace(N) / D by one probe of random signs: exact for a diagonal N, unbiased for others.
  """
  floor, like = elliptical.primitives(family).pixel_noise, family.mean(params)
  assert floor is not None
  signs = jax.random.rademacher(key, like.shape, like.dtype)
  variance = jnp.mean(signs * floor.covariance_matvec(params, signs))
  return elliptical.inflated(family, params, variance)


def _by_samples(family: base.Family, keys: Array, params: Any) -> dict[str, Array]:
  """Returns mean variances [B] by one sample each."""

  def distance(pixel_noise: bool) -> Array:
    draw = base.sampler(family, pixel_noise)
    squared = lambda key, one: jnp.mean(jnp.square(draw(key, one) - family.mean(one)))  # noqa: E731
    return jax.vmap(squared)(keys, params)

  floor = {'without_noise': distance(False)} if base.has_floor(family) else {}
  return {'given_z': distance(True)} | floor


def text(found: Mapping[str, Parts], images: float) -> str:
  """Returns a Markdown section.

  Args:
    found: by the model's name.
    images: variance of the evaluated images.
  """
  count = len(next(iter(found.values())).of_means)
  rows = [[f'1000 x variance of a value, mean over {count} draws of z', *found]]
  for name, label in LABELS.items():
    parts = [one.named().get(name) for one in found.values()]
    if any(part is not None for part in parts):
      rows.append([label, *(tables.mean_cell(part, 2, 1000.0) for part in parts)])
  totals = [np.mean(one.of_means) + np.mean(one.given_z) for one in found.values()]
  rows.append(['total', *(f'{1000 * total:.2f}' for total in totals)])
  rows.append(['share of z', *(f'{one.share_of_z:.3f}' for one in found.values())])
  bad = {f'{name}: {k}': v for name, one in found.items() for k, v in one.named().items()}
  return tables.paragraphs(
    '## Uncertainty in z and in x',
    tables.markdown_table(rows),
    finite.sentences(bad, 'draws'),
    f'Of new images, by the law of total variance; the evaluated images have {1000 * images:.2f}. '
    'The share of z is that of the total with pixel noise.',
  )


def as_json(found: Mapping[str, Parts], images: float) -> dict[str, Any]:
  """Returns all parts; arguments as of `text`."""
  models = {
    name: {
      **{part: likelihood.summarize(values)._asdict() for part, values in one.named().items()},
      'share_of_z': one.share_of_z,
    }
    for name, one in found.items()
  }
  return {'images': images, 'models': models}


def variance_of_images(trained: Trained, images: np.ndarray) -> float:
  """Returns the variance of stored images' values [N, H, W, C] about the mean image, in [-1, 1]."""
  shown = np.asarray(pixels.to_unit(images[: DRAWS[-1]], trained.spec.levels), np.float64)
  if len(shown) < 2:
    return float('nan')
  return float(np.mean(np.var(shown[..., : trained.model.image.channels], axis=0, ddof=1)))


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None without a model of this kind."""
  models = [one.trained for one in evaluated.found if applies(one.trained)]
  if not models:
    return None
  found = {
    trained.name: of_model(trained, evaluated.images, evaluated.seed, evaluated.where)
    for trained in models
  }
  images = variance_of_images(models[0], evaluated.images)
  return Section('variance_parts', text(found, images), as_json(found, images))
