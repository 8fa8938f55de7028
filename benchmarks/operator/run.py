"""What the operator costs: `python -m benchmarks.operator.run [--models 100 1000]`; writes report.md beside this file.

Real etcd, API server, controllers and scheduler on this machine; KWOK stands in for the kubelets. Requests are counted
from the audit log of the API server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from benchmarks.operator.plane import NAMESPACE, Plane, cpu, plane, resident

REPORT = Path(__file__).with_name("report.md")
PATH = f"/apis/paddock.dev/v1alpha1/namespaces/{NAMESPACE}/models"
EDITS = 30
IDLE_SECONDS = 60.0
QUIET_SECONDS = 5.0


def model(number: int) -> dict[str, Any]:
    source = {"http": {"url": f"https://models.example.com/{number}.gguf", "sha256": f"{number:064x}"}}
    spec = {"source": source, "serving": {"contextLength": 1024}}
    return {
        "apiVersion": "paddock.dev/v1alpha1",
        "kind": "Model",
        "metadata": {"name": f"model-{number}"},
        "spec": spec,
    }


class Bench:
    """One run of one size on a fresh control plane."""

    def __init__(self, running: Plane, count: int) -> None:
        self.plane, self.count = running, count
        self.rows: list[tuple[str, str]] = []

    def client(self) -> httpx.AsyncClient:
        keys = self.plane.server.pki
        context = ssl.create_default_context(cafile=str(self.plane.server.ca))
        context.load_cert_chain(keys / "admin.crt", keys / "admin.key")
        return httpx.AsyncClient(base_url=self.plane.server.url, verify=context, timeout=60)

    async def run(self) -> None:
        operator = self.plane.start_operator()
        async with self.client() as client:
            await self.until(lambda: self.healthy(), 60)
            await self.settle(client)
            self.note("resident memory of the operator", f"{resident(operator.pid) / 2**20:.0f} MiB")
            await self.idle(operator.pid)
            await self.edits(client, 0.3, "alone")
            await self.edits(client, 3.0, "one edit every 3 s")
            await self.restart()
        self.plane.stop_operator()

    def healthy(self) -> bool:
        try:
            return httpx.get("http://127.0.0.1:18081/healthz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    async def settle(self, client: httpx.AsyncClient) -> None:
        started, gate = time.time(), asyncio.Semaphore(8)

        async def create(number: int) -> None:
            async with gate:
                answer = await client.post(PATH, json=model(number))
                answer.raise_for_status()

        await asyncio.gather(*(create(number) for number in range(self.count)))
        applied = time.time()
        while (ready := await self.ready(client)) < self.count:
            if time.time() - started > 900:
                raise SystemExit(f"only {ready} of {self.count} are ready after 900 s")
            await asyncio.sleep(1)
        done = time.time()
        await self.quiet()
        seen = list(self.plane.requests(started))
        writes = [item for item in seen if item.writes]
        status = [item for item in writes if item.resource == "models" and item.subresource == "status"]
        kinds = Counter(f"{item.resource}{'/' + item.subresource if item.subresource else ''}" for item in writes)
        self.note("all applied → all settled", f"{done - started:.1f} s (applying took {applied - started:.1f} s)")
        self.note("requests per Model", f"{len(seen) / self.count:.2f}")
        self.note("writes per Model", f"{len(writes) / self.count:.2f}, of them status {len(status) / self.count:.2f}")
        self.note("writes by kind", ", ".join(f"{kind} {number}" for kind, number in kinds.most_common()))
        failed = Counter(item.code for item in seen if item.code >= 400)
        self.note("refused requests", str(dict(failed) or 0))

    async def ready(self, client: httpx.AsyncClient) -> int:
        answer = await client.get(PATH, params={"resourceVersion": "0"})
        return sum(1 for item in answer.json()["items"] if _settled(item))

    async def quiet(self) -> None:
        """Wait until the operator has written nothing for a while."""
        await self.until(lambda: not self._writes(time.time() - QUIET_SECONDS), 120)

    def _writes(self, since: float, until: float | None = None) -> list[Any]:
        return [item for item in self.plane.requests(since, until) if item.writes]

    async def idle(self, pid: int) -> None:
        since, used = time.time(), cpu(pid)
        await asyncio.sleep(IDLE_SECONDS)
        seen = list(self.plane.requests(since))
        writes = sum(item.writes for item in seen)
        core = (cpu(pid) - used) / IDLE_SECONDS
        self.note("idle for a minute", f"{len(seen)} requests, {writes} writes, {core:.4f} core")

    async def edits(self, client: httpx.AsyncClient, pause: float, how: str) -> None:
        delays = []
        for number in range(EDITS):
            name, sent = f"model-{number * 7 % self.count}", time.time()
            change = json.dumps({"spec": {"system": f"edit {sent}"}})
            headers = {"Content-Type": "application/merge-patch+json"}
            (await client.patch(f"{PATH}/{name}", content=change, headers=headers)).raise_for_status()
            edited = time.time()
            slug = f"{name}-"
            await asyncio.sleep(pause)
            changed = [item.at for item in self._writes(sent) if item.resource == "configmaps" and slug in item.name]
            if changed:
                delays.append(max(min(changed) - edited, 0.0))
        if len(delays) < EDITS:
            self.note(f"edits without a change of the child ({how})", str(EDITS - len(delays)))
        cuts = statistics.quantiles(delays, n=100)
        self.note(f"edit → child changed, {how}", f"p50 {cuts[49]:.3f} s, p99 {cuts[98]:.3f} s ({len(delays)} edits)")
        await self.quiet()

    async def restart(self) -> None:
        self.plane.stop_operator()
        since = time.time()
        operator = self.plane.start_operator()
        await self.until(self.healthy, 60)
        await asyncio.sleep(30)
        seen = list(self.plane.requests(since))
        writes = [item for item in seen if item.writes]
        self.note("restart with all settled", f"{len(seen)} requests, {len(writes)} writes in 30 s after healthy")
        self.note("resident memory after the restart", f"{resident(operator.pid) / 2**20:.0f} MiB")

    async def until(self, check: Callable[[], bool], timeout: float) -> None:
        end = time.monotonic() + timeout
        while not await asyncio.to_thread(check):
            if time.monotonic() > end:
                raise SystemExit("not in time")
            await asyncio.sleep(0.5)

    def note(self, what: str, value: str) -> None:
        print(f"{self.count} Models: {what}: {value}", flush=True)
        self.rows.append((what, value))


def _settled(item: dict[str, Any]) -> bool:
    status = item.get("status") or {}
    return status.get("observedGeneration") == item["metadata"]["generation"] and any(
        entry["type"] == "Ready" and entry["status"] == "True" for entry in status.get("conditions") or ()
    )


def main() -> None:
    """Run every size and write the report."""
    parser = argparse.ArgumentParser(description="Measure the operator.")
    parser.add_argument("--models", type=int, nargs="+", default=[100, 1000])
    sizes = parser.parse_args().models
    text = (
        "# What the operator costs\n\n"
        f"`python -m benchmarks.operator.run --models {' '.join(map(str, sizes))}`; one run each.\n"
    )
    for count in sizes:
        with tempfile.TemporaryDirectory() as folder, plane(Path(folder)) as running:
            bench = Bench(running, count)
            asyncio.run(bench.run())
        text += f"\n## {count} Models\n\n| | |\n|---|---|\n"
        text += "".join(f"| {what} | {value} |\n" for what, value in bench.rows)
    REPORT.write_text(text)


if __name__ == "__main__":
    main()
