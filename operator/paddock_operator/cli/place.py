"""Where a verb works: on this machine's home, or on a cluster. Called by every verb that both places have.

The rule is that of docs/reference/cli.md. Nothing heavy is imported: a kubeconfig is only looked at for its contexts.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.home import home_of
from paddock_operator.executors.local.home import owner

MAX_KUBECONFIG_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """A context of one or more kubeconfig files (joined as in $KUBECONFIG); `namespace` is the one to work in."""

    files: str
    context: str
    namespace: str


def target_of(arguments: argparse.Namespace) -> Target | None:
    """The cluster that a verb is for, None for this machine. Raises CliError if it is asked for but unusable."""
    here = [word for word in ("local", "home", "models") if getattr(arguments, word, None)]
    there = [word for word in ("kubeconfig", "context") if getattr(arguments, word, None)]
    if here and (there or arguments.cluster):
        of_cluster = f"--{there[0]}" if there else "kubectl paddock"
        raise CliError(f"--{here[0]} is for this machine and {of_cluster} for a cluster; leave one out", BAD_USAGE)
    if here:
        return None
    if there or arguments.cluster:
        return _target(arguments)
    if not _names_a_namespace(arguments) and owner(home_of(arguments)) is not None:
        return None
    try:
        return _target(arguments)
    except CliError:
        return None


def _names_a_namespace(arguments: argparse.Namespace) -> bool:
    return bool(arguments.namespace or arguments.all_namespaces)


def _target(arguments: argparse.Namespace) -> Target:
    paths = _paths(arguments.kubeconfig)
    documents = [_read(path) for path in paths]
    named = (str(document.get("current-context") or "") for document in documents)
    context = arguments.context or next((name for name in named if name), "")
    files = os.pathsep.join(str(path) for path in paths)
    if not context:
        raise CliError(f"{files} has no current context; choose one with --context, or kubectl config use-context")
    contexts = {str(entry.get("name")): entry.get("context") or {} for one in documents for entry in _contexts(one)}
    if context not in contexts:
        known = ", ".join(sorted(contexts)) or "none"
        raise CliError(f"no context {context!r} in {files}; known are: {known}", BAD_USAGE)
    return Target(files, context, arguments.namespace or contexts[context].get("namespace") or "default")


def _contexts(document: Mapping[str, Any]) -> list[Any]:
    return [entry for entry in document.get("contexts") or () if isinstance(entry, Mapping)]


def _paths(given: str | None) -> list[Path]:
    """The kubeconfig files that exist. Raises CliError when there is none."""
    if given:
        if not Path(given).is_file():
            raise CliError(f"--kubeconfig: there is no file {given}", BAD_USAGE)
        return [Path(given)]
    listed = os.environ.get("KUBECONFIG") or "~/.kube/config"
    found = [Path(name).expanduser() for name in listed.split(os.pathsep) if name]
    there = [path for path in found if path.is_file()]
    if not there:
        raise CliError(f"no kubeconfig: {listed} does not exist; give --kubeconfig FILE, or set KUBECONFIG")
    return there


def _read(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            found = yaml.safe_load(file.read(MAX_KUBECONFIG_BYTES))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CliError(f"{path} cannot be read as a kubeconfig: {str(error).splitlines()[0]}") from None
    if not isinstance(found, Mapping):
        raise CliError(f"{path} is no kubeconfig")
    return found
