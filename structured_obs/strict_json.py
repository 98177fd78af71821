"""Writes JSON as the standard defines it: numbers that are not finite are null, and arrays are lists."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def strict(value: Any) -> Any:
  """Returns the value with floats that JSON cannot express as None, and arrays as lists."""
  if isinstance(value, Mapping):
    return {str(key): strict(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [strict(item) for item in value]
  if isinstance(value, (np.generic, np.ndarray)):
    return strict(value.tolist())
  return None if isinstance(value, float) and not math.isfinite(value) else value


def text(value: Any, indent: int | None = 2) -> str:
  """Returns strict JSON text with a final newline; on one line if `indent` is None."""
  return json.dumps(strict(value), indent=indent, allow_nan=False) + '\n'
