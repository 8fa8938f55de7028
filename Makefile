.DEFAULT_GOAL := help
.PHONY: help quickstart test lint format bench lock docs clean

help: ## show these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

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
	.venv/bin/lint-imports

format: ## rewrite the code in the project's format
	@python3 scripts/bootstrap.py dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: ## measure against llama.cpp's own programs; writes benchmarks/report.md
	@python3 scripts/bootstrap.py dev
	.venv/bin/python benchmarks/run.py

lock: ## refresh the hashed requirement files (needs uv)
	scripts/lock.sh

docs: ## regenerate the pages that are made from code
	@python3 scripts/bootstrap.py dev
	.venv/bin/python scripts/docs.py

clean: ## remove what the targets above made (the wheel cache stays)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
