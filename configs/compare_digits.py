"""Families of p(x|z) compared on scikit-learn's 8x8 digits, which need no download.

  python -m launch.compare --config=configs/compare_digits.py --workdir=runs/compare_digits --seeds=0,1,2

Trains one model for each family and seed, and prints a table of the families: mean and standard
deviation over the seeds. Networks, data, optimizer and steps are the same for all, and so is the
smallest standard deviation of a pixel. Wrappers are joined to a family by a plus:
`--variants=diagonal,diagonal+student`. The mixture has probabilities of gray levels instead of a
covariance.
"""

from structured_obs import config, recipes

VARIANTS = recipes.COVARIANCES
RECIPE = recipes.Covariances(
  min_scale=0.06,  # the uniform noise of one gray level alone has 0.036
  initial_scale=0.3,
  kernel_size=5,
  levels=17,
)


def get_config(variant: str = 'diagonal') -> config.Config:
  """Returns the config of a family, one of recipes.COVARIANCES, with wrappers: 'diagonal+colour'."""
  base = config.Config(
    data=config.DataConfig(source='digits', validation_fraction=0.125, test_fraction=0.2),
    model=config.ModelConfig('vae', {'latents': 4, 'features': (32, 8)}),
    optim=config.OptimConfig(learning_rate=2e-3, schedule='cosine', weight_decay=0.01, clip_norm=1000.0),
    train=config.TrainConfig(steps=1500, validate_every=100, checkpoint_every=500, log_every=50),
    eval=config.EvalConfig(batch_size=90, importance_samples=100, chunk=50),
  )
  return recipes.covariances(base, RECIPE, variant)
