# make run    serve the app on http://127.0.0.1:7860
# make test   lint and test, with a set-up of its own
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# two processes, each with whole files: fixtures such as a running app are shared within one
WORKERS ?= 2

.PHONY: run test lint clean

run: $(VENV)/.run
	$(VENV)/bin/python app.py $(ARGS)

test: $(VENV)/.test lint
	@$(VENV)/bin/python -m tests.chromium
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "BGPO Studio needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt constraints.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install --disable-pip-version-check -q -r requirements.txt
	@touch $@

$(VENV)/.test: requirements-test.txt $(VENV)/.run
	$(VENV)/bin/pip install --disable-pip-version-check -q -r requirements-test.txt
	@touch $@

clean:
	rm -rf $(VENV)
