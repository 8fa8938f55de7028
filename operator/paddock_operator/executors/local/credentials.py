"""The credentials of a private source: values of a declared Secret, as files for exactly as long as a puller runs.

`find` is called by `controller`, `mounted` by `puller`. A folder looks like the Secret's mount in a Job: one file for
each key. Values are in memory and in these files, nowhere else.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from paddock_operator.core.model_spec import Source
from paddock_operator.core.resources import Ref, secret_name, secret_values
from paddock_operator.executors.local.yamlread import Document

MISSING = "SecretNotFound"
PREFIX = "credentials-"
"""What the folders under `run` are called; `up` removes those that a killed run left."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """`secret` is the name in the Model's namespace; `values` by key, None while no such Secret is declared."""

    secret: str
    values: Mapping[str, bytes] | None = field(default=None, repr=False)

    @property
    def missing(self) -> str:
        """What is said as long as there is no such Secret; the words are those of a cluster."""
        return f"Secret {self.secret} does not exist in this namespace; create it"


def find(source: Source, namespace: str, secrets: Mapping[Ref, Document]) -> Credentials | None:
    """The credentials that a source names, None if it names none. `secrets` are the declared ones."""
    name = secret_name(source)
    if not name:
        return None
    document = secrets.get(Ref("Secret", namespace, name))
    return Credentials(name, secret_values(document.body) if document else None)


@contextmanager
def mounted(credentials: Credentials | None, run: Path) -> Iterator[Path | None]:
    """A fresh folder (0700) in `run` with the values as files (0600), while this lasts; None if there are none.

    Raises OSError.
    """
    if credentials is None or credentials.values is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=run))
    try:
        for key, value in credentials.values.items():
            _write(folder / key, value)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, value: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(value)
