# make demo    train one model across three institutions, encrypted, beside plaintext and full encryption
# make test    run every test
# make test-deploy  run a federation of real processes over TLS on this machine, kill them, and follow docs/deploy.md
# make lint    format, lint, types, import contracts
# make bench   write every figure that the README states; a requirement that is not met is said, and the rest goes on
# make bench-full  the sizes that take hours as well, in place of the small ones
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-deploy lint bench bench-full docs clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $$($(PYTHON) --version) found; run make PYTHON=python3.12, say"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "No virtual environment could be made; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/sim.stamp: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[sim]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

# What benchmarks compare with: NVIDIA FLARE, timm, transformers.
$(VENV)/peers.stamp: pyproject.toml $(VENV)/dev.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,peers]'
	@touch $@

demo: $(VENV)/sim.stamp
	$(BIN)/dictpfl compare experiments/digits.toml --methods plaintext,fedhe-full,dictpfl

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest

test-deploy: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m deployment tests/deployment tests/system -rs --durations=15 $(AGAIN)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Half an hour on two cores. A line that begins with - may fail: its requirement is not met, and the page says which.
bench: $(VENV)/peers.stamp
	-$(BIN)/python benchmarks/encryption.py
	-$(BIN)/python benchmarks/peers.py
	-$(BIN)/python benchmarks/communication.py
	-$(BIN)/python benchmarks/scale.py
	-$(BIN)/python benchmarks/time_to_accuracy.py
	-$(BIN)/python benchmarks/round.py
	-$(BIN)/python benchmarks/fast_path.py
	-$(BIN)/python benchmarks/accuracy.py
	-$(BIN)/python benchmarks/bits.py
	-$(BIN)/python benchmarks/defences.py
	-$(BIN)/python benchmarks/dp.py
	$(BIN)/python benchmarks/render.py

bench-full: $(VENV)/peers.stamp
	-$(BIN)/python benchmarks/encryption.py
	-$(BIN)/python benchmarks/peers.py --full
	-$(BIN)/python benchmarks/communication.py --full
	-$(BIN)/python benchmarks/scale.py --full
	-$(BIN)/python benchmarks/time_to_accuracy.py --full
	-$(BIN)/python benchmarks/round.py
	-$(BIN)/python benchmarks/fast_path.py
	-$(BIN)/python benchmarks/accuracy.py --full
	-$(BIN)/python benchmarks/ablations.py --full
	-$(BIN)/python benchmarks/newsgroups.py
	-$(BIN)/python benchmarks/bits.py --full
	-$(BIN)/python benchmarks/refresh.py --full
	-$(BIN)/python benchmarks/defences.py
	-$(BIN)/python benchmarks/dp.py --full
	-$(BIN)/python benchmarks/privacy/run.py
	-$(BIN)/python benchmarks/learning_rate.py
	$(BIN)/python benchmarks/render.py

docs: $(VENV)/dev.stamp
	$(BIN)/python -m deploy.reference > docs/configuration.md

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
