# The commands of a checkout. `make demo` on a bare Debian or Ubuntu needs nothing but git, make and CA certificates.
#
#   make demo            the whole platform on this machine, with a sample survey, until Ctrl-C
#   make demo ONCE=1     the same; stops once the survey is on the map, exit status 0 or 1
#   make demo PORT=8080  maps on that port
#   make test            all tests but the slow ones;  ARGS="-k names" is handed to pytest
#   make test-slow       the slow ones
#   make check           style and types
#   make viewer          the map page anew from mapserver/viewer, with npm; the built page is part of the repository
#   make clean           what tests and tools left behind;  the demonstration's archive in .ls4 stays

.PHONY: demo install install-tests viewer test test-slow check clean
.DEFAULT_GOAL := demo

# The platform is many processes, each of which would otherwise compile every module anew: five seconds of its start.
unexport PYTHONDONTWRITEBYTECODE

# Two files of tests at once, each with a PostgreSQL cluster of its own.
IN_TWO := --numprocesses 2 --dist loadfile

demo: install
	@.venv/bin/ls4 demo $(if $(ONCE),--once) $(if $(PORT),--port $(PORT))

install:
	@deploy/install.sh

install-tests:
	@deploy/install.sh tests

test: install-tests
	.venv/bin/pytest -m "not slow" $(IN_TWO) $(ARGS)

test-slow: install-tests
	.venv/bin/pytest -m slow $(ARGS)

check: install
	.venv/bin/ruff check .
	.venv/bin/mypy

viewer:
	cd mapserver/viewer && npm ci --ignore-scripts && npm run build

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache dist
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
