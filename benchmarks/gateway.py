"""Latency that the gateway adds: the same small request to the runner itself and through the gateway, interleaved."""

from __future__ import annotations

import json
import time

import httpx

from benchmarks.common import Context, Row, median

REQUESTS = 200


def runner_access(context: Context) -> tuple[str, str]:
    """The runner's address and the credential that the gateway shows it."""
    config = json.loads(next((context.home / "run").glob("endpoint-*.json")).read_text())
    return config["models"][0]["backends"][0], config["backendCredential"]


def once(client: httpx.Client, url: str, token: str) -> float:
    start = time.perf_counter()
    response = client.post(url + "/api/show", json={"model": "smollm2"}, headers={"Authorization": f"Bearer {token}"})
    response.raise_for_status()
    return time.perf_counter() - start


def measure(context: Context) -> list[Row]:
    direct: list[float] = []
    through: list[float] = []
    with context.up() as (_, url, key, _seconds), httpx.Client() as client:
        runner, credential = runner_access(context)
        for _ in range(REQUESTS * context.rounds // 5 + 20):
            direct.append(once(client, runner, credential))
            through.append(once(client, url, key))
    a, b = median(through[20:]) * 1e3, median(direct[20:]) * 1e3
    return [Row("gateway, added latency", f"{a:.2f} ms", f"runner directly {b:.2f} ms", a - b, 2, " ms", False)]
