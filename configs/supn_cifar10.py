r"""Structured uncertainty for CIFAR-10: 32x32 colour, filter size 5, channels coupled; on a CPU."""

from structured_obs import config, recipes

VARIANTS = tuple(name for name, one in recipes.SUPN.items() if one.beta == 1 and one.kind == 'vae')
RECIPE = recipes.Supn((16, 32, 64), {'filter_size': 5, 'channels': 'pixel'}, workdirs='runs/cifar10')


def get_config(variant: str = 'vae') -> config.Config:
  """Returns a variant, 'vae' by default: see the table above."""
  variant = recipes.choose(variant or 'vae', VARIANTS, 'configs/supn_cifar10.py')
  data = config.DataConfig(source='tfds:cifar10', height=32, width=32, channels=3, flip=True)
  return recipes.supn(data, RECIPE, variant)
