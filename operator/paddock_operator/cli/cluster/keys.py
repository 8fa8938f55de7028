"""API keys as Secrets of a cluster: only a hash and a policy ever leave this machine. Called by `cli.keys`."""

from __future__ import annotations

from datetime import datetime

from paddock_operator.cli.cluster.client import Cluster, Object, RefusedError
from paddock_operator.cli.place import Target
from paddock_operator.core.resources import API_KEY_TYPE, KeyRecord
from paddock_operator.executors.kube.kinds import SECRET
from paddock_operator.executors.local import keys


class ClusterRing:
    """The keys of a namespace of a cluster; listed are those of all namespaces if that is asked for."""

    def __init__(self, target: Target, *, all_namespaces: bool) -> None:
        self._target, self._all = target, all_namespaces
        self._namespace = target.namespace
        self.name = f"namespace {target.namespace} (context {target.context})"

    def create(self, name: str, models: tuple[str, ...], verbs: tuple[str, ...], expires: datetime | None) -> str:
        """Make the Secret; the clear key. Raises CliError, KeyFault if the name is taken."""
        clear = keys.new_secret()
        secret = keys.document(self._namespace, name, clear, models=models, verbs=verbs, expires=expires)
        try:
            with Cluster(self._target) as cluster:
                cluster.create(SECRET, secret)
        except RefusedError as error:
            if error.status == 409:
                place = f"namespace {self._namespace!r}"
                raise keys.KeyFault(f"a Secret {name!r} exists in {place}; revoke that key first") from None
            raise
        return clear

    def stored(self) -> tuple[tuple[KeyRecord, ...], tuple[str, ...]]:
        """What is known of the keys, and a line for each Secret that is no good. Raises CliError."""
        with Cluster(self._target) as cluster:
            found = cluster.list(SECRET, "" if self._all else self._namespace, fieldSelector=f"type={API_KEY_TYPE}")
        records: list[KeyRecord] = []
        problems: list[str] = []
        for secret in found:
            try:
                records.append(keys.record_of(_bare(secret)))
            except keys.KeyFault as error:
                problems.append(f"Secret {secret['metadata']['namespace']}/{secret['metadata']['name']}: {error}")
        return tuple(records), tuple(problems)

    def revoke(self, name: str) -> None:
        """Delete a key. Raises CliError, KeyFault when there is no such key or the Secret is something else."""
        with Cluster(self._target) as cluster:
            secret = cluster.find(SECRET, self._namespace, name)
            if secret is None:
                raise keys.KeyFault(f"no key {name!r} in namespace {self._namespace!r}")
            if secret.get("type") != API_KEY_TYPE:
                raise keys.KeyFault(f"Secret {name!r} is of type {secret.get('type')}, not a key; it stays")
            cluster.delete(SECRET, secret)


def _bare(secret: Object) -> Object:
    """What a key file would hold: metadata that the API server added is nothing to check."""
    metadata = {field: secret["metadata"][field] for field in ("name", "namespace")}
    return {
        **{field: secret[field] for field in ("apiVersion", "kind", "type", "data") if field in secret},
        "metadata": metadata,
    }
