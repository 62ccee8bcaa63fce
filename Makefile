# One command each: they make the virtual environment, install the project and go.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install quickstart test lint docs clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]' --constraint constraints.txt
	touch $@

# Seven of ten workers send reversed gradients: Krum, and the aggregator that is learned.
quickstart: install
	for rule in krum arnn; do \
	  $(BIN)/lightning-agg fit --config configs/quickstart.yaml --config configs/aggregator/$$rule.yaml \
	    --byzantine.num_byzantine 7 --trainer.default_root_dir logs/quickstart/$$rule || exit 1; \
	done
	for rule in krum arnn; do \
	  echo "=== $$rule, 7 of 10 workers Byzantine ==="; \
	  $(BIN)/lightning-agg test --config configs/quickstart.yaml --config configs/aggregator/$$rule.yaml \
	    --byzantine.num_byzantine 7 --trainer.default_root_dir logs/quickstart/$$rule || exit 1; \
	done
	@echo "both runs: tensorboard --logdir logs/quickstart"

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: install
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python docs/build.py

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
