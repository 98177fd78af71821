"""Variants of SUPN: models of the mean, and of a covariance on such a mean."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from structured_obs import config


class SupnVariant(NamedTuple):
  """A model of the mean and one variance, or of the covariance on such a mean."""

  kind: str = 'vae'
  family: str = 'diagonal'
  start: str = ''  # variant whose mean it takes over and keeps; '' learns the mean
  beta: float = 1.0
  input_noise: float = 0.0  # standard deviation of noise that is to be removed
  at_once: bool = False  # whether mean and variances of pixels are learnt together

  @property
  def stage(self) -> str:
    """What is learnt, but for those that learn everything at once."""
    return 'covariance' if self.start else 'mean'

  def stages(self, steps: int) -> tuple[str, ...]:
    """Returns the stages of so many steps."""
    return () if self.at_once else (f'{self.stage}:{steps}',)

  def model(
    self, network: Mapping[str, Any], covariance: Mapping[str, Any], unet: tuple[int, ...] = ()
  ) -> config.ModelConfig:
    """Returns the model, of a network and that of its covariance, if it has one of its own.

    Args:
      network: latents and features.
      covariance: options of a decoder of the covariance.
      unet: features of a denoiser; () takes those of the network.
    """
    scale = 'none' if self.at_once else 'learned'
    if self.kind == 'denoiser':
      features = unet or network['features']
      return config.ModelConfig(
        self.kind, {'features': features, 'scale': scale, 'noise': self.input_noise}
      )
    options: dict[str, Any] = {'blocks': 0, 'scale': scale}
    options['covariance'] = dict(covariance) if self.start else {}
    noise = {'input_noise': self.input_noise} if self.input_noise else {}
    return config.ModelConfig(self.kind, {**network, **options, **noise})


SUPN: Mapping[str, SupnVariant] = {
  'vae_mean': SupnVariant(),
  'ae_mean': SupnVariant('ae'),
  'beta5_mean': SupnVariant(beta=5.0),
  'vae': SupnVariant('vae', 'sparse_precision', start='vae_mean'),
  'ae': SupnVariant('ae', 'sparse_precision', start='ae_mean'),
  'beta5': SupnVariant('vae', 'sparse_precision', start='beta5_mean', beta=5.0),
  'vae_diagonal': SupnVariant('vae', start='vae_mean'),
  'ae_diagonal': SupnVariant('ae', start='ae_mean'),
  'diagonal': SupnVariant(at_once=True),
  'dae': SupnVariant('ae', input_noise=0.1),
  'denoiser': SupnVariant('denoiser', input_noise=0.1),
}
