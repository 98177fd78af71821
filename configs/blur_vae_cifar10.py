"""Blur-VAE for CIFAR-10, 32x32 in colour: the paper's Table 5.

  A="--config=configs/blur_vae_cifar10.py --workdir=runs/cifar10"
  python -m launch.compare $A --variants=l2,cross_entropy,focal_frequency,paper_loss,blur_vae

The official archive is read from --config.data.options.manual_dir=FOLDER, or downloaded with
--config.data.options.download.

The paper does not say how it reduced its network for 64x64 images to 32x32; here it has one block less.
The rest is as in configs/blur_vae_celeba.py.

This recipe has not been trained here; configs/blur_vae_folder.py says what a small network reaches.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023,
appendix B.
"""

from structured_obs import config, recipes

EPOCH = 45000 // 64  # steps


def get_config(variant: str = 'blur_vae') -> config.Config:
  """Returns a variant, 'blur_vae' by default: see configs/blur_vae_folder.py."""
  variant = recipes.choose(variant, recipes.BLUR_VAE, 'configs/blur_vae_cifar10.py')
  data = config.DataConfig(source='tfds:cifar10', height=32, width=32, channels=3, flip=True)
  return recipes.blur_vae_as_published(
    variant, data, recipes.BlurVaePaper(EPOCH, features=(64, 128, 256))
  )
