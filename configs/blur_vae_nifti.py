"""Blur-VAE for volumes of brain MRI: random 64x64 windows of their slices, as in the paper for HCP.

  A="--config=configs/blur_vae_nifti.py --config.data.source=nifti:PATH --workdir=runs/mri"
  python -m launch.compare $A --variants=l2,l1,ssim,cross_entropy,focal_frequency,paper_loss,blur_vae

PATH is a folder of volumes, .nii or .nii.gz, with a folder for each subject (extra `medical`); the
images of one subject are in one split. The command is the paper's Table 3.

As in the paper: the network of configs/blur_vae_celeba.py, 400 epochs, the first 20 with
independent pixels, Adam at 1e-4, 80 % of the subjects to train on (an eighth of these to validate).
The paper cuts random windows while it trains; here eight of every slice are cut once. An epoch has the
steps of 100,000 windows. Training ends after 400 of them as in the paper, or once the validation ELBO
has not improved for 20 (--config.train.patience=0 for all 400). Few steps do not suffice: on windows of
MRI, a linear codec of the same rate has 19.8 to 20.0 dB, where networks after 1,500 steps have 18. The
ELBO is that of the density that evaluates a variant, whatever loss trains it. The paper uses 400 volumes
of the Human Connectome Project, which are available after registration.

This recipe has not been trained here; configs/blur_vae_folder.py says what a small network reaches, on
windows of MRI too.

Reference: Bredell et al., "Explicitly Minimizing the Blur Error of Variational Autoencoders", 2023,
section 4.4 and Table 3.
"""

from structured_obs import config, recipes

EPOCH = 100_000 // 64  # steps


def get_config(variant: str = 'blur_vae') -> config.Config:
  """Returns a variant, 'blur_vae' by default: see configs/blur_vae_folder.py."""
  variant = recipes.choose(variant, recipes.BLUR_VAE, 'configs/blur_vae_nifti.py')
  data = config.DataConfig(
    source='nifti:',
    height=64,
    width=64,
    channels=1,
    crop='random',
    crop_options={'crops': 8},
    validation_fraction=0.125,
    test_fraction=0.2,
  )
  return recipes.blur_vae_as_published(
    variant,
    data,
    recipes.BlurVaePaper(EPOCH, epochs=400, white_epochs=20, checkpoint_epochs=20, patience=20),
  )
