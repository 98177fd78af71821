r"""Structured uncertainty for any folder, or zip file, of images, 16 to 128 pixels wide; on a CPU.

First train a model of the mean, then the covariance of its residuals, filter size 7:

  A=--config.data.source=folder:PATH
  python -m launch.train --config=configs/supn_folder.py:vae_mean $A --workdir=runs/folder/vae_mean
  python -m launch.train --config=configs/supn_folder.py:vae $A --workdir=runs/folder/vae
  python -m launch.train --config=configs/supn_folder.py:vae_diagonal $A \
      --workdir=runs/folder/vae_diagonal
  python -m launch.evaluate --workdir=runs/folder/vae --compare=runs/folder/vae_diagonal
  python -m launch.denoise --workdir=runs/folder/vae --sigma=0.1 --compare=runs/folder/denoiser

The second command starts from the workdir of the first (`train.start_from` names another); encoder and
mean are fixed. Images are cropped to squares at the centre, shrunk to 64x64 and made gray; another size,
16, 32, 64 or 128, follows a comma, as in `vae_mean,32` and `vae,32`, and colour is
--config.data.channels=3 (with --config.likelihood.options.channels=pixel, linked).

| variant | what it is |
|---|---|
| `vae_mean` `ae_mean` | VAE, autoencoder: a mean and one variance |
| `vae` `ae` | covariance networks on them: sparse precision, 7x7 |
| `vae_diagonal` `ae_diagonal` | the same networks, independent pixels: the comparison of families |
| `tandem` | the model of `vae` in one run: mean, then covariance, then both at a tenth of the rate |
| `diagonal` | a VAE whose mean and variances are trained together |
| `dae` | denoising autoencoder for noise 0.1 in [-1, 1], the paper's baseline; see below |
| `denoiser` | a U-Net for the same noise, without a bottleneck: the fair baseline; see below |

`tandem` is about the paper's question whether mean and covariance can be trained in tandem, by stages
with learning rates of their own (docs/training.md). It takes the steps of `vae_mean` and `vae` together,
the last sixth or so for the last stage, and needs no other run. configs/supn_cifar10.py has numbers.

On 9,780 aligned faces, 7,922 to train on, one core of a busy two-core machine trains the mean on up to
146 images a second and the covariance on up to 77, that is in 7 and 11 minutes at best. On 978 test
faces, -log p(x|z) with uniform noise of one gray level, in nats:

| | one variance | independent pixels | sparse precision |
|---|---|---|---|
| VAE | -2568 +- 36 | -3369 +- 37 (after 600 steps) | -7646 +- 70 |
| autoencoder | -2734 +- 36 | | -7360 +- 58 (after 500 steps) |

and of the first 40 the negative IWAE-500 is -2316 +- 154, -3207 +- 166 and -7165 +- 497 for the VAEs.
Denoising at 0.1 in [-1, 1], mean squared error in thousandths over 100 faces: noisy 10.00, `vae` 2.38 +-
0.08, `vae_diagonal` 5.28 +- 0.12, `dae` (1,200 steps) 17.13 +- 0.91. Over 8 faces: `vae` 3.18, the
paper's projection on 1000 eigenvectors 0.88 +- 0.10 more.

`dae` is the paper's baseline, an autoencoder with the networks of the VAE. Here it is worse than the
noisy image, since a bottleneck of 64 latents leaves out more than this noise adds: the best linear one
(PCA of 3,000 faces, shrunk by the noise, scored on 1,000 others) has 15.7 with 64 components, 9.9 with
128, 6.1 with 256 and 3.9 with 512. With 2,048 it has 2.8, and is a much stronger baseline than `dae`,
which suits noise that is large compared with what its latents leave out. The linear filter by the whole
covariance of 7,902 faces of another set, which `launch.denoise` adds to its table, has 4.33 +- 0.04 at
32x32, over 1,000 others.

`denoiser` is the fair baseline: a network of about the VAE's size that predicts the noise, trained at
0.1, or with --config.model.options.noise=0.4 --config.model.options.blind=True on all noise up to 0.4.
`launch.denoise` shows the parameters of every method. At 32x32 and 0.1 it is better than `vae`: 2.79
against 3.44, and 3.30 if blind (docs/supn.md).

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018. The networks are small ones,
and the covariance's sees the mean besides z.
"""

from structured_obs import config, recipes

FEATURES = {
  16: (24, 48),
  32: (16, 32, 64),
  64: (8, 24, 48, 96),
  128: (8, 16, 24, 48, 96),
}
UNET = {  # features of the denoiser: about as many parameters as the VAE has
  16: (32, 64, 128, 160),
  32: (16, 32, 64, 256),
  64: (12, 24, 48, 96, 320),
  128: (12, 24, 48, 96, 192, 256),
}
VARIANTS = {name: one for name, one in recipes.SUPN.items() if one.beta == 1}
SIDES = {'': 64, **{f',{side}': side for side in FEATURES}}  # by what stands behind a variant's name
SIZED = {
  f'{name}{end}': (one, name, side) for end, side in SIDES.items() for name, one in VARIANTS.items()
}


def get_config(variant: str = 'vae') -> config.Config:
  """Returns a variant, 'vae' by default, and perhaps a size, as 'vae,32': see the table above."""
  variant = variant or 'vae'
  if variant not in SIZED:
    raise ValueError(
      f'configs/supn_folder.py has the variants {", ".join(VARIANTS)}, and after a comma the sizes '
      f'{", ".join(map(str, FEATURES))}; got {variant!r}.'
    )
  _, name, side = SIZED[variant]
  data = config.DataConfig(source='folder:', height=side, width=side, channels=1, flip=True)
  recipe = recipes.Supn(FEATURES[side], {'filter_size': 7}, workdirs='runs/folder', unet=UNET[side])
  return recipes.supn(data, recipe, name)
