# make demo    train one model across three institutions, encrypted, beside plaintext and full encryption
# make test    the laws, both engines, the attacks, a small federation of each extra, on all cores; its budget is 8 minutes on two
# make test-all  what CI runs: `make test`, then `make test-slow` (libraries, pages as typed, larger federations), then
#              `make test-deploy` (real processes over TLS on this machine, killed on purpose; the manuals of docs/deploy.md)
# make nightly random cases beyond the fixed ones, thousands for each property, and what takes minutes and quicker tests tell most of
# make lint    format, lint, types, import contracts
# make docs    write the generated pages anew and build the documentation's site
# make bench   measure again what takes minutes, and write the pages; a requirement that is not met is said, and the rest goes on
# make bench-full  all that the README states: sizes and studies that take hours and days
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-all test-slow test-deploy nightly lint bench bench-full docs release clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || \
	  { echo "Python 3.11 to 3.14 is needed, $$($(PYTHON) --version) found; run make PYTHON=python3.12, say"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "No virtual environment could be made; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/simulation.stamp: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[simulation]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

# What benchmarks compare with: NVIDIA FLARE, timm, transformers.
$(VENV)/peers.stamp: pyproject.toml $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,peers]'
	@touch $@

demo: $(VENV)/simulation.stamp
	$(BIN)/dictpfl compare experiments/digits.toml --methods plaintext,fedhe-full,dictpfl

# A module's tests stay together, so that what they share is made once; a process a core, a thread a process.
CORES := -n auto --maxprocesses=8 --dist loadfile --no-loadscope-reorder --durations=15 --durations-min=2

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(CORES) $(AGAIN)

test-all:
	$(MAKE) test
	$(MAKE) test-slow
	$(MAKE) test-deploy

test-slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(CORES) -m "slow and not deployment and not nightly" $(AGAIN)

# One file at a time: two at once met deadlines on two cores (a load of 16, one of 29 tests failed, November 2026).
test-deploy: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m "deployment and not nightly" tests/processes -rs --durations=15 $(AGAIN)

# Properties are tried on the same sixty cases by `make test`, so that it says the same everywhere. New cases are looked for here,
# where a failure is news about old code and should not stop a change; the oracle of whole rounds and the fuzzers gain most.
nightly: $(VENV)/dev.stamp
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest $(CORES) -m "not deployment and not nightly" tests/common tests/client tests/server tests/system
	$(BIN)/python -m pytest -m nightly -rs --durations=15 tests

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file benchmarks/mypy.ini
	$(BIN)/lint-imports
	$(BIN)/python tools/rooms.py

# Under half an hour on two cores. A line that begins with - may fail: its requirement is not met, and the page says which.
bench: $(VENV)/peers.stamp
	-$(BIN)/python benchmarks/encryption.py
	-$(BIN)/python benchmarks/mechanisms.py
	-$(BIN)/python benchmarks/peers.py
	-$(BIN)/python benchmarks/communication.py
	-$(BIN)/python benchmarks/scale.py
	-$(BIN)/python benchmarks/time_to_accuracy.py
	-$(BIN)/python benchmarks/round.py
	-$(BIN)/python benchmarks/tasks.py
	-$(BIN)/python benchmarks/defences.py
	-$(BIN)/python benchmarks/dp.py
	-$(BIN)/python benchmarks/paper.py --subset
	$(BIN)/python benchmarks/paper.py --render
	$(BIN)/python benchmarks/render.py

# Days on two cores; cells that are there are not measured again. By hand: real_sizes.py (tens of GB of disk), loading.py (of a run that is there).
bench-full: $(VENV)/peers.stamp
	-$(BIN)/python benchmarks/encryption.py
	-$(BIN)/python benchmarks/mechanisms.py
	-$(BIN)/python benchmarks/peers.py --full
	-$(BIN)/python benchmarks/communication.py --full
	-$(BIN)/python benchmarks/scale.py --full
	-$(BIN)/python benchmarks/time_to_accuracy.py --full
	-$(BIN)/python benchmarks/round.py
	-$(BIN)/python benchmarks/accuracy.py --full
	-$(BIN)/python benchmarks/demo.py
	-$(BIN)/python benchmarks/ablations.py --full
	-$(BIN)/python benchmarks/newsgroups.py
	-$(BIN)/python benchmarks/language.py
	-$(BIN)/python benchmarks/tasks.py
	-$(BIN)/python benchmarks/bits.py --full
	-$(BIN)/python benchmarks/refresh.py --full
	-$(BIN)/python benchmarks/defences.py
	-$(BIN)/python benchmarks/dp.py --full
	-$(BIN)/python benchmarks/clinical.py
	-$(BIN)/python benchmarks/privacy/run.py
	-$(BIN)/python benchmarks/learning_rate.py
	-$(BIN)/python benchmarks/lua.py --fashion
	-$(BIN)/python benchmarks/lua.py --vit
	-$(BIN)/python benchmarks/lua.py --language
	-$(BIN)/python benchmarks/lua_federated.py
	-$(BIN)/python benchmarks/minitron.py
	-$(BIN)/python benchmarks/minitron_search.py
	-$(BIN)/python benchmarks/narrow.py
	-$(BIN)/python benchmarks/narrow_language.py
	-$(BIN)/python benchmarks/narrow_newsgroups.py
	-$(BIN)/python benchmarks/hierarchy.py
	-$(BIN)/python benchmarks/layerif.py
	-$(BIN)/python benchmarks/layerif.py --newsgroups
	-$(BIN)/python benchmarks/layerif.py --language
	-$(BIN)/python benchmarks/autoprune.py
	-$(BIN)/python benchmarks/autoprune.py --vit
	-$(BIN)/python benchmarks/autoprune.py --mosaic
	-$(BIN)/python benchmarks/budget.py
	-$(BIN)/python benchmarks/vlm.py --full
	-$(BIN)/python benchmarks/fastvid.py
	-$(BIN)/python benchmarks/fastvid.py --short-event
	-$(BIN)/python benchmarks/fastvid.py --real
	-$(BIN)/python benchmarks/fastvid.py --federation
	-$(BIN)/python benchmarks/fastvid.py --memory
	-$(BIN)/python benchmarks/digits.py
	-$(BIN)/python benchmarks/digits.py --tuned
	-$(BIN)/python benchmarks/digits.py --controlled
	-$(BIN)/python benchmarks/paper.py
	$(BIN)/python benchmarks/paper.py --render
	$(BIN)/python benchmarks/render.py

# Writes the generated pages anew, then the site into site/; a link or an anchor that leads nowhere fails.
docs: $(VENV)/dev.stamp
	$(BIN)/python tools/reference.py
	$(BIN)/python tools/decisions.py
	$(BIN)/python tools/snippets.py
	$(BIN)/python benchmarks/render.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# What parties install, into dist/: wheel, a lock and a bill of materials a kind of party, hashes. What is wrong with the tree or
# with them stops it. After a change of dependencies: python tools/locks.py.
release: $(VENV)/dev.stamp
	$(BIN)/python tools/release.py

clean:
	rm -rf $(VENV) runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis
