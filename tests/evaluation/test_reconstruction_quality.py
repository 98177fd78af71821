"""The section on the quality of images: its numbers by hand, and what models and libraries allow."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs import strict_json
from structured_obs.evaluation import results, sections
from structured_obs.evaluation.features import random_conv
from structured_obs.evaluation.likelihood import Scores, Settings
from structured_obs.evaluation.metrics import spectrum
from structured_obs.evaluation.sections import (
  base,
  image_measures,
  image_quality,
  reconstruction_quality,
)
from structured_obs.models import autoencoder, vae
from structured_obs.models.distribution import Distribution
from structured_obs.runs import trained as opened
from tests.evaluation.test_supn import IMAGE, trained

IMAGES = np.random.default_rng(0).integers(0, 256, (7, *IMAGE)).astype(np.uint8)
PIXELS = IMAGES / 127.5 - 1


@pytest.fixture
def models() -> list[opened.Trained]:
  """A VAE and an autoencoder."""
  first, second = trained(vae.VAE, 'diagonal'), trained(autoencoder.Autoencoder, 'low_rank')
  spec = first.spec._replace(levels=256)
  return [first._replace(spec=spec), second._replace(spec=spec)]


def of_models(models: list[opened.Trained], images: np.ndarray, generated: int = 0) -> Any:
  originals = image_measures.Originals(images, images)
  extractor = random_conv.random_conv(IMAGE)
  measured = image_measures.of_models(models, originals, extractor, generated=generated)
  return reconstruction_quality.of_measured(measured)


def _means(model: opened.Trained) -> np.ndarray:
  x = jnp.asarray(PIXELS, jnp.float32)
  params: Any = model.model.apply(model.variables, None, x, method='reconstruct')
  return np.clip(np.asarray(jax.vmap(model.model.family.mean)(params), np.float64), -1, 1)


def test_scores_are_those_of_the_clipped_means(models: list[opened.Trained]):
  found = of_models(models, IMAGES)
  assert list(found) == ['original images', 'diagonal', 'low_rank']
  for model in models:
    means, scores = _means(model), found[model.name].scores
    error = np.mean((means - PIXELS) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(scores['psnr_db'], 10 * np.log10(4 / error), rtol=1e-4)
    true, own = (np.log(np.abs(np.fft.fft2(a[..., 0], norm='ortho'))).mean(0) for a in (PIXELS, means))
    told = scores['log_spectrum_signed_reconstructions'].mean()
    assert told == pytest.approx((own - true).mean(), abs=0.02)  # but for the rounding
    np.testing.assert_allclose(found[model.name].shown['reconstructions'], means, atol=1e-4)


def test_other_originals_tell_what_chance_does(
  models: list[opened.Trained], monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(image_measures, 'KEPT', 3)
  found = of_models(models, IMAGES)
  spectra = spectrum.log_spectra(PIXELS)
  expected = np.abs(spectra[3:6].mean(0) - spectra[:3].mean(0)).mean()
  told = found['original images'].scores['log_spectrum_absolute_new_means']
  np.testing.assert_allclose(told.mean(), expected, rtol=1e-5)
  assert found['diagonal'].scores['psnr_db'].shape == (7,)
  assert found['diagonal'].scores['log_spectrum_signed_new_samples'].shape == (3,)


@pytest.mark.parametrize('generated', [4, 12])
def test_spectra_of_fewer_or_more_new_images_than_originals(
  models: list[opened.Trained], generated: int
):
  found = of_models(models[:1], IMAGES, generated)['diagonal']
  assert found.scores['log_spectrum_signed_new_samples'].shape == (min(generated, 7),)
  assert found.scores['log_spectrum_signed_reconstructions'].shape == (7,)
  assert np.isfinite(found.scores['log_spectrum_absolute_new_samples']).all()


def _evaluated(models: list[opened.Trained]) -> base.Evaluated:
  ones = np.ones(len(IMAGES))
  fields: dict[str, Any] = dict.fromkeys(Scores._fields[:-1], ones)
  scores = Scores(**fields)
  found = [results.Result(model, Settings(256), scores) for model in models]
  return base.Evaluated(found, 'test', IMAGES, {'train': IMAGES, 'validation': IMAGES[:0]})


def _quality(models: list[opened.Trained]) -> base.Section | None:
  made = [one for one in sections.make(_evaluated(models)) if one.name == 'image_quality']
  return made[0] if made else None


def test_section_of_two_models(models: list[opened.Trained], tmp_path: Path):
  section = _quality(models)
  assert section is not None
  table = section.text.split('\n\n')[1].splitlines()
  rows = {line.split('|')[1].strip(): [c.strip() for c in line.split('|')[2:-1]] for line in table}
  assert rows['mean over 7 images'][-1] == 'low_rank - diagonal'
  assert all(' ± ' in cell for cell in rows['SSIM'][1:])
  # An autoencoder has no new images; originals have no PSNR, and too few are left for others.
  assert [bool(cell) for cell in rows["spectrum of new means - originals'"]] == [
    False, True, False, False
  ]  # fmt: skip
  assert [bool(cell) for cell in rows['PSNR, dB']] == [False, True, True, True]
  assert 'in the layers of bands (' in section.text
  tree = json.loads(strict_json.text(section.tree))
  assert (tree['features'], len(tree['fingerprint'])) == ('bands', 12)
  assert tree['models']['diagonal']['perceptual_distance']['num_images'] == 7
  difference = tree['differences']['low_rank - diagonal']['psnr_db']
  arrays = section.arrays
  paired = arrays['low_rank/psnr_db'] - arrays['diagonal/psnr_db']
  assert difference['mean'] == pytest.approx(paired.mean())
  assert difference['standard_error'] == pytest.approx(paired.std(ddof=1) / 7**0.5)
  assert 'log_spectrum_signed_new_means' not in tree['differences']['low_rank - diagonal']
  assert arrays['diagonal/log_spectrum_mean_new_samples'].shape == IMAGE[:2]
  assert section.draw is not None
  assert all(path.stat().st_size > 3000 for path in section.draw(tmp_path).values())


def test_models_without_an_encoder_or_levels_have_no_section(models: list[opened.Trained]):
  real = models[0]._replace(spec=models[0].spec._replace(levels=0))
  bare = models[0]._replace(model=Distribution(models[0].model.family, IMAGE))
  assert not of_models([real, bare], IMAGES)
  assert image_quality.text({}, random_conv.random_conv(IMAGE)) == ''
  assert not of_models(models, IMAGES[:0])
