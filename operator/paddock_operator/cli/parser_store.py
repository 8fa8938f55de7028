"""The grammar of the verbs that work on the cache. Called by `parser`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Add = Callable[..., argparse.ArgumentParser]
"""Adds a verb: its name, the `module:function` to run, a text, options of argparse."""


def add_store(verb: Add) -> None:
    """Add the verbs of the cache."""
    _making(verb)
    _looking(verb)
    _moving(verb)
    _caring(verb)


def _json(parser: argparse.ArgumentParser, text: str = "the runner's JSON lines on stdout, and no progress") -> None:
    parser.add_argument("-o", "--output", choices=["json"], help=text)


def _registry(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--insecure", action="store_true", help="plain HTTP, and any address for that host")
    parser.add_argument("--credentials", metavar="DIR", help="a folder with the registry's credentials")
    _json(parser)


def _making(verb: Add) -> None:
    create = verb("create", "store:create", "make a model in the cache from a Modelfile")
    create.add_argument("name")
    create.add_argument("-f", "--file", default="Modelfile", metavar="MODELFILE", help="default ./Modelfile")
    create.add_argument("-q", "--quantize", metavar="TYPE", help="convert F32, F16 or BF16 weights, as to Q4_K_M")
    _json(create)
    copy = verb("cp", "store:copy", "give a model of the cache another name")
    copy.add_argument("source")
    copy.add_argument("destination")
    _json(copy)
    remove = verb("rm", "store:remove", "remove models from the cache")
    remove.add_argument("names", nargs="+", metavar="name")
    _json(remove)


def _looking(verb: Add) -> None:
    _json(verb("list", "store:list_models", "list the models of the cache", aliases=["ls"]), "the runner's JSON object")
    show = verb("show", "show_model:show", "show a model of the cache")
    show.add_argument("name")
    show.add_argument("--verbose", action="store_true", help="also its files, what keeps it, and all metadata")
    show.add_argument(
        "--memory", dest="verb", action="store_const", const="fit:show", help="what it needs to be served"
    )
    fit = verb("fit", "fit:fit", "say which models of the cache fit into this machine's free memory")
    fit.add_argument("names", nargs="*", metavar="name", help="default: all")
    for parser in (show, fit):
        parser.add_argument("--context", type=int, metavar="N", help="tokens of each sequence; default: up to 4096")
        parser.add_argument("--slots", type=int, metavar="N", help="sequences at once; default 4")
        parser.add_argument("--kv-type", metavar="TYPE", help="of keys and values; default f16")
        _json(parser, "one JSON object")
    _json(verb("du", "care:du", "say what the bytes of the cache are for"), "the runner's JSON object")


def _moving(verb: Add) -> None:
    pull = verb("pull", "registry:pull", "pull a model from a registry")
    pull.add_argument("name", help="[host/][namespace/]model[:tag], hf.co/owner/repository[:QUANT], or oci:REFERENCE")
    _registry(pull)
    push = verb("push", "registry:push", "send a model of the cache to a registry")
    push.add_argument("name")
    push.add_argument(
        "destination", nargs="?", help="default: its own name; [host/][namespace/]model[:tag], or oci:REFERENCE"
    )
    _registry(push)
    export = verb("export", "bundle:export", "write models as one file, for machines without a network")
    export.add_argument("names", nargs="+", metavar="name")
    export.add_argument("-o", "--output", dest="file", required=True, metavar="FILE|-", help="-: standard output")
    take = verb("import", "bundle:import_", "bring in the models of such a file, or of Ollama's folder")
    take.add_argument("what", metavar="FILE|-|ollama", help="-: standard input; ./ollama for a file of that name")
    take.add_argument("names", nargs="*", metavar="DIR|NAME", help="with ollama: its folder, and which models")
    _json(take)
    mirror = verb("serve-blobs", "mirror:serve_blobs", "serve the models of the cache to other machines, read-only")
    mirror.add_argument("--listen", default="127.0.0.1:11435", metavar="HOST:PORT", help="default 127.0.0.1:11435")
    mirror.add_argument("--tls", metavar="DIR", help="HTTPS with DIR/tls.crt and DIR/tls.key")
    _json(mirror, "one JSON object for each event on stdout")


def _caring(verb: Add) -> None:
    verify = verb("verify", "care:verify", "hash models again; what is damaged is moved away")
    verify.add_argument("names", nargs="*", metavar="name", help="default: everything")
    verify.add_argument("--repair", action="store_true", help="fetch again what is damaged or missing")
    _json(verify)
    gc = verb("gc", "care:gc", "remove what neither a name nor a Model of this home needs")
    gc.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    gc.add_argument("--quota", metavar="20GB", help="remove hidden models only until the rest fits, oldest use first")
    gc.add_argument("--min-age", default="1h", metavar="1h", help="spare what is younger; default 1h")
    _json(gc)
