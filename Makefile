# Everything happens inside .venv, made by uv; uv itself is fetched by pip into .uv.
PYTHON ?= python3
VENV := .venv
UV := .uv/bin/uv

.PHONY: install quickstart test lint docs clean

$(UV):
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet uv

$(VENV)/.installed: $(UV) pyproject.toml
	test -x $(VENV)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --compile-bytecode --python $(VENV)/bin/python -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(UV) pip install --quiet --compile-bytecode --python $(VENV)/bin/python -e '.[dev]'
	touch $@

install: $(VENV)/.installed

quickstart: install
	$(VENV)/bin/mvdiff quickstart

test: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

docs: $(VENV)/.installed-dev
	$(VENV)/bin/python docs/build.py build/docs

clean:
	rm -rf $(VENV) .uv build dist *.egg-info
