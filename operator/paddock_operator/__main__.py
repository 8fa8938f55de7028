"""`paddock-operator run`: the operator on a cluster, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from paddock_operator import logs, settings
from paddock_operator.app import App, on_signals
from paddock_operator.core.cluster.endpoint import plan_cluster_endpoint
from paddock_operator.core.cluster.model import plan_cluster_model
from paddock_operator.core.cluster.namespace import plan_namespace
from paddock_operator.core.cluster.settings import Settings
from paddock_operator.errors import OperatorError, SettingsError
from paddock_operator.executors.kube.errors import ApiError
from paddock_operator.executors.kube.login import Login
from paddock_operator.executors.kube.reconcile import Plans

FAILED, WRONG_USE = 1, 2

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="paddock-operator", description="Keep Models and Endpoints on a cluster.")
    run = made.add_subparsers(dest="command", required=True).add_parser("run", help="run the operator")
    run.add_argument("--config", type=Path, required=True, metavar="FILE", help="settings (YAML)")
    run.add_argument(
        "--kubeconfig", metavar="FILE", help="default: the pod's ServiceAccount, else the usual kubeconfig"
    )
    run.add_argument("--context", metavar="NAME", help="context of the kubeconfig")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM (exit code 0); 1 when the operator cannot go on, 2 for wrong arguments or settings."""
    arguments = parser().parse_args(argv)
    logs.configure()
    try:
        asyncio.run(_run(settings.load(arguments.config), Login(arguments.kubeconfig, arguments.context)))
    except SettingsError as error:
        log.error("%s", error)
        return WRONG_USE
    except (OperatorError, ApiError, OSError) as error:
        log.error("the operator ends: %s", error)
        return FAILED
    return 0


async def _run(loaded: Settings, login: Login) -> None:
    app = await App.make(login, loaded, Plans(plan_cluster_model, plan_cluster_endpoint, plan_namespace))
    on_signals(app.stopping.set)
    await app.run()


if __name__ == "__main__":
    sys.exit(main())
