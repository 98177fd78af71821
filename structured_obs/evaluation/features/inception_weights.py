"""The network of the Frechet inception distance as an extractor, with weights from a file.

We may not distribute the weights, and download nothing: the user converts the file that the pytorch-fid
project publishes, once, to an npz with the same names and arrays. Other extractors work without it. The
fingerprint covers the arrays that the network uses, so it does not depend on how the file was written.
"""

import os
import pickle
import zipfile

import jax
import numpy as np

from structured_obs.evaluation.features import extractor as extractors
from structured_obs.models.networks import inception

Array = jax.Array

DEFAULT_PATH = os.path.join('~', '.cache', 'structured_obs', 'inception_fid.npz')
PUBLISHED = 'pt_inception-2015-12-05-6726825d.pth'
SOURCE = 'https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights'
NO_NPZ = (OSError, EOFError, TypeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile)
CONVERT = (
  'python -c "import numpy, torch; '
  f"numpy.savez('inception_fid.npz', **torch.load('{PUBLISHED}', map_location='cpu'))\""
)


def extractor(path: str = '') -> extractors.Extractor:
  """Returns the Inception-v3 of 2015 with weights from an npz file.

  Images have 1 or 3 channels and any size; they are resized to 299 x 299 pixels. The maps are those
  after the first and the second pooling, before the auxiliary classifier and at the end.

  Args:
    path: of the file; '' for ~/.cache/structured_obs/inception_fid.npz.

  Raises:
    FileNotFoundError: the file is missing; the message says where to get it and which extractors need
      no file.
    ValueError: it is not an npz, or an array is missing or has another shape.
  """
  path = os.path.abspath(os.path.expanduser(path or DEFAULT_PATH))
  state = _read(path)
  try:
    weights = inception.variables_of(state)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  mark = extractors.fingerprint(state.values())
  return extractors.Extractor('inception', mark, _features, maps=_maps, weights=weights)


def _read(path: str) -> dict[str, np.ndarray]:
  """Returns the arrays that the network uses, by their names in torch's state dict, as float32."""
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f"The extractor 'inception' reads its weights from {path}, which does not exist: "
      f'get {PUBLISHED} from {SOURCE}, convert it with `{CONVERT}`, and move the result to {path}. '
      "--features=bands, --features=self and --features=classifier:WORKDIR need no file."
    )
  try:
    with open(path, 'rb') as file, np.load(file) as stored:
      used = [name for name in inception.state_shapes() if name in stored.files]
      return {name: np.asarray(stored[name], np.float32) for name in used}
  except NO_NPZ as error:
    raise ValueError(
      "The weights of the extractor 'inception' must be an npz of arrays, "
      f'made by `{CONVERT}`; {path} is not one.'
    ) from error


def _features(weights: dict, images: Array) -> Array:
  return inception.evaluate(weights, images).features


def _maps(weights: dict, images: Array) -> tuple[Array, ...]:
  return inception.evaluate(weights, images).maps
