# Every target sets up the environment that it needs: python3 (3.10 or newer) with venv is enough.

PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest

export KERAS_BACKEND := tensorflow
export TF_CPP_MIN_LOG_LEVEL ?= 3
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PIP_INSTALL = -m pip install -qq
PACKAGE := setup.cfg pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest lint clean
.DELETE_ON_ERROR:
.NOTPARALLEL:  # two pip runs must not write into one environment

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.examples  ## train the autoencoder example on curves; results go to demo/
	$(VENV)/bin/python examples/autoencoder.py --dataset curves --out demo

test: $(VENV)/.test $(VENV)/.examples  ## run the tests
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal

test-oldest: $(OLDEST)/.oldest  ## run the tests with the oldest supported requirements (Python < 3.13)
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.dev  ## check style, formatting and types
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

clean:  ## remove the environments, caches and demo results
	rm -rf $(VENV) $(OLDEST) demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find examples tests tf_kfgn -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp file an environment, and one for each extra installed into it.

$(VENV)/.created $(OLDEST)/.created:
	@echo "Creating $(@D): the first installation takes a few minutes (about 700 MB, mostly TensorFlow)"
	@$(PYTHON) -m venv --clear $(@D)
	@touch $@

$(VENV)/.examples $(VENV)/.test $(VENV)/.dev: $(PACKAGE) | $(VENV)/.created
	@echo "Installing tf_kfgn[$(patsubst .%,%,$(@F))] into $(VENV) ..."
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[$(patsubst .%,%,$(@F))]'
	@touch $@

$(OLDEST)/.oldest: $(PACKAGE) tests/oldest-requirements.txt | $(OLDEST)/.created
	@echo "Installing the oldest supported requirements into $(OLDEST) ..."
	@$(OLDEST)/bin/python $(PIP_INSTALL) -r tests/oldest-requirements.txt -e '.[test,examples]'
	@touch $@
