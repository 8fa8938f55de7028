"""The verb `store verify`: hash everything again, move damaged blobs away, fetch them again with --repair.

Called by `commands.store`. A repair goes by the model's name, so it can help where the name says a registry; a damaged
file whose journal was kept is fetched again only where it is damaged.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from yarl import URL

from paddock_runner.core.collection import OWN_HOSTS
from paddock_runner.core.digest import Digest
from paddock_runner.core.names import DEFAULT_HOST, ModelName
from paddock_runner.core.oci_reference import repository_of
from paddock_runner.store.blobs import Progress
from paddock_runner.store.errors import NotFoundError, StoreError
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.store import Store
from paddock_runner.store.verify import Checked, prepare_repair, unreadable, verify

if TYPE_CHECKING:
    from paddock_runner.sources.addresses import HostRules

EXIT_DAMAGED = 1
_TOLD_BYTES = 64 << 20

Say = Callable[[Mapping[str, Any]], None]


def verify_command(store: Store, names: Sequence[ModelName], repair: bool, say: Say) -> int:
    """Check these models, or the whole folder; says each blob and a sum. Returns 0, or 1 if something stays damaged,

    be it a manifest that cannot be read.

    Raises NotFoundError for a name that is not there.
    """
    counts: Counter[str] = Counter()
    bad: list[Checked] = []
    for checked in verify(store, names, _telling(say)):
        counts.update({"checked": 1, "bytes": checked.size})
        say(_line(checked))
        if checked.problem:
            bad.append(checked)
    lost = [] if names else list(unreadable(store))
    for name, error in lost:
        say({"error": str(error), "reason": error.reason, "name": str(name)})
    repaired = _repair(store, bad, say) if repair else set()
    left = [*lost, *(item for item in bad if item.digest not in repaired)]
    say({
        "status": "success" if not left else "damaged",
        "checked": counts["checked"],
        "bytes": counts["bytes"],
        "damaged": len(bad) + len(lost),
        "repaired": len(repaired),
    })  # fmt: skip
    return EXIT_DAMAGED if left else 0


def _line(checked: Checked) -> dict[str, Any]:
    line: dict[str, Any] = {"status": "verified", "digest": str(checked.digest), "size": checked.size}
    if checked.problem:
        line |= {
            "status": "damaged",
            "problem": checked.problem,
            "models": [str(name) for name in checked.names],
            "quarantine": str(checked.quarantine) if checked.quarantine else None,
        }
    return line


def _telling(say: Say) -> Progress:
    told = 0

    def tell(done: int, total: int) -> None:
        nonlocal told
        told = 0 if done < told else told
        if done - told >= _TOLD_BYTES:
            told = done
            say({"status": "verifying", "completed": done, "total": total})

    return tell


def _repair(store: Store, bad: Iterable[Checked], say: Say) -> set[Digest]:
    """Fetch the models of damaged blobs again; returns the blobs that are sound now."""
    waiting = {item.digest: item for item in bad if item.names}
    for item in waiting.values():
        prepare_repair(store, item)
    for name in sorted({name for item in waiting.values() for name in item.names}, key=str):
        needs = {digest for digest, item in waiting.items() if name in item.names and not _is_sound(store, digest)}
        if not needs:
            continue
        try:
            say({"status": "repairing", "name": str(name)})
            asyncio.run(_fetch_again(store, name))
        except StoreError as error:
            say({"error": str(error), "reason": error.reason, "name": str(name)})
    return {digest for digest in waiting if _is_sound(store, digest)}


def _is_sound(store: Store, digest: Digest) -> bool:
    try:
        store.verify_blob(digest)
    except StoreError:
        return False
    return True


async def _fetch_again(store: Store, name: ModelName) -> None:
    """Fetch what is missing of the model from where its name says. Raises the error of the likeliest place."""
    # Here, since the other verbs of `store` need no network client.
    from paddock_runner.sources.fetch import fetch
    from paddock_runner.sources.network import Network
    from paddock_runner.sources.select import source_for
    from paddock_runner.sources.transport import Transport

    if name.host.lower() in OWN_HOSTS:
        raise NotFoundError(f"{name} does not say where it came from; pull its model again")
    network = Network.from_environment()
    errors: list[StoreError] = []
    for spec in _sources(store.manifest(name), network.rules):
        source = source_for(spec)
        try:
            async with Transport(network, source.access) as transport:
                await fetch(store, source, transport, lambda digest, done, total: None)
            return
        except StoreError as error:
            errors.append(error)
    raise errors[0]


def _sources(stored: StoredManifest, rules: HostRules) -> Iterator[Mapping[str, Any]]:
    """Where the model may have come from. A name tells neither its protocol nor whether it needs TLS."""
    name = stored.name
    url = URL(f"http://{name.host}")
    plain = "http://" if rules.lists(url.host or "", url.port) else ""
    yield {"ollama": {"name": f"{plain}{name.full}", "digest": str(stored.digest)}}
    if (repository := repository_of(name)) is not None and name.host != DEFAULT_HOST:
        yield {"oci": {"reference": f"{plain}{name.host}/{repository}:{name.tag}"}}
