"""The one import of llama-cpp-python: its low-level ctypes module, without the package around it.

Called by the other `engine.llama*` modules. The package's `__init__` imports its high-level API and with that jinja2,
diskcache and much else that an engine never uses. A bare package object with the right search path lets Python import
the submodule alone; it is taken away again so that a later `import llama_cpp` finds the real package.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def _import_low_level() -> Any:
    name = "llama_cpp"
    if name in sys.modules:
        return importlib.import_module(f"{name}.llama_cpp")
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("llama-cpp-python is missing; fix: pip install 'paddock-operator[runner]'")
    bare = ModuleType(name)
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = bare
    try:
        return importlib.import_module(f"{name}.llama_cpp")
    finally:
        del sys.modules[name]


api: Any = _import_low_level()
