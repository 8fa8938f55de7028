"""The home that a verb works on, from its arguments. Called by all verbs."""

from __future__ import annotations

import argparse

from paddock_operator.executors.local.home import Home


def home_of(arguments: argparse.Namespace) -> Home:
    """`--home` and `--models`, or their defaults."""
    return Home.at(getattr(arguments, "home", None), getattr(arguments, "models", None))
