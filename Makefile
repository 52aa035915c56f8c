# Two commands for a new user: `make demo` and `make test`. Both work on a fresh clone with Python >= 3.11, make and a
# C library: they create .venv and install from the lock file.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := mlserver kserve
ARGS ?=

.PHONY: setup demo test chaos lint types bench peers protos lock format clean
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): requirements.lock locks/uv.lock pyproject.toml
	@echo "==> $(VENV): installing the locked dependencies (at first about 1.1 GB on disk and 1-3 minutes)" >&2
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Turnout needs Python 3.11 or newer: set PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/uv.lock
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --require-hashes --requirements requirements.lock
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/turnout demo $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

# Real faults on real processes; `make chaos CALLS=20000` is the long form, `make chaos ARGS="--case disk --seed 7"` a part.
chaos: $(STAMP)
	@$(BIN)/python -m tests.chaos $(if $(CALLS),--calls $(CALLS)) $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint
	$(BIN)/python protos/generate.py --check

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	@$(BIN)/turnout bench $(ARGS)

# Optional: other servers for `turnout bench` to measure beside this one. Their requirements exclude one another, so each
# has an environment of its own.
peers: $(PEERS:%=.venv-peers/%/.installed)

.venv-peers/%/.installed: locks/peers-%.lock | $(STAMP)
	@echo "==> creating .venv-peers/$* and installing its locked dependencies"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers/$*
	@$(BIN)/uv pip install --python .venv-peers/$*/bin/python --quiet --require-hashes --requirements $<
	@touch $@

protos: $(STAMP)
	$(BIN)/python protos/generate.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP)
	$(BIN)/uv pip compile pyproject.toml --group build --group dev --universal --python-version 3.11 \
		--generate-hashes --no-annotate --no-header --no-emit-index-url --quiet --output-file requirements.lock
	for peer in $(PEERS); do $(BIN)/uv pip compile locks/peers-$$peer.in --universal --python-version 3.11 \
		--generate-hashes --no-annotate --no-header --no-emit-index-url --quiet \
		--output-file locks/peers-$$peer.lock || exit 1; done
	grep -A 100000 '^uv==' requirements.lock | awk 'NR==1 || /^ /{print; next} {exit}' > locks/uv.lock

clean:
	rm -rf $(VENV) .venv-peers .turnout .mypy_cache .ruff_cache .pytest_cache .hypothesis
