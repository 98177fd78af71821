"""Blur-VAE for faces: CelebA at 64x64 in colour, the paper's network, kernels of 11x11.

  A="--config=configs/blur_vae_celeba.py --workdir=runs/celeba"
  python -m launch.compare $A --variants=l2,l1,ssim,cross_entropy,focal_frequency,paper_loss,blur_vae
  python -m launch.compare $A --variants=paper_loss,gaussian_2,gaussian_4,epsilon_small
  python -m launch.compare $A --variants=noise_0.005,paper_loss,noise_0.1

Put `img_align_celeba.zip` and `list_eval_partition.txt` into a folder and add
--config.data.options.manual_dir=FOLDER. Fetch them by hand from
https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: --config.data.options.download does not work for
them, because they are on Google Drive.

The first command is Table 2 (Table 4 with --config.model.options.architecture=upsampling and
--config.model.options.features='(32, 64, 128, 256, 512)'), the others Table 1;
configs/blur_vae_folder.py says what each variant is.

As in the paper: crop at the centre, network, 256 latents, 1,000 hidden units of the kernel network,
100 epochs, the first 10 with independent pixels, Adam at 1e-4. Different here: batches of 64
(the paper does not say); the official splits, instead of 80 % to train on; a shared scale at its
optimum; beta = 1, instead of a beta tuned for each loss by the FID of samples (a bound for all losses
is --config.objective.constraints.kl.bound, with --config.objective.beta=0); uniform noise of one gray
level.

This recipe has not been trained here. configs/blur_vae_folder.py says what a small network reaches.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023.
"""

from structured_obs import config, recipes

EPOCH = 162770 // 64  # steps


def get_config(variant: str = 'blur_vae') -> config.Config:
  """Returns a variant, 'blur_vae' by default: see configs/blur_vae_folder.py."""
  variant = recipes.choose(variant, recipes.BLUR_VAE, 'configs/blur_vae_celeba.py')
  data = config.DataConfig(source='tfds:celeb_a', height=64, width=64, channels=3, flip=True)
  return recipes.blur_vae_as_published(variant, data, recipes.BlurVaePaper(EPOCH))
