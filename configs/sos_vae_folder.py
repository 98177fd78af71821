"""SOS-VAE for any folder, or zip file, of images; on a CPU.

  A=--config.data.source=folder:PATH
  python -m launch.train --config=configs/sos_vae_folder.py $A --workdir=runs/folder/sos_vae
  python -m launch.train --config=configs/sos_vae_folder.py:beta_vae $A --workdir=runs/folder/beta_vae
  python -m launch.evaluate --workdir=runs/folder/sos_vae --compare=runs/folder/beta_vae

Images are cropped at the centre and resized to 64x64; `--config.data.height` and `.width` choose another
size. They are RGB unless all files are gray; `--config.data.channels` chooses 1 (gray) or 3 (RGB). Other
sources work too, such as npz:PATH or tfds:NAME; a source with labels can give the model each image's
class: --config.data.labels.

| variant | p(x|z) | bounds |
|---|---|---|
| `sos_vae` | low rank, and a learnt variance of each pixel | KL 45 nats, entropy 1.5 nats a rank |
| `beta_vae` | independent pixels | KL 45 nats |
| `fixed_noise` | low rank, the paper's D = eps I | KL 45 nats, entropy 5.46 nats a rank |
| `equal` | as `sos_vae` | as `sos_vae`, held from both sides |
| `unconstrained` | as `fixed_noise`, but D is learnt | KL 45 nats |
| `appendix_a` | as `unconstrained`, trained as the authors do | KL 45 nats |

`fixed_noise` is the paper's model, whose samples have no visible noise, whose mean learns from the
density, and whose density is poor by construction: the residual of rank 25 is far larger than eps I.
The mean of the others learns from white pixels too (`mean_gradient`). `sos_vae` therefore learns the
noise of each pixel; its bound applies to the entropy above that of the noise. `unconstrained` is the
model of the paper's Appendix A with this recipe's safeguards. `appendix_a` has only one of them, first
steps of the mean alone: a ResNet with batch norm, factors as the network gives them, a constant rate
of 1e-4, no clipping, no average of the parameters, and a mean that learns from the density. Its
covariance did not explode here (docs/sos_vae.md).

With --config.objective.mean_gradient=0, on 64x64 gray photographs of faces (7,922 to train on; 160 test
images) and two cores that were shared, the two variants above took 45 minutes: negative IWAE-100 of
-2996.6 (`sos_vae`) and -2330.7 (`beta_vae`), a paired difference of 665.9 +- 19.7 nats. The KL ends at
44.8 nats, the entropy at 36.1.

`--config.model.options.architecture=resnet --config.model.options.norm=batch` is the paper's network;
its width, depth and latents are in configs/sos_vae_celeba.py.

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022. The network is a small one, not the paper's.
"""

import dataclasses

from structured_obs import config, recipes

VARIANTS = (*recipes.SOS_VAE, 'fixed_noise', 'appendix_a')
EPS = 4e-5  # the paper's 1e-5 of pixels in [0, 1]
LEAST = 1e-5  # variance of a pixel, in [-1, 1]
RECIPE = recipes.SosVae(
  low_rank={'rank': 25, 'noise_variance': 0.01, 'learn_diag': True, 'min_variance': LEAST},
  learnt_noise={'rank': 25, 'noise_variance': 2 * EPS, 'learn_diag': True, 'min_variance': EPS},
  diagonal={'min_scale': LEAST**0.5, 'initial_scale': 0.1},
  kl_bound=45.0,
  entropy_bound=1.5,
)


def get_config(variant: str = 'sos_vae') -> config.Config:
  """Returns a variant, 'sos_vae' by default: see the table above."""
  variant = recipes.choose(variant, VARIANTS, 'configs/sos_vae_folder.py')
  base = config.Config(
    data=config.DataConfig(source='folder:', height=64, width=64, flip=True),
    model=config.ModelConfig(
      'vae', {'latents': 64, 'features': (16, 32, 64, 128), 'blocks': 1, 'norm': 'group'}
    ),
    objective=config.ObjectiveConfig(mean_gradient=recipes.MEAN_GRADIENT),
    optim=config.OptimConfig(
      learning_rate=5e-4,
      schedule='cosine',
      clip_norm=1e4,
      ema_decay=0.995,
      stages=('mean:150',),
    ),
    train=config.TrainConfig(steps=1200, batch_size=32, validate_every=200, checkpoint_every=600),
    eval=config.EvalConfig(batch_size=32, importance_samples=100, chunk=5),
  )
  if variant == 'fixed_noise':
    paper = RECIPE._replace(low_rank={'rank': 25, 'noise_variance': EPS}, entropy_bound=5.46)
    published = dataclasses.replace(base, objective=config.ObjectiveConfig())
    return recipes.sos_vae(published, paper, 'sos_vae')
  if variant == 'appendix_a':
    return _appendix_a(base)
  return recipes.sos_vae(base, RECIPE, variant)


def _appendix_a(base: config.Config) -> config.Config:
  """Returns the run of the paper's Appendix A, with what little keeps its covariance from exploding."""
  plain = RECIPE._replace(learnt_noise={**RECIPE.learnt_noise, 'factor_scale': 1.0})
  network = {'architecture': 'resnet', 'features': (16, 32, 64), 'blocks': 1, 'norm': 'batch'}
  made = recipes.sos_vae(base, plain, 'unconstrained')
  return dataclasses.replace(
    made,
    objective=dataclasses.replace(made.objective, mean_gradient=0.0),
    model=config.ModelConfig('vae', {'latents': 128, **network}),
    optim=config.OptimConfig(learning_rate=1e-4, stages=('mean:1000',)),
    train=config.TrainConfig(steps=10000, batch_size=25, validate_every=500, checkpoint_every=500),
  )
