"""Variants of one config file, trained and compared by one command; and the kernels of one of them."""

import json
from pathlib import Path

import pytest

from tests.launch.conftest import launch

TINY = (
  '--config=configs/blur_vae_folder.py',
  '--config.data.source=digits',
  '--config.data.height=0',
  '--config.data.width=0',
  '--config.data.flip=False',
  '--config.data.limit=60',
  '--config.model.options.latents=2',
  '--config.model.options.features=(4,)',
  '--config.train.batch_size=8',
  '--config.train.steps=2',
  '--config.train.validate_every=2',
  '--config.train.checkpoint_every=1',
  '--config.eval.importance_samples=2',
)


@pytest.fixture(scope='module')
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
  workdir = tmp_path_factory.mktemp('compare')
  of_two = ('--variants=l2,blur_vae', '--seeds=3', '--kl_bounds=7.5', '--num_images=4')
  done = launch('compare', *TINY, *of_two, f'--workdir={workdir}')
  assert done.status == 0, '\n'.join(done.errors)
  assert 'blur_vae - l2' in done.output
  assert 'PSNR' in done.output
  for path in (workdir / 'kl_7.5' / 'comparison.md', workdir / 'rate_distortion.md'):
    table = path.read_text()
    assert table.strip() in done.output
    rows = [line.split('|')[1].strip() for line in table.splitlines() if line[:1] == '|']
    assert rows[2:4] == ['l2', 'blur_vae']
  assert (workdir / 'rate_distortion.png').stat().st_size > 5000
  return workdir / 'kl_7.5' / 'seed_3'


@pytest.mark.slow
def test_variants_are_trained_and_compared(compared: Path):
  tree = json.loads((compared / 'comparison' / 'evaluation.json').read_text())
  assert list(tree['models']) == ['l2', 'blur_vae']
  assert tree['images'] == 4
  configs = [json.loads((compared / name / 'run.json').read_text())['config'] for name in tree['models']]
  assert [config['likelihood']['family'] for config in configs] == ['diagonal', 'circulant']
  assert configs[0]['data'] == configs[1]['data']
  assert [config['train']['seed'] for config in configs] == [3, 3]
  for config in configs:
    assert config['objective']['constraints']['kl']['bound'] == 7.5
    assert config['objective']['beta'] == 0


@pytest.mark.slow
def test_kernels_are_drawn_at_every_checkpoint(compared: Path):
  done = launch('kernels', f'--workdir={compared / "blur_vae"}', '--images=3', '--measured=5')
  assert done.status == 0, done.errors
  rows = [line.split('|')[1].strip() for line in done.output.splitlines() if line.startswith('|')]
  assert rows[2:] == ['1', '2']
  assert (compared / 'blur_vae' / 'figures' / 'kernels.png').stat().st_size > 5000
  done = launch('kernels', f'--workdir={compared / "l2"}')
  assert done.status == 1
  assert done.errors[-1] == (
    'error: A model of the kind VAE has covariances that are not made of a blur kernel.'
  )


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (('--workdir=x',), '--variants must list variants of the config file, without repetition.'),
    (('--workdir=x', '--variants=l2,l2'), 'without repetition'),
    (('--variants=l2',), '--workdir is missing'),
    (('--workdir=x', '--variants=l2', '--seeds=1,1'), '--seeds must be whole numbers'),
    (('--workdir=x', '--variants=l2', '--seeds=one'), '--seeds must be whole numbers'),
    (('--workdir=x', '--variants=l2,sharp'), "got 'sharp'"),
    (('--workdir=x', '--variants=l2', '--kl_bounds=50,50.0'), '--kl_bounds=50,50.0 is invalid'),
    (
      ('--workdir=x', '--variants=l2', '--features=vgg'),
      "--features='vgg' is unknown; it must be one of",
    ),
  ],
)
def test_what_cannot_be_compared_is_refused_before_anything_trains(
  flags: tuple[str, ...], message: str, tmp_path: Path
):
  flags = tuple(flag.replace('=x', f'={tmp_path}') for flag in flags)
  done = launch('compare', *TINY, *flags)
  assert done.status == 1
  assert message in done.errors[-1]
  assert not list(tmp_path.iterdir())
