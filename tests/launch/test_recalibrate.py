"""launch.recalibrate on a run of the demo: the new workdir opens as the Student t that was fitted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from structured_obs.applications import recalibrate
from structured_obs.data import pixels
from structured_obs.distributions import elliptical, gaussian
from structured_obs.evaluation import residuals
from structured_obs.runs import restore
from tests.launch import conftest


@pytest.mark.x64
def test_a_gaussian_model_is_saved_as_its_student_t(demo: conftest.Demo, tmp_path):
  workdir, output = demo.workdir / 'low_rank', tmp_path / 'student'
  done = conftest.launch('recalibrate', f'--workdir={workdir}', f'--output={output}')
  assert done.status == 0, done.errors
  assert 'degrees of freedom' in done.output
  before, prepared = restore.load(workdir)
  after, _ = restore.load(output)
  found = recalibrate.fit(before, prepared.images['validation'])
  options = after.config.likelihood.wrapper_options['student']
  assert options['initial_dof'] == pytest.approx(found.tails.dof, rel=1e-3)
  assert options['temperature'] == pytest.approx(found.tails.temperature, rel=1e-5)
  assert after.step == before.step
  assert after.config.likelihood.wrappers == ('student',)
  x = jnp.asarray(pixels.to_unit(prepared.images['validation'][:2], 17), jnp.float32)
  one, other = (jax.tree.map(lambda leaf: leaf[0], m.reconstruct(x)) for m in (before, after))
  family = after.model.family
  np.testing.assert_array_equal(family.mean(other), before.model.family.mean(one))
  expected = options['temperature'] ** 2 * gaussian.variance(before.model.family, one)
  np.testing.assert_allclose(elliptical.primitives(family).variance(other), expected, rtol=1e-5)
  assert float(other.dof) == pytest.approx(options['initial_dof'], rel=1e-6)
  _, inverse = residuals.distances(after, prepared.images['validation'])
  np.testing.assert_allclose(1 / inverse, options['initial_dof'], rtol=1e-5)
  assert found.after.distance < found.before.distance
  with pytest.raises(ValueError, match='has no Gaussian family'):
    recalibrate.fit(after, prepared.images['validation'])
  with pytest.raises(ValueError, match='holds something'):
    recalibrate.save(before, 'best', found.tails, output)
