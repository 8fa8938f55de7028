"""The cluster under test as the scenarios see it: kubectl, objects, conditions with deadlines.

Used by every module of e2e/. Nothing here is specific to this project's own cluster, so E2E_KUBECONFIG may name any.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.cluster import build

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.25
Object = dict[str, Any]


class DeadlineError(AssertionError):
    """A condition did not come true in time; the message says what was seen last."""


def eventually(check: Callable[[], Any], what: str, timeout: float = 60.0, poll: float = POLL_SECONDS) -> Any:
    """Call `check` until it returns something true; returns that. An exception counts as "not yet"."""
    end, seen = time.monotonic() + timeout, ""
    while True:
        try:
            found = check()
            if found:
                return found
            seen = f"last result: {found!r}"
        except (AssertionError, KeyError, OSError, subprocess.SubprocessError, ValueError) as error:
            seen = f"last error: {error!r}"
        if time.monotonic() > end:
            raise DeadlineError(f"not within {timeout:.0f} s: {what}; {seen[:2000]}")
        time.sleep(poll)


@dataclass
class Cluster:
    """`touched` are the namespaces that a failing test's report describes."""

    kubeconfig: Path
    touched: set[str] = field(default_factory=set)

    @property
    def own(self) -> bool:
        """Whether this is the cluster of `make cluster`, whose components a scenario may kill."""
        return self.kubeconfig == ROOT / ".cluster" / "kubeconfig"

    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(
        self, *arguments: str, stdin: str | bytes | None = None, check: bool = True, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl. Raises AssertionError with its words if it fails and `check` is set."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        command = [kubectl_binary(), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=data, capture_output=True, timeout=timeout, check=False)
        text = subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())
        if check and text.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {text.stderr or text.stdout}")
        return text

    def apply(self, namespace: str, *documents: Mapping[str, Any]) -> None:
        """`kubectl apply` of documents."""
        self.touched.add(namespace)
        wrapped = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        self.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(wrapped))

    def get(self, namespace: str, kind: str, name: str) -> Object | None:
        """One object, None if it does not exist."""
        done = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def all_of(self, namespace: str, kind: str, selector: str = "") -> list[Object]:
        """Objects of a kind by label selector."""
        more = ["-l", selector] if selector else []
        done = self.kubectl("get", kind, "-n", namespace, "-o", "json", *more)
        items: list[Object] = json.loads(done.stdout)["items"]
        return items

    def patch(self, namespace: str, kind: str, name: str, change: Mapping[str, Any]) -> None:
        """A merge patch."""
        self.touched.add(namespace)
        self.kubectl("patch", kind, name, "-n", namespace, "--type=merge", "-p", json.dumps(change))

    def delete(self, namespace: str, kind: str, name: str, *more: str) -> None:
        self.kubectl("delete", kind, name, "-n", namespace, *more, timeout=300)

    def condition(self, namespace: str, kind: str, name: str, of: str = "Ready") -> Object:
        """A condition of a status, {} if absent."""
        found = self.get(namespace, kind, name) or {}
        listed = (found.get("status") or {}).get("conditions") or []
        return next((entry for entry in listed if entry["type"] == of), {})

    def wait(
        self, namespace: str, kind: str, name: str, of: str = "Ready", status: str = "True", timeout: float = 180.0
    ) -> Object:
        """Wait as `kubectl wait` does, but only for what is said of the current generation; returns the object."""
        self.touched.add(namespace)

        def there() -> Object | None:
            found = self.get(namespace, kind, name) or {}
            known = found.get("status") or {}
            current = known.get("observedGeneration") == found["metadata"]["generation"]
            listed: list[Object] = known.get("conditions") or []
            entry = next((item for item in listed if item["type"] == of), {})
            if current and entry.get("status") == status:
                return found
            raise ValueError(f"{entry or known}")

        found: Object = eventually(there, f"{kind} {namespace}/{name} {of}={status}", timeout)
        return found

    def wait_reason(
        self, namespace: str, kind: str, name: str, reasons: Iterable[str], of: str = "Ready", timeout: float = 60.0
    ) -> Object:
        """Wait until a condition has one of these reasons; returns the condition."""
        self.touched.add(namespace)
        wanted = set(reasons)

        def there() -> Object | None:
            entry = self.condition(namespace, kind, name, of)
            if entry.get("reason") in wanted:
                return entry
            raise ValueError(f"{entry}")

        found: Object = eventually(there, f"{kind} {namespace}/{name} {of} reason in {sorted(wanted)}", timeout)
        return found

    def child(self, namespace: str, kind: str, name: str) -> str:
        """The name of an object's children, from the selector in its status."""
        found = self.get(namespace, kind, name) or {}
        selector = dict(part.split("=") for part in found["status"]["selector"].split(","))
        return str(selector["paddock.dev/child"])

    def pods(self, namespace: str, kind: str, name: str, component: str) -> list[Object]:
        """Pods of an object that are not terminating."""
        selector = f"paddock.dev/child={self.child(namespace, kind, name)},paddock.dev/component={component}"
        found = self.all_of(namespace, "pods", selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def events(self, namespace: str, name: str) -> list[Object]:
        """Events about an object."""
        return [item for item in self.all_of(namespace, "events") if item["involvedObject"]["name"] == name]


def kubectl_binary() -> str:
    """kubectl of PATH, else the one that `make cluster` built."""
    return shutil.which("kubectl") or str(built("kubectl"))


def built(name: str) -> Path:
    """A program of the proving ground, built from source if it is not there yet."""
    return build.ensure("cluster") / name


def ready_pods(pods: Iterable[Object]) -> list[Object]:
    """Pods whose Ready condition is true."""
    return [pod for pod in pods if _is_ready(pod)]


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
