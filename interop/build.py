"""Build the programs that Paddock must get along with, once: `python3 -m interop.build`.

Called by `conftest.py` and by hand, with the interpreter of `.venv` (it has pip, cmake and ninja). Stock `ollama` comes
from its Go module, the programs of llama.cpp that it starts from the source inside the llama-cpp-python package: both
sides run the same one. They lie in `~/.cache/paddock/interop/<key>` as `bin/ollama` and `lib/ollama/llama-server`,
where `ollama` looks for them. PADDOCK_LLAMA_BIN names a folder of such programs that were built already.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from e2e.cluster.build import BuildError, exclusive, go
from e2e.cluster.wheels import cache, digest, filled, lock

OLLAMA = "github.com/ollama/ollama@v0.33.0"
LLAMA_PROGRAMS = ("llama-server", "llama-quantize")
LLAMA_BIN = "PADDOCK_LLAMA_BIN"
CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DBUILD_SHARED_LIBS=OFF",
    "-GNinja",
)


def home() -> Path:
    """Where the programs of the present versions are or will be."""
    given = os.environ.get(LLAMA_BIN, "")
    inputs = [OLLAMA, lock("engine").read_text(), *LLAMA_PROGRAMS, *CMAKE_FLAGS, given]
    return cache("interop", digest(*(text.encode() for text in inputs)))


def ensure() -> Path:
    """Make all programs available; returns the path of `ollama`. Raises BuildError, RuntimeError."""
    folder = home()
    with exclusive(folder.with_name(folder.name + ".lock")):
        if not (folder / "lib" / "ollama").exists():
            _into(folder / "lib" / "ollama", _llama)
        if not (folder / "bin" / "ollama").exists():
            _into(folder / "bin", _ollama)
    return folder / "bin" / "ollama"


def _into(folder: Path, build: Callable[[Path], None]) -> None:
    """Let `build` fill a folder that appears as a whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        out = Path(scratch) / folder.name
        out.mkdir()
        build(out)
        out.rename(folder)


def _ollama(out: Path) -> None:
    _say("ollama", "2 to 6 minutes")
    # Its SQLite needs cgo. Outside of any module, or `go install` would look at the nearest go.mod.
    flags = {"CGO_ENABLED": "1", "GOBIN": str(out), "GOFLAGS": "-buildvcs=false"}
    _run([go(), "install", "-trimpath", "-ldflags", "-s -w", OLLAMA], out, **flags)


def _llama(out: Path) -> None:
    ready = os.environ.get(LLAMA_BIN)
    if ready:
        for file in Path(ready).iterdir():
            shutil.copy2(file, out / file.name, follow_symlinks=False)
        return
    _say("llama.cpp's programs", "7 to 15 minutes")
    with tempfile.TemporaryDirectory() as scratch:
        source = _source(Path(scratch))
        _run(["cmake", "-S", str(source), "-B", f"{scratch}/build", *CMAKE_FLAGS], source)
        _run(["cmake", "--build", f"{scratch}/build", "--target", *LLAMA_PROGRAMS], source)
        for name in LLAMA_PROGRAMS:
            shutil.copy2(f"{scratch}/build/bin/{name}", out / name)


def _source(scratch: Path) -> Path:
    """llama.cpp as the locked llama-cpp-python ships it."""
    flags = ["--no-deps", "--no-binary=:all:", "--no-build-isolation", "--require-hashes", "-r", str(lock("engine"))]
    folder = filled(cache("interop", "source-" + digest(lock("engine").read_bytes())), "download", "-q", *flags, "-d")
    with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
        archive.extractall(scratch, filter="data")
    return next(scratch.glob("llama_cpp_python-*")) / "vendor" / "llama.cpp"


def _run(command: list[str], folder: Path, **more: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, **more}
    nice = ["nice", "-n", "19", *command]
    done = subprocess.run(nice, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{command[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def _say(what: str, time: str) -> None:
    print(f"interop: building {what} from source once; {time} on 2 cores", file=sys.stderr, flush=True)


def main() -> None:
    """Command line: build and print the path of `ollama`."""
    try:
        print(ensure())
    except (BuildError, RuntimeError) as error:
        sys.exit(f"interop: {error}")


if __name__ == "__main__":
    main()
