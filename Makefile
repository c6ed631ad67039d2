# make demo   set up what is missing, then serve the page on 127.0.0.1:7860
# make test   set up what is missing, then linters and every test
# make setup  only the set-up: .venv, pinned requirements, a Vulkan driver, base weights
# make lint   ruff and mypy
# make clean  remove .venv and caches (recordings and data stay)

SHELL := /bin/bash
PYTHON := .venv/bin/python
STAMPS := .venv/stamps
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test setup lint clean

demo: setup
	$(PYTHON) app.py

test: setup $(STAMPS)/browser $(STAMPS)/ray lint
	$(PYTHON) -m pytest

setup: $(STAMPS)/renderer $(STAMPS)/weights

lint: $(STAMPS)/packages
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python that can make a virtual environment: 3.11 or 3.12 (see requirements.txt).
define find_python
for python in python3.11 python3.12 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
		&& echo $$python && break; \
done
endef

$(STAMPS)/venv:
	@python=$$($(find_python)); \
	if [ -z "$$python" ] && command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || [ -n "$(SUDO)" ]; }; then \
		$(SUDO) apt-get update; $(SUDO) apt-get install -y python3 python3-venv; \
		python=$$($(find_python)); \
	fi; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or 3.12 with venv is needed. On Debian 12 or Ubuntu 24.04 run, as root:"; \
		echo "    apt-get install -y python3 python3-venv"; exit 1; \
	fi; \
	echo "making .venv with $$python"; $$python -m venv .venv
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/packages: requirements.txt | $(STAMPS)/venv
	$(PYTHON) -m pip install --progress-bar off --prefer-binary -r requirements.txt
	@touch $@

$(STAMPS)/ray: requirements-ray.txt $(STAMPS)/packages
	$(PYTHON) -m pip install --progress-bar off --prefer-binary -r requirements-ray.txt
	@touch $@

$(STAMPS)/renderer: $(STAMPS)/packages
	$(PYTHON) -m app.system renderer
	@touch $@

$(STAMPS)/weights: $(STAMPS)/packages
	$(PYTHON) app.py doctor --fetch
	@touch $@

$(STAMPS)/browser: $(STAMPS)/packages
	$(PYTHON) -m app.system browser
	@touch $@
