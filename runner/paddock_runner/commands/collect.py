"""`paddock-runner collect`: garbage collection of a model folder. Called by `paddock_runner.__main__`.

A Job of the operator runs it with the digests that Models still need; a person may run it on one machine. Exit codes:
0 done, 1 refused (nothing was removed), 2 bad usage, 75 somebody was writing for too long.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from paddock_runner import logs
from paddock_runner.commands.events import conclude, read_input, say
from paddock_runner.core.collection import MAX_LIVE_BYTES, Collection, InvalidLiveError, parse_live
from paddock_runner.core.digest import Digest
from paddock_runner.parent import die_with_parent
from paddock_runner.store.collect import collect
from paddock_runner.store.errors import StoreError, from_os_error
from paddock_runner.store.store import Store

EXIT_REFUSED = 1
EXIT_RETRY = 75
MIN_AGE_SECONDS = 3600.0


class InvalidLiveListError(StoreError):
    """The list of live digests cannot be trusted, so nothing can be removed."""

    reason = "InvalidLiveList"


def main(argv: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    die_with_parent()
    logs.setup("collector")
    file: Path | None = arguments.termination_message
    try:
        live = None if arguments.all_names else _read_live(arguments.live, arguments.allow_empty)
        found = collect(
            Store(arguments.models), live, arguments.min_age, quota=arguments.quota, dry_run=arguments.dry_run
        )
    except (StoreError, OSError) as failure:
        error = failure if isinstance(failure, StoreError) else from_os_error(failure, "using", arguments.models)
        event = {"event": "error", "reason": error.reason, "message": str(error), "retryable": error.retryable}
        conclude(event, file)
        return EXIT_RETRY if error.retryable else EXIT_REFUSED
    _report(found, arguments, file)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paddock-runner collect", description="Remove what no live digest and no name needs.", allow_abbrev=False
    )
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="the model folder")
    needed = parser.add_mutually_exclusive_group(required=True)
    needed.add_argument(
        "--live", metavar="FILE|-|env:NAME", help='the digests that are needed: {"digests":["sha256:…"]}'
    )
    needed.add_argument("--all-names", action="store_true", help="needed is what has a name; for one machine")
    parser.add_argument(
        "--quota", type=_bytes, metavar="BYTES", help="remove models only until the rest fits, oldest use first"
    )
    parser.add_argument(
        "--min-age", type=_seconds, default=MIN_AGE_SECONDS, metavar="SECONDS", help="spare what is younger (3600)"
    )
    parser.add_argument("--allow-empty", action="store_true", help="accept a list without digests")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    parser.add_argument("--termination-message", type=Path, metavar="FILE", help="write the last event here")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError("must be 0 to 1e9 seconds")
    return value


def _bytes(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError("must be 0 to 2^63-1 bytes")
    return value


def _read_live(where: str, allow_empty: bool) -> frozenset[Digest]:
    try:
        live = parse_live(read_input(where, MAX_LIVE_BYTES))
    except OSError as error:
        raise InvalidLiveListError(f"the list of live digests cannot be read: {error}") from None
    except InvalidLiveError as error:
        raise InvalidLiveListError(f"the list of live digests: {error}") from None
    if not live and not allow_empty:
        raise InvalidLiveListError(
            "the list of live digests is empty: all that Paddock pulled would go; use --allow-empty if that is meant"
        )
    return live


def _report(found: Collection, arguments: argparse.Namespace, file: Path | None) -> None:
    if arguments.dry_run:
        for name in found.names:
            say({"event": "would-remove", "name": name.full})
        for blob in found.blobs:
            say({"event": "would-remove", "digest": str(blob.digest), "bytes": blob.size})
    event: dict[str, object] = {
        "event": "collected",
        "pins": len(found.names),
        "blobs": len(found.blobs),
        "bytes": found.size,
    }
    if arguments.quota is not None:
        event |= {"staying": found.staying, "over": max(found.staying - arguments.quota, 0)}
    if arguments.dry_run:
        event["dryRun"] = True
    conclude(event, file)
