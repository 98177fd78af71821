"""The splines of Dorta et al. (2018), table 1: from a signal's mean to the covariance of its noise.

  python -m launch.train --config=configs/supn_splines.py --workdir=runs/splines
  python -m launch.evaluate --workdir=runs/splines

Variants: `dense` (the default), the whole Cholesky factor; `mlp`, the same from a network like the
paper's; `mlp_paper`, that network trained as in the paper; sparse factors `f3`, `f5`, `f7`; `diagonal`.
34,000 examples are trained on and 1,000 choose
the checkpoint; only the evaluation uses covariances; it reports KL divergences from the truth both ways
beside the bounds of each family.

The default takes 1 min 45 s of one CPU core's time, data included. On the 1,000 test examples, in nats
(the paper's: truth 18.65, diagonal 42.64, network 21.12 with a KL(model || truth) of 3.56):

             -log p(x)       above the truth   KL(model || truth)   its bound   Frobenius distance
  truth      18.50 +- 0.44   0                 0                                0
  dense      18.57           0.07 +- 0.01       0.06 +- 0.00        0            0.24
  mlp        19.56           1.07 +- 0.05       1.16 +- 0.02        0            1.13
  mlp_paper  20.18           1.69 +- 0.07       1.77 +- 0.03        0            1.40
  f7         18.83           0.34 +- 0.03       0.42 +- 0.01        0.40         0.34
  f5         19.45           0.95 +- 0.04       1.05 +- 0.01        1.02         0.69
  f3         20.43           1.93 +- 0.06       2.15 +- 0.01        2.14         1.73
  variances  42.19          23.70 +- 0.24      71.71 +- 0.38                     3.74

('variances' are the true ones without covariances; a bound is that of the best factor for each
example, given the truth.)

`mlp_paper` is the paper's: two layers of 100 units with batch norm and ReLU, a last layer of 1275 units
without a normalisation before it, Adam at a constant 1e-4 and 200 epochs, 68,000 steps. Ours in it:
batches of 100, which the paper does not give, batch norm before the ReLU, a parametrisation of the
factor whose diagonal is positive, and the 1,000 examples that choose the checkpoint. It took 10 min and
has -log p(x) 20.18 +- 0.44, 1.69 +- 0.07 above the truth, and a KL(model || truth) of 1.77 +- 0.03.

Differences of the others from the paper: except for `mlp`, the output at a point is one function of the
means within 12 points and of a summary of the whole signal. Half of the training signals are reversed, a
symmetry of the generator. 11 epochs of Adam at 2e-3 with a cosine schedule, weight decay and averaged
parameters, instead of 200 at 1e-4.
"""

from structured_obs import config, distributions, recipes

SCALE = {'initial_scale': 0.5}  # of the noise at the start
PATCH = {'features': (64, 64, 64), 'window': 25}
MLP = {'network': 'mlp', 'features': (100, 100), 'norm': 'batch'}
EPOCH = 34000 // 100  # steps, of 'mlp_paper'
VARIANTS = {  # family, its options, and those of the network
  'dense': ('dense_precision', SCALE, PATCH),
  'mlp': ('dense_precision', SCALE, MLP),
  'mlp_paper': ('dense_precision', SCALE, {**MLP, 'last_norm': False}),
  'diagonal': ('diagonal', SCALE, PATCH),
  'f3': ('sparse_precision', {'filter_size': 3, **SCALE}, PATCH),
  'f5': ('sparse_precision', {'filter_size': 5, **SCALE}, PATCH),
  'f7': ('sparse_precision', {'filter_size': 7, **SCALE}, PATCH),
}


def get_config(variant: str = 'dense') -> config.Config:
  """Returns a variant: 'dense', 'mlp', 'mlp_paper', 'diagonal', 'f3', 'f5' or 'f7'."""
  variant = recipes.choose(variant, VARIANTS, 'configs/supn_splines.py')
  family, options, network = VARIANTS[variant]
  paper = variant == 'mlp_paper'
  ours = config.OptimConfig(
    learning_rate=2e-3, schedule='cosine', weight_decay=0.01, clip_norm=30.0, ema_decay=0.998
  )
  return config.Config(
    data=config.DataConfig(source='splines', validation_fraction=1 / 35, flip=not paper),
    model=config.ModelConfig('covariance', network),
    likelihood=config.LikelihoodConfig(family, distributions.options(family, **options)),
    objective=config.ObjectiveConfig(dequantize=False),
    optim=config.OptimConfig(learning_rate=1e-4, warmup_steps=0) if paper else ours,
    train=config.TrainConfig(
      steps=200 * EPOCH if paper else 3000,
      batch_size=100 if paper else 128,
      validate_every=5 * EPOCH if paper else 250,
      checkpoint_every=20 * EPOCH if paper else 1000,
      log_every=250,
    ),
    eval=config.EvalConfig(batch_size=250, importance_samples=1),
  )
