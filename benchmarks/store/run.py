"""What a download costs: `python -m benchmarks.store.run [--gigabytes 2] [--ollama]`; the table goes to report.md.

Random bytes over loopback from a process of its own into a store on the disk of `--folder`. Every round also hashes
the same bytes on one core and writes them to the same disk, so that a noisy machine disturbs all sides alike.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import Row
from benchmarks.run import HEADER, cpu_model
from benchmarks.store.stock import against_stock

from paddock_runner.core.digest import Digest
from paddock_runner.core.manifest import build_manifest, layer
from paddock_runner.core.names import ModelName
from paddock_runner.store.store import Store

REPORT = Path(__file__).with_name("report.md")
STEP = 1 << 20
KILLS = 20
LINK = 125_000_000
BLOBS = 40


@dataclass(frozen=True)
class Source:
    """The bytes that every download fetches, in memory."""

    path: Path
    digest: Digest
    size: int


@dataclass(frozen=True)
class Served:
    """A running server of the source."""

    source: Source
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/random"

    def count(self) -> dict[str, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/count", timeout=10) as answer:
            found: dict[str, int] = json.load(answer)
        return found

    def start(self, folder: Path) -> subprocess.Popen[str]:
        """A child that downloads into the store at `folder`."""
        names = os.environ | {"PADDOCK_ALLOW_INSECURE_HOSTS": f"127.0.0.1:{self.port}"}
        arguments = [str(folder), self.url, self.source.digest.hex, str(self.source.size)]
        command = [sys.executable, "-m", "benchmarks.store.child", *arguments]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=names)
        assert child.stdout is not None
        if child.stdout.readline() != "begun\n":
            raise SystemExit(f"a download did not begin; its exit status is {child.wait()}")
        return child


def make_source(folder: Path, size: int) -> Source:
    hasher, luck = hashlib.sha256(), random.Random(1)
    path = folder / "source"
    with path.open("wb") as file:
        for at in range(0, size, STEP):
            piece = luck.randbytes(min(STEP, size - at))
            hasher.update(piece)
            file.write(piece)
    return Source(path, Digest(hasher.hexdigest()), size)


@contextlib.contextmanager
def serve(source: Source, rate: int = 0) -> Iterator[Served]:
    command = [sys.executable, "-m", "benchmarks.store.server", str(source.path), "--rate", str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield Served(source, int(server.stdout.readline()))
        finally:
            server.kill()


def finish(child: subprocess.Popen[str]) -> dict[str, float]:
    output, _ = child.communicate(timeout=600)
    if child.returncode:
        raise SystemExit(f"a download failed with exit status {child.returncode}")
    found: dict[str, float] = json.loads(output)
    return found


def hash_rate(source: Source) -> float:
    """Bytes/s that one core hashes."""
    hasher = hashlib.sha256()
    with source.path.open("rb") as file:
        piece = file.read(STEP)
    began = time.process_time()
    for _ in range(512):
        hasher.update(piece)
    return 512 * STEP / (time.process_time() - began)


def disk_rate(source: Source, folder: Path) -> float:
    """Bytes/s of writing the source to a file and forcing it to disk."""
    path = folder / "yardstick"
    began = time.perf_counter()
    with source.path.open("rb") as file, path.open("wb", buffering=0) as target:
        while piece := file.read(STEP):
            target.write(piece)
        os.fsync(target.fileno())
    rate = source.size / (time.perf_counter() - began)
    path.unlink()
    return rate


def settle() -> None:
    """Leave nothing of one measurement for the disk to do in the next."""
    os.sync()


def throughput(source: Source, folder: Path, rounds: int) -> list[Row]:
    ours, hashes, disks, costs, peaks = [], [], [], [], []
    with serve(source) as served:
        for number in range(rounds):
            settle()
            hashes.append(hash_rate(source))
            disks.append(disk_rate(source, folder))
            settle()
            store = folder / f"store-{number}"
            took = finish(served.start(store))
            shutil.rmtree(store)
            ours.append(source.size / took["seconds"])
            costs.append(took["cpu"] / source.size * 1e9)
            peaks.append(took["peak"])
    bound = min(statistics.median(hashes), statistics.median(disks))
    rate, peak = statistics.median(ours), max(peaks) / 1e6
    yard = f"SHA-256 {statistics.median(hashes) / 1e6:.0f} MB/s, disk {statistics.median(disks) / 1e6:.0f} MB/s"
    cost = statistics.median(costs)
    return [
        Row("throughput of a pull over loopback", f"{rate / 1e6:.0f} MB/s", yard, rate / bound, 0.9, "×", True),
        Row("CPU of a pull", f"{cost:.2f} s/GB", "no yardstick", cost, 3.0, " s/GB", False),
        Row("peak resident memory of a pull", f"{peak:.0f} MB", "whole process", peak, 100, " MB", False),
    ]


def kills(source: Source, folder: Path, count: int) -> Row:
    """Kill a download at random moments until it has been killed `count` times, then let it end."""
    luck, store = random.Random(7), folder / "store-kills"
    part = source.size / LINK / (count + 1)
    with serve(source, LINK) as served:
        done = 0
        while done < count:
            child = served.start(store)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(part * luck.uniform(0.2, 1.4))
            child.kill()
            done += child.wait() != 0
            if Store(store).has_verified(source.digest):
                raise SystemExit(f"the download ended before kill {done + 1}; take more bytes")
        finish(served.start(store))
        sent = served.count()["sent"]
    shutil.rmtree(store)
    figure = sent / source.size
    shown = f"{sent / 1e6:.0f} MB sent"
    return Row(f"bytes sent over bytes needed, {count} SIGKILLs", shown, "1 Gbit/s", figure, 1.02, "×", False)


def single_flight(source: Source, folder: Path) -> Row:
    store = folder / "store-four"
    with serve(source) as served:
        children = [served.start(store) for _ in range(4)]
        for child in children:
            finish(child)
        count = served.count()
    shutil.rmtree(store)
    shown = f"{count['requests']} requests, {count['sent'] / 1e6:.0f} MB"
    return Row("four processes, one digest", shown, "one fetch", count["sent"] / source.size, 1.02, "×", False)


def reopen(folder: Path) -> Row:
    """Open a store of 40 blobs, list its models and know that every blob is intact."""
    store = Store(folder / "store-many")
    with store.writing():
        blobs = []
        for number in range(BLOBS):
            path = folder / "small"
            path.write_bytes(random.Random(number).randbytes(STEP))
            blobs.append(store.write_blob(path))
        layers = [layer("model", blob.digest, blob.size) for blob in blobs]
        store.write_manifest(ModelName.parse("many:blobs"), build_manifest(layers[0], layers[1:]))
    times = []
    for _ in range(20):
        began = time.perf_counter()
        found = Store(folder / "store-many")
        known = [found.has_verified(item.digest) for stored in found.list() for item in stored.manifest.blobs]
        times.append((time.perf_counter() - began) * 1000)
        assert all(known)
        assert len(known) == BLOBS
    figure = statistics.median(times)
    return Row(f"re-open a store of {BLOBS} blobs", f"{figure:.1f} ms", "nothing hashed", figure, 50, " ms", False)


def report(rows: list[Row], words: str) -> str:
    head = (
        "# What a download costs\n\n"
        f"{datetime.datetime.now(datetime.UTC).date()}, {cpu_model()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}. `python -m benchmarks.store.run {words}`; "
        "medians of interleaved rounds, server and client on the same machine.\n\n"
    )
    return head + HEADER + "".join(row.markdown() for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--ollama", action="store_true", help="also pull with the real ollama, built from source once")
    parser.add_argument("--folder", type=Path, default=Path("build"), help="a folder on the disk to measure")
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=memory) as fast,
        tempfile.TemporaryDirectory(dir=arguments.folder) as place,
    ):
        source, folder = make_source(Path(fast), int(arguments.gigabytes * 1e9)), Path(place)
        rows = [
            *throughput(source, folder, arguments.rounds),
            kills(source, folder, arguments.kills),
            single_flight(source, folder),
            reopen(folder),
        ]
        if arguments.ollama:
            rows += against_stock(Path(fast), folder, arguments.rounds)
    text = report(rows, " ".join(sys.argv[1:]))
    REPORT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
