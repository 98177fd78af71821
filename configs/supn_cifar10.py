r"""Structured uncertainty for CIFAR-10: 32x32 colour, filter size 5, channels coupled; on a CPU.

First train a model of the mean, then the covariance of its residuals:

  python -m launch.train --config=configs/supn_cifar10.py:vae_mean --workdir=runs/cifar10/vae_mean
  python -m launch.train --config=configs/supn_cifar10.py:vae --workdir=runs/cifar10/vae
  python -m launch.evaluate --workdir=runs/cifar10/vae

or all of it in the stages of one run:

  python -m launch.train --config=configs/supn_cifar10.py:tandem --workdir=runs/cifar10/tandem

The official archive is read from --config.data.options.manual_dir=FOLDER, or downloaded with
--config.data.options.download; --config.data.source=npz:PATH reads other copies of the images.

| variant | what it is |
|---|---|
| `vae_mean` | a VAE of the mean and one variance |
| `vae` | a covariance network on it: sparse precision, 5x5, linked to the other channels of a pixel |
| `vae_diagonal` | the same network, independent pixels: the comparison of families |
| `tandem` | the model of `vae` in one run: mean, then covariance, then both at a tenth of the rate |
| `diagonal` | a VAE whose mean and variances are trained together |

The paper has no colour images. Networks, optimizer and steps are those of configs/supn_folder.py at this
size. On 20,000 images, `vae_mean` after 400 steps (`--config.train.steps=400
--config.optim.stages=mean:400`), the others after 400 more (`--config.optim.stages=covariance:400`) and
`tandem` after 800 (--config.optim.stages="('mean:400:learning_rate=0.002',
'covariance:270:learning_rate=0.002', 'all:130:learning_rate=0.0002')"), one seed, 256 test images:

| | -IWAE-5, bits/dim | PSNR, dB |
|---|---|---|
| `vae_mean` | 7.004 +- 0.022 | 19.28 +- 0.15 |
| `vae_diagonal` | 6.847 +- 0.024 | 19.28 |
| `vae` | 5.620 +- 0.028 | 19.28 |
| `tandem` | 5.589 +- 0.024 | 17.76 +- 0.15 |

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018.
"""

from structured_obs import config, recipes

VARIANTS = tuple(name for name, one in recipes.SUPN.items() if one.beta == 1 and one.kind == 'vae')
RECIPE = recipes.Supn((16, 32, 64), {'filter_size': 5, 'channels': 'pixel'}, workdirs='runs/cifar10')


def get_config(variant: str = 'vae') -> config.Config:
  """Returns a variant, 'vae' by default: see the table above."""
  variant = recipes.choose(variant or 'vae', VARIANTS, 'configs/supn_cifar10.py')
  data = config.DataConfig(source='tfds:cifar10', height=32, width=32, channels=3, flip=True)
  return recipes.supn(data, RECIPE, variant)
