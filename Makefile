# The two commands: `make rehearse` and `make test`. Both make the environment first, on a fresh machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# One thread a test process: two busy cores and two OpenMP threads each are far slower than one.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.PHONY: help install rehearse check test test-slow bench-rehearsal bench-train bench-score bench-search bench-gpu bench-storage bench-nights bench-horizon clean

help:
	@echo "make rehearse   the whole line on a tiny embedded model, on the CPU, in minutes"
	@echo "make test       checks and tests"
	@echo "make test-slow  the suites that take longer: random kills, ten seeds"
	@echo "make bench-rehearsal   ten seeds of the rehearsal, half an hour"
	@echo "make bench-train       tokens a second and start-up against plain TRL scripts, three quarters of an hour"
	@echo "make bench-score       scoring against lm-eval, and what a score tells, half an hour"
	@echo "make bench-search      the search against other tools' on replayed landscapes, hours; goes on after a kill"
	@echo "make bench-storage     a study of 10,000 trials: status, ask, start-up, dashboard"
	@echo "make bench-nights      three nights with power cuts, 200 times, on a replayed landscape, hours; goes on after a kill"
	@echo "make bench-horizon     the best learning rate by the length of the run, an hour; goes on after a kill"
	@echo "make bench-gpu         on a CUDA card: memory against the plan, speed, the longest row"
	@echo "make check      ruff, mypy --strict, import contracts"
	@echo "make clean      removes the environment and the caches of the tools"

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

rehearse: $(READY)
	$(BIN)/nightshift rehearse

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(TEST_ENV) $(BIN)/pytest -n 2 -m "not slow"

test-slow: check
	$(TEST_ENV) $(BIN)/pytest -m slow

bench-rehearsal: $(READY)
	XDG_CACHE_HOME=$$(mktemp -d) $(BIN)/python benchmarks/rehearsal.py

bench-train: $(READY)
	$(TEST_ENV) $(BIN)/python benchmarks/training.py

bench-score: $(READY)
	$(TEST_ENV) $(BIN)/python benchmarks/score.py

# Other tools' searches have an environment of their own; results are kept in the cache folder, a line a night.
PEERS := .venv-peers
LANDSCAPES ?= llama-0 llama-1 qwen2-2

$(PEERS)/.installed: benchmarks/requirements.txt constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r benchmarks/requirements.txt
	@touch $@

bench-search: $(READY) $(PEERS)/.installed
	$(TEST_ENV) PYTHONPATH=. $(BIN)/python benchmarks/search_peers.py nightshift $(LANDSCAPES)
	$(TEST_ENV) PYTHONPATH=. $(BIN)/python benchmarks/search_peers.py optuna $(LANDSCAPES)
	$(TEST_ENV) PYTHONPATH=. $(PEERS)/bin/python benchmarks/search_peers.py ray $(LANDSCAPES)
	$(TEST_ENV) PYTHONPATH=. $(PEERS)/bin/python benchmarks/search_peers.py syne $(LANDSCAPES)
	$(BIN)/python benchmarks/search_curve.py $(LANDSCAPES)

bench-storage: $(READY)
	$(TEST_ENV) $(BIN)/python benchmarks/scale.py

bench-nights: $(READY)
	$(TEST_ENV) PYTHONPATH=. $(BIN)/python benchmarks/nights.py

bench-horizon: $(READY)
	$(TEST_ENV) PYTHONPATH=. $(BIN)/python benchmarks/horizon.py

bench-gpu: $(READY)
	$(BIN)/python benchmarks/gpu.py

clean:
	rm -rf $(VENV) $(PEERS) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
