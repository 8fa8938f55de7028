"""`paddock apply`: check manifests with the CRDs' schema and rules, then server-side apply them.

Everything is checked before anything is sent, so that a slip in the second file does not leave the first applied.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from paddock_operator.cli.cluster.client import Cluster, Object, RefusedError
from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.place import Target, target_of
from paddock_operator.core.resources import API_KEY_TYPE, is_api_key
from paddock_operator.core.schema import duplicates, load_crds, problems
from paddock_operator.executors.kube.kinds import BY_NAME
from paddock_operator.executors.local import files
from paddock_operator.executors.local.crdfiles import crds
from paddock_operator.executors.local.yamlread import Document, ManifestError, parse

_SERVERS_OWN = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp")


def apply(arguments: argparse.Namespace) -> int:
    """Check and apply; one line for each object: created, configured or unchanged."""
    target = target_of(arguments)
    if target is None and not arguments.dry_run:
        raise CliError(
            "there is no cluster to apply to (no usable kubeconfig); on one machine use: paddock up -f PATH", BAD_USAGE
        )
    documents = _checked(_read(arguments.file), target, arguments.namespace)
    if target is None:
        for document in documents:
            sys.stdout.write(f"{_title(document)} is valid (no cluster was asked)\n")
        return 0
    return _send(documents, target, dry_run=arguments.dry_run, force=arguments.force_conflicts)


def _read(paths: list[str]) -> list[Document]:
    found: list[Document] = []
    try:
        texts = [files.read(path) for path in files.expand([path for path in paths if path != "-"])]
        if "-" in paths:
            texts.append(files.from_stdin(sys.stdin.buffer.read(files.MAX_FILE_BYTES + 1)))
        for text in texts:
            if text.content is None:
                raise ManifestError(text.source, 0, text.problem)
            found += parse(text.content, text.source)
    except ManifestError as error:
        raise CliError(str(error), BAD_USAGE) from None
    if not found:
        raise CliError(f"no manifests in {', '.join(paths)}", BAD_USAGE)
    return found


def _checked(found: list[Document], target: Target | None, namespace: str | None) -> list[Object]:
    """The documents with their namespace. Raises CliError that lists everything that is wrong."""
    schemas = load_crds(crds())
    wrong = [f"{one.place}: {problem}" for one in found for problem in problems(one.body, schemas)]
    if not wrong:
        wrong = [f"{one.place}: {problem}" for one in found for problem in _misplaced(one.body, namespace)]
    if wrong:
        raise CliError("nothing was applied:\n" + "\n".join(wrong), BAD_USAGE)
    default = target.namespace if target else namespace or "default"
    bodies = [_placed(one.body, default) for one in found]
    if twice := duplicates(bodies):
        raise CliError("nothing was applied:\n" + "\n".join(str(problem) for problem in twice), BAD_USAGE)
    return bodies


def _misplaced(body: Object, namespace: str | None) -> list[str]:
    if body["kind"] == "Secret" and not is_api_key(body):
        return [f"type: only Secrets of type {API_KEY_TYPE} are applied; use kubectl for others"]
    own = body["metadata"].get("namespace")
    if own and namespace and own != namespace:
        return [f"metadata.namespace: {own} is not the namespace of -n {namespace}; leave one out"]
    return []


def _placed(body: Object, namespace: str) -> Object:
    metadata = {**body["metadata"], "namespace": body["metadata"].get("namespace") or namespace}
    # A status in a manifest is nobody's wish; the API server would ignore it, too.
    return {**{name: value for name, value in body.items() if name != "status"}, "metadata": metadata}


def _send(documents: list[Object], target: Target, *, dry_run: bool, force: bool) -> int:
    failed = 0
    with Cluster(target) as cluster:
        for document in documents:
            try:
                verdict = _apply_one(cluster, document, dry_run=dry_run, force=force)
            except RefusedError as error:
                failed = 1
                sys.stderr.write(f"{_title(document)}: {_explained(error)}\n")
                continue
            sys.stdout.write(f"{_title(document)} {verdict}{' (dry run)' if dry_run else ''}\n")
    return failed


def _apply_one(cluster: Cluster, document: Object, *, dry_run: bool, force: bool) -> str:
    kind = BY_NAME[document["kind"]]
    before = cluster.find(kind, document["metadata"]["namespace"], document["metadata"]["name"])
    after = cluster.apply(kind, document, dry_run=dry_run, force=force)
    if before is None:
        return "created"
    return "unchanged" if _wishes(before) == _wishes(after) else "configured"


def _wishes(document: Object) -> dict[str, Any]:
    """An object without what the API server and the operator keep in it."""
    metadata = {name: value for name, value in document["metadata"].items() if name not in _SERVERS_OWN}
    return {**{name: value for name, value in document.items() if name != "status"}, "metadata": metadata}


def _explained(error: RefusedError) -> str:
    if error.status == 409 and error.reason == "Conflict":
        return f"{error}; to take these fields over: --force-conflicts"
    return str(error)


def _title(document: Object) -> str:
    metadata = document["metadata"]
    return f"{document['kind'].lower()}/{metadata['name']} in {metadata['namespace']}"
