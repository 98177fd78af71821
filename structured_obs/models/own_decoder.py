"""A user's decoder, written in Flax NNX or Linen, instead of an architecture's.

  class Mine(nnx.Module):
    def __init__(self, hidden: int, rngs: nnx.Rngs):
      self.layer = nnx.Linear(2, 8 * 8 * hidden, rngs=rngs)

    def __call__(self, z):  # [B, 2] -> [B, 8, 8, hidden]
      return self.layer(z).reshape(len(z), 8, 8, -1)

  model = vae.VAE(family, image, latents=2, own_decoder=own_decoder.of_nnx(Mine, hidden=32))

The network maps latents [B, Z + K] (with classes, K numbers of the class behind the latent), or
[B, h, w, Z + K] where the architecture's latents are images, to one of two things:

  features [B, H, W, F], from which one linear layer makes each output that the family asks for, as it
    does in every decoder here; stages of training find these heads
  a dictionary of these outputs, by the names and shapes of `family.outputs(image)`, [B, *shape] each,
    unconstrained: the family makes valid parameters of any numbers

It is called as `network(z)`, without random numbers and without state other than its parameters. Layers
that keep batch statistics or use dropout are not supported.

Letters: B batch; H W C image height, width, channels; Z latents; K classes; F features.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import nnx
from flax.core import FrozenDict

from structured_obs.distributions import base
from structured_obs.models.networks import layers
from structured_obs.models.networks.heads import Heads

Array = jax.Array
Maker = Callable[..., nn.Module]  # (image, outputs) by keyword -> a decoder


def of_linen(network: nn.Module) -> Maker:
  """Returns the value of a model's field `own_decoder` for a Linen module.

  Args:
    network: not bound; its `__call__(z)` is as the module's docstring says.
  """
  return functools.partial(OwnDecoder, network=network)


def of_nnx(make: Callable[..., nnx.Module], *args: Any, **kwargs: Any) -> Maker:
  """Returns the value of a model's field `own_decoder` for an NNX module.

  Args:
    make: the module's class, or a function that makes one; `rngs` is given to it by keyword.
    *args: further arguments of `make`.
    **kwargs: further arguments of `make` by keyword; hashable.
  """
  return of_linen(nnx.bridge.ToLinen(make, args=args, kwargs=FrozenDict(kwargs), metadata_fn=None))


class OwnDecoder(nn.Module):
  """A network from latents to features or outputs, and heads where it gives features."""

  image: base.ImageShape
  outputs: Mapping[str, base.Shape]
  network: nn.Module

  @nn.compact
  def __call__(self, z: Array, train: bool) -> dict[str, Array]:
    """Maps latents [B, ...] to one array [B, *shape] for each output.

    Raises:
      ValueError: the network gives neither features of the image's size nor all of these outputs.
    """
    del train
    found = self.network(z)
    if isinstance(found, Mapping):
      return self._checked(z, found)
    if found.ndim != 4 or found.shape[:3] != (len(z), *self.image[:2]):
      raise ValueError(
        f'A decoder of features must give an array of shape ({len(z)}, {self.image.height}, '
        f'{self.image.width}, F); it gave {found.shape}.'
      )
    # The heads read features of about unit variance, so that their small weights mean what they say.
    x = nn.LayerNorm(use_bias=False, use_scale=False)(layers.full(found))
    return Heads(dict(self.outputs), name='heads')(x)

  def _checked(self, z: Array, found: Mapping[str, Array]) -> dict[str, Array]:
    expected = {name: (len(z), *shape) for name, shape in self.outputs.items()}
    shapes = {name: output.shape for name, output in found.items()}
    if shapes != expected:
      raise ValueError(f'A decoder of this family must give the outputs {expected}; it gave {shapes}.')
    return {name: layers.full(output) for name, output in found.items()}
