"""The section on the quality of images: table, JSON, log spectra and a grid of images.

Everything comes from `reconstruction_quality.of_measured`: results by the models' names, after those of
the original images.

Letters: N images; M of them, at most 128, whose spectra are computed; H W C image height, width,
channels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from structured_obs import plotting
from structured_obs.evaluation import finite, likelihood, tables
from structured_obs.evaluation.features import extractor as extractors
from structured_obs.evaluation.figures import labels
from structured_obs.evaluation.image_measures import KINDS, ORIGINAL
from structured_obs.evaluation.metrics import image_errors
from structured_obs.evaluation.sections.base import Evaluated, Figures, Section, extractor_of
from structured_obs.evaluation.sections.reconstruction_quality import Quality, of_measured, score_name

PSNR = 'psnr_db'


class _Line(NamedTuple):
  """One line of the table."""

  score: str
  label: str
  decimals: int
  factor: float = 1.0


LINES = (
  _Line(PSNR, 'PSNR, dB', 2),
  _Line('ssim', 'SSIM', 4),
  _Line('perceptual_distance', '1000 distance in features', 3, 1000),
  _Line('laplacian_variance', '1000 variance of the Laplacian', 2, 1000),
  *(
    _Line(score_name(field, kind), f"{label} of {kind} - originals'", 3)
    for kind in KINDS
    for field, label in (('signed', 'spectrum'), ('absolute', 'size of spectrum'))
  ),
)


EXPLANATION = """\
Reconstructions are the means of p(x|z) at the mean of q(z|x), clipped to [-1, 1], beside the stored
images without noise. PSNR and SSIM use a range of 2 for pixels, and larger is better; exact images,
whose PSNR is infinite, are left out of its means. SSIM uses 11 x 11 Gaussian windows and is averaged
over channels. The variance of the Laplacian measures sharpness, or noise: it should equal the
originals'. ± is the standard error over images, for a difference that of the differences per image.

The spectrum is log |F| of the orthonormal Fourier transform, averaged over at most 128 images. The table
has its difference from the originals', averaged over frequencies, with its sign (below 0: blurred) and
without. New images are drawn from the prior: means of p(x|z), samples, and
samples without the floor of pixel noise where a family has one. The originals' entries in
these lines compare them with as many other originals, a difference by chance alone. ± is a jackknife
over images."""
UNCALIBRATED = """\
The distance in features is that of LPIPS, in the layers of {}, but without weights
learnt from people's judgements: it is uncalibrated, and comparable in these features only. Smaller is
better."""
CALIBRATED = """\
The distance in features is LPIPS, in the layers of {} with the weights of its file.
Smaller is better."""


def text(found: Mapping[str, Quality], extractor: extractors.Extractor) -> str:
  """Returns the table, with paired differences from the first model, and its explanation, as Markdown.

  Args:
    found: results of the models.
    extractor: whose features compared the images.
  """
  if not found:
    return ''
  original, first, *others = found
  count = len(found[original].scores['laplacian_variance'])
  rows = [[f'mean over {count} images', *found, *(f'{other} - {first}' for other in others)]]
  for line in LINES:
    cells = [_cell(line, name, found) for name in found]
    cells += [_cell(line, other, found, first) for other in others]
    if any(cells[1:]):
      rows.append([line.label, *cells])
  about = UNCALIBRATED if extractor.calibration is None else CALIBRATED
  in_features = about.format(extractor) if 'perceptual_distance' in found[first].scores else ''
  table = tables.markdown_table(rows)
  notes = image_errors.exact(_scores(PSNR, found)), _not_finite(found)
  return tables.paragraphs('## Image quality', table, *notes, EXPLANATION, in_features)


def _scores(score: str, found: Mapping[str, Quality]) -> dict[str, np.ndarray]:
  """Returns one score [N] by the name of each model that has it."""
  return {name: one.scores[score] for name, one in found.items() if score in one.scores}


def _not_finite(found: Mapping[str, Quality]) -> str:
  # The absolute difference of spectra is one number for all images; its sign shows which are bad.
  absolute = {score_name('absolute', kind) for kind in KINDS}
  return finite.sentences(
    {
      f'{name}: {line.label}': np.where(np.isposinf(values), 0, values) if line.score == PSNR else values
      for line in LINES
      if line.score not in absolute
      for name, values in _scores(line.score, found).items()
    }
  )


def as_json(found: Mapping[str, Quality], extractor: extractors.Extractor) -> dict[str, Any]:
  """Returns everything in the table: summaries by model, and differences from the first."""
  _, first, *others = found

  def tell(name: str, less: str = '') -> dict[str, Any]:
    summaries = ((line.score, _summary(line.score, name, found, less)) for line in LINES)
    return {score: summary._asdict() for score, summary in summaries if summary is not None}

  return {
    'range': image_errors.RANGE,
    'features': extractor.name,
    'fingerprint': extractor.fingerprint,
    'models': {name: tell(name) for name in found},
    'differences': {f'{other} - {first}': tell(other, first) for other in others},
  }


def per_image(found: Mapping[str, Quality]) -> dict[str, np.ndarray]:
  """Returns arrays for np.savez: scores by 'NAME/SCORE', and the mean log spectra."""
  arrays = {}
  for name, one in found.items():
    arrays |= {f'{name}/{score}': values for score, values in one.scores.items()}
    for kind, mean in one.spectra.items():
      arrays[f'{name}/{score_name("mean", kind)}'] = mean
  return arrays


def draw_spectra(path: Path, found: Mapping[str, Quality]) -> Path:
  """Draws the mean log spectra, frequency 0 in the middle, and each minus that of the data."""
  means = {
    name: {kind: np.fft.fftshift(mean) for kind, mean in one.spectra.items()}
    for name, one in found.items()
  }
  true = means[ORIGINAL][ORIGINAL]
  everything = np.stack([mean for kinds in means.values() for mean in kinds.values()])
  low, high = float(np.nanmin(everything)), float(np.nanmax(everything))
  limit = float(np.nanmax(np.abs(everything - true)))
  scaled = lambda mean: 2 * (mean - low) / max(high - low, 1e-6) - 1  # noqa: E731
  rows = [plotting.Row(ORIGINAL, scaled(true)[None, :, :, None])]
  for name, kinds in means.items():
    if name != ORIGINAL:
      maps = np.stack(list(kinds.values()))[..., None]
      rows.append(plotting.Row(name, scaled(maps)))
      rows.append(plotting.Row('less original', maps - true[..., None], 'signed', limit=limit))
  title = f'Log spectra: gray from {low:.1f} to {high:.1f} nats'
  return plotting.image_rows(path, rows, KINDS, title)


def draw_grid(path: Path, found: Mapping[str, Quality], title: str = '') -> Path:
  """Draws the originals above every model's reconstructions, and means of new images beside them."""
  originals = found[ORIGINAL].shown[ORIGINAL]
  count = len(originals)
  blank = np.ones_like(originals)
  rows = []
  for one in found.values():
    old, new = one.shown.get(KINDS[0], originals), one.shown.get(KINDS[1], blank)
    rows.append(np.concatenate([old, blank[:1], new]))
  headings = [''] * (2 * count + 1)
  headings[count // 2], headings[count + 1 + count // 2] = KINDS[:2]
  return plotting.image_grid(path, np.stack(rows), rows=list(found), columns=headings, title=title)


def _summary(
  score: str, name: str, found: Mapping[str, Quality], less: str = ''
) -> likelihood.Summary | None:
  """Returns a model's score, or its difference from another's, as a summary; None if there is none."""
  mine = found[name].scores.get(score)
  known = image_errors.without_exact if score == PSNR else lambda *values: values
  if mine is None or not less:
    return None if mine is None else likelihood.summarize(*known(mine))
  other = found[less].scores.get(score)
  return None if other is None else likelihood.paired_difference(*known(mine, other))


def _cell(line: _Line, name: str, found: Mapping[str, Quality], less: str = '') -> str:
  return tables.cell(_summary(line.score, name, found, less), line.decimals, line.factor)


def section(evaluated: Evaluated) -> Section | None:
  """Returns this section of an evaluation; None if models or data do not have it."""
  found = of_measured(evaluated.measured)
  if not found:
    return None

  def figures(directory: Path) -> Figures:
    title = labels.title('Image quality', [result.trained for result in evaluated.found])
    grid = draw_grid(directory / 'grid.png', found, title)
    spectra = draw_spectra(directory / 'spectra.png', found)
    return {'Reconstructions, and means of new images': grid, 'Log spectra': spectra}

  return Section(
    'image_quality',
    text(found, extractor_of(evaluated)),
    as_json(found, extractor_of(evaluated)),
    per_image(found),
    figures,
  )
