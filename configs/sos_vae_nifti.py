r"""SOS-VAE for volumes of brain MRI: gray slices, rank 25, a KL of 15 nats, as the paper's UK Biobank.

  A=--config.data.source=nifti:PATH
  python -m launch.train --config=configs/sos_vae_nifti.py $A --workdir=runs/mri/sos_vae
  python -m launch.train --config=configs/sos_vae_nifti.py:beta_vae $A --workdir=runs/mri/beta_vae
  python -m launch.evaluate --workdir=runs/mri/sos_vae --compare=runs/mri/beta_vae

PATH is a folder of volumes, .nii or .nii.gz, with a folder for each subject (extra `medical`); the
slices of one subject are in one split. They are axial (--config.data.options.plane), cropped to squares
at the centre and shrunk to 64x64; --config.data.height and .width choose another size, and
--config.data.limit=0 takes all slices instead of 10,000.

| variant | p(x|z) | bounds |
|---|---|---|
| `sos_vae` | low rank, D = eps I | KL 15 nats, entropy eps I + 136.5 nats |
| `beta_vae` | independent pixels | KL 15 nats |
| `unconstrained` | low rank, D learnt | KL 15 nats |

As in the paper: the bound on the KL, 128 latents, rank 25, eps = 1e-5 for pixels in [0, 1], here 4e-5 in
[-1, 1], the ResNet, Adam at 1e-4, and a few epochs of the mean alone first. Ours: the size of the
slices, which the paper does not give, and with it the bound on the entropy, 5.46 nats a rank, which is
the paper's for 64x64 gray faces (its bound for UK Biobank, -198906 nats, holds for another size); the
steps, those of configs/sos_vae_celeba.py; no flips, since a brain has a left and a right; and the
differences that configs/sos_vae_celeba.py lists. 80 % of the subjects train, an eighth of these
validate.

UK Biobank is available after an application. This recipe has not been trained here. The paper's FIDs of
samples: 79.71 (SOS-VAE) and 332.89 (beta-VAE).

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022, section 4.1 and table 1.
"""

from structured_obs import config, recipes

VARIANTS = recipes.SOS_VAE


def get_config(variant: str = 'sos_vae') -> config.Config:
  """Returns a variant, 'sos_vae' by default: see the table above."""
  variant = recipes.choose(variant, VARIANTS, 'configs/sos_vae_nifti.py')
  data = config.DataConfig(
    source='nifti:',
    height=64,
    width=64,
    channels=1,
    limit=10000,
    validation_fraction=0.125,
    test_fraction=0.2,
  )
  evaluation = config.EvalConfig(batch_size=25, importance_samples=100, chunk=5)
  return recipes.sos_vae_as_published(
    variant, data, entropy_bound=5.46, evaluation=evaluation, kl_bound=15.0
  )
