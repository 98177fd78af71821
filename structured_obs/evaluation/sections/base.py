"""The inputs of a section of an evaluation, and its result."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from structured_obs.evaluation import image_measures, passes
from structured_obs.evaluation.features import bands
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.results import Result

Figures = dict[str, Path]  # path by title


class Evaluated(NamedTuple):
  """Inputs of sections."""

  found: Sequence[Result]  # on the same images, of a split
  split: str
  images: np.ndarray  # [N, H, W, C], as stored: those that were scored
  splits: Mapping[str, np.ndarray]  # all images of every split of the models' own data
  seed: int = 0  # of the dequantisation
  own_data: bool = True  # whether the images are of the models' own data
  where: passes.Where = passes.HERE  # devices for passes over images
  extractor: extractors.Extractor | None = None  # whose features compare images; None for `bands`
  measured: Mapping[str, image_measures.Measured] = MappingProxyType({})  # filled in by `make`
  generated: int = 0  # new images of each model; 0 for as many as are evaluated, at most 10,000
  reference: str = ''  # split whose images features are compared with; '' for the evaluated images
  sample_mode: str = 'sample'  # 'mode': new samples are modes of p(x|z), of mixtures


class Section(NamedTuple):
  """One part of an evaluation."""

  name: str  # in evaluation.json
  text: str  # Markdown, with its heading
  tree: Any  # for JSON
  arrays: Mapping[str, np.ndarray] = MappingProxyType({})  # for per_image.npz
  draw: Callable[[Path], Figures] | None = None  # directory -> the figures drawn there


def extractor_of(evaluated: Evaluated) -> extractors.Extractor:
  """Returns the network whose features compare images."""
  return evaluated.extractor or bands.bands(evaluated.found[0].trained.model.image)
