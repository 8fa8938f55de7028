"""One replica of the operator with small plans, as a process: `python -m tests.kube.replica KUBECONFIG NAMESPACE`."""

from __future__ import annotations

import asyncio
import sys

from tests.kube.kit import STAND_INS

from paddock_operator import logs
from paddock_operator.app import App, on_signals
from paddock_operator.core.cluster.settings import Settings
from paddock_operator.executors.kube.login import Login


async def main(kubeconfig: str, namespace: str) -> None:
    """Run until SIGTERM."""
    settings = Settings(namespace=namespace, leader_election=True, metrics_port=0, health_port=0)
    app = await App.make(Login(kubeconfig), settings, STAND_INS)
    on_signals(app.stopping.set)
    await app.run()


if __name__ == "__main__":
    logs.configure()
    asyncio.run(main(*sys.argv[1:]))
