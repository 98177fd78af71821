# Every target sets up its own virtual environment in .venv: uv does it where present, pip otherwise.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# After a worker that died, pytest-xdist would wait for its tests for ever: so it is not replaced.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses=4 --dist loadfile --max-worker-restart=0
UV := $(shell command -v uv 2>/dev/null)

.PHONY: help demo studio test test-all campaigns lint bench clean

help:
	@echo 'make demo      train three small VAEs on MNIST digits and compare them (minutes)'
	@echo 'make studio    open the newest run of the demo in the browser: paint, hide, denoise'
	@echo 'make test      run the quick tests, in float64 and in float32 (25 minutes)'
	@echo 'make test-all  run every test, in float64 and in float32 (an hour)'
	@echo 'make campaigns kill, damage, fill the disk, differ, feed bad inputs; print counts (half an hour)'
	@echo 'make lint      ruff and pyright, strict for linalg and distributions'
	@echo 'make bench     time the kernels beside LAPACK, SciPy, NumPyro and PyTorch'
	@echo 'make clean     remove the virtual environment'

demo: $(VENV)/.demo
	$(BIN)/python -m launch.demo

studio: $(VENV)/.studio
	$(BIN)/python -m launch.studio --workdir=runs/demo

test: $(VENV)/.test
	$(PYTEST) -m 'not slow'
	$(PYTEST) -m 'not slow' tests/distributions tests/linalg --float32

test-all: $(VENV)/.test
	$(PYTEST)
	$(PYTEST) tests/distributions tests/linalg --float32

campaigns: $(VENV)/.test
	$(BIN)/python -m tests.campaigns

bench: $(VENV)/.bench
	$(BIN)/python -m launch.benchmark --out=benchmark.json

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pyright --pythonpath $(BIN)/python -p pyright-strict.json

# A stamp for each extra: installed again when the dependencies or the version may have changed.
$(VENV)/.%: setup.cfg pyproject.toml | $(BIN)/python
ifdef UV
	uv pip install --quiet --python $(BIN)/python --editable '.[$*]'
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
endif
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'structured_obs needs Python 3.11 or newer; name one with make PYTHON=python3.12'; exit 1; }
ifdef UV
	uv venv --quiet --python $(PYTHON) $(VENV)
else
	$(PYTHON) -m venv $(VENV)
endif

clean:
	rm -rf $(VENV)
