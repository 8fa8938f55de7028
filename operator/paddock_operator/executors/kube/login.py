"""Who the operator is for the API server: its ServiceAccount, or a kubeconfig. Read by `client` and `handlers`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

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
        # Else aiohttp looks for a proxy and for a .netrc file with every request, in a thread.
        made.client_session_kwargs = {"trust_env": False}
        try:
            if self.kubeconfig or self.context or SERVICE_HOST_ENV_NAME not in os.environ:
                await load_kube_config(self.kubeconfig, self.context, made, persist_config=False)
            else:
                load_incluster_config(made)
        except (ConfigException, OSError, KeyError, ValueError) as error:
            where = self.kubeconfig or "the default kubeconfig"
            raise ApiError(0, "NoCredentials", f"cannot read credentials from {where}: {error}") from error
        made.proxy = made.proxy or _proxy(made.host)
        return made


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for the API server, None for a direct way."""
    address = urlsplit(url)
    return None if proxy_bypass(address.hostname or "") else getproxies().get(address.scheme)
