"""What names of subjects mean."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from structured_obs.applications import subject
from structured_obs.config import Config
from structured_obs.data.prepare import DataSpec, Prepared
from structured_obs.distributions import base, diagonal
from structured_obs.models import classes
from structured_obs.models.base import Traits
from structured_obs.objectives.terms import Terms
from structured_obs.runs.trained import Trained

IMAGE = base.ImageShape(2, 4, 1)


class Echo(nn.Module):
  """A model whose p(x|z) has what was encoded, or what was drawn, as its mean."""

  family: base.Family
  traits: Traits
  masked = False
  label_classes: classes.Classes | None = None
  image: base.ImageShape = IMAGE

  def __call__(self, keys: jax.Array, x: jax.Array, train: bool = False) -> Terms:
    raise NotImplementedError

  def reconstruct(self, keys: None, x: jax.Array) -> diagonal.Diagonal:
    mean = self.variables['params']['shift'] + x[..., : self.image.channels]
    return diagonal.Diagonal(mean, jnp.zeros_like(mean))

  def generate(self, keys: jax.Array, labels: jax.Array | None = None) -> diagonal.Diagonal:
    mean = jax.vmap(lambda key: jax.random.normal(key, IMAGE, jnp.float32))(keys)
    mean = mean if labels is None else mean + 100 * labels.astype(jnp.float32).sum()
    return diagonal.Diagonal(mean, jnp.zeros_like(mean))


STORED = np.arange(3 * 8, dtype=np.uint8).reshape(3, *IMAGE) % 17


def problem(condition: int = 0, has_prior: bool = True) -> tuple[Trained, Prepared]:
  spec = DataSpec(
    *IMAGE, 17, {'test': 3}, 'none', '', '', '', '', 'center', 'area', False, 0, [], {},
    condition=condition,
  )  # fmt: skip
  model = Echo(diagonal.family(), Traits(generates=has_prior, has_prior=has_prior))
  variables = {'params': {'shift': jnp.ones((), jnp.float32)}}
  trained = Trained('a run', 'runs/it', Config(), spec, model, variables, 7)
  return trained, Prepared(spec, {'test': STORED}, {}, '')


def test_a_test_image_is_reconstructed():
  found = subject.find(*problem(), subject.parse('test:2'))
  expected = STORED[2] / np.float32(8) - 1
  assert found.name == 'test_2'
  assert found.image is not None
  np.testing.assert_allclose(found.image, expected, atol=1e-6)
  np.testing.assert_allclose(found.params.mean, expected + 1, atol=1e-6)


def test_a_seed_stands_for_one_image_of_the_prior():
  one, again, other = (
    subject.find(*problem(), subject.parse(text)) for text in ('prior:4', 'prior:4', 'prior:5')
  )
  assert (one.name, one.image) == ('prior_4', None)
  assert one.params.mean.shape == IMAGE
  np.testing.assert_array_equal(one.params.mean, again.params.mean)
  assert np.abs(one.params.mean - other.params.mean).min() > 0


def test_a_new_image_of_a_class():
  trained, prepared = problem()
  with pytest.raises(ValueError, match=r'runs/it has no classes'):
    subject.find(trained, prepared, subject.parse('prior:4:2'))
  model = trained.model.clone(label_classes=classes.Classes((5, 5, 5), 17))
  trained = trained._replace(model=model)
  plain = subject.find(trained, prepared, subject.parse('prior:4'))
  found = subject.find(trained, prepared, subject.parse('prior:4:2'))
  assert found.name == 'prior_4_class_2'
  np.testing.assert_allclose(found.params.mean, plain.params.mean + 200, rtol=1e-6)
  with pytest.raises(ValueError, match='has classes 0 to 2'):
    subject.find(trained, prepared, subject.parse('prior:4:3'))


def test_a_file_is_fitted_and_reconstructed(tmp_path: Path):
  path = tmp_path / 'portrait.png'
  small = np.array([[0, 255, 0, 51], [0, 0, 0, 0]], np.uint8)
  Image.fromarray(small.repeat(2, axis=0).repeat(2, axis=1)).save(path)
  found = subject.find(*problem(), subject.parse(str(path)))
  assert found.name == 'portrait'
  assert found.image is not None
  np.testing.assert_allclose(found.image[0, :, 0], [-1, 1, -1, -0.6], atol=1e-6)


@pytest.mark.parametrize('text', ['test:', 'test:-1', 'prior:x', 'test:1.5', 'prior:1:', 'test:1:2'])
def test_numbers_that_are_none(text: str):
  with pytest.raises(ValueError, match='it must be test:INDEX, prior:SEED, prior'):
    subject.parse(text)


def test_what_is_not_there_is_told(tmp_path: Path):
  with pytest.raises(FileNotFoundError, match=r"subject=me\.png: there is no such file"):
    subject.parse('me.png')
  with pytest.raises(ValueError, match='no test image 3; the split has 3, counted from 0'):
    subject.find(*problem(), subject.parse('test:3'))
  with pytest.raises(ValueError, match='has no prior of latents'):
    subject.find(*problem(has_prior=False), subject.parse('prior:0'))
  path = tmp_path / 'x.png'
  Image.fromarray(np.zeros((2, 4), np.uint8)).save(path)
  with pytest.raises(ValueError, match='is given more than an image'):
    subject.find(*problem(condition=1), subject.parse(str(path)))
