# The one door. Every target sets itself up: only Python 3.11+ with venv, make and git are needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install serve demo test check bench bench-all soak docs screenshots lock clean

serve: install
	$(BIN)/tocsin serve

demo: install
	$(BIN)/tocsin demo

install: .venv/.runtime

test: check
	$(BIN)/pytest -n 4 --dist loadgroup

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

bench: .venv/.dev
	$(BIN)/python -m bench

# The whole grid of answer times, TLS, handlers and cold starts, and every scene of unkind neighbours: three quarters of an hour.
bench-all: bench
	$(BIN)/python -m bench.grid
	$(BIN)/python -m bench.scenes

# Ten minutes of everything that goes wrong: `make soak SEED=2 MINUTES=1`.
SEED ?= 1
MINUTES ?= 10
soak: .venv/.dev
	$(BIN)/python -m bench.soak --seed $(SEED) --minutes $(MINUTES)

# The pages and the goldens that are made from the code: look at what has changed.
docs: .venv/.dev
	PYTHONPATH=tests $(BIN)/python tests/matrix.py
	PYTHONPATH=tests $(BIN)/python tests/goldens.py

# The picture of the pages in the README, taken in a real browser (Debian: apt-get install chromium).
screenshots: .venv/.dev
	PYTHONPATH=tests $(BIN)/python -m web.screenshots docs/log.png

# uv comes from PyPI into the environment itself, so nothing is needed beforehand.
.venv/.uv: requirements/uv.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	touch $@

.venv/.runtime: .venv/.uv requirements/runtime.txt pyproject.toml
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes -r requirements/runtime.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

.venv/.dev: .venv/.runtime requirements/dev.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes -r requirements/dev.txt
	touch $@

lock: .venv/.uv
	cd requirements && ../$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes uv.in -o uv.txt
	cd requirements && ../$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes ../pyproject.toml build.in -o runtime.txt
	cd requirements && ../$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes -c runtime.txt --group ../pyproject.toml:dev -o dev.txt

clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
