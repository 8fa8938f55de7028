"""Read the operator's settings file. Called by `__main__`; the fields are those of `core.cluster.settings`."""

from __future__ import annotations

from pathlib import Path

import yaml

from paddock_operator.core.cluster.settings import Settings, parse_settings
from paddock_operator.errors import SettingsError


def load(path: Path) -> Settings:
    """Settings of a YAML file; an empty file means the defaults. Raises SettingsError that names file and field."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"cannot read settings {path}: {error}") from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise SettingsError(f"settings {path} must be a mapping, not {type(document).__name__}")
    try:
        return parse_settings(document)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"settings {path}: {error}") from error
