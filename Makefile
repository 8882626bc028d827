PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
BUILDING := .venv/.building

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help:  ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 15

demo: $(INSTALLED)  ## write a folder of handwritten digits and train on it
	$(BIN)/tellapart demo demo/digits
	$(BIN)/tellapart train demo/digits -o demo/digits.tellapart

test: check  ## check, then every test, the slow ones too
	$(BIN)/pytest -m "slow or not slow" -n auto --maxprocesses 4 --dist worksteal --durations 15

check: $(INSTALLED)  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## run every script in benchmarks/, one after the other
	@for script in $(filter-out benchmarks/_%,$(sort $(wildcard benchmarks/*.py))); do \
	    echo "== $$script"; $(BIN)/python "$$script" || exit 1; \
	done

clean:  ## remove what the other targets wrote, but not .venv
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The stamp is the last thing written. A pip that was killed leaves packages that the next pip
# takes for whole, so $(BUILDING) tells that run apart from one that ended: start afresh then.
$(INSTALLED): pyproject.toml constraints.txt
	@rm -f $@
	@if [ -e $(BUILDING) ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    $(PYTHON) -m venv --clear .venv; \
	fi
	@echo "Installing into .venv (minutes and several GB the first time) ..."
	@touch $(BUILDING)
	@$(BIN)/python -m pip install -q --no-input -c constraints.txt -e '.[train,log,postgres,parquet,s3,gs,az,http,heic,quantize,dev]' \
	    || { rm -f $(BUILDING); exit 1; }
	@rm -f $(BUILDING)
	@touch $@
