#!/usr/bin/env python3
"""Make `.venv` ready: `python3 scripts/bootstrap.py run|dev`. Called by make; needs only the standard library.

Steps: check the machine, create `.venv`, install the hashed locks, build the llama-cpp-python wheel once into the
user's cache (keyed by version, flags and processor), install it and the project. A stamp makes a second call a no-op.
Kept free of new syntax so that an old Python can still say that it is too old.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
LOCKS = {"run": ["runtime", "build", "models"], "dev": ["dev", "build", "models", "vectors"]}
# No multimodal library yet, no RPC backend ever; -march=native is right because the wheel never leaves this machine.
CMAKE_ARGS = "-DLLAVA_BUILD=OFF -DGGML_RPC=OFF -DGGML_NATIVE=ON"


def fail(message):
    sys.exit("paddock: " + message)


def check_python():
    if sys.version_info < (3, 11):
        fail(
            "Python 3.11 or newer is needed, this is %s; install a newer python3 and put it first on PATH"
            % platform.python_version()
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        fail("the Python module venv is missing; install it (Debian and Ubuntu: apt-get install python3-venv)")


def check_compiler():
    if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        fail("a C++ compiler is missing; install one (Debian and Ubuntu: apt-get install g++)")


def lock_path(name):
    return os.path.join(ROOT, "requirements", name + ".txt")


def read(path):
    with open(path, "rb") as file:
        return file.read()


def processor():
    try:
        return re.search(rb"^(?:flags|Features)\s*:.*$", read("/proc/cpuinfo"), re.MULTILINE).group(0)
    except (OSError, AttributeError):
        return platform.processor().encode()


def digest(*parts):
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def wheel_key():
    return digest(read(lock_path("engine")), CMAKE_ARGS.encode(), platform.machine().encode(), processor())


def profile_key(profile):
    names = [*LOCKS[profile], "engine"]
    return digest(
        *[read(lock_path(name)) for name in names],
        read(os.path.join(ROOT, "pyproject.toml")),
        wheel_key().encode(),
        sys.version.encode(),
    )


def stamp_path(profile):
    return os.path.join(VENV, ".paddock-" + profile)


def is_ready(profile):
    try:
        return read(stamp_path(profile)).decode() == profile_key(profile)
    except OSError:
        return False


def pip(*args):
    subprocess.run([PYTHON, "-m", "pip", "--disable-pip-version-check", "-q", *args], check=True, cwd=ROOT)


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "paddock", "wheels", wheel_key())


def cached_wheel():
    folder = cache_dir()
    names = [name for name in (os.listdir(folder) if os.path.isdir(folder) else []) if name.endswith(".whl")]
    return os.path.join(folder, names[0]) if names else None


def progress_of(log):
    steps = re.findall(rb"\[(\d+)/(\d+)\]", read(log))
    return "file %s of %s" % (steps[-1][0].decode(), steps[-1][1].decode()) if steps else "preparing"


def watch_build(process, log):
    start = time.monotonic()
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=10)
        print(
            "paddock: still building the engine, %s, %d s so far" % (progress_of(log), time.monotonic() - start),
            flush=True,
        )


def build_wheel():
    check_compiler()
    print("paddock: building the engine (llama.cpp) once for this processor; 5 to 6 minutes on 2 cores", flush=True)
    os.makedirs(os.path.dirname(cache_dir()), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(cache_dir())) as folder:
        log = os.path.join(folder, "build.log")
        env = dict(os.environ, CMAKE_ARGS=CMAKE_ARGS, PATH=os.path.join(VENV, "bin") + os.pathsep + os.environ["PATH"])
        command = [
            PYTHON,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "wheel",
            "-v",
            "--no-deps",
            "--no-build-isolation",
            "--no-cache-dir",
            "--require-hashes",
            "-r",
            lock_path("engine"),
            "-w",
            os.path.join(folder, "out"),
        ]
        with open(log, "wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=ROOT)
        if watch_build(process, log) != 0:
            sys.stderr.write(read(log)[-6000:].decode(errors="replace"))
            fail("building the engine failed; the end of the compiler's output is above")
        # Renamed as a whole, so that an interrupted build never leaves half a cache entry.
        os.rename(os.path.join(folder, "out"), cache_dir())


def wheel():
    if cached_wheel() is None:
        os.makedirs(os.path.dirname(cache_dir()), exist_ok=True)
        with open(cache_dir() + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if cached_wheel() is None:
                build_wheel()
    return cached_wheel()


def install(profile):
    if not os.path.exists(PYTHON):
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    print("paddock: installing the locked packages into .venv", flush=True)
    for name in LOCKS[profile]:
        pip("install", "--no-deps", "--require-hashes", "-r", lock_path(name))
    pip("install", "--no-deps", wheel())
    pip("install", "--no-deps", "--no-build-isolation", "-e", ".")
    with open(stamp_path(profile), "w") as stamp:
        stamp.write(profile_key(profile))


def main():
    profile = sys.argv[1] if len(sys.argv) > 1 else "run"
    if profile not in LOCKS:
        fail("unknown profile %r; use run or dev" % profile)
    check_python()
    if not is_ready(profile):
        install(profile)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        fail("%s failed with exit code %d; see the lines above" % (" ".join(map(str, error.cmd[:4])), error.returncode))
    except KeyboardInterrupt:
        fail("interrupted; run it again to go on")
