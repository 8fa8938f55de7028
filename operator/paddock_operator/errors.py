"""Errors that end the operator's program, with the sentence that `__main__` prints."""

from __future__ import annotations


class OperatorError(Exception):
    """The operator cannot go on; the message says why and what helps."""


class SettingsError(OperatorError):
    """The settings file cannot be used."""


class LeaseLostError(OperatorError):
    """Another replica leads now; two must never act at once."""
