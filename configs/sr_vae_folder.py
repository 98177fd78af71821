"""srVAE for any folder, or zip file, of images; small networks for a CPU, or the authors'.

  A="--config.data.source=folder:PATH --workdir=runs/sr_vae"
  python -m launch.train --config=configs/sr_vae_folder.py $A
  python -m launch.sample --workdir=runs/sr_vae
  python -m launch.super_resolve --workdir=runs/sr_vae

Images are cropped and resized to 32x32; --config.data.height and .width accept multiples of 4, or of 8
for the two scales of the RealNVP prior. `small` is the default; `full` has the networks of
configs/sr_vae_cifar10.py; `vae` is the small one-level model.

Reference: Gatopoulos et al., "Super-resolution Variational Auto-Encoders", 2020.
"""

from structured_obs import config, recipes

VARIANTS = ('small', 'full', 'vae')


def get_config(variant: str = '') -> config.Config:
  """Returns a variant, 'small' by default."""
  variant = recipes.choose(variant, VARIANTS, 'configs/sr_vae_folder.py')
  data = config.DataConfig(source='folder:', height=32, width=32, channels=3, flip=True)
  sizes = recipes.SR_VAE if variant == 'full' else recipes.SR_VAE_SMALL
  return recipes.sr_vae(recipes.sr_vae_in_minutes(data), sizes, variant != 'vae')
