"""Families of p(x|z) compared on CIFAR-10; on a CPU.

  python -m launch.compare --config=configs/compare_cifar10.py --workdir=runs/compare_cifar10

The official archive is read from --config.data.options.manual_dir=FOLDER, or downloaded with
--config.data.options.download; --config.data.source=npz:PATH reads other copies of the images.

Wrappers are joined to a family by a plus: `--variants=diagonal,diagonal+colour,diagonal+colour+student`.
Networks, data, optimizer and steps are those of configs/compare_folder.py, the same for all families.
"""

from structured_obs import config, recipes

VARIANTS = recipes.COVARIANCES


def get_config(variant: str = 'diagonal') -> config.Config:
  """Returns the config of a family, one of recipes.COVARIANCES, with wrappers: 'diagonal+colour'."""
  data = config.DataConfig(source='tfds:cifar10', height=32, width=32, channels=3, flip=True)
  return recipes.covariances_of_photographs(data, variant)
