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

Each has a small network for two CPU cores, with `_cpu` appended to its name.

As in the paper: the data, f = 7, Adam at 1e-3, 50 epochs, covariance networks that see only z and end in
four convolutions. Where the paper says nothing: the size of the networks (strided convolutions,
64 to 512 channels, 256 latents), batches of 64, a mean trained with one learnt variance, random flips.
The large networks have not been trained here; the paper gives -log p(x|z) of -8386 +- 1339 nats for
`vae` and -6079 +- 936 for `diagonal`. configs/supn_folder.py says what the small ones reach, and why
`dae_cpu`, with 64 latents, is worse than the noisy image at this noise.

Reference: Dorta et al., "Structured Uncertainty Prediction Networks", 2018, section 5.2.
"""

from structured_obs import config, distributions

LIKELIHOODS = {'sparse_precision': {'filter_size': 7}, 'diagonal': {}}
LARGE = {'latents': 256, 'features': (64, 128, 256, 512)}
LARGE_COVARIANCE = {'features': (64, 128, 256, 512), 'layers': 4}
SMALL = {'latents': 64, 'features': (8, 24, 48, 96)}
SMALL_COVARIANCE = {
  'features': (8, 24, 48, 96),
  'layers': 2,
  'sees_mean': True,  # because 8 channels carry little from z
}
STAGED = ('vae', 'ae', 'beta5', 'vae_diagonal', 'ae_diagonal')
VARIANTS = ('vae_mean', 'ae_mean', 'beta5_mean', *STAGED, 'diagonal', 'dae')
EPOCH = 162770 // 64  # steps
SMALL_STEPS = {'mean': 1800, 'covariance': 1500}


def get_config(variant: str = 'vae') -> config.Config:
  """Returns a variant, 'vae' by default: see the table above."""
  variant = variant or 'vae'
  name, small = variant.removesuffix('_cpu'), variant.endswith('_cpu')
  if name not in VARIANTS:
    raise ValueError(
      f'configs/supn_celeba.py has the variants {", ".join(VARIANTS)}, each also with _cpu appended; '
      f'got {variant!r}.'
    )
  base = name.partition('_')[0]
  family = 'sparse_precision' if name in ('vae', 'ae', 'beta5') else 'diagonal'
  stage = 'covariance' if name in STAGED else 'mean'
  steps = SMALL_STEPS[stage] if small else 50 * EPOCH
  start = f'runs/celeba/{base}_mean{"_cpu" if small else ""}' if name in STAGED else ''
  often = 300 if small else EPOCH
  return config.Config(
    data=config.DataConfig(source='tfds:celeb_a', height=64, width=64, channels=1, flip=True),
    model=_model(name, small),
    likelihood=config.LikelihoodConfig(family, distributions.options(family, **LIKELIHOODS[family])),
    objective=config.ObjectiveConfig(beta=5.0 if base == 'beta5' else 1.0),
    optim=config.OptimConfig(
      learning_rate=2e-3 if small else 1e-3,
      schedule='cosine' if small else 'constant',
      clip_norm=1e4,
      stages=() if name == 'diagonal' else (f'{stage}:{steps}',),
    ),
    train=config.TrainConfig(
      steps=steps,
      batch_size=32 if small else 64,
      validate_every=often,
      checkpoint_every=often,
      start_from=start,
    ),
    eval=config.EvalConfig(batch_size=32, chunk=5),
  )


def _model(name: str, small: bool) -> config.ModelConfig:
  network = SMALL if small else LARGE
  covariance = (SMALL_COVARIANCE if small else LARGE_COVARIANCE) if name in STAGED else {}
  noise = {'input_noise': 0.1} if name == 'dae' else {}
  return config.ModelConfig(
    'ae' if name.partition('_')[0] in ('ae', 'dae') else 'vae',
    {
      **network,
      'blocks': 0,
      'scale': 'none' if name == 'diagonal' else 'learned',
      'covariance': covariance,
      **noise,
    },
  )
