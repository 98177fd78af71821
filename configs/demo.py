"""Three distributions of the pixels around one network, on 5,000 MNIST digits, for minutes on a CPU.

  python -m launch.demo --workdir=runs/demo
  python -m launch.train --config=configs/demo.py:sparse_precision --workdir=runs/demo/sparse_precision

The first command is `make demo`. The variants differ in p(x|z) alone: independent pixels (`diagonal`), a
low-rank covariance (`low_rank`) and a sparse precision (`sparse_precision`), all with the same smallest
standard deviation. The mean has one decoder and the covariance another one, which sees the mean; the
mean learns from white pixels too (`objective.mean_gradient`).

The third variant is the best of those tried, by the ELBO of 500 validation images after 500 steps of 32
images, in nats: sparse_precision 890.5, sparse_precision with a low-rank update 884.4 (two and a half
times the time per step), diagonal 738.1, low_rank 744.6. Outputs of 1 are entries of 1 in its factor:
with entries of 0.3 or 0.1 it has 738.4 and 728.9, as steps are too short. docs/demo.md has the results.
"""

import dataclasses

from structured_obs import config, recipes

VARIANTS = ('diagonal', 'low_rank', 'sparse_precision')
RECIPE = recipes.Covariances(min_scale=0.05, initial_scale=0.3, factor_scale=1.0)
COVARIANCE_FEATURES = (8, 16)  # of the second decoder; half of the first one's


def get_config(variant: str = 'sparse_precision') -> config.Config:
  """Returns a variant, 'sparse_precision' by default; or any family and wrappers of `recipes`."""
  base = config.Config(
    data=config.DataConfig(source='mnist_sample'),
    model=config.ModelConfig('vae', {'architecture': 'strided', 'latents': 8, 'features': (16, 32)}),
    optim=config.OptimConfig(learning_rate=2e-3, schedule='cosine', clip_norm=1e4),
    train=config.TrainConfig(
      steps=500, batch_size=32, validate_every=500, checkpoint_every=500, log_every=50
    ),
    eval=config.EvalConfig(batch_size=100, importance_samples=20, chunk=5),
  )
  made = recipes.covariances(base, RECIPE, variant or 'sparse_precision')
  network = made.model.options
  if 'covariance' in network:
    covariance = {**network['covariance'], 'features': COVARIANCE_FEATURES}
    network = {**network, 'covariance': covariance}
  model = dataclasses.replace(made.model, options=network)
  return dataclasses.replace(made, model=model)
