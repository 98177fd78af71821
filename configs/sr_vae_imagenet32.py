"""srVAE on ImageNet at 32x32 pixels.

  python -m launch.train --config=configs/sr_vae_imagenet32.py --workdir=runs/sr_vae_imagenet
  python -m launch.evaluate --workdir=runs/sr_vae_imagenet

Reads the data set as prepared by tensorflow-datasets, down-sampled by boxes. The paper did not train on
it: its rows for ImageNet32 are a CIFAR-10 model, evaluated on another down-sampling of these images.
Networks and optimizer are those of configs/sr_vae_cifar10.py; 100 epochs are a guess. It has not been
trained here.

Reference: Gatopoulos et al., "Super-resolution Variational Auto-Encoders", 2020.
"""

from structured_obs import config, recipes

VARIANTS = ('full', 'small')
EPOCH = 1281167 // 32  # steps


def get_config(variant: str = '') -> config.Config:
  """Returns a variant, 'full' by default."""
  variant = recipes.choose(variant, VARIANTS, 'configs/sr_vae_imagenet32.py')
  data = config.DataConfig(
    source='tfds:imagenet_resized/32x32', height=32, width=32, channels=3, flip=True
  )
  return recipes.sr_vae_of_size(variant, data, EPOCH, epochs=100)
