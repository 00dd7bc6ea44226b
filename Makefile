# make train: install, generate the embedded corpus, train GLIED on it and score it.
# make test:  linters, type checks and all tests.
# make docs:  the documentation site, in build/site.
# ALSO=,dali installs that extra of setup.py as well.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: install train test lint docs gpu

install: .venv/installed .venv/operator

# Python compiles modules when they are first imported; pip would compile them all.
.venv/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt \
		--editable '.[train,formats,photographs,serve,docs,dev$(ALSO)]'
	touch $@

# Compile DeepSpeed's shared-memory operator on machines without a GPU; otherwise the first training
# step would wait for the compiler.
.venv/operator: .venv/installed
	$(BIN)/python -c 'from capdist.engines.deepspeed_operator import load_operator; \
		load_operator("deepspeed_shm_comm", "engine=torch")'
	touch $@

corpus/scenes/manifest.json: | install
	$(BIN)/python -m shards scenes --out corpus/scenes

train: install corpus/scenes/manifest.json
	deepspeed launcher/train.py --config configs/glied.json --resume auto
	capdist evaluate --run runs/glied --split test

# On a machine with a GPU: compile the kernel, test it against its reference and benchmark
# it, searches and training steps.
gpu:
	$(PYTHON) -m pytest -q tests/kernels tests/decoding/test_cuda_graph.py
	$(PYTHON) launcher/bench.py gpu --page docs/results/gpu.md
	$(PYTHON) launcher/bench.py decode --page docs/results/decode_gpu.md
	$(PYTHON) launcher/bench.py train --model glied --page docs/results/train_glied_gpu.md
	$(PYTHON) launcher/bench.py train --model glied --stage scst --page docs/results/train_scst_gpu.md

lint: .venv/installed
	ruff format --check .
	ruff check .
	mypy
	lint-imports

# Warnings, such as links that lead nowhere, are errors. The variable silences an advertisement.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict

test: install lint
	python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
