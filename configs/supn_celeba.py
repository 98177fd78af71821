"""Structured uncertainty for faces: CelebA, 64x64 gray, filter size 7.

First train a model of the mean, then the covariance of its residuals:

  python -m launch.train --config=configs/supn_celeba.py:vae_mean --workdir=runs/celeba/vae_mean
  python -m launch.train --config=configs/supn_celeba.py:vae --workdir=runs/celeba/vae
  python -m launch.train --config=configs/supn_celeba.py:vae_diagonal --workdir=runs/celeba/vae_diagonal
  python -m launch.evaluate --workdir=runs/celeba/vae --compare=runs/celeba/vae_diagonal
  python -m launch.denoise --workdir=runs/celeba/vae --sigma=0.1 --compare=runs/celeba/dae

The second command starts from the workdir of the first (`train.start_from`); encoder and mean are fixed.

Put `img_align_celeba.zip` and `list_eval_partition.txt` into a folder and add
--config.data.options.manual_dir=FOLDER. Fetch them by hand from
https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: --config.data.options.download does not work for
them, because they are on Google Drive.

| variant | what it is |
|---|---|
| `vae_mean` `ae_mean` `beta5_mean` | VAE, autoencoder, VAE with beta = 5: a mean and one variance |
| `vae` `ae` `beta5` | the paper's covariance networks on them: sparse precision, 7x7 |
| `vae_diagonal` `ae_diagonal` | the same networks, independent pixels: the comparison of families |
| `diagonal` | a VAE whose mean and variances are trained together: the paper's baseline |
| `dae` | denoising autoencoder for noise 0.1 in [-1, 1]: the baseline of table 4 |
| `denoiser` | a U-Net for the same noise: a stronger baseline |

Each has a small network for two CPU cores, with `_cpu` appended to its name.

As published: the data, f = 7, Adam at 1e-3, 50 epochs, beta = 5, a strided VAE like a DCGAN, and
covariance networks that see only z and are a decoder like the VAE's with four convolutions behind it.
Ours, where the paper says nothing: the sizes (strided convolutions with batch norm, 64 to 512 channels,
and 256 latents; 41,848,219 parameters for `vae`, of which 26.1 million are the mean's), batches of 64, a
warm-up of 100 steps, gradients clipped at a norm of 1e4, a mean trained with one learnt variance, and
random flips. While a covariance learns, the batch norm of encoder and mean uses its running statistics,
so that the mean is fixed. The large networks have not been trained here; the paper gives -log p(x|z) of
-8386 +- 1339 nats for `vae` and -6079 +- 936 for `diagonal`.
configs/supn_folder.py says what the small ones reach, and why `dae_cpu`, with 64 latents, is worse than
the noisy image at this noise.

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018, section 5.2.
"""

from typing import Any, NamedTuple

from structured_obs import config, distributions, recipes


class Size(NamedTuple):
  """Of the networks, and of what training them takes."""

  suffix: str  # of the workdirs
  network: dict[str, Any]
  covariance: dict[str, Any]
  steps: dict[str, int]  # by stage
  often: int  # steps between validations
  batch_size: int
  learning_rate: float
  schedule: str


EPOCH = 162770 // 64  # steps
LARGE = Size(
  '',
  {'architecture': 'strided', 'latents': 256, 'features': (64, 128, 256, 512), 'norm': 'batch'},
  {'features': (64, 128, 256, 512), 'layers': 4},
  {'mean': 50 * EPOCH, 'covariance': 50 * EPOCH},
  often=EPOCH,
  batch_size=64,
  learning_rate=1e-3,
  schedule='constant',
)
SMALL = Size(
  '_cpu',
  {'latents': 64, 'features': (8, 24, 48, 96), 'blocks': 0},
  # Seeing the mean makes up for the little that 8 channels can carry from z.
  {'features': (8, 24, 48, 96), 'layers': 2, 'sees_mean': True},
  {'mean': 1800, 'covariance': 1500},
  often=300,
  batch_size=32,
  learning_rate=2e-3,
  schedule='cosine',
)
LIKELIHOODS = {'sparse_precision': {'filter_size': 7}, 'diagonal': {}}
VARIANTS = {name: one for name, one in recipes.SUPN.items() if not one.tandem}
SIZED = {
  f'{name}{size.suffix}': (one, size) for size in (LARGE, SMALL) for name, one in VARIANTS.items()
}


def get_config(variant: str = 'vae') -> config.Config:
  """Returns a variant, 'vae' by default: see the table above."""
  variant = variant or 'vae'
  if variant not in SIZED:
    raise ValueError(
      f'configs/supn_celeba.py has the variants {", ".join(VARIANTS)}, each also with _cpu '
      f'appended; got {variant!r}.'
    )
  one, size = SIZED[variant]
  return config.Config(
    data=config.DataConfig(source='tfds:celeb_a', height=64, width=64, channels=1, flip=True),
    model=one.model(size.network, size.covariance),
    likelihood=config.LikelihoodConfig(
      one.family, distributions.options(one.family, **LIKELIHOODS[one.family])
    ),
    objective=config.ObjectiveConfig(beta=one.beta),
    optim=config.OptimConfig(
      learning_rate=size.learning_rate,
      schedule=size.schedule,
      clip_norm=1e4,
      stages=one.stages(size.steps),
    ),
    train=config.TrainConfig(
      steps=one.steps(size.steps),
      batch_size=size.batch_size,
      validate_every=size.often,
      checkpoint_every=size.often,
      start_from=f'runs/celeba/{one.start}{size.suffix}' if one.start else '',
    ),
    eval=config.EvalConfig(batch_size=32, chunk=5),
  )
