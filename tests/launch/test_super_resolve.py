"""launch.super_resolve: mistakes are one line; what it does is tested in the application."""

import pytest

from tests.launch import conftest


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    ((), '--workdir is missing'),
    (('--workdir=x', '--small'), '--small applies to image files'),
  ],
)
def test_mistakes_are_one_line(flags: tuple[str, ...], message: str):
  done = conftest.launch('super_resolve', *flags)
  assert (done.status, len(done.errors)) == (1, 1), done.errors
  assert message in done.errors[0]


def test_a_model_of_one_level_is_refused(demo: conftest.Demo):
  done = conftest.launch('super_resolve', f'--workdir={demo.workdir / "diagonal"}')
  assert (done.status, len(done.errors)) == (1, 1), done.errors
  assert 'needs a model with two levels' in done.errors[0]
