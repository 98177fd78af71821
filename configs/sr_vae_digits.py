"""srVAE on scikit-learn's 8x8 digits, which need no download: the whole method on a CPU.

  python -m launch.train --config=configs/sr_vae_digits.py --workdir=runs/sr_digits
  python -m launch.evaluate --workdir=runs/sr_digits
  python -m launch.sample --workdir=runs/sr_digits
  python -m launch.super_resolve --workdir=runs/sr_digits --num_images=0

`sr_vae`, the default, has x of 8 x 8 pixels with 17 gray levels, y of 4 x 4, and u and z of 2 x 2. `vae`
is the one-level model. The flow of the prior has one scale, because 2 x 2 latents are not halved
further.

After 1,000 steps (--config.train.steps=1000; 359 test images, three seeds): 2.056 bits/dim by the ELBO
and 2.044 by IWAE-100 (`vae`: 1.939 and 1.866), and the mean of 8 draws of super-resolution is 20.22 dB
from the image, where bilinear up-scaling of the 4 x 4 image is 12.74 dB and kernel ridge regression
19.87 dB.

Reference: Gatopoulos et al., "Super-resolution Variational Auto-Encoders", 2020. The networks are small
ones, for digits.
"""

from structured_obs import config, recipes

VARIANTS = ('sr_vae', 'vae')


def get_config(variant: str = '') -> config.Config:
  """Returns a variant, 'sr_vae' by default."""
  variant = recipes.choose(variant, VARIANTS, 'configs/sr_vae_digits.py')
  base = config.Config(
    data=config.DataConfig(source='digits', validation_fraction=0.125, test_fraction=0.2),
    optim=config.OptimConfig(optimizer='adamax', learning_rate=4e-3, schedule='cosine', clip_norm=200.0),
    train=config.TrainConfig(steps=2000, validate_every=100, checkpoint_every=500, log_every=50),
    eval=config.EvalConfig(batch_size=90, importance_samples=100, chunk=10),
  )
  return recipes.sr_vae(base, recipes.SR_VAE_DIGITS, variant == 'sr_vae')
