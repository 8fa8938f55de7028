"""`paddock verify | gc | du`: whether the cache is sound, what it may lose, and what its bytes are for."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from paddock_operator.cli.amounts import parse_duration, parse_size
from paddock_operator.cli.child import Call, Reply, one, run
from paddock_operator.cli.errors import BAD_USAGE, CliError
from paddock_operator.cli.home import home_of
from paddock_operator.cli.progress import Bars
from paddock_operator.cli.store import is_hidden, is_json, models_of_cache, nothing, short
from paddock_operator.cli.text import size, table
from paddock_operator.executors.local.home import Home, owner
from paddock_operator.executors.local.plain import safe

MIN_AGE_SECONDS = 3600
_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}")


def verify(arguments: argparse.Namespace) -> int:
    """Hash models again (default: everything), move damaged files away, with `--repair` fetch them again."""
    call = Call(
        home_of(arguments),
        "store verify",
        (*(["--repair"] if arguments.repair else []), "--", *arguments.names),
        interrupted="what was found damaged so far is moved away, the rest is as it was",
        raw=is_json(arguments),
    )
    if call.raw:
        return run(call, nothing)
    told: list[Reply] = []
    with Bars() as bars:
        bars.show("verifying")
        code = run(call, lambda reply: bars.reply(reply) if _is_progress(reply) else told.append(reply))
    for reply in told:
        _tell_verified(reply)
    if code and not arguments.repair:
        sys.stderr.write("paddock verify --repair fetches again what is damaged\n")
    return code


def _is_progress(reply: Reply) -> bool:
    return reply.get("status") in ("verifying", "repairing")


def _tell_verified(reply: Reply) -> None:
    if "error" in reply:
        sys.stderr.write(f"cannot repair {safe(str(reply.get('name', '')))}: {safe(str(reply['error']))}\n")
    elif "digest" in reply and reply["status"] == "damaged":
        models = ", ".join(map(str, reply["models"])) or "no model"
        away = f"; moved to {reply['quarantine']}" if reply["quarantine"] else ""
        line = f"damaged {short(reply['digest'])} of {models}: {reply['problem']}{away}"
        sys.stdout.write(safe(line) + "\n")
    elif "checked" in reply:
        sys.stdout.write(f"{reply['checked']} files, {size(reply['bytes'])}: {_verdict(reply)}\n")


def _verdict(reply: Reply) -> str:
    if not reply["damaged"]:
        return "all sound"
    return f"{reply['damaged']} damaged, {reply['repaired']} of them repaired"


def gc(arguments: argparse.Namespace) -> int:
    """Remove what neither a name nor a Model of this home needs."""
    home = home_of(arguments)
    min_age = parse_duration("--min-age", arguments.min_age)
    _refuse_young(home, min_age)
    words = ["--live", "-", "--allow-empty", "--min-age", str(min_age)]
    if arguments.quota is not None:
        words += ["--quota", str(parse_size("--quota", arguments.quota))]
    if arguments.dry_run:
        words.append("--dry-run")
    call = Call(
        home,
        "collect",
        tuple(words),
        given=json.dumps({"digests": sorted(_live(home))}).encode(),
        interrupted="nothing that is needed went; the same command removes the rest",
        raw=is_json(arguments),
    )
    return run(call, nothing if call.raw else _tell_collected)


def _refuse_young(home: Home, min_age: int) -> None:
    running = owner(home)
    if running is not None and min_age < MIN_AGE_SECONDS:
        raise CliError(
            f"--min-age: the paddock up of this home runs (process {running.pid}) and may be pulling, so what is "
            f"younger than {MIN_AGE_SECONDS} s must stay; stop it first, or leave out --min-age",
            BAD_USAGE,
        )


def _live(home: Home) -> set[str]:
    """Manifest digests that must stay: of all names, and every digest that Models of this home declare or serve.

    A Model that `up` serves is named in its state by digest: what it runs, what it ran before, what it demands.
    """
    named = (model for model in models_of_cache(home) if not is_hidden(model))
    found = {f"sha256:{str(model['digest']).removeprefix('sha256:')}" for model in named}
    for path in _documents(home):
        with contextlib.suppress(FileNotFoundError):
            found.update(word.decode() for word in _DIGEST.findall(path.read_bytes()))
    return found


def _documents(home: Home) -> Iterator[Path]:
    yield from home.state("Model").glob("*/*.json")
    yield from home.run.glob("model-*.json")


def _tell_collected(reply: Reply) -> None:
    if reply.get("event") == "would-remove":
        what = reply.get("name") or f"{short(reply['digest'])} ({size(reply['bytes'])})"
        sys.stdout.write(f"would remove {safe(str(what))}\n")
    elif reply.get("event") == "collected":
        verb = "would remove" if reply.get("dryRun") else "removed"
        pins, blobs = _counted(reply["pins"], "hidden name"), _counted(reply["blobs"], "file")
        sys.stdout.write(f"{verb} {pins} and {blobs}, {size(reply['bytes'])}\n")
        if reply.get("over"):
            sys.stdout.write(
                f"{size(reply['staying'])} stay, {size(reply['over'])} more than the quota: they are needed or younger "
                "than --min-age; paddock du says by what, paddock rm removes a model\n"
            )


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


_SHARES = (
    ("named", "of models with a name"),
    ("hidden", "of pins and other names of Paddock's own"),
    ("unreferenced", "of nothing (paddock gc)"),
    ("partial", "unfinished downloads"),
    ("working", "conversions under way, or left behind by a kill (paddock gc)"),
    ("quarantine", "damaged, moved away"),
    ("total", "total"),
)


def du(arguments: argparse.Namespace) -> int:
    """Print what the bytes of the cache are for: each model, what only it uses, and the rest."""
    call = Call(home_of(arguments), "store du", (), raw=is_json(arguments))
    found = one(call)
    if call.raw:
        return 0
    rows = [
        (str(item["name"]), short(item["digest"]), size(item["size"]), size(item["own"]), size(item["shared"]))
        for item in found["models"]
    ]
    table(("NAME", "ID", "SIZE", "OWN", "SHARED"), rows)
    sys.stdout.write("\n")
    for name, words in _SHARES:
        sys.stdout.write(f"{size(found[name]):>8}  {words}\n")
    for name in found["unreadable"]:
        sys.stderr.write(f"{safe(str(name))}: its manifest cannot be read; pull or create it again, or remove it\n")
    return 0
