"""The ellipses of Dorta et al. (2018), table 2: from an image's mean to the covariance of its noise.

  python -m launch.train --config=configs/supn_ellipses.py --workdir=runs/ellipses
  python -m launch.evaluate --workdir=runs/ellipses

Variants: sparse factors `f5` (the default), `f3` and `f7`, `diagonal`, `dense`, every entry of the
factor of a precision of 256 pixels, and `f5_free`, without the prior.
34,000 examples are trained on and 1,000 choose the checkpoint; only the evaluation uses covariances;
it reports KL divergences from the truth both ways beside the bounds of the family.

On the 1,000 test examples, in nats (the paper's: truth -286, diagonal -149, network -259 with a mean
KL(model || truth) of 113):

               -log p(x)         above the truth    KL(model || truth), median    Frobenius, median
  truth        -288.04 +- 0.55     0                   0                           0
  best f = 5   -266.36 +- 0.85    21.68 +- 0.49     1343 +- 825         29.4      10.25      0.34
  f5           -263.39 +- 0.89    24.65 +- 0.56     57.8 +- 2.6         31.4       0.92      0.74
  f5_free      -264.41 +- 0.88    23.63 +- 0.56     76.2 +- 5.1         32.5       0.83      0.52
  variances    -148.55 +- 1.43   139.48 +- 1.14    704.2 +- 7.6        681.3       2.36      2.35

('variances' are the true ones without covariances; 'best' is the sparse factor of highest expected
likelihood for each image, given the truth.) `f5` took 6 min 40 s on two cores, including the
generation of the 36,000 examples.

Differences from the paper: the output at a pixel is one function of the means in the 5x5 window around
it and of a summary of the whole image. Training images are mirrored and turned at random, exact
symmetries of the generator. A prior on the coefficients of each pixel's prediction, of standard
deviation 2.5, costs a little likelihood and keeps variances from exploding, which those of the best
sparse factors do on some images, where lines leave the window on the side that is not seen. 11 epochs
of Adam at 2e-3 with a cosine schedule, weight decay and averaged parameters, instead of 200 at 1e-3.
"""

from structured_obs import config, distributions, recipes

_SCALE = {'initial_scale': 0.2}
_PRIOR = {'prior': 'coefficients', 'prior_scale': 2.5, **_SCALE}
VARIANTS = {
  'f5': ('sparse_precision', {'filter_size': 5, **_PRIOR}),
  'f5_free': ('sparse_precision', {'filter_size': 5, **_SCALE}),
  'diagonal': ('diagonal', _SCALE),
  'f3': ('sparse_precision', {'filter_size': 3, **_PRIOR}),
  'f7': ('sparse_precision', {'filter_size': 7, **_PRIOR}),
  'dense': ('dense_precision', _SCALE),
}


def get_config(variant: str = 'f5') -> config.Config:
  """Returns a variant: 'f5', 'f5_free', 'diagonal', 'f3', 'f7' or 'dense'."""
  family, options = VARIANTS[recipes.choose(variant, VARIANTS, 'configs/supn_ellipses.py')]
  return config.Config(
    data=config.DataConfig(source='ellipses', validation_fraction=1 / 35, flip=True, turn=True),
    model=config.ModelConfig('covariance', {'features': (64, 64, 64), 'window': 5}),
    likelihood=config.LikelihoodConfig(family, distributions.options(family, **options)),
    objective=config.ObjectiveConfig(dequantize=False),
    optim=config.OptimConfig(
      learning_rate=2e-3, schedule='cosine', weight_decay=0.01, clip_norm=100.0, ema_decay=0.998
    ),
    train=config.TrainConfig(
      steps=6000, batch_size=64, validate_every=500, checkpoint_every=1000, log_every=100
    ),
    eval=config.EvalConfig(batch_size=250, importance_samples=1),
  )
