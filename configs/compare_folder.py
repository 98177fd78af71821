"""Families of p(x|z) compared on any folder, or zip file, of images; on a CPU.

  A="--config=configs/compare_folder.py --config.data.source=folder:PATH"
  python -m launch.compare $A --workdir=runs/compare --seeds=0,1,2

Other sources work too, such as npz:PATH, or tfds:celeb_a for faces. Images are cropped at the centre and
resized to 32x32 in colour; `--config.data.height`, `.width` and `.channels` change that.

Networks, data, optimizer and steps are the same for all families, and so is the smallest standard
deviation of a pixel. The mixture has probabilities of gray levels instead of a covariance. Wrappers are
joined to a family by a plus: `--variants=diagonal,diagonal+colour,diagonal+colour+student`.
"""

from structured_obs import config, recipes

VARIANTS = recipes.COVARIANCES


def get_config(variant: str = 'diagonal') -> config.Config:
  """Returns the config of a family, one of recipes.COVARIANCES, with wrappers: 'diagonal+colour'."""
  data = config.DataConfig(source='folder:', height=32, width=32, channels=3, flip=True)
  return recipes.covariances_of_photographs(data, variant)
