"""Parse untrusted manifest text: safe tags only, no duplicate keys, a bounded number of nodes, a line for every error.

Called by `files` for manifests and by `keys` for key Secrets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_DOCUMENTS = 1000
MAX_NODES = 200_000
"""Nodes of one file after aliases are expanded; a large manifest has a few hundred."""
MAX_DEPTH = 100


class ManifestError(Exception):
    """One thing wrong with manifest text. `source` is a path or `<stdin>`, `line` counts from 1 (0: the whole file)."""

    def __init__(self, source: str, line: int, message: str) -> None:
        place = f"{source}:{line}" if line else source
        super().__init__(f"{place}: {message}")
        self.source = source
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: where it starts and what it holds."""

    source: str
    line: int
    body: dict[str, Any]

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}"


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key twice in one mapping and keeps timestamps as text (JSON has no dates)."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                continue
            if key.value in seen:
                raise ConstructorError(None, None, f"the key {key.value!r} appears twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Budget:
    """Counts nodes as the constructor will visit them, aliases expanded, so that an alias bomb is refused unbuilt."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}

    def size(self, node: Node, depth: int = 0) -> int:
        """Nodes under `node`, itself included. Raises ConstructorError beyond MAX_NODES or MAX_DEPTH, or on a cycle."""
        if depth > MAX_DEPTH:
            raise ConstructorError(None, None, f"nested deeper than {MAX_DEPTH} levels", node.start_mark)
        known = self._sizes.get(id(node))
        if known is None:
            total = 1 + sum(self.size(child, depth + 1) for child in _children(node))
            known = self._sizes[id(node)] = total
        if known > MAX_NODES:
            raise ConstructorError(None, None, f"aliases expand to more than {MAX_NODES} values", node.start_mark)
        return known


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, SequenceNode):
        yield from node.value
    elif isinstance(node, MappingNode):
        for key, value in node.value:
            yield key
            yield value


def parse(text: str, source: str) -> tuple[Document, ...]:
    """All documents of `text` (empty ones left out). Raises ManifestError for the first thing that is wrong."""
    try:
        return tuple(_documents(text, source))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ManifestError(source, mark.line + 1 if mark else 0, _reason(error)) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ManifestError(source, 0, f"not YAML: {str(error).splitlines()[0]}") from None


def _reason(error: yaml.MarkedYAMLError) -> str:
    return " ".join(part for part in (error.context, error.problem) if part) or "not YAML"


def _documents(text: str, source: str) -> Iterator[Document]:
    loader = _Loader(text)
    budget = _Budget()
    count = 0
    try:
        while loader.check_node():
            node = loader.get_node()
            count += 1
            if count > MAX_DOCUMENTS:
                raise ManifestError(source, 0, f"more than {MAX_DOCUMENTS} documents; split the file")
            if node is None:
                continue
            budget.size(node)
            body = loader.construct_document(node)
            if body is not None:
                yield _document(body, source, node.start_mark.line + 1)
    finally:
        loader.dispose()


def _document(body: Any, source: str, line: int) -> Document:
    if not isinstance(body, dict) or not all(isinstance(key, str) for key in body):
        raise ManifestError(source, line, "a document must be a mapping with apiVersion, kind, metadata and spec")
    return Document(source, line, body)
