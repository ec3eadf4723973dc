# Each target does its own set-up in a virtual environment of the project's (.venv).
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
DUCKDB15 := build/duckdb-1.5.5

.PHONY: demo test lint bench clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet torch==2.13.0
	$(PY) -m pip install --quiet --editable '.[dev,demo]'
	touch $(STAMP)

# The older DuckDB that we support, beside the newest: the query tests run on both. It is also the
# one for which PyPI has the extensions of DuckDB's remote protocol.
$(DUCKDB15): $(STAMP)
	$(PY) -m pip install --quiet --no-deps --target $(DUCKDB15) duckdb==1.5.5 duckdb-cli==1.5.5 \
		duckdb-extension-httpfs==1.5.5 duckdb-extension-quack==1.5.5

demo: $(STAMP)
	$(PY) examples/forgetting/demo.py

# With the newest DuckDB everything, by two processes; beside it with the older one what speaks with
# DuckDB.
test: $(STAMP) $(DUCKDB15)
	PYTHONPATH=$(DUCKDB15) $(PY) -m pytest -q -p no:cacheprovider tests/store tests/query \
		tests/serve/test_guard.py tests/serve/test_psycopg.py > build/duckdb-1.5.5.log 2>&1 & \
	older=$$!; $(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder; newest=$$?; wait $$older; older=$$?; \
	echo "with DuckDB 1.5.5:"; cat build/duckdb-1.5.5.log; exit $$((newest || older))

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(STAMP)
	for file in bench/*.py; do $(PY) $$file || exit 1; done

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
