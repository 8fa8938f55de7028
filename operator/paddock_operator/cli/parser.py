"""The grammar of the `paddock` command: every verb with its arguments and the function that runs it.

Called by `app`. Functions are named, not imported, so that `paddock list` does not pay for `paddock up`.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

from paddock_operator.cli.parser_store import add_store

DEFAULT_LISTEN = "127.0.0.1:11434"

_Verbs = Any
"""argparse keeps the type of its sub-parsers private."""


def build(program: str = "paddock") -> argparse.ArgumentParser:
    """The parser; the parsed namespace has `verb`, the `module:function` to run."""
    common = _common()
    parser = argparse.ArgumentParser(prog=program, description="Declare models; serve them.", parents=[common])
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for add in (_up, _objects, _store, _talk, _keys):
        add(verbs, common)
    _verb(verbs, common, "version", "version:version", "print the version")
    return parser


def _home() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    # SUPPRESS: given before the verb, the verb's own absent option must not overwrite it.
    common.add_argument("--home", default=argparse.SUPPRESS, metavar="DIR", help="default $PADDOCK_HOME or ~/.paddock")
    return common


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False, parents=[_home()])
    common.add_argument("--models", default=argparse.SUPPRESS, metavar="DIR", help="the cache; default HOME/models")
    return common


def _verb(
    verbs: _Verbs, common: argparse.ArgumentParser, name: str, run: str, text: str, **options: Any
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, parents=[common], **options)
    parser.set_defaults(verb=run)
    return parser


def _up(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    up = _verb(verbs, common, "up", "up:up", "keep the Models and Endpoints of these manifests true on this machine")
    up.add_argument(
        "-f", "--file", action="append", required=True, metavar="PATH", help="file, folder or - (repeatable)"
    )
    up.add_argument("--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="where the first Endpoint answers")
    up.add_argument(
        "--check-sources",
        default="1h",
        metavar="DURATION",
        help="how often to ask whether the source of a pinned Model moved (condition Drifted); 0s: never; default 1h",
    )
    up.add_argument("--output", choices=["text", "json"], default="text", help="json: one object per line on stdout")


def _place(parser: argparse.ArgumentParser, *, spread: bool = False) -> None:
    """Where a verb works (`place`); `spread`: it can take all namespaces."""
    where = parser.add_argument_group("where", "a cluster, or the paddock up of this machine (docs/reference/cli.md)")
    where.add_argument("--kubeconfig", metavar="FILE", help="a cluster: default $KUBECONFIG or ~/.kube/config")
    where.add_argument("--context", metavar="NAME", help="a cluster: this context of the kubeconfig")
    where.add_argument("--local", action="store_true", help="this machine, also where a kubeconfig is")
    names = where.add_mutually_exclusive_group()
    names.add_argument("-n", "--namespace", help="only this namespace (default: the context's; on one machine all)")
    parser.set_defaults(all_namespaces=False)
    if spread:
        names.add_argument("-A", "--all-namespaces", action="store_true", help="all namespaces of the cluster")


def _objects(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    get = _verb(verbs, common, "get", "objects:get", "list Models and Endpoints")
    get.add_argument("kind", metavar="models|endpoints|all")
    get.add_argument("name", nargs="?")
    get.add_argument("-o", "--output", choices=["wide", "json", "yaml"])
    describe = _verb(verbs, common, "describe", "objects:describe", "show one object with its conditions")
    describe.add_argument("kind", metavar="model|endpoint")
    describe.add_argument("name")
    apply = _verb(verbs, common, "apply", "cluster.apply:apply", "check manifests, then give them to a cluster")
    apply.add_argument(
        "-f", "--file", action="append", required=True, metavar="PATH", help="file, folder or - (repeatable)"
    )
    apply.add_argument("--dry-run", action="store_true", help="change nothing; with --local only check")
    apply.add_argument("--force-conflicts", action="store_true", help="take over fields that others have set")
    _place(get, spread=True)
    _place(describe)
    _place(apply)


def _store(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    add_store(functools.partial(_verb, verbs, common))


def _talk(verbs: _Verbs, common: argparse.ArgumentParser) -> None:
    run = _verb(verbs, common, "run", "run:run", "talk to a model, or ask it one thing")
    run.add_argument("name")
    run.add_argument("prompt", nargs="*")
    run.add_argument("--verbose", action="store_true", help="statistics after each answer")
    ps = _verb(verbs, common, "ps", "server:ps", "list the loaded models")
    stop = _verb(verbs, common, "stop", "server:stop", "unload a model")
    stop.add_argument("name")
    for parser in (run, ps, stop):
        parser.add_argument("--url", help="an Endpoint's address (default: of the paddock up of this home)")


def _keys(verbs: _Verbs, _: argparse.ArgumentParser) -> None:
    # Here --models means the models that a key may use, not the cache.
    home = _home()
    actions = _verb(verbs, home, "key", "", "API keys").add_subparsers(metavar="create|list|revoke", required=True)
    create = _verb(actions, home, "create", "keys:create", "make a key and print it, once")
    create.add_argument("name")
    create.add_argument("--models", dest="allowed", default="*", metavar="A,B", help="public names; default: all")
    create.add_argument("--verbs", default="infer", help="infer, manage (comma separated); default: infer")
    create.add_argument("--expires", metavar="30d", help="a duration (s, m, h, d) or an RFC 3339 time; default: never")
    revoke = _verb(actions, home, "revoke", "keys:revoke", "make a key worthless")
    revoke.add_argument("name")
    listing = _verb(actions, home, "list", "keys:list_keys", "list the keys", aliases=["ls"])
    _place(create)
    _place(revoke)
    _place(listing, spread=True)
