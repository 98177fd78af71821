"""Hides regions of an image: what could be there, given all other pixels.

An encoder needs a whole image, so it is given the conditional mean in place of the hidden pixels, some
rounds over. `completion` draws latents instead, and takes longer.

Letters: H W C image height, width, channels.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from structured_obs.applications import edit
from structured_obs.applications.subject import Subject
from structured_obs.distributions.base import Family
from structured_obs.models.base import Bound
from structured_obs.runs.trained import Trained

Array = jax.Array

ROUNDS = 3  # how often an image is encoded, each time with a better guess of what is hidden


def image_of(family: Family, found: Subject) -> np.ndarray:
  """Returns the image of a subject, [H, W, C]; a sample stands for a new one, which has no original."""
  if found.image is not None:
    return found.image
  return np.asarray(family.sample(jax.random.key(0), found.params))


def counted(trained: Trained, given: Array | None) -> np.ndarray | None:
  """Returns the pixels of a subject that count, [H, W] bool; None for all.

  Args:
    trained: the model.
    given: what was encoded, as of `Subject`.
  """
  if not trained.spec.masked or given is None:
    return None
  return np.asarray(given[..., -1] > 0)


def around(trained: Trained, found: Subject, hidden: np.ndarray) -> edit.Edit:
  """Returns the edit that sets all pixels of a subject that are not hidden, to what they are.

  Args:
    trained: the model.
    found: the subject.
    hidden: [H, W] bool.
  """
  image, seen = image_of(trained.model.family, found), ~hidden
  used = counted(trained, found.given)
  if used is not None:
    seen = seen & used
  return edit.Edit(jnp.asarray(image), jnp.asarray(np.broadcast_to(seen[..., None], image.shape)))


def hide(
  trained: Trained,
  found: Subject,
  hidden: np.ndarray,
  edits: Sequence[edit.Edit] = (),
  peek: bool = False,
) -> tuple[Subject, list[edit.Edit]]:
  """Returns a subject as what is left to see suggests it, and its edits after `around`, the first.

  Args:
    trained: the model.
    found: the subject.
    hidden: [H, W] bool.
    edits: of the subject, in order; they change what is seen.
    peek: whether its latents stay those of the whole image. Those of a new image do anyway.
  """
  edits = [around(trained, found, hidden), *edits]
  if peek or found.given is None:
    return found, edits
  merged = edit.merge(edits, trained.model.image)
  exact = edit.are_exact(edits)
  params = encode(trained.model.family, exact, trained.bound, found.given, merged)
  return found._replace(params=params), edits


@functools.partial(jax.jit, static_argnums=(0, 1))
def encode(family: Family, exact: bool, bound: Bound, given: Array, merged: edit.Merged) -> Any:
  """Returns the parameters of p(x|z) with z from the known pixels alone; what is not begins gray.

  Args:
    family: of the model.
    exact: whether every noise variance is 0 or infinite.
    bound: the model.
    given: [H, W, ...], what was encoded: the image and what comes with it.
    merged: what is known of the image.
  """
  channels = merged.value.shape[-1]
  is_known = merged.noise_variance < jnp.inf

  def encoded(guess: Array) -> Any:
    image = jnp.where(is_known, merged.value, guess)
    x = jnp.concatenate([image, given[..., channels:]], axis=-1)
    return jax.tree.map(lambda leaf: leaf[0], bound.reconstruct(None, x[None]))

  def improve(_: Array, guess: Array) -> Array:
    return edit.apply_merged(family, encoded(guess), merged, exact).mean

  guess = jax.lax.fori_loop(0, ROUNDS - 1, improve, jnp.zeros_like(merged.value))
  return encoded(guess)
