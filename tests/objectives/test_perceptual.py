"""Losses in features: against NumPy, with weights that were drawn, and the errors without any."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from structured_obs.objectives import perceptual, reconstruction

RNG = np.random.default_rng(0)
DTYPE = jnp.zeros(()).dtype
X = RNG.uniform(-1, 1, (17, 16, 3))
MEAN = np.clip(X + 0.3 * RNG.normal(size=X.shape), -1, 1)
BLOCKS = ((1, 2), (1, 2), (1, 2, 3), (1, 2, 3), (1, 2, 3))
WIDTHS = (64, 128, 256, 512, 512)
LAYERS = [(f'conv{b}_{i}', width) for b, width in enumerate(WIDTHS, 1) for i in BLOCKS[b - 1]]


def _arrays(*images: np.ndarray) -> Any:
  return [jnp.asarray(image, DTYPE) for image in images]


def _weights() -> dict[str, np.ndarray]:
  rng, inputs, found = np.random.default_rng(1), 3, {}
  for name, width in LAYERS:
    kernel = rng.standard_normal((3, 3, inputs, width), np.float32) * (2 / (9 * inputs)) ** 0.5
    found |= {f'{name}_kernel': kernel.astype(np.float16), f'{name}_bias': np.full(width, 0.01)}
    inputs = width
  return found | {f'lin{i}': rng.uniform(size=width) for i, width in enumerate(WIDTHS, 1)}


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
  folder = tmp_path_factory.mktemp('weights')
  np.savez(folder / 'vgg16.npz', **_weights())  # type: ignore[arg-type]
  return folder


def _distance(layers: list[tuple[np.ndarray, np.ndarray]], scales: list[np.ndarray]) -> float:
  total = 0.0
  for (a, b), scale in zip(layers, scales, strict=True):
    a, b = (f / np.maximum(np.linalg.norm(f, axis=-1, keepdims=True), 1e-30) for f in (a, b))
    total += np.sum(scale * (a - b) ** 2) / (a.shape[0] * a.shape[1])
  return total


def _same(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Correlation with zeros around the image, as sums over taps."""
  padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
  taps = [(i, j) for i in range(3) for j in range(3)]
  shifted = [padded[i : i + len(image), j : j + image.shape[1]] @ kernel[i, j] for i, j in taps]
  return np.sum(shifted, axis=0)


def _vgg(image: np.ndarray, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
  y = ((image + 1) / 2 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  found = []
  for block, names in enumerate(BLOCKS, 1):
    if block > 1:
      rows, columns = len(y) // 2, y.shape[1] // 2
      cut = y[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, -1)
      y = cut.max(axis=(1, 3))
    for i in names:
      kernel = arrays[f'conv{block}_{i}_kernel'].astype(np.float64)
      y = np.maximum(_same(y, kernel) + arrays[f'conv{block}_{i}_bias'], 0)
    found.append(y)
  return found


def test_any_features_will_do():
  kernels = RNG.normal(size=(2, 3, 3))

  def features(image: jax.Array) -> list[jax.Array]:
    gray = jnp.mean(image, axis=-1)
    maps = [jax.scipy.signal.convolve2d(gray, k, mode='valid') for k in _arrays(*kernels)]
    return [image, jnp.stack(maps, axis=-1)]

  grays = [image.mean(axis=-1) for image in (X, MEAN)]
  edges = [
    np.stack([scipy.signal.convolve2d(g, k, mode='valid') for k in kernels], axis=-1) for g in grays
  ]
  expected = X.size * _distance([(X, MEAN), (edges[0], edges[1])], [np.ones(3), np.ones(2)])
  loss = jax.jit(perceptual.perceptual(features))
  x, mean = _arrays(X, MEAN)
  np.testing.assert_allclose(loss(x, mean), expected, rtol=1e-4)
  np.testing.assert_allclose(loss(x, x), 0, atol=1e-6)
  for other in (x, mean, jnp.zeros_like(x)):
    assert np.isfinite(jax.grad(loss, 1)(x, other)).all()


def test_vgg_is_its_definition(weights: Path):
  arrays = _weights()
  scales = [arrays[f'lin{i}'] for i in range(1, 6)]
  layers = list(zip(_vgg(X, arrays), _vgg(MEAN, arrays), strict=True))
  x, mean = _arrays(X, MEAN)
  loss = reconstruction.make('vgg', weights)  # not compiled: millions of constants take long
  np.testing.assert_allclose(loss(x, mean), X.size * _distance(layers, scales), rtol=2e-4)


def test_vgg_sees_gray_images_in_color_and_none_that_are_too_small(weights: Path):
  features, scales = perceptual.load_vgg(weights / 'vgg16.npz')
  assert [scale.shape[0] for scale in scales or ()] == [*WIDTHS]
  gray, color = (jax.eval_shape(features, _arrays(image)[0]) for image in (X[..., :1], X))
  assert [f.shape for f in gray] == [f.shape for f in color]
  assert color[4].shape == (1, 1, 512)
  for image in (X[:15], X[..., :2]):
    with pytest.raises(ValueError, match='VGG-16 needs images of 1 or 3 channels and at least 16'):
      jax.eval_shape(features, _arrays(image)[0])


def test_missing_weights_are_one_clear_error(tmp_path: Path):
  with pytest.raises(FileNotFoundError, match='load_vgg') as caught:
    reconstruction.make('vgg', tmp_path)
  message = str(caught.value)
  assert str(tmp_path / 'vgg16.npz') in message
  assert 'torchvision' in message
  assert 'focal_frequency' in message


def test_weights_of_another_layout_are_refused(tmp_path: Path):
  np.savez(tmp_path / 'vgg16.npz', conv1_1_kernel=np.zeros((3, 3, 3, 64)))
  with pytest.raises(ValueError, match=r'must hold conv1_1_bias of shape \(64,\); it has no such'):
    reconstruction.make('vgg', tmp_path)
  np.savez(tmp_path / 'vgg16.npz', conv1_1_kernel=np.zeros((64, 3, 3, 3)))
  with pytest.raises(ValueError, match=r'must hold conv1_1_kernel of shape \(3, 3, 3, 64\)'):
    reconstruction.make('vgg', tmp_path)


def test_watson_is_not_offered():
  with pytest.raises(ValueError, match=r"not offered.*'ssim', 'focal_frequency'"):
    reconstruction.make('watson')
