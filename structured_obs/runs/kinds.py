"""Kinds of models by name: each makes a network of the configuration. One line in KINDS for one more."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from structured_obs.config import Config
from structured_obs.devices import mesh
from structured_obs.distributions.base import Family, ImageShape
from structured_obs.models import (
  autoencoder,
  classifier,
  covariance_network,
  distribution,
  observation,
  sr_vae,
  vae,
)
from structured_obs.models.networks import sr_vae_networks
from structured_obs.runs import schedule

COMPUTE = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}  # dtypes of a network's products
Builder = Callable[[Config, Family, ImageShape], Any]  # -> a Linen module with the methods of vae.VAE


def _vae(config: Config, family: Family, image: ImageShape) -> vae.VAE:
  prior, options = config.model.prior, config.model.prior_options
  return vae.VAE(family, image, **_network(config), prior=prior, prior_options=options)


def _autoencoder(config: Config, family: Family, image: ImageShape) -> autoencoder.Autoencoder:
  noise = config.model.input_noise
  return autoencoder.Autoencoder(family, image, **_network(config), input_noise=noise)


def _covariance(
  config: Config, family: Family, image: ImageShape
) -> covariance_network.CovarianceNetwork:
  model = config.model
  options = covariance_network.Options(
    network=model.network,
    features=tuple(model.features),
    window=model.window,
    context=tuple(model.context),
    norm=model.norm,
  )
  dtype = COMPUTE[config.train.compute]
  return covariance_network.CovarianceNetwork(family, image, options, mesh.AXIS, dtype)


def _distribution(config: Config, family: Family, image: ImageShape) -> distribution.Distribution:
  natural = config.model.natural_gradient
  return distribution.Distribution(family, image, _network(config)['options'], natural)


def _sr_vae(config: Config, family: Family, image: ImageShape) -> sr_vae.SrVAE:
  model = config.model
  options = sr_vae_networks.Options(**sr_vae_networks.options_of(model.options))
  dtype = COMPUTE[config.train.compute]
  made = sr_vae.SrVAE(family, image, model.latents, options, model.prior, model.prior_options, dtype)
  sr_vae.check(made)
  return made


def _classifier(config: Config, family: Family, image: ImageShape) -> classifier.Classifier:
  model = config.model
  return classifier.Classifier(
    family,
    image,
    features=tuple(model.features),
    blocks=model.blocks,
    norm=model.norm,
    axis_name=mesh.AXIS,
    dtype=COMPUTE[config.train.compute],
  )


def _network(config: Config) -> dict[str, Any]:
  model = config.model
  stages = schedule.parse_stages(config.optim.stages)
  learning = schedule.ever_learning(stages, config.train.steps)
  options = observation.Options(
    covariance_features=tuple(model.covariance_features),
    covariance_layers=model.covariance_layers,
    covariance_sees_mean=model.covariance_sees_mean,
    learn_scale=model.learn_scale,
    optimal_scale=model.optimal_scale,
    kernel_features=model.kernel_features,
    frozen_mean=not learning & {'mean_head', 'rest'},
    white='other_heads' not in learning,
  )
  return {
    'latents': model.latents,
    'features': tuple(model.features),
    'blocks': model.blocks,
    'norm': model.norm,
    'axis_name': mesh.AXIS,
    'options': options,
    'architecture': model.architecture,
    'dtype': COMPUTE[config.train.compute],
  }


KINDS: dict[str, Builder] = {
  'vae': _vae,
  'ae': _autoencoder,
  'covariance': _covariance,
  'distribution': _distribution,
  'sr_vae': _sr_vae,
  'classifier': _classifier,
}
CONDITIONED = ('covariance',)  # kinds that are given the mean of an image
LABELLED = ('vae', 'classifier')  # kinds that may be given the class of an image
WITH_PRIOR = ('vae', 'sr_vae')  # kinds whose latents have one
