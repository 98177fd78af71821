"""One low-rank distribution for all images, without a network, compared with PCA of the same rank.

  python -m launch.train --config=configs/no_deep_learning.py --workdir=runs/no_network
  python -m launch.evaluate --workdir=runs/no_network

  python -m launch.train --config=configs/no_deep_learning.py:folder \
    --config.data.source=folder:PATH --workdir=runs/no_network_mine

Only the parameters of the distribution are learnt: the mean, 25 columns and one noise variance. Its
optimum is known, probabilistic PCA; the evaluation measures how close the gradients came, and draws 100
samples of the distribution beside 100 of PCA (figure 7 of the paper).

| variant | images | noise variance |
|---|---|---|
| `digits` (the default) | scikit-learn's 8x8 digits, without any download | learnt |
| `folder` | any folder or zip file, 64x64 or as data.height and data.width say | learnt |
| `digits_fixed` `folder_fixed` | the same | 4e-5, the paper's 1e-5 of pixels in [0, 1] |

Measured: -log p(x) of the run minus that of the optimum, in nats, on held-out images and on the first
1,000 to train on. `folder` uses 7,922 gray photographs of faces (`--config.data.channels=1`):

| variant | held-out | training | on one CPU core |
|---|---|---|---|
| `digits` | -0.003 +- 0.002 of 15.783 | -0.001 +- 0.001 of 13.906 | 20 s |
| `folder` | 0.20 +- 0.27 of -1317.58 | 0.58 +- 0.32 of -1182.92 | 50 s |
| `digits_fixed` | -2.4 +- 1.9 of 17,232 | -0.9 +- 1.1 of 16,045 | 20 s |
| `folder_fixed` | -577 +- 500 of 1,494,861 | 765 +- 578 of 1,592,579 | 45 s |

Without the option `natural_gradient` of the model, Adam with the same rate is 1.5 (`digits`) and 29.7
nats (`folder`) above the optimum after 600 steps. The residuals of 25 components are not white noise:
samples of `folder` are grainy with them, those of `folder_fixed` smooth like PCA's, at a density a
million nats lower.

Reference: Langley et al., "Structured Uncertainty in the Observation Space of Variational
Autoencoders", 2022, section 4.5. The paper uses 10,000 images of CelebA and plain gradients.
"""

import copy
from typing import NamedTuple

from structured_obs import config, distributions, recipes

PAPER = 4e-5  # noise variance of 1e-5 for pixels in [0, 1]
START = 0.03  # of a learnt one: near what 25 components leave of these images


class Variant(NamedTuple):
  """Which images, and whether the noise variance is learnt."""

  data: config.DataConfig
  steps: int
  noise_variance: float = START
  scale: str = 'learned'


DIGITS = config.DataConfig('digits', validation_fraction=0.125, test_fraction=0.2)
FOLDER = config.DataConfig('folder:', height=64, width=64)
VARIANTS = {
  'digits': Variant(DIGITS, 1500),
  'folder': Variant(FOLDER, 600),
  'digits_fixed': Variant(DIGITS, 1500, PAPER, 'none'),
  'folder_fixed': Variant(FOLDER, 600, PAPER, 'none'),
}


def get_config(variant: str = 'digits') -> config.Config:
  """Returns a variant, 'digits' by default: see the table above."""
  one = VARIANTS[recipes.choose(variant, VARIANTS, 'configs/no_deep_learning.py')]
  options = {'rank': 25, 'noise_variance': one.noise_variance, 'factor_scale': 1.0}
  return config.Config(
    data=copy.deepcopy(one.data),
    model=config.ModelConfig('distribution', {'scale': one.scale, 'natural_gradient': True}),
    likelihood=config.LikelihoodConfig('low_rank', distributions.options('low_rank', **options)),
    optim=config.OptimConfig(learning_rate=2e-2, schedule='cosine', warmup_steps=20),
    # Validated only at the end: the closed form is not selected on validation images either.
    train=config.TrainConfig(
      steps=one.steps, batch_size=256, validate_every=one.steps, checkpoint_every=300
    ),
    eval=config.EvalConfig(importance_samples=1, chunk=1),
  )
