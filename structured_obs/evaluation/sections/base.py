"""What a section of an evaluation is made of, and what it is."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from structured_obs.evaluation import image_measures, passes
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.results import Result

Figures = dict[str, Path]  # path by title


class Evaluated(NamedTuple):
  """What sections are made of."""

  found: Sequence[Result]  # on the same images, of a split
  split: str
  images: np.ndarray  # [N, H, W, C], as stored: those that were scored
  splits: Mapping[str, np.ndarray]  # all images of every split of the models' own data
  seed: int = 0  # of the dequantisation
  own_data: bool = True  # whether the images are of the models' own data
  where: passes.Where = passes.HERE  # passes over images run there
  extractor: extractors.Extractor | None = None  # that images are compared in; None: random_conv
  measured: Mapping[str, image_measures.Measured] = MappingProxyType({})  # filled in by `make`


class Section(NamedTuple):
  """One part of an evaluation."""

  name: str  # in evaluation.json
  text: str  # Markdown, with its heading
  tree: Any  # for JSON
  arrays: Mapping[str, np.ndarray] = MappingProxyType({})  # for per_image.npz
  draw: Callable[[Path], Figures] | None = None  # directory -> the figures drawn there


def extractor_of(evaluated: Evaluated) -> extractors.Extractor:
  """Returns the network that images are compared in."""
  return evaluated.extractor or extractors.random_conv(evaluated.found[0].trained.model.image)
