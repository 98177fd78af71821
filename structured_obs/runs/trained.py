"""A trained model and what it was trained on."""

from typing import Any, NamedTuple

from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec
from structured_obs.models.classifier import Classifier


class Trained(NamedTuple):
  """A trained model and what it was trained on."""

  name: str  # in tables
  workdir: str
  config: Config
  spec: DataSpec
  model: Any
  variables: dict[str, Any]
  step: int


def is_discrete(trained: Trained) -> bool:
  """Returns whether the model is discrete: probabilities of gray levels rather than densities."""
  return trained.model.family.levels > 0


def is_classifier(trained: Trained) -> bool:
  """Returns whether a model predicts classes rather than images."""
  return isinstance(trained.model, Classifier)
