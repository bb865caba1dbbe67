# Two commands: `make demo` and `make test`. Both set up a local .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup browser demo test outputs kaggle kaggle-push docs clean

setup: .venv/ready

.venv/ready: settings.ini setup.py
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'birdkit needs Python 3.11 or newer: make PYTHON=python3.12')"
	test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/python data_prep/make_demo.py --out work/demo
	$(BIN)/python -m birdkit.notebooks -p data work/demo -p work work

# The review page is tested in Chromium, which root gets by apt-get; where that fails, those tests skip; pytest's last lines say which and why
browser:
	command -v chromedriver >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends chromium chromium-driver; } || true

test: setup browser
	$(BIN)/nbdev_test --n_workers 2
	$(BIN)/pytest -q -rs -n 2 --dist loadfile --no-loadscope-reorder -o faulthandler_timeout=900 tests

# In a workspace of its own, made anew: in one that has been used, 03 to 05 would only say that all is trained already
outputs: setup
	rm -rf work/outputs
	$(BIN)/python data_prep/make_demo.py --out work/demo
	$(BIN)/python -m birdkit.notebooks -p data work/demo -p work work/outputs
	$(BIN)/python -c "from birdkit.notebooks import PIPELINE, take_outputs, take_picture; [take_outputs(f'nbs/{n}.ipynb', f'work/outputs/notebooks/{n}.ipynb') for n in PIPELINE]; take_picture('nbs/06_infer.ipynb', 'nbs/images/scores.png')"
	$(BIN)/nbdev_clean

# KAGGLE="--owner NAME --models FOLDER --competition SLUG birdkit-submit ..." chooses what is built; all of it is optional
kaggle: setup
	$(BIN)/python data_prep/make_demo.py --out work/demo
	$(BIN)/python -m birdkit.kaggle build $(KAGGLE)

kaggle-push: setup
	$(BIN)/python data_prep/make_demo.py --out work/demo
	$(BIN)/python -m birdkit.kaggle push $(KAGGLE)

docs: setup
	$(BIN)/nbdev_docs

clean:
	rm -rf build dist kaggle_datasets/build .pytest_cache .ruff_cache
