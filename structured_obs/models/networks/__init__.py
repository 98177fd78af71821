"""Architectures of encoders and decoders by name. A new one is one line in ARCHITECTURES."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from structured_obs.distributions.base import ImageShape
from structured_obs.models.networks import dense_net, mirror, options, resnet, strided
from structured_obs.option_records import Record


def _vector(image: ImageShape, latents: int) -> tuple[int, ...]:
  """Returns latents that belong to the image as a whole."""
  del image
  return (latents,)


class Architecture(NamedTuple):
  """Two networks, made with keyword arguments: the fields of `layers.Encoder` and `layers.Decoder`."""

  encoder: Callable[..., Any]
  decoder: Callable[..., Any]
  options: Record
  latent_shape: Callable[[ImageShape, int], tuple[int, ...]] = (
    _vector  # (image, latents) -> of one latent
  )
  data_dependent: bool = False  # whether the networks are initialised by a batch of images


ARCHITECTURES = {
  'mirror': Architecture(mirror.Encoder, mirror.Decoder, (options.Convolutional, options.Blocks)),
  'resnet': Architecture(
    resnet.Encoder, resnet.Decoder, (options.Convolutional, options.AtLeastOneBlock)
  ),
  'strided': Architecture(strided.Encoder, strided.Decoder, options.Convolutional),
  'upsampling': Architecture(
    functools.partial(strided.Encoder, hidden=False),
    functools.partial(strided.Decoder, hidden=False, bilinear=True),
    options.Convolutional,
  ),
  'dense': Architecture(
    dense_net.Encoder, dense_net.Decoder, options.Dense, dense_net.latent_shape, data_dependent=True
  ),
}
