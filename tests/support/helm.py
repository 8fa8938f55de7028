"""Helm for tests: the binary of the proving ground (built once if it is missing), renderings and lint of our chart.

Called by tests/chart. A rendering is a list of parsed documents in Helm's order of templates.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster import build

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "paddock"
SYSTEM = "paddock-system"
Object = dict[str, Any]


class HelmError(Exception):
    """Helm refused; the message is what it said."""


def helm(*arguments: str, stdin: str | None = None, kubeconfig: str | Path = os.devnull) -> str:
    """Run helm without any configuration of this machine's user; its output. Raises HelmError."""
    binary = build.bin_dir() / "helm"
    if not binary.exists():
        binary = build.ensure("cluster") / "helm"
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "KUBECONFIG": str(kubeconfig)}
    done = subprocess.run([str(binary), *arguments], input=stdin, text=True, capture_output=True, env=env, check=False)
    if done.returncode:
        raise HelmError(done.stderr + done.stdout)
    return done.stdout


def template(values: Object | None = None, name: str = "paddock") -> str:
    """The chart's text for these values, on top of its defaults."""
    # A Helm that is built without its linker flags takes the cluster for an old one.
    version = ["--kube-version", build.kubernetes_version()]
    return helm("template", name, str(CHART), "-n", SYSTEM, *version, "-f", "-", stdin=json.dumps(values or {}))


def render(values: Object | None = None, name: str = "paddock") -> list[Object]:
    """The chart's documents for these values."""
    return [document for document in yaml.safe_load_all(template(values, name)) if document]
