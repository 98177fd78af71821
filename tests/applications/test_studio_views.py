"""The views of the studio beside dense algebra in float64, and recipes that give the same."""

import shlex

import jax
import numpy as np
import pytest

from structured_obs.applications import edit, edit_input, interpolate
from structured_obs.applications.studio import desk as desks
from structured_obs.applications.studio import recipes, strokes, views
from structured_obs.applications.studio.strokes import Stroke
from structured_obs.distributions import gaussian
from structured_obs.runs import restore
from tests.applications.studio_problem import DOT, HIDE, SHAPE, SOFT, problem, with_strokes


@pytest.fixture(autouse=True)
def _as_the_studio_runs():
  """In float32, as a user's programs are, so that recipes give the very numbers."""
  with jax.enable_x64(False):
    yield


def conditional(mean: np.ndarray, covariance: np.ndarray, merged: edit.Merged):
  """Mean and covariance given what is known, by the dense formula."""
  seen = np.isfinite(np.ravel(merged.noise_variance))
  noise = np.diag(np.ravel(merged.noise_variance)[seen].astype(float))
  gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)] + noise)
  shift = np.ravel(merged.value)[seen].astype(float) - mean.ravel()[seen]
  return (mean.ravel() + gain @ shift).reshape(mean.shape), covariance - gain @ covariance[seen]


@pytest.mark.parametrize(
  ('name', 'wrappers', 'made'),
  [
    ('low_rank', (), ()),
    ('low_rank', (), (DOT,)),
    ('low_rank', (), (DOT, SOFT)),
    ('sparse_precision', (), (DOT,)),
    ('diagonal', ('student',), (DOT,)),
    ('diagonal', ('student',), (DOT, SOFT)),
  ],
)
@pytest.mark.few(3)
def test_the_rest_follows(name: str, wrappers: tuple[str, ...], made: tuple[Stroke, ...]):
  desk, page = problem(name, wrappers=wrappers), with_strokes(*made)
  given = desks.known(desk, page)
  if wrappers and SOFT in made:
    with pytest.raises(ValueError, match='only if they are exact'):
      desks.mean(desk, given)
    return
  params = desks.find(desk, page).params
  dense = np.asarray(gaussian.covariance(desk.family, params), float)
  mean, covariance = conditional(np.asarray(desk.family.mean(params), float), dense, given.merged)
  result = desks.mean(desk, given)
  np.testing.assert_allclose(result.image, mean, atol=2e-4)
  assert (result.implausibility > 0) == bool(made)
  if name != 'low_rank':  # its other programs are slow to compile
    return
  if SOFT not in made:
    drawn = desks.samples(desk, given, desks.Draws())
    assert np.ptp(drawn, axis=0).max() > 0.1
    if made:
      np.testing.assert_array_equal(drawn[:, 1, 2, 0], np.full(3, 0.5, np.float32))
  deviation = desks.deviation(desk, given)
  assert deviation is not None
  if not wrappers:
    np.testing.assert_allclose(np.square(deviation).ravel(), np.diag(covariance), atol=2e-4)
    if SOFT not in made:
      warm = np.asarray(desks.deviation(desk, given, 2.0))
      np.testing.assert_allclose(warm, 2 * deviation, rtol=1e-3, atol=1e-5)


def test_hidden_pixels_are_not_read_unless_asked_to():
  """Another original below the hidden region gives the same image; a peeking encoder sees it."""
  desk, page = problem(), with_strokes(Stroke('hide', ((0, 0), (1, 4)), 1))
  hidden = strokes.paint(page.strokes, SHAPE).hidden
  changed = np.array(desk.prepared.images['test'])
  changed[1][hidden] = 255 - changed[1][hidden]
  other = desk._replace(prepared=desk.prepared._replace(images={'test': changed}), known={})
  results = {
    peek: [desks.mean(one, desks.known(one, page, peek)).image for one in (desk, other)]
    for peek in (False, True)
  }
  np.testing.assert_array_equal(results[False][0], results[False][1])
  assert np.abs(results[True][0] - results[True][1])[hidden].min() > 0
  original = desks.find(desk, page).image
  np.testing.assert_array_equal(results[False][0][~hidden], original[~hidden])
  given = desks.known(desk, page, peek=True)
  dense = np.asarray(gaussian.covariance(desk.family, given.params), float)
  expected, _ = conditional(np.asarray(desk.family.mean(given.params), float), dense, given.merged)
  np.testing.assert_allclose(results[True][0], expected, atol=2e-4)


def test_components_move_together():
  desk, page = problem(), with_strokes()
  view = views.moved(desk, page, views.Settings(amounts=(1.0, -2.0)))
  dense = np.asarray(gaussian.covariance(desk.family, desks.find(desk, page).params), float)
  values, vectors = np.linalg.eigh(dense)
  change = (view.pictures[1].image - view.pictures[0].image).ravel()
  along = vectors[:, ::-1].T @ change
  np.testing.assert_allclose(np.abs(along[:2]), np.sqrt(values[::-1][:2]) * [1, 2], rtol=1e-3)
  np.testing.assert_allclose(along[2:], 0, atol=1e-4)
  np.testing.assert_allclose(view.frames[0] + view.frames[-1], 2 * view.frames[7], atol=1e-5)


def test_correlations_of_a_pixel():
  desk, page = problem(), with_strokes()
  view = views.correlated(desk, page, views.Settings(pixel=(1, 2, 0)))
  dense = np.asarray(gaussian.covariance(desk.family, desks.find(desk, page).params), float)
  scale, at = np.sqrt(np.diag(dense)), 1 * 5 + 2
  expected = dense[at] / (scale * scale[at])
  np.testing.assert_allclose(view.pictures[1].image.ravel(), expected, atol=1e-4)


def test_denoising_reports_what_it_gained():
  view = views.denoised(problem(), with_strokes(), views.Settings(sigma=0.4))
  captions = [picture.caption for picture in view.pictures]
  assert [one.partition(',')[0] for one in captions[:4]] == [
    'clean', 'noisy', 'reconstruction', 'posterior mean'
  ]  # fmt: skip
  clean, noisy = (view.pictures[i].image for i in (0, 1))
  ratio = 10 * np.log10(4 / np.mean(np.square(noisy - clean)))
  assert captions[1] == f'noisy, {ratio:.1f} dB'


def test_lines_are_the_upper_edges_of_grids():
  desk, page = problem(), with_strokes()
  way, params = interpolate.Way(5, 'gaussian'), desks.find(desk, page).params
  grid = interpolate.draw(desk.family, way, params, jax.random.key(3))
  settings = views.Settings(desks.Draws(seed=3), between='noise', path='gaussian', steps=5)
  np.testing.assert_allclose(views.interpolated(desk, page, settings).frames, grid[0], atol=1e-6)
  settings = settings._replace(between='latents', other=2, path='straight')
  frames = views.interpolated(desk, page, settings).frames
  ends = [0.5 * desks.find(desk, with_strokes(subject=f'test:{i}')).image for i in (1, 2)]
  np.testing.assert_allclose(frames[1], 0.75 * ends[0] + 0.25 * ends[1], atol=1e-6)
  with pytest.raises(ValueError, match='A new image has no encoding'):
    views.interpolated(desk, with_strokes(subject='prior:0'), settings)


def test_a_model_without_a_covariance_is_refused():
  trained = problem().trained
  family = trained.model.family._replace(gaussian=None)
  with pytest.raises(ValueError, match=r'^--compare=runs/a_run: the studio needs .* low_rank has none'):
    desks.check(trained._replace(model=trained.model.clone(family=family)), '--compare')


@pytest.mark.parametrize(
  ('view', 'made'), [*((view, ()) for view in views.VIEWS), ('Edit', (DOT, SOFT)), ('Edit', (HIDE, DOT))]
)
@pytest.mark.few(2)
def test_python_recipes_give_what_is_shown(
  view: str, made: tuple[Stroke, ...], monkeypatch: pytest.MonkeyPatch
):
  desk, page = problem(), with_strokes(*made)
  draws = desks.Draws(seed=2, temperature=0.5 if made else 1.0)
  settings = views.Settings(
    draws, sigma=0.2, amounts=(1.0, 2.0), from_sample=True, pixel=(1, 2, 0), steps=3
  )
  shown = {
    picture.caption: picture.image for picture in views.VIEWS[view](desk, page, settings).pictures
  }
  monkeypatch.setattr(restore, 'load', lambda workdir, which: (desk.trained, desk.prepared))
  space: dict = {}
  exec(recipes.python(desk, page, settings, view), space)
  if 'arrays' in space:
    space |= space['arrays']
    space['samples'] = [space['sample_1'], space['sample_2'], space['sample_3']]
    space['deviation'] = space['standard_deviation']
  for caption, image in shown.items():
    match caption.split():
      case ['mean'] if view == 'Edit':
        np.testing.assert_allclose(space['mean'], image, atol=1e-5)
      case ['sample', number]:
        np.testing.assert_allclose(space['samples'][int(number) - 1], image, atol=1e-5)
      case ['standard', 'deviation']:
        np.testing.assert_allclose(space['deviation'], image, atol=1e-5)
      case ['posterior', 'mean,', *_]:
        np.testing.assert_allclose(space['denoised'].mean[0], image, atol=1e-5)
      case ['moved']:
        np.testing.assert_allclose(space['moved'], image, atol=1e-5)
      case ['correlation', *_]:
        np.testing.assert_allclose(space['correlation'], image, atol=1e-5)
      case ['middle']:
        np.testing.assert_allclose(space['frames'][1], image, atol=1e-5)


@pytest.mark.parametrize('peek', [False, True])
def test_the_command_line_hides_the_same_pixels(peek: bool):
  desk, page = problem(), with_strokes(HIDE, DOT)
  words = shlex.split(recipes.command(desk, page, views.Settings(peek=peek), 'Edit'))
  texts = [word.removeprefix('--hide=') for word in words if word.startswith('--hide=')]
  hidden = edit_input.of_regions([*map(edit_input.parse_region, texts)], SHAPE)
  np.testing.assert_array_equal(hidden, strokes.paint(page.strokes, SHAPE).hidden)
  assert hidden.any()
  assert ('--peek' in words) == peek


def test_what_was_erased_leaves_the_command_of_an_untouched_image():
  desk, page = problem(), with_strokes(DOT, DOT._replace(tool='erase'))
  assert 'launch.sample' in recipes.command(desk, page, views.Settings(), 'Edit')
  assert 'rectangles' not in recipes.python(desk, page, views.Settings(), 'Edit')


def test_the_command_line_has_the_same_rectangles():
  desk, page = problem(), with_strokes(DOT, SOFT)
  words = shlex.split(recipes.command(desk, page, views.Settings(), 'Edit'))
  assert words[:5] == ['python', '-m', 'launch.edit', '--workdir=runs/a_run', '--checkpoint=7']
  assert '--rectangle=1,2,1,1,0.5' in words
  assert '--rectangle=2,0,1,4,-0.25,0.2' in words
