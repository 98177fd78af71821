# Installs the project where it is missing, as on Colab, for the accelerator that is there.
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata

PROJECT = 'structured_obs[data] @ git+https://github.com/structured-obs/structured_obs'
NEEDED = [0, 10]  # oldest jax


def version(package):
  """Returns the version of an installed package, '' for one that is missing."""
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return ''


def accelerator():
  """Returns the extra of jax for the hardware: 'cuda12', 'cuda13', 'tpu', or '' for a CPU alone."""
  if shutil.which('nvidia-smi'):
    return 'cuda13' if version('jax-cuda13-plugin') else 'cuda12'
  tpu = os.path.exists('/dev/accel0') or 'TPU_ACCELERATOR_TYPE' in os.environ or version('libtpu')
  return 'tpu' if tpu else ''


def new_enough():
  """Returns whether the installed jax can stay, with its plugin for the accelerator."""
  return [int(number) for number in re.findall(r'\d+', version('jax'))[:2]] >= NEEDED


def requirements():
  """Returns what pip is to install. Plain `jax` would leave the plugin of an older one behind."""
  if new_enough():
    return [PROJECT, *(f'{package}=={version(package)}' for package in ('jax', 'jaxlib'))]
  return [PROJECT, f'jax[{accelerator()}]' if accelerator() else 'jax']


if importlib.util.find_spec('structured_obs') is None:
  upgraded = not new_enough()
  subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', *requirements()], check=True)
  if upgraded:
    raise SystemExit('jax was upgraded: restart the session (Runtime > Restart session) and run all cells.')

import jax

from structured_obs import compiled

compiled.keep()  # programs that are compiled, for the next start of any notebook
print('jax', jax.__version__, 'on', jax.devices())
if accelerator() and jax.default_backend() == 'cpu':
  package = f'jax[{accelerator()}]=={jax.__version__}'
  print(f"jax does not use the accelerator: run pip install '{package}', then restart the session.")
