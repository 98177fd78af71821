"""Architectures of encoders and decoders by name. One line in ARCHITECTURES for one more."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from structured_obs.models import networks, resnet, strided


class Architecture(NamedTuple):
  """Two networks, made with keyword arguments: the fields of `networks.Encoder` and `.Decoder`."""

  encoder: Callable[..., Any]
  decoder: Callable[..., Any]


ARCHITECTURES = {
  'mirror': Architecture(networks.Encoder, networks.Decoder),
  'resnet': Architecture(resnet.Encoder, resnet.Decoder),
  'strided': Architecture(strided.Encoder, strided.Decoder),
  'upsampling': Architecture(
    functools.partial(strided.Encoder, hidden=False),
    functools.partial(strided.Decoder, hidden=False, bilinear=True),
  ),
}
