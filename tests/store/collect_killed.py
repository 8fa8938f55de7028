"""A collection that is killed before its n-th change of the disk, for each n; run as a program by test_collect_kills.

Arguments: a template folder and a scratch folder. Prints one JSON line for each kill: what was left. It forks, so it
must be a process without threads.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paddock_runner.core.names import PIN_HOST
from paddock_runner.store.collect import collect
from paddock_runner.store.manifests import StoredManifest
from paddock_runner.store.store import Store
from paddock_runner.store.usage import every_manifest

CHANGES = ("unlink", "rename", "rmdir", "remove")
MOST = 60


def die_at(number: int) -> None:
    """SIGKILL this process in the place of its `number`-th change of the file system."""
    left = number

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return real(*arguments, **options)

        return change

    for name in CHANGES:
        setattr(os, name, counting(getattr(os, name)))


def killed(folder: Path, number: int) -> bool:
    """Collect everything in a child that dies at its `number`-th change; False if it got to its end."""
    child = os.fork()
    if child == 0:
        die_at(number)
        collect(Store(folder), set(), 0)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def state(folder: Path) -> dict[str, Any]:
    store = Store(folder)
    roots = list(every_manifest(store))
    whole = [
        isinstance(root, StoredManifest) and all(store.blob_path(item.digest).is_file() for item in root.manifest.blobs)
        for root in roots
    ]
    names = [root for root in roots if not (isinstance(root, StoredManifest) and root.name.host == PIN_HOST)]
    return {
        "whole": all(whole),
        "roots": len(roots),
        "names": len(names),
        "blobs": len(list((folder / "blobs").iterdir())),
    }


def main() -> None:
    template, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    for number in range(MOST):
        folder = scratch / str(number)
        shutil.copytree(template, folder)
        died = killed(folder, number)
        after = state(folder)
        collect(Store(folder), set(), 0)
        print(json.dumps({"died": died, "after": after, "again": state(folder)}))
        shutil.rmtree(folder)
        if not died:
            return


if __name__ == "__main__":
    main()
