"""Images of which some pixels do not count, from files to an evaluation: these are never read."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import distributions
from structured_obs.config import Config
from structured_obs.distributions.base import ImageShape
from structured_obs.evaluation import compare
from structured_obs.models.vae import VAE
from structured_obs.objectives import alternating, bounds, reconstruction
from structured_obs.runs import configuration, experiment, restore
from structured_obs.train import run
from tests.data.test_masks import folder_of
from tests.runs import small


def _config(folder: Path, hidden: int) -> Config:
  config = small.config_of('vae')
  config.likelihood.family, config.likelihood.options = 'low_rank', {'rank': 2, 'learn_diag': True}
  config.data.source = folder_of(folder / 'images', count=24, hidden=hidden)
  config.data.cache_dir = str(folder / 'cache')
  config.data.mask, config.data.mask_options = 'alpha', {'above': 100}
  config.data.flip = True
  config.train.steps = config.train.validate_every = config.train.checkpoint_every = 3
  return config


@pytest.fixture(scope='module')
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
  """Two runs on images that differ in pixels that do not count alone."""
  made = []
  for hidden in (0, 77):
    folder = tmp_path_factory.mktemp(f'hidden{hidden}')
    made.append(folder / 'run')
    assert run.run(_config(folder, hidden), run.Options(workdir=str(made[-1]))) is not None
  return made


@pytest.mark.slow
def test_pixels_that_do_not_count_change_nothing(runs: list[Path], tmp_path: Path):
  one, other = (restore.load(workdir)[0] for workdir in runs)
  assert one.spec.masked
  assert one.spec.sha256 != other.spec.sha256
  for mine, theirs in zip(*map(jax.tree.leaves, (one.variables, other.variables)), strict=True):
    np.testing.assert_array_equal(mine, theirs)
  trees = []
  for i, workdir in enumerate(runs):
    request = compare.Request(samples=2, split='train', num_images=6)
    compare.evaluate({'run': workdir}, tmp_path / str(i), request)
    tree = json.loads((tmp_path / str(i) / 'evaluation.json').read_text())
    tree['models']['run'].pop('workdir')
    trees.append({name: tree[name] for name in ('models', 'masked')})
  assert trees[0] == trees[1]
  arrays = np.load(tmp_path / '0' / 'per_image.npz')
  scores = trees[0]['models']['run']['scores']
  bits = -arrays['run/elbo'] / (arrays['run/counted'] * np.log(2)) - np.log2(2 / 255)
  np.testing.assert_allclose(scores['negative_elbo_bits_per_dim']['mean'], np.mean(bits), rtol=1e-6)
  assert set(arrays['run/counted']) <= {18, 24, 30}
  report = (tmp_path / '0' / 'report.md').read_text()
  assert 'PSNR of the pixels that count' in report
  assert 'Left out' in report
  shutil.rmtree(tmp_path)


def test_reconstruction_losses_and_the_density_are_of_the_pixels_that_count():
  family, image = distributions.family('diagonal'), ImageShape(4, 4, 2)
  model = VAE(family, image, latents=2, features=(4,), blocks=0, masked=True)
  rng = np.random.default_rng(0)
  x, mask = rng.normal(size=(3, 4, 4, 2)), rng.random((3, 4, 4, 1)) < 0.5
  given = jnp.asarray(np.concatenate([x, np.where(mask, 1.0, -1.0)], -1), jnp.float32)
  keys = jax.random.split(jax.random.key(0), 3)
  variables = model.init(jax.random.key(1), keys, given)

  @jax.jit
  def terms(given: jax.Array) -> Any:
    return model.apply(variables, keys, given), model.apply(variables, None, given, method='reconstruct')

  found, params = terms(given)
  unread = given.at[..., :2].set(jnp.where(mask, given[..., :2], jnp.nan))
  for mine, theirs in zip(*map(jax.tree.leaves, ((found, params), terms(unread))), strict=True):
    np.testing.assert_array_equal(mine, theirs)
  loss = alternating.of_images(reconstruction.l1)(found.images)
  expected = np.sum(np.where(mask, np.abs(x - np.asarray(found.images.mean)), 0), axis=(1, 2, 3))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  assert np.all(np.isfinite(bounds.elbo(found)))


@pytest.mark.parametrize(
  ('kind', 'change', 'error'),
  [
    ('sr_vae', {}, 'kinds that take masks: vae, ae, distribution'),
    ('vae', {'objective.reconstruction': 'ssim'}, 'it may be l1, l2, or left out'),
    (
      'vae',
      {'objective.mean_gradient': 0.9, 'objective.mean_loss': 'ssim'},
      r'mean_loss=ssim reads whole images.* l1, l2, or left out',
    ),
  ],
)
def test_what_needs_whole_images_is_refused(kind: str, change: dict[str, Any], error: str):
  config = small.config_of(kind)
  config.data.mask = 'nonzero'
  for name, value in change.items():
    section, field = name.split('.')
    setattr(getattr(config, section), field, value)
  with pytest.raises(ValueError, match=error):
    configuration.resolve(config)


def test_one_distribution_for_all_images_and_an_autoencoder_take_masks():
  for kind in ('distribution', 'ae'):
    config = small.config_of(kind)
    config.data.mask = 'nonzero'
    built = experiment.build(config, small.spec_of(config)._replace(masked=True))
    keys, x = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 8, 8, 4), jnp.float32)
    model: Any = built.model
    terms, _ = jax.eval_shape(model.init_with_output, keys[0], keys, x)
    assert terms.log_p['x'].shape == (2,)
