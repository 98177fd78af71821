"""Terms: what every model returns for a batch, and all that an objective may read.

Letters: B batch; H W C image height, width, channels; k size of a blur kernel.
"""

from typing import NamedTuple

import jax

Array = jax.Array


class Images(NamedTuple):
  """Observed images and their reconstructions, for losses that are not densities."""

  x: Array  # [B, H, W, C]
  mean: Array  # [B, H, W, C]  of p(x|z)
  kernel: Array | None = None  # [B, k, k] or [B, k, k, C]  blur kernel of z, where one is predicted
  counted: Array | None = None  # [B]  how many numbers count; None: all of them
  # The same, with a derivative by the latents and none by the network of kernels; None: without any.
  latent_kernel: Array | None = None
  # [B, C, C]  orthogonal: kernels [B, k, k, C] blur the channels in its columns; None: the image's own
  kernel_axes: Array | None = None


class Terms(NamedTuple):
  """Log densities of one joint sample per image, in nats per image, by the variable's name.

  A model draws its latents from q and reports log p and log q of each variable it drew or was given:
  for a VAE `log_p = {'x': .., 'z': ..}` and `log_q = {'z': ..}`. Where KL(q(z|x) || p(z)) has a closed
  form it stands in `stats` as 'kl_z', and the ELBO uses it instead of the sampled difference.
  """

  log_p: dict[str, Array]  # [B] each
  log_q: dict[str, Array]  # [B] each
  stats: dict[str, Array]  # [B] each: 'kl_z' and whatever else is worth watching or constraining
  images: Images | None = None  # where the model has any


def log_weight(terms: Terms) -> Array:
  """Returns the log importance weight log p(x, z) - log q(z|x) of each image's sample. [B], nats."""
  return sum_terms(terms.log_p) - sum_terms(terms.log_q)


def sum_terms(terms: dict[str, Array]) -> Array:
  """Returns the sum of a dictionary of [B] terms. [B]."""
  first, *rest = terms.values()
  for term in rest:
    first = first + term
  return first
