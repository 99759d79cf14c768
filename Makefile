# make demo: see it work. make test: the whole suite. Each sets up what it needs in .venv, pinned by constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs
FOLDS := 0 1 2
FIRST := configs/shipped-first.yaml
SECOND := configs/shipped-second.yaml
TRAIN = OMP_NUM_THREADS=1 $(BIN)/dsdiff train
DEFAULT := src/dsdiff/assets/models/default

# Real patients for training and evaluation are never part of the repository: DSDIFF_REAL_DATA is the folder of cases.
# Where it is not set and the developers' copy stands beside the clone, they are laid out once in the cache folder.
UNPACK := ../shared/data/unpack.py
ifndef DSDIFF_REAL_DATA
DSDIFF_REAL_DATA := $(if $(wildcard $(UNPACK)),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dsdiff/real)
endif

.PHONY: help demo test test-smp lint eval-real compare model regression phantoms real-data clean

help:
	@echo "make demo       a simulated patient through the shipped model: demo/report.html"
	@echo "make test       the test suite (CPU, no network, no patient data)"
	@echo "make test-smp   the tests of the extra smp, in .venv-smp: it needs torchvision, which brings CUDA (6 GB)"
	@echo "make lint       ruff, mypy, import-linter"
	@echo "make eval-real  scores on real patients and phantoms that the scored model never saw (needs DSDIFF_REAL_DATA)"
	@echo "make compare    every small backbone against UNet on real patients: six hours of two cores (needs DSDIFF_REAL_DATA)"
	@echo "make model      trains the shipped model and its fold models from scratch (needs DSDIFF_REAL_DATA)"
	@echo "make regression trains one-step regression without our conditioning, a baseline for eval-real (needs DSDIFF_REAL_DATA)"

$(BIN)/dsdiff: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is %s (set PYTHON=...)" % sys.version.split()[0])'
	@echo 'setting up $(VENV), once: one to five minutes'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(BIN)/dsdiff
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(BIN)/dsdiff
	$(BIN)/dsdiff demo -o demo

# Other runtimes in one process with the rest of the suite ended it in a segmentation fault: each file of theirs is apart.
RUNTIMES := tests/contract/test_tracing.py tests/inference/test_export.py tests/cli/test_export_command.py

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(RUNTIMES:%=--ignore=%)
	for file in $(RUNTIMES); do OMP_NUM_THREADS=1 $(BIN)/python -m pytest $$file || exit 1; done

# torchvision from the registry goes with the ordinary build of torch alone, so the CPU build of the others is not taken.
.venv-smp/.done: pyproject.toml constraints-smp.txt
	@echo 'setting up .venv-smp, once: about 6 GB'
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

# Every small backbone that is installed, UNet first; stopped, it goes on. SEEDS=3 later adds a seed to what is there.
BUDGET ?= 5min
SEEDS ?= 2
GMAC_SEEDS ?= 1
SMALL = $(sort $(notdir $(basename $(wildcard configs/backbones/*-small.yaml))))
NOT_INSTALLED = $(shell $(BIN)/python -c 'import segmentation_models_pytorch' 2>/dev/null || echo smp_unet-small)

compare: real-data $(BIN)/dsdiff
	OMP_NUM_THREADS=1 $(BIN)/dsdiff compare unet-small $(filter-out unet-small $(NOT_INSTALLED),$(SMALL)) \
	  --data $(DSDIFF_REAL_DATA) --split models/split.json --budget $(BUDGET) --seeds $(SEEDS) --gmac-seeds $(GMAC_SEEDS) \
	  --jobs 2 --device cpu -o $(RUNS)/compare data.phantom_fraction=0

# The whole recipe of the shipped model; every step resumes where it was stopped, and two trainings run at a time.
model: real-data $(VENV)/.dev phantoms
	$(MAKE) -j2 $(FOLDS:%=train-%) train-final
	for fold in $(FOLDS); do rm -rf models/folds/fold$$fold && cp -r $(RUNS)/averaged-$$fold models/folds/fold$$fold || exit 1; done
	cp $(RUNS)/averaged-final/model.safetensors $(RUNS)/averaged-final/config.yaml $(DEFAULT)/
	OMP_NUM_THREADS=1 $(BIN)/python scripts/experiments/calibrate.py $(DSDIFF_REAL_DATA) --also $(DEFAULT)

phantoms: $(VENV)/.dev
	$(BIN)/dsdiff phantom $(RUNS)/phantoms -n 96 --seed 1 --target-style own

COHORT = data.root=$(DSDIFF_REAL_DATA) data.phantoms=$(RUNS)/phantoms \
  $(if $(filter-out final,$*),data.split=models/split.json data.fold=$*)

# The first stage goes on three times from where it ended, the last two times with other draws; then the second, and the
# second twice more, with twice the phantoms; of these two the mean.
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

# The same network in one step from the three contrasts alone: what diffusion, structure and style have to beat.
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
