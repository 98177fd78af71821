"""Training reports a covariance that explodes: in metrics.jsonl, on the terminal, in report.md."""

import dataclasses
from pathlib import Path

import pytest

from structured_obs import distributions
from structured_obs.config import Config
from structured_obs.runs import metrics_file
from structured_obs.train import run


@pytest.mark.parametrize(('threshold', 'warns'), [(0.5, True), (1e9, False)])
@pytest.mark.slow
def test_a_run_tells_the_inflation(
  threshold: float, warns: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
  config = Config()
  config.data = dataclasses.replace(config.data, cache_dir=str(tmp_path / 'data'), limit=100)
  config.model.options = {'latents': 2, 'features': (4,), 'blocks': 0}
  config.likelihood.family = 'sparse_precision'
  config.likelihood.options = distributions.options('sparse_precision', filter_size=3)
  settings = {'steps': 2, 'batch_size': 8, 'validate_every': 2, 'checkpoint_every': 2}
  config.train = dataclasses.replace(config.train, **settings)
  config.eval.inflation_threshold = threshold
  run.run(config, run.Options(str(tmp_path / 'run')), lambda text: None)
  told = [line for line in metrics_file.read(tmp_path / 'run') if line['kind'] == 'validation']
  assert told[-1]['variance_inflation'] >= 1
  said, report = capsys.readouterr().out, (tmp_path / 'run' / 'report.md').read_text()
  assert ('WARNING: the covariance explodes' in said) == warns
  assert ('WARNING: the covariance explodes' in report) == warns
  assert '## Stability' in report
