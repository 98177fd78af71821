"""Blur-VAE for large faces: CelebA-HQ at 256x256 in colour, kernels of 41x41.

  A="--config=configs/blur_vae_celeba_hq.py --config.data.source=folder:PATH"
  python -m launch.compare $A --variants=l2,l1,ssim,paper_loss,blur_vae --workdir=runs/celeba_hq

PATH is a folder, or a zip file, of the 30,000 images of CelebA-HQ at any size of at least 256x256;
`--config.data.source=tfds:celeb_a_hq/256` reads prepared data of tensorflow-datasets instead.

As in the paper: six blocks, the last two with the 512 features of the fourth; 200 epochs, the first 10
with independent pixels; the rest as in configs/blur_vae_celeba.py. The data are split at random as in
the paper, 80 % to train on (a tenth of these to validate) and 20 % to test on.

This recipe has not been trained here; one step of batch 16 is what `--dry_run` describes.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023.
"""

from structured_obs import config, recipes

EPOCH = 21600 // 16  # steps


def get_config(variant: str = 'blur_vae') -> config.Config:
  """Returns a variant, 'blur_vae' by default: see configs/blur_vae_folder.py."""
  variant = recipes.choose(variant, recipes.BLUR_VAE, 'configs/blur_vae_celeba_hq.py')
  data = config.DataConfig(
    source='folder:', height=256, width=256, channels=3, flip=True, test_fraction=0.2
  )
  return recipes.blur_vae_as_published(
    variant,
    data,
    recipes.BlurVaePaper(
      EPOCH, epochs=200, batch_size=16, features=(64, 128, 256, 512, 512, 512), kernel_size=41
    ),
  )
