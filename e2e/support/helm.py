"""Paddock as a Helm release, the way a user installs it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from e2e.support.cluster import ROOT, Cluster, built
from e2e.support.objects import FILES

CHART = ROOT / "charts" / "paddock"
OPERATOR = "paddock-operator"


@dataclass
class Release:
    """`values` are what the scenarios need beyond the chart's defaults."""

    cluster: Cluster
    namespace: str
    prefix: str
    values: dict[str, Any] = field(default_factory=dict)
    allowed: list[str] = field(default_factory=list)

    def install(self, **more: Any) -> None:
        """`helm upgrade --install` with the values so far and `more`, and wait for the operator."""
        self.values = merged(merged(self._base(), self.values), more)
        path = ROOT / ".cluster" / "values.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**self.values, "endpointNamespaces": self.allowed}))
        self.helm("upgrade", "--install", "paddock", str(CHART), "-f", str(path), "--wait", "--timeout=180s")

    @contextmanager
    def changed(self, **more: Any) -> Iterator[None]:
        """Other values for a while."""
        before = self.values
        self.install(**more)
        try:
            yield
        finally:
            self.values = before
            self.install()

    def allow(self, namespace: str) -> None:
        """Give the operator the right to the Secrets of a namespace, by the command that the docs name."""
        binding = ["create", "rolebinding", "paddock-secrets", "-n", namespace]
        who = ["--clusterrole=paddock-secrets", f"--serviceaccount={self.namespace}:{self.service_account}"]
        if self.cluster.get(namespace, "rolebinding", "paddock-secrets") is None:
            self.cluster.kubectl(*binding, *who)

    @property
    def service_account(self) -> str:
        return OPERATOR

    def helm(self, *arguments: str) -> str:
        """Run helm in the release's namespace. Raises AssertionError with its words."""
        command = [_binary(), *arguments, "-n", self.namespace]
        done = subprocess.run(
            command, env=self.cluster.environment(), capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _base(self) -> dict[str, Any]:
        images = {
            name: {"repository": f"{self.prefix}{name}", "tag": "dev"} for name in ("operator", "gateway", "runner")
        }
        return {
            "images": images,
            "cache": {"size": "2Gi", "storageClass": "paddock-local" if self.cluster.own else ""},
            "sources": {
                "allow": [{"host": f"{FILES}:{port}", "cidr": "0.0.0.0/0", "port": 8000} for port in (8000, 8001)]
            },
        }


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`more` over `base`, map by map."""
    result = dict(base)
    for name, value in more.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        result[name] = merged(base[name], value) if both else value
    return result


def _binary() -> str:
    return shutil.which("helm") or str(built("helm"))
