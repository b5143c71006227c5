# Every command. `make help` lists them; recipes stay short, logic lives in tools/.
PYTHON ?= python3
VENV := .venv/bin
SETUP := $(PYTHON) tools/setup.py
ARGS ?=
SECONDS ?= 60
SCENARIO ?=
TAG ?= dev
RELEASE ?= roomwright
NAMESPACE ?= roomwright

.DEFAULT_GOAL := help
.PHONY: help setup run check test soak fuzz bench load fmt lock images install e2e release clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install and build what is missing
	@$(SETUP)

run: setup  ## start everything on this machine and print a URL, a token and a page; ARGS="--port 7980"
	@exec $(VENV)/roomwright dev $(ARGS)

check: setup  ## lint, types, contracts, unit tests: what to run before a commit
	@$(VENV)/python tools/tiers.py check

test: setup  ## check, then integration, real clients and fuzz corpora
	@$(VENV)/python tools/tiers.py test

soak: setup  ## by hand: fuzzing, then the benchmark
	@SECONDS=$(SECONDS) $(VENV)/python tools/tiers.py soak

fuzz: setup  ## fuzz every parser of network bytes (nightly Rust, cargo-fuzz); SECONDS=60 for each
	@$(VENV)/python tools/fuzz.py --seconds $(SECONDS) $(ARGS)

bench: setup  ## measure a server with a swarm; ARGS="--url ws://... --server-pid N" for another server
	@$(VENV)/python -m loadtest.bench $(ARGS)

load: setup  ## load a server by Locust; SCENARIO=classroom ARGS="--url ws://... --web"; no SCENARIO lists them
	@$(VENV)/python -m loadtest $(if $(SCENARIO),run $(SCENARIO),list) $(ARGS)

fmt: setup  ## format everything
	@$(VENV)/ruff format . && $(VENV)/ruff check --fix . && cd media && cargo fmt

lock: setup  ## resolve the Python lock files anew from the pyproject.toml files
	@$(VENV)/python tools/lock.py

images:  ## build the images, TAG=dev; BUILD="..." in place of docker build, STAND_INS=1 for clusters without a registry
	@$(SETUP) --only python --only web
	@BUILD="$(BUILD)" STAND_INS="$(STAND_INS)" $(VENV)/python -m tools.images --tag $(TAG) $(ARGS)

install:  ## install or upgrade the chart with the images of TAG; RELEASE, NAMESPACE, ARGS="--set ..."
	helm upgrade --install $(RELEASE) charts/roomwright -n $(NAMESPACE) --create-namespace --wait --set image.tag=$(TAG) $(ARGS)

e2e: setup  ## by hand: install on the cluster of KUBECONFIG and break it; BUILD and LOAD say how it gets images
	@BUILD="$(BUILD)" LOAD="$(LOAD)" $(VENV)/python -m tools.e2e $(ARGS)

release:  ## everything of a release into dist/: images, chart, SBOMs, NOTICE, checksums; ARGS="--help"
	@$(SETUP) --only python --only web
	@BUILD="$(BUILD)" $(VENV)/python -m tools.release $(ARGS)

clean:  ## forget everything that was installed or built here
	rm -rf .venv .roomwright dist proto/gen web/node_modules web/dist tests/clients/node_modules tests/clients/dist media/target media/python/mediacore/*.so
