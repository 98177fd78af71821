"""Options of the networks between images and latents: each architecture has its own record of them."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from structured_obs.objectives import alternating
from structured_obs.option_records import Group
from structured_obs.option_values import NOTHING, Choice, Count, CountOrNone, NotNegative, Widths

NORMS = ('none', 'group', 'batch')
Norm = Annotated[str, Choice(NORMS)]


class CovarianceDecoder(NamedTuple):
  """A decoder that all outputs but the mean have to themselves."""

  features: Widths = (32, 64)  # channels at each resolution, finest first
  layers: CountOrNone = 0  # 3x3 convolutions at the image's size that end it
  sees_mean: bool = False  # whether these see the predicted mean


class KernelNetwork(NamedTuple):
  """A network G(z) of the blur kernel, which learns separately to blur images as the mean does."""

  features: Count = 1000  # hidden units
  boundary: Annotated[str, Choice(alternating.BOUNDARIES)] = 'circular'  # how blurred images continue
  learning_rate: NotNegative = 0.0  # 0 is that of all other parameters


class Convolutional(NamedTuple):
  """Networks that halve the image at every resolution, to one vector."""

  features: Widths = (32, 64)  # channels at each resolution, finest first, then halved
  norm: Norm = 'none'
  covariance: Annotated[Mapping[str, Any], Group(CovarianceDecoder)] = NOTHING  # one decoder of all
  kernel: Annotated[Mapping[str, Any], Group(KernelNetwork)] = NOTHING  # an output like others


class Blocks(NamedTuple):
  """Option of architectures that work without residual blocks."""

  blocks: CountOrNone = 1  # residual blocks at each resolution


class AtLeastOneBlock(NamedTuple):
  """Option of architectures whose blocks halve the image."""

  blocks: Count = 1  # residual blocks at each resolution


class Dense(NamedTuple):
  """Dense blocks between images and latents of a quarter of their sides; they have weight norm."""

  features: Widths = (32, 64)  # the first is the growth of the encoder, the last the decoder's
  blocks: Count = 1  # steps of a dense block
