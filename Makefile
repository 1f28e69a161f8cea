# Every target sets up the environment that it needs: python3 (3.10 or newer) with venv is enough.

PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
NEWEST := .venv-newest
PEERS := .venv-torch .venv-jax

export KERAS_BACKEND := tensorflow
export TF_CPP_MIN_LOG_LEVEL ?= 3
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Else mkdocs-material prints a notice about its successor.
export NO_MKDOCS_2_WARNING := 1

PIP_INSTALL = -m pip install -qq
PACKAGE := setup.cfg pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help demo figure2 results bench bench-everyday bench-peers test fuzz test-oldest test-newest lint docs clean
.DELETE_ON_ERROR:
.NOTPARALLEL:  # two pip runs must not write into one environment

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.examples  ## train the autoencoder example on curves; results go to demo/
	$(VENV)/bin/python examples/autoencoder.py --dataset curves --out demo

figure2: $(VENV)/.examples  ## Figure 2 of the paper, a few updates: does it run? examples/figure2.py --help has the rest
	$(VENV)/bin/python examples/figure2.py --dataset curves --budget smoke

FACES ?= olivetti
results: $(VENV)/.examples  ## make the runs of examples/RESULTS.md and write it; hours, goes on where it was ended
	$(VENV)/bin/python examples/figure2.py --dataset curves
	$(VENV)/bin/python examples/figure2.py --dataset faces --faces $(FACES)
	$(VENV)/bin/python examples/figure2.py --dataset mnist
	$(VENV)/bin/python examples/few_outputs.py --net dense
	$(VENV)/bin/python examples/few_outputs.py --net convolutional
	$(VENV)/bin/python examples/mixture.py
	$(VENV)/bin/python examples/report.py

bench-everyday: $(VENV)/.examples  ## compare with tuned first-order methods on everyday tasks; hours, goes on where it was ended
	$(VENV)/bin/python examples/benchmarks/everyday.py --out everyday

BENCH := examples/benchmarks
bench: $(VENV)/.examples  ## measure how time and memory of an update grow, where its time goes, and beside Adam's; an hour, growth and memory go on where they were ended
	$(VENV)/bin/python $(BENCH)/growth.py --out bench
	$(VENV)/bin/python $(BENCH)/memory.py --out bench
	$(VENV)/bin/python $(BENCH)/breakdown.py --out bench
	$(VENV)/bin/python $(BENCH)/step_times.py

BUDGET ?= 120
bench-peers: $(VENV)/.examples $(PEERS:%=%/.peers)  ## compare with kfac-jax, BackPACK and curvlinops; runs of BUDGET seconds, goes on where it was ended
	$(VENV)/bin/python examples/benchmarks/peers.py --budget $(BUDGET) --publish

test: $(VENV)/.test $(VENV)/.examples  ## run the tests
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal

FUZZ ?= 20
fuzz: $(VENV)/.test $(VENV)/.examples  ## try FUZZ times as many random networks, arguments and files, others each time
	FUZZ=$(FUZZ) $(VENV)/bin/python -m pytest -n 2 --dist worksteal tests/fuzz

test-oldest: $(OLDEST)/.oldest  ## run the tests with the oldest supported requirements (Python < 3.13)
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal

test-newest: | $(NEWEST)/.created  ## run the tests with the newest Keras and TensorFlow, pre-releases too
	@$(NEWEST)/bin/python $(PIP_INSTALL) -e '.[test,examples]'
	@$(NEWEST)/bin/python $(PIP_INSTALL) --upgrade --pre tensorflow
	@# It lies in the folder of the released Keras, over which it must come last.
	@$(NEWEST)/bin/python $(PIP_INSTALL) --upgrade --pre --force-reinstall --no-deps keras-nightly
	@$(NEWEST)/bin/python -m pip list | grep -E '^(keras-nightly|tensorflow) '
	$(NEWEST)/bin/python -m pytest -n 2 tests/keras_insides
	$(NEWEST)/bin/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.dev  ## check style, types, private names, imports and tracked files
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/python .ci/private_names.py
	$(VENV)/bin/python .ci/rooms.py
	$(VENV)/bin/python .ci/tracked_files.py

docs: $(VENV)/.docs  ## build the documentation into site/; a broken link fails
	$(VENV)/bin/mkdocs build --strict

clean:  ## remove the environments, caches, demo results and the built documentation
	rm -rf $(VENV) $(OLDEST) $(NEWEST) $(PEERS) demo bench everyday figure2 breakdown first_step growth memory scaling peers site build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find examples tests tf_kfgn -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp file an environment, and one for each extra installed into it.

$(VENV)/.created $(OLDEST)/.created $(NEWEST)/.created $(PEERS:%=%/.created):
	@echo "Creating $(@D): the first installation takes a few minutes (about 700 MB, mostly TensorFlow)"
	@$(PYTHON) -m venv --clear $(@D)
	@touch $@

$(VENV)/.examples $(VENV)/.test $(VENV)/.dev $(VENV)/.docs: $(PACKAGE) | $(VENV)/.created
	@echo "Installing tf_kfgn[$(patsubst .%,%,$(@F))] into $(VENV) ..."
	@$(VENV)/bin/python $(PIP_INSTALL) -e '.[$(patsubst .%,%,$(@F))]'
	@touch $@

$(OLDEST)/.oldest: $(PACKAGE) tests/oldest-requirements.txt | $(OLDEST)/.created
	@echo "Installing the oldest supported requirements into $(OLDEST) ..."
	@$(OLDEST)/bin/python $(PIP_INSTALL) -r tests/oldest-requirements.txt -e '.[test,examples]'
	@touch $@

PEER_FOLDER := examples/benchmarks/_peers
TORCH := 2.13.0

.venv-torch/.peers: $(PEER_FOLDER)/torch-requirements.txt | .venv-torch/.created
	@echo "Installing BackPACK and curvlinops into $(@D) ..."
	@$(@D)/bin/python $(PIP_INSTALL) torch==$(TORCH)+cpu -r $< || $(@D)/bin/python $(PIP_INSTALL) torch==$(TORCH) -r $<
	@touch $@

.venv-jax/.peers: $(PEER_FOLDER)/jax-requirements.txt | .venv-jax/.created
	@echo "Installing kfac-jax into $(@D) (Python 3.11 or newer) ..."
	@$(@D)/bin/python $(PIP_INSTALL) -r $<
	@touch $@
