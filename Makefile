# `make demo`, `make docs` and `make test` do all their set-up on a fresh machine: Python 3.11+ and, for `make test`, a
# C++ compiler. They write to this checkout and to CACHE only.

TORCH ?= torch==2.13.0
# cpu, or a folder of https://download.pytorch.org/whl such as cu130, or default (what pip is configured to find)
TORCH_BUILD ?= cpu
CLUSTER ?= 1
VENV ?= .venv
CACHE ?= $(or $(EQUIMD_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/equimd)
JOBS ?= 2
DEMO_TIME ?= 4m
DEMO_STEPS ?= 2000
# which peers `make peers` installs; where and for how long `make bench` works
PEERS ?= schnetpack nequip mace
BENCH ?= bench
BENCH_TIME ?= 3m
BENCH_IN = --out $(BENCH) --work $(BENCH)/work --overwrite
# the first Python that is new enough
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

BIN := $(VENV)/bin
SETUP = $(PYTHON) .ci/setup.py --venv "$(VENV)" --cache "$(CACHE)" --torch "$(TORCH)" --build "$(TORCH_BUILD)"
export EQUIMD_CACHE := $(CACHE)
export MPLCONFIGDIR := $(CACHE)/matplotlib
export TORCHINDUCTOR_CACHE_DIR := $(CACHE)/inductor

.PHONY: help demo docs test lint setup setup-tests peers bench clean check-python
.NOTPARALLEL:

help:
	@echo "make demo    set up, train on the bundled data, calibrate, simulate at 300 K and at 1000 K; a page to open"
	@echo "make docs    the documentation as a site, in site/; it is read without a server or a network"
	@echo "make test    set up, static checks, all tests"
	@echo "make lint    static checks alone"
	@echo "make setup   the environment in $(VENV) alone; then: . $(BIN)/activate"
	@echo "make peers   SchNetPack, NequIP and MACE, an environment each in the cache folder, to compare with"
	@echo "make bench   a short run of every benchmark; tables and plots in $(BENCH)"
	@echo "make clean   remove what was built here, the environment too"
	@echo 'variables: TORCH="torch==2.13.0" TORCH_BUILD=cpu|cu130|default CLUSTER=0 (no torch-cluster) VENV CACHE JOBS PYTHON'

check-python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (make ... PYTHON=/path/to/python)" >&2; exit 1; }

setup: check-python
	@$(SETUP)

setup-tests: check-python
	@$(SETUP) --tests $(if $(filter 0,$(CLUSTER)),,--cluster)

demo: setup
	@rm -rf demo && mkdir demo
	@$(BIN)/python -c "from ase.build import molecule; molecule('CH3CH2OH').write('demo/ethanol.xyz')"
	$(BIN)/equimd train --data bundled:ethanol --preset small --max-time $(DEMO_TIME) --out demo/run
	$(BIN)/equimd predict demo/run demo/ethanol.xyz --out demo/ethanol.extxyz
	$(BIN)/equimd evaluate demo/run --data bundled:ethanol-test --plot demo/parity.png
	$(BIN)/equimd calibrate demo/run --data bundled:ethanol --test-data bundled:ethanol \
		--run-length $(DEMO_STEPS) --false-halt-rate 0.05 --blocks 39
	@echo "300 K, as the model was trained: runs through (a false halt, exit code 3, in 5 % of such runs)"
	$(BIN)/equimd simulate demo/run demo/ethanol.xyz --relax --steps $(DEMO_STEPS) --out demo/300K || test $$? -eq 3
	@echo "1000 K, far from what it was trained on: the guard halts it (exit code 3)"
	$(BIN)/equimd simulate demo/run demo/ethanol.xyz --relax --steps $(DEMO_STEPS) --temperature 1000 --out demo/1000K; \
		test $$? -eq 3
	@$(BIN)/equimd report demo/run demo/300K demo/1000K --out demo/report.html >/dev/null
	@echo "open demo/report.html in a browser: the run, and both simulations with the molecule in 3D"

docs: check-python
	@$(SETUP) --docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open site/index.html in a browser"

lint: setup-tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n $(JOBS)

peers: check-python
	@$(PYTHON) .ci/peers.py --cache "$(CACHE)" --torch "$(TORCH)" --build "$(TORCH_BUILD)" $(PEERS)

bench: setup
	$(BIN)/equimd bench accuracy --molecules ethanol --budget $(BENCH_TIME) $(BENCH_IN)
	$(BIN)/equimd bench speed --molecules ethanol --quick $(BENCH_IN)
	$(BIN)/equimd bench conservation --molecules ethanol --budget $(BENCH_TIME) --quick $(BENCH_IN)
	$(BIN)/equimd bench calibration --molecules bundled --budget $(BENCH_TIME) --quick $(BENCH_IN)
	$(BIN)/equimd bench guard --budget $(BENCH_TIME) --quick $(BENCH_IN)
	$(BIN)/equimd bench detection --budget $(BENCH_TIME) --quick $(BENCH_IN)
	$(BIN)/equimd bench learning --ways random,logdet --sizes 50,100 --seeds 0 --budget 1m $(BENCH_IN)
	$(BIN)/equimd bench report --out $(BENCH) --overwrite

clean:
	rm -rf $(VENV) demo bench site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
