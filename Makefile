# make demo: a first result. make test: the fast test suite. Each installs what it needs into .venv, pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs
FOLDS := 0 1 2
FIRST := configs/shipped-first.yaml
SECOND := configs/shipped-second.yaml
TRAIN = OMP_NUM_THREADS=1 $(BIN)/dsdiff train
DEFAULT := src/dsdiff/assets/models/default

# Real patients are never part of the repository: DSDIFF_REAL_DATA names the folder of cases. If it is not set and the
# developers' copy lies beside the clone, the patients are unpacked once into the cache folder.
UNPACK := ../shared/data/unpack.py
ifndef DSDIFF_REAL_DATA
DSDIFF_REAL_DATA := $(if $(wildcard $(UNPACK)),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dsdiff/real)
endif

.PHONY: help demo test test-slow test-all coverage test-smp lint eval-real compare model regression phantoms real-data clean

help:
	@echo "make demo       synthesize a simulated patient with the shipped model: demo/report.html"
	@echo "make test       run the fast test suite (minutes; CPU, no network, no patient data)"
	@echo "make test-all   run every test: the fast suite, the slow tests, the other runtimes"
	@echo "make coverage   run every test and report branch coverage"
	@echo "make test-smp   run the tests of the extra smp in .venv-smp (torchvision brings CUDA: 6 GB)"
	@echo "make lint       run ruff, mypy and import-linter"
	@echo "make eval-real  score the fold models on real patients and phantoms they never saw (needs DSDIFF_REAL_DATA)"
	@echo "make compare    compare every small backbone with the UNet on real patients: six hours on two cores (needs DSDIFF_REAL_DATA)"
	@echo "make model      train the shipped model and its fold models from scratch (needs DSDIFF_REAL_DATA)"
	@echo "make regression train one-step regression on the contrasts only, a baseline of eval-real (needs DSDIFF_REAL_DATA)"

$(BIN)/dsdiff: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is %s (set PYTHON=...)" % sys.version.split()[0])'
	@echo 'installing into $(VENV), once: one to five minutes'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(BIN)/dsdiff
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(BIN)/dsdiff
	$(BIN)/dsdiff demo -o demo

# ONNX Runtime and OpenVINO end with a segmentation fault in a process that ran other tests: one process per file.
RUNTIMES := tests/contract/test_tracing.py tests/export/test_export_model.py tests/cli/test_export_command.py
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := -n auto --maxprocesses 8

test: $(VENV)/.dev
	$(PYTEST) $(PARALLEL) -m "not slow" $(RUNTIMES:%=--ignore=%)

test-slow: $(VENV)/.dev
	$(PYTEST) $(PARALLEL) -m slow $(RUNTIMES:%=--ignore=%)
	for file in $(RUNTIMES); do $(PYTEST) $$file || exit 1; done

test-all: test test-slow

# Branch coverage of the package by all tests, subprocesses not counted.
coverage: $(VENV)/.dev
	rm -f .coverage
	$(PYTEST) $(PARALLEL) --cov=dsdiff --cov-branch --cov-append --cov-report= $(RUNTIMES:%=--ignore=%)
	for file in $(RUNTIMES); do $(PYTEST) --cov=dsdiff --cov-branch --cov-append --cov-report= $$file || exit 1; done
	$(BIN)/python -m coverage report --precision=2 --skip-covered

# torchvision needs the ordinary build of torch, so this environment does not take the CPU build.
.venv-smp/.done: pyproject.toml constraints-smp.txt
	@echo 'installing into .venv-smp, once: about 6 GB'
	$(PYTHON) -m venv .venv-smp
	PIP_FIND_LINKS= .venv-smp/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-smp.txt -e '.[smp]' \
	  pytest beartype
	@touch $@

test-smp: .venv-smp/.done
	OMP_NUM_THREADS=1 .venv-smp/bin/python -m pytest -k 'smp or Contract and smp_unet' tests/contract tests/policy tests/backbones

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

real-data: $(DSDIFF_REAL_DATA)
	@test -n "$(DSDIFF_REAL_DATA)" || { echo "set DSDIFF_REAL_DATA to the folder of real cases"; exit 2; }

PLAIN := $(RUNS)/regression

eval-real: real-data $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python scripts/experiments/eval_real.py $(DSDIFF_REAL_DATA) --out $(RUNS)/eval-real.json \
	  $(if $(wildcard $(PLAIN)/fold2),--baseline "one-step regression" $(PLAIN))
	$(BIN)/dsdiff phantom $(RUNS)/eval-phantoms -n 36 --seed 101 --target-style own
	OMP_NUM_THREADS=1 $(BIN)/python scripts/experiments/eval_real.py $(RUNS)/eval-phantoms --unseen $(DEFAULT) --out $(RUNS)/eval-phantoms.json

# Every small backbone that is installed, UNet first. Run it again to continue; SEEDS=3 later adds a seed.
BUDGET ?= 5min
SEEDS ?= 2
GMAC_SEEDS ?= 1
SMALL = $(sort $(notdir $(basename $(wildcard configs/backbones/*-small.yaml))))
NOT_INSTALLED = $(shell $(BIN)/python -c 'import segmentation_models_pytorch' 2>/dev/null || echo smp_unet-small)

compare: real-data $(BIN)/dsdiff
	OMP_NUM_THREADS=1 $(BIN)/dsdiff compare unet-small $(filter-out unet-small $(NOT_INSTALLED),$(SMALL)) \
	  --data $(DSDIFF_REAL_DATA) --split models/split.json --budget $(BUDGET) --seeds $(SEEDS) --gmac-seeds $(GMAC_SEEDS) \
	  --jobs 2 --device cpu -o $(RUNS)/compare data.phantom_fraction=0

# The whole recipe of the shipped model. Every step resumes; two trainings run at a time.
model: real-data $(VENV)/.dev phantoms
	$(MAKE) -j2 $(FOLDS:%=train-%) train-final
	for fold in $(FOLDS); do rm -rf models/folds/fold$$fold && cp -r $(RUNS)/averaged-$$fold models/folds/fold$$fold || exit 1; done
	cp $(RUNS)/averaged-final/model.safetensors $(RUNS)/averaged-final/config.yaml $(DEFAULT)/
	OMP_NUM_THREADS=1 $(BIN)/python scripts/experiments/calibrate.py $(DSDIFF_REAL_DATA) --also $(DEFAULT)

phantoms: $(VENV)/.dev
	$(BIN)/dsdiff phantom $(RUNS)/phantoms -n 96 --seed 1 --target-style own

COHORT = data.root=$(DSDIFF_REAL_DATA) data.phantoms=$(RUNS)/phantoms \
  $(if $(filter-out final,$*),data.split=models/split.json data.fold=$*)

# Stage one in four parts of other seeds, each from the weights of the last; stage two; stage two again, twice, with twice
# the phantoms. The model is the mean of the weights of the last two.
train-%: | real-data
	$(TRAIN) $(FIRST) -o $(RUNS)/first-$*-1 $(COHORT)
	for part in 2 3 4; do $(TRAIN) $(FIRST) -o $(RUNS)/first-$*-$$part $(COHORT) training.steps=4000 training.lr=3.0e-4 \
	  training.init_from=$(RUNS)/first-$*-$$((part - 1))/model seed=$$((2022 + part)) || exit 1; done
	$(TRAIN) $(SECOND) -o $(RUNS)/second-$* $(COHORT) training.init_from=$(RUNS)/first-$*-4/model
	$(TRAIN) $(SECOND) -o $(RUNS)/third-$* $(COHORT) training.init_from=$(RUNS)/second-$*/model training.steps=800 training.lr=1.5e-4 \
	  data.phantom_fraction=0.3 seed=2028
	$(TRAIN) $(SECOND) -o $(RUNS)/fourth-$* $(COHORT) training.init_from=$(RUNS)/third-$*/model training.steps=1000 training.lr=1.5e-4 \
	  data.phantom_fraction=0.3 seed=2029
	$(BIN)/python scripts/experiments/average.py $(RUNS)/third-$*/model $(RUNS)/fourth-$*/model -o $(RUNS)/averaged-$*

# The same network in one step from the three contrasts only: the baseline for diffusion, edges and style.
regression: real-data $(VENV)/.dev
	$(MAKE) -j2 $(FOLDS:%=regression%)

regression%: | real-data
	$(TRAIN) configs/formulations/regression-formulation.yaml -o $(RUNS)/regression-runs/$* \
	  data.root=$(DSDIFF_REAL_DATA) data.split=models/split.json data.fold=$* conditioning.style=none data.phantom_fraction=0 \
	  training.steps=1200
	mkdir -p $(PLAIN) && rm -rf $(PLAIN)/fold$* && cp -r $(RUNS)/regression-runs/$*/model $(PLAIN)/fold$*

ifneq ($(wildcard $(UNPACK)),)
$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dsdiff/real: | $(BIN)/dsdiff
	mkdir -p $(@D) && $(BIN)/python $(UNPACK) $@.partial && mv $@.partial $@
endif

clean:
	rm -rf $(VENV) .venv-smp demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
