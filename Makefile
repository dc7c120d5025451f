# Two commands for a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# For tests against another jax: `make test VENV=.venv-oldest CONSTRAINTS=tests/constraints-oldest.txt`.
CONSTRAINTS ?=
# Of the slow suite, whose tests wait as well as compute: more than there are cores pay.
WORKERS ?= auto

.PHONY: quickstart test test-slow lint book format install clean

$(VENV)/.installed: setup.py pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -e '.[dev]' $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
	touch $@

install: $(VENV)/.installed

quickstart: install
	$(RUN) -m nullmark_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

# The fast suite mostly waits for XLA's compiler: without its optimisations it takes a third of the time.
test: install
	XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=0" $(RUN) -m pytest -m "not slow" \
		-n auto --dist loadfile

# The slow suite trains longer: level 1 compiles nearly as fast, and its programs nearly as fast as the default's.
test-slow: install
	XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=1" $(RUN) -m pytest -m slow \
		-n $(WORKERS) --dist loadfile

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Whether docs/results*.md and the README's table are those of results/.
book: install
	$(RUN) -m nullmark_jax.reports.book --check

format: install
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf $(VENV) runs build *.egg-info
