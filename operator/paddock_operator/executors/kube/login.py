"""Who the operator is for the API server: its ServiceAccount, or a kubeconfig. Read by `client` and `handlers`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME

from paddock_operator.executors.kube.errors import ApiError

CONNECTIONS = 1000
"""Watches hold a connection each (two per namespace with Endpoints); requests are bounded by the client itself."""


@dataclass(frozen=True, slots=True)
class Login:
    """Where credentials come from. Without both fields: the ServiceAccount in a pod, else the default kubeconfig."""

    kubeconfig: str | None = None
    context: str | None = None

    async def configuration(self) -> Configuration:
        """Read server and credentials anew. Raises ApiError (status 0) if there are none or they cannot be read."""
        made = Configuration()
        made.connection_pool_maxsize = CONNECTIONS
        try:
            if self.kubeconfig or self.context or SERVICE_HOST_ENV_NAME not in os.environ:
                await load_kube_config(self.kubeconfig, self.context, made, persist_config=False)
            else:
                load_incluster_config(made)
        except (ConfigException, OSError, KeyError, ValueError) as error:
            where = self.kubeconfig or "the default kubeconfig"
            raise ApiError(0, "NoCredentials", f"cannot read credentials from {where}: {error}") from error
        return made
