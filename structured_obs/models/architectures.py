"""Architectures of encoders and decoders by name. One line in ARCHITECTURES for one more."""

from collections.abc import Callable
from typing import Any, NamedTuple

from structured_obs.models import networks, resnet


class Architecture(NamedTuple):
  """Two networks, made with keyword arguments: the fields of `networks.Encoder` and `.Decoder`."""

  encoder: Callable[..., Any]
  decoder: Callable[..., Any]


ARCHITECTURES = {
  'mirror': Architecture(networks.Encoder, networks.Decoder),
  'resnet': Architecture(resnet.Encoder, resnet.Decoder),
}
