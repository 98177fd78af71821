"""Blur-VAE for any folder, or zip file, of images; on a CPU."""

from structured_obs import config, recipes


def get_config(variant: str = 'blur_vae') -> config.Config:
  """Config of a variant, 'blur_vae' by default: see the table above."""
  variant = recipes.choose(variant, recipes.BLUR_VAE, 'configs/blur_vae_folder.py')
  base = config.Config(
    data=config.DataConfig(source='folder:', height=64, width=64, flip=True),
    model=config.ModelConfig(
      latents=128, features=(32, 64, 128, 256), blocks=0, norm='batch', architecture='strided'
    ),
    objective=config.ObjectiveConfig(beta=0.0, kl_bound=150.0),
    optim=config.OptimConfig(learning_rate=1e-3, schedule='cosine', kernel_learning_rate=1e-3),
    train=config.TrainConfig(
      steps=1500, batch_size=32, validate_every=500, checkpoint_every=150, keep=10
    ),
    eval=config.EvalConfig(batch_size=32, importance_samples=100, chunk=5),
  )
  return recipes.blur_vae(base, recipes.BlurVae(white_steps=150), variant)
