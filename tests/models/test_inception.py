"""The network of the Frechet inception distance against NumPy, with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.models.networks import inception
from tests.models import inception_reference

DTYPE = jnp.zeros(()).dtype
RTOL = 1e-10 if jnp.finfo(DTYPE).eps < 1e-10 else 1e-4
SIZE = 107  # pixels, which end in 2 x 2


def test_features_and_maps_are_those_of_the_reference():
  state = inception_reference.random_state(DTYPE)
  images = np.random.default_rng(1).uniform(-1, 1, (2, 40, 61, 3))
  evaluate = jax.jit(inception.evaluate, static_argnums=2)
  found = evaluate(inception.variables_of(state), jnp.asarray(images, DTYPE), SIZE)
  assert [y.shape[1:] for y in found.maps] == [(25, 25, 64), (11, 11, 192), (5, 5, 768), (2, 2, 2048)]
  for index, image in enumerate(images):
    network = inception_reference.Network({name: a.astype(np.float64) for name, a in state.items()})
    features, maps = network(inception_reference.resized(image, SIZE))
    for ours, theirs in zip((found.features, *found.maps), (features, *maps), strict=True):
      assert 0.1 < theirs.std() < 100  # neither dead nor overflowing
      np.testing.assert_allclose(ours[index], theirs, rtol=RTOL, atol=RTOL * np.abs(theirs).max())


@pytest.mark.parametrize('shape', [(28, 28, 1), (20, 45, 3), (101, 64, 3)])
def test_images_are_resized_between_centres_of_pixels(shape: tuple[int, int, int]):
  image = np.random.default_rng(0).uniform(-1, 1, shape)
  found = inception.resized(jnp.asarray(image[None], DTYPE), 75)
  expected = np.broadcast_to(inception_reference.resized(image, 75), (75, 75, 3))
  np.testing.assert_allclose(found[0], expected, atol=RTOL)


def test_other_channels_are_refused():
  with pytest.raises(ValueError, match=r'1 or 3 channels; these have 4'):
    inception.resized(jnp.zeros((1, 8, 8, 4), DTYPE))


def test_the_network_has_the_known_number_of_parameters():
  shapes = inception.state_shapes()
  sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
  assert sum(size for name, size in sizes.items() if 'running' not in name) == 21_785_568
  assert shapes['Conv2d_1a_3x3.conv.weight'] == (32, 3, 3, 3)
  assert shapes['Mixed_6b.branch7x7dbl_5.conv.weight'] == (192, 128, 1, 7)
  assert shapes['Mixed_7c.branch3x3dbl_3b.bn.running_var'] == (384,)
