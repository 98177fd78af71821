"""The one-level VAE with a RealNVP prior on CIFAR-10: the baseline of srVAE's Table 1.

  python -m launch.train --config=configs/vae_cifar10.py --workdir=runs/vae
  python -m launch.train --config=configs/vae_cifar10.py:small --workdir=runs/vae_small

The blocks, the prior, the likelihood, the data and the schedule are those of configs/sr_vae_cifar10.py,
which has the commands that compare the two. `full` has dense blocks of 7 steps, where the authors have 8
in the encoder and 6 in the decoder. The paper reports 3.51 bits/dim, of RE_x 5540 and KL_z 1966 nats. It
has not been trained here in full; `small`, of 1,124,284 parameters, takes 4.90 bits/dim on validation
images after its 1,500 steps on 20,000 of the images.

Reference: Gatopoulos et al., "Super-resolution Variational Auto-Encoders", 2020, section 4, appendix A.
"""

from structured_obs import config, recipes

VARIANTS = ('full', 'small')
EPOCH = 45000 // 32  # steps


def get_config(variant: str = '') -> config.Config:
  """Returns a variant, 'full' by default."""
  variant = recipes.choose(variant, VARIANTS, 'configs/vae_cifar10.py')
  data = config.DataConfig(source='tfds:cifar10', height=32, width=32, channels=3, flip=True, shift=2)
  return recipes.sr_vae_of_size(variant, data, EPOCH, two_levels=False)
