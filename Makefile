# The commands of a checkout. On a bare Debian or Ubuntu, `make demo` needs only git, make and CA certificates.
#
#   make                 list these commands, and do nothing
#   make demo            run the whole platform on this machine, with sample data, until Ctrl-C
#   make demo ONCE=1     the same, but stop when the sample data is on the map; exit status 0 or 1
#   make demo PORT=8080  serve the maps on that port;  ARGS="--once --port 8080" is passed to ls4 demo
#   make test            run all tests except the slow ones;  ARGS="-k names" is passed to pytest
#   make test-slow       run the slow tests
#   make check           check style, types, layers, spelling, prose, known vulnerabilities and documentation
#   make defs            load Dagster's definitions and list them;  ARGS="--assets group:archive" is passed to dg list defs
#   make docs            build the documentation site in site/; a broken link is an error
#   make reference       rewrite the generated tables of docs/reference from the code
#   make viewer          build the map page from mapserver/viewer with npm; the built page is in the repository
#   make clean           remove the files of tests and tools;  the demonstration's archive in .ls4 stays

.PHONY: help demo install install-tests viewer test test-slow check defs docs reference clean
.DEFAULT_GOAL := help

# The platform has many processes. Without cached bytecode each would compile every module again, which takes five seconds.
unexport PYTHONDONTWRITEBYTECODE

# Two test files in parallel, each with its own PostgreSQL cluster.
PARALLEL := --numprocesses 2 --dist loadfile

# The comment at the top.
help:
	@sed -n "/^#/!q; s/^# \{0,1\}//p" $(firstword $(MAKEFILE_LIST))

demo: install
	@.venv/bin/ls4 demo $(if $(ONCE),--once) $(if $(PORT),--port $(PORT)) $(ARGS)

install:
	@deploy/install.sh

install-tests:
	@deploy/install.sh tests

test: install-tests
	.venv/bin/pytest -m "not slow" $(PARALLEL) $(ARGS)

test-slow: install-tests
	.venv/bin/pytest -m slow $(ARGS)

check: install-tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache
	.venv/bin/codespell
	.ci/prose
	.venv/bin/python -m deploy.audit
	$(MAKE) --no-print-directory docs

defs: install-tests
	.ci/defs $(ARGS)

docs: install-tests
	NO_COLOR=1 .venv/bin/zensical build --strict

reference: install-tests
	.venv/bin/python -m docs.generate

viewer:
	cd mapserver/viewer && npm ci --ignore-scripts && npm run build

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache dist site
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
