"""Variants of SUPN: models of the mean, of a covariance on such a mean, and of both in turn."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from structured_obs import config, distributions


class SupnVariant(NamedTuple):
  """A model of the mean and one variance, or of the covariance on such a mean, or of both."""

  kind: str = 'vae'
  family: str = 'diagonal'
  start: str = ''  # variant whose mean it takes over and keeps; '' learns the mean
  beta: float = 1.0
  input_noise: float = 0.0  # standard deviation of noise that is to be removed
  at_once: bool = False  # whether mean and variances of pixels are learnt together
  tandem: bool = False  # whether mean, covariance and then both are stages of one run

  @property
  def stage(self) -> str:
    """What is learnt, but for those that learn everything at once."""
    return 'covariance' if self.start else 'mean'

  def steps(self, each: Mapping[str, int]) -> int:
    """Returns the steps of the run, for the steps of each stage, 'mean' and 'covariance'."""
    return sum(each.values()) if self.tandem else each[self.stage]

  def stages(self, each: Mapping[str, int], learning_rate: float = 1e-3) -> tuple[str, ...]:
    """Returns the stages of the run.

    Args:
      each: steps of 'mean' and 'covariance'. The last third of the latter trains both in tandem.
      learning_rate: of the run; in tandem a tenth of it trains both.
    """
    if self.at_once:
      return ()
    if not self.tandem:
      return (f'{self.stage}:{self.steps(each)}',)
    mean, both = each['mean'], each['covariance'] // 3
    rate, low = f'learning_rate={learning_rate:g}', f'learning_rate={learning_rate / 10:g}'
    return (f'mean:{mean}:{rate}', f'covariance:{each["covariance"] - both}:{rate}', f'all:{both}:{low}')

  def model(
    self, network: Mapping[str, Any], covariance: Mapping[str, Any], unet: tuple[int, ...] = ()
  ) -> config.ModelConfig:
    """Returns the model, of a network and that of its covariance, if it has one of its own.

    Args:
      network: latents, features and the like.
      covariance: options of a decoder of the covariance.
      unet: features of a denoiser; () takes those of the network.
    """
    options: dict[str, Any] = {'scale': 'none' if self.at_once else 'learned'}
    if self.kind == 'denoiser':
      options |= {'features': unet or network['features'], 'norm': network.get('norm', 'none')}
      return config.ModelConfig(self.kind, {**options, 'noise': self.input_noise})
    options['covariance'] = dict(covariance) if self.start or self.tandem else {}
    noise = {'input_noise': self.input_noise} if self.input_noise else {}
    return config.ModelConfig(self.kind, {**network, **options, **noise})


class Supn(NamedTuple):
  """The parts of a model of the mean and a covariance network on it, small enough for a CPU."""

  features: tuple[int, ...]  # of both decoders and the encoder
  sparse: Mapping[str, Any]  # options of the family sparse_precision
  latents: int = 64
  mean_steps: int = 1800
  covariance_steps: int = 1500
  validate_every: int = 300
  learning_rate: float = 2e-3
  unet: tuple[int, ...] = ()  # features of a denoiser; () takes the others
  workdirs: str = ''  # folder of the runs, in which a covariance finds its mean


def supn(data: config.DataConfig, recipe: Supn, variant: str) -> config.Config:
  """Returns a variant of SUPN whose covariance network also sees the mean.

  Args:
    data: images, of sides that halve once for every resolution.
    recipe: the parts of the variants.
    variant: its name.
  """
  one = SUPN[variant]
  steps = {'mean': recipe.mean_steps, 'covariance': recipe.covariance_steps}
  network = {'latents': recipe.latents, 'features': recipe.features, 'blocks': 0}
  # A U-Net is deep and has no normalisation.
  rate = recipe.learning_rate / 2 if one.kind == 'denoiser' else recipe.learning_rate
  options = dict(recipe.sparse) if one.family == 'sparse_precision' else {}
  return config.Config(
    data=data,
    # Seeing the mean makes up for the little that few channels can carry from z.
    model=one.model(network, {'features': recipe.features, 'layers': 2, 'sees_mean': True}, recipe.unet),
    likelihood=config.LikelihoodConfig(one.family, distributions.options(one.family, **options)),
    objective=config.ObjectiveConfig(beta=one.beta),
    optim=config.OptimConfig(
      learning_rate=rate,
      schedule='cosine',
      clip_norm=1e4,
      stages=one.stages(steps, recipe.learning_rate),
    ),
    train=config.TrainConfig(
      steps=one.steps(steps),
      batch_size=32,
      validate_every=recipe.validate_every,
      checkpoint_every=recipe.validate_every,
      start_from=f'{recipe.workdirs}/{one.start}' if one.start else '',
    ),
    eval=config.EvalConfig(batch_size=32, chunk=5),
  )


SUPN: Mapping[str, SupnVariant] = {
  'vae_mean': SupnVariant(),
  'ae_mean': SupnVariant('ae'),
  'beta5_mean': SupnVariant(beta=5.0),
  'vae': SupnVariant('vae', 'sparse_precision', start='vae_mean'),
  'ae': SupnVariant('ae', 'sparse_precision', start='ae_mean'),
  'beta5': SupnVariant('vae', 'sparse_precision', start='beta5_mean', beta=5.0),
  'vae_diagonal': SupnVariant('vae', start='vae_mean'),
  'ae_diagonal': SupnVariant('ae', start='ae_mean'),
  'tandem': SupnVariant('vae', 'sparse_precision', tandem=True),
  'diagonal': SupnVariant(at_once=True),
  'dae': SupnVariant('ae', input_noise=0.1),
  'denoiser': SupnVariant('denoiser', input_noise=0.1),
}
