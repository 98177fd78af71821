"""srVAE on CIFAR-10: the paper's Table 1 and figures, or a small one on a CPU.

  python -m launch.train --config=configs/sr_vae_cifar10.py --workdir=runs/sr_vae
  python -m launch.train --config=configs/sr_vae_cifar10.py:small --workdir=runs/sr_vae_small
  python -m launch.evaluate --workdir=runs/sr_vae --compare=runs/vae
  python -m launch.sample --workdir=runs/sr_vae
  python -m launch.super_resolve --workdir=runs/sr_vae --num_images=0

The official archive is read from --config.data.options.manual_dir=FOLDER, or downloaded with
--config.data.options.download; --config.data.source=npz:PATH reads other copies of the images.
configs/vae_cifar10.py is the one-level baseline.

`full` has the authors' networks: 39.27 million parameters, of which 11.41 are the RealNVP prior p(u),
3.93 q(u|y), 4.35 p(y|u), 3.03 q(z|x), 6.43 p(z|y, u) and 10.12 p(x|y, z). Their schedule is Adamax with
2e-3, times 0.999999 a step down to 1e-4, and 2000 epochs in batches of 32: a run for a GPU, not made
here. A step of 8 images takes 2.75 s and 5.2 GiB, compilation included, on two CPU cores,
and 3.30 s and 2.7 GiB in the authors' PyTorch code (torch 2.13; medians of steps 2 to 6). The paper
reports 3.65 bits/dim, of RE_x 5107, RE_y 1241, KL_z 619 and KL_u 819 nats.
Flips and translations by up to 2 pixels are its augmentations; a tenth of the training images validates.

`small`, of 1,148,755 parameters, is for a CPU: `recipes.SR_VAE_SMALL` and `recipes.sr_vae_in_minutes`.
Only images whose blocks have the means y have a probability under its p(x|y, z), and locations begin
at a regression on y. After its 1,500 steps on 20,000 of the images its bound is 4.48 bits/dim on the
2,000 of the validation and 4.43 on 256 test images; one level of 1,124,284 parameters takes 4.90 on the
validation (the paper: two levels take 0.14 more than one). docs/sr_vae.md has the tables.

Ours in `full`: log variances of latents are clipped softly; both inputs of the last network of
p(z|y, u) go through an ELU, theirs one; the baseline has dense blocks of 7 steps, theirs 8 and 6.

Reference: Gatopoulos et al., "Super-resolution Variational Auto-Encoders", 2020, section 4, appendix A.
"""

from structured_obs import config, recipes

VARIANTS = ('full', 'small')
EPOCH = 45000 // 32  # steps


def get_config(variant: str = '') -> config.Config:
  """Returns a variant, 'full' by default."""
  variant = recipes.choose(variant, VARIANTS, 'configs/sr_vae_cifar10.py')
  data = config.DataConfig(source='tfds:cifar10', height=32, width=32, channels=3, flip=True, shift=2)
  return recipes.sr_vae_of_size(variant, data, EPOCH)
