"""A small client of an API server for one command: JSON in, JSON out, every refusal one sentence for a person.

Called by the other modules of this package. Credentials are read by kubernetes.aio (certificates, tokens, exec and
OIDC providers); requests are plain HTTP, because one command needs no watches and no generated classes.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Any, Self

import httpx
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException, load_kube_config

from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.place import Target
from paddock_operator.executors.kube.kinds import Kind

Object = dict[str, Any]
MANAGER = "paddock-cli"
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
PAGE = 500
NO_CRDS = (
    "the cluster does not know Models and Endpoints of paddock.dev/v1alpha1; "
    "install the chart (docs/guides/install.md) or: kubectl apply --server-side -f crds"
)


class RefusedError(CliError):
    """The API server said no; `status` is the HTTP status, `reason` its word for it."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


class Cluster:
    """One context of a kubeconfig. Every method raises CliError, RefusedError when the API server answered so."""

    def __init__(self, target: Target) -> None:
        self.target = target
        configuration = _configuration(target)
        token = configuration.api_key.get("BearerToken")
        self._host = configuration.host
        self._extensions = {"sni_hostname": configuration.tls_server_name} if configuration.tls_server_name else {}
        self._http = httpx.Client(
            base_url=configuration.host,
            verify=_tls(configuration, target),
            headers={"Authorization": token} if token else {},
            proxy=configuration.proxy or None,
            timeout=TIMEOUT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """One object, None if there is none."""
        try:
            return self._request("get", "GET", kind, namespace, name)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: Kind, namespace: str = "", **query: str) -> list[Object]:
        """All objects of a kind, of a namespace or of all. `query`: labelSelector, fieldSelector."""
        found: list[Object] = []
        again: dict[str, str] = {}
        while True:
            page = self._request("list", "GET", kind, namespace, query={"limit": str(PAGE), **query, **again})
            found += page.get("items") or []
            token = page["metadata"].get("continue")
            if not token:
                # The items of a list do not name their kind.
                return [{"apiVersion": kind.api_version, "kind": kind.name, **item} for item in found]
            again = {"continue": token}

    def create(self, kind: Kind, manifest: Object) -> Object:
        """Create an object; RefusedError with status 409 if it exists."""
        namespace = manifest["metadata"]["namespace"]
        query = {"fieldManager": MANAGER}
        return self._request("create", "POST", kind, namespace, query=query, body=manifest)

    def apply(self, kind: Kind, manifest: Object, *, dry_run: bool = False, force: bool = False) -> Object:
        """Server-side apply by the field manager of this program; RefusedError (409) for the field of another."""
        metadata = manifest["metadata"]
        query = {"fieldManager": MANAGER, "force": str(force).lower(), "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        media = "application/apply-patch+yaml"
        return self._request("patch", "PATCH", kind, metadata["namespace"], metadata["name"], query, manifest, media)

    def delete(self, kind: Kind, document: Object) -> None:
        """Delete exactly this object."""
        metadata = document["metadata"]
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": metadata["uid"]}}
        self._request("delete", "DELETE", kind, metadata["namespace"], metadata["name"], body=options)

    def _request(
        self,
        verb: str,
        method: str,
        kind: Kind,
        namespace: str,
        name: str = "",
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        media: str = "application/json",
    ) -> Object:
        path = kind.path(namespace, name)
        try:
            answer = self._http.request(
                method,
                path,
                params=dict(query or {}),
                content=None if body is None else json.dumps(body),
                headers={"Accept": "application/json", "Content-Type": media},
                extensions=self._extensions,
            )
            parsed = _parsed(answer)
        except httpx.HTTPError as error:
            raise CliError(f"{self._host} (context {self.target.context}) does not answer: {error}") from None
        if answer.status_code >= 400:
            what = f"{verb} {kind.plural}" + (f" in namespace {namespace}" if namespace else "")
            raise _refusal(answer.status_code, parsed, what, self.target, kind)
        return parsed


def _parsed(answer: httpx.Response) -> Object:
    try:
        found = answer.json()
    except ValueError:
        found = {"message": answer.text[:500]}
    return found if isinstance(found, dict) else {"message": str(found)[:500]}


def _refusal(status: int, said: Object, what: str, target: Target, kind: Kind) -> RefusedError:
    message, reason = str(said.get("message") or f"HTTP {status}"), str(said.get("reason") or "")
    named = bool((said.get("details") or {}).get("name"))
    if status == 401:
        message = (
            f"the cluster of context {target.context} does not accept the credentials of {target.files}; log in again"
        )
    elif status == 403:
        message = f"you may not {what}; ask for a role that allows it ({message})"
    elif status == 404 and not named and "/" in kind.api_version:
        return RefusedError(NO_CRDS, 400, "NoSuchKind")
    return RefusedError(message, status, reason)


def _configuration(target: Target) -> Configuration:
    made = Configuration()
    try:
        asyncio.run(load_kube_config(target.files, target.context, made, persist_config=False))
    except (ConfigException, OSError, KeyError, TypeError, ValueError) as error:
        raise CliError(f"context {target.context} of {target.files} cannot be used: {error}", BAD_USAGE) from None
    return made


def _tls(configuration: Configuration, target: Target) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
    except (OSError, ValueError) as error:
        message = f"the certificates of context {target.context} of {target.files} cannot be used: {error}"
        raise CliError(message, BAD_USAGE) from None
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
