"""Options shared by models of an encoder and a decoder, and the arguments made from them."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from structured_obs.models import observation
from structured_obs.models.kind import Setting
from structured_obs.models.networks import ARCHITECTURES
from structured_obs.option_records import OneOf
from structured_obs.option_values import Choice, Count

RECORDS = {name: architecture.options for name, architecture in ARCHITECTURES.items()}
# 'mirror', whose encoder ends in dense layers; 'resnet', whose encoder ends in a maximum over the image,
# and whose decoder begins with a transposed convolution of its size; or 'strided' or 'upsampling',
# Blur-VAE's, which double by either of these; or 'dense', whose latents are images.
Architecture = Annotated[str, OneOf(RECORDS)]
VECTORS = {name: record for name, record in RECORDS.items() if name != 'dense'}
Scale = Annotated[str, Choice(('none', 'learned'))]  # one factor of all standard deviations


class Latents(NamedTuple):
  """Size of the latents."""

  latents: Count = 16  # dimension of z; where latents are images, their channels


def arguments(options: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
  """Returns the fields that a VAE and an autoencoder share."""
  return {
    'latents': options['latents'],
    'features': options['features'],
    'blocks': options.get('blocks', 0),
    'norm': options.get('norm', 'none'),
    'axis_name': setting.axis_name,
    'options': observation_options(options, setting),
    'architecture': options['architecture'],
    'dtype': setting.dtype,
  }


def observation_options(options: Mapping[str, Any], setting: Setting) -> observation.Options:
  """Returns the options of the map from latents to parameters."""
  covariance, kernel = options.get('covariance', {}), options.get('kernel', {})
  return observation.Options(
    covariance_features=covariance.get('features', ()),
    covariance_layers=covariance.get('layers', 0),
    covariance_sees_mean=covariance.get('sees_mean', False),
    learn_scale=options['scale'] == 'learned',
    optimal_scale=options['scale'] == 'optimal',
    kernel_features=kernel.get('features', 0),
    kernel_through_latents=setting.kernel_gradient == 'latents',
    frozen_mean=setting.frozen_mean,
    white=setting.white,
    mean_gradient=setting.mean_gradient,
  )
