"""The gateway itself is replaced: clients with open connections move on, and certificates change under way."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path

import httpx
import pytest
from tests.gateway import kit
from tests.gateway.test_process import outcome, started

from e2e.cluster import pki
from paddock_runner.tls import Certificates

CHAT = {"model": "smollm2"}


async def test_no_client_notices_that_a_gateway_goes(backend: kit.Backend, tmp_path: Path) -> None:
    key = kit.new_key()
    value = kit.config([kit.model_entry("smollm2", backend.url)], [kit.key_entry(key)])
    codes: list[int] = []
    moved = 0

    async def client(old: kit.Running, new: kit.Running) -> None:
        """Keeps its connection as long as it may; a new one leads to the new gateway, as a Service would."""
        nonlocal moved
        target = old.client
        while moved < 4 or len(codes) < 200:
            response = await target.post("/api/chat", json=CHAT, headers=old.auth())
            codes.append(response.status_code)
            if response.headers.get("connection") == "close":
                assert target is old.client
                target, moved = new.client, moved + 1

    async with (
        kit.running(tmp_path / "new.json", value, key) as new,
        kit.running(tmp_path / "old.json", value, key, linger_seconds=3.0) as old,
    ):
        clients = [asyncio.create_task(client(old, new)) for _ in range(4)]
        await kit.until(lambda: len(codes) > 40)
        old.server.handle_exit(15, None)
        async with asyncio.timeout(10):
            await asyncio.gather(*clients)
    assert (set(codes), moved) == ({200}, 4)


async def test_after_the_linger_new_work_is_refused(backend: kit.Backend, tmp_path: Path) -> None:
    key = kit.new_key()
    value = kit.config([kit.model_entry("smollm2", backend.url)], [kit.key_entry(key)])
    backend.script = kit.streaming(b'{"n":1}\n', then="hang")
    async with (
        kit.running(tmp_path / "g.json", value, key, linger_seconds=0.3) as gateway,
        gateway.client.stream("POST", "/api/chat", json=CHAT, headers=gateway.auth()) as response,
    ):
        parts = response.aiter_raw()
        await anext(parts)
        gateway.server.handle_exit(15, None)
        await kit.until(lambda: gateway.gateway._status.draining)
        ready = await gateway.client.get("/readyz")
        assert (ready.status_code, ready.headers["connection"]) == (503, "close")
        assert (await gateway.get("/api/tags")).status_code == 200
        await asyncio.sleep(0.35)
        refused = await gateway.get("/api/tags")
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two certificates of one authority, in the folders `first` and `second`."""
    folder = tmp_path_factory.mktemp("pki")
    (folder / "openssl.cnf").write_text(pki.CONFIG)
    pki.make_authority(folder, "ca")
    for name in ("first", "second"):
        pki.make_certificate(folder, pki.Identity(name, name, hosts=("127.0.0.1",)))
        (folder / name).mkdir()
        for end in ("crt", "key"):
            shutil.copy(folder / f"{name}.{end}", folder / name / f"tls.{end}")
    return folder


def mount(target: Path, source: Path, name: str) -> None:
    """Place files as the kubelet does: a data folder, one link that is replaced, and links through it."""
    target.mkdir(exist_ok=True)
    shutil.copytree(source, target / name)
    new = target / "..data.new"
    new.symlink_to(name)
    new.rename(target / "..data")
    for file in ("tls.crt", "tls.key"):
        if not (target / file).is_symlink():
            (target / file).symlink_to(f"..data/{file}")


async def test_a_replaced_certificate_is_served_without_a_restart(pairs: Path, tmp_path: Path) -> None:
    mounted = tmp_path / "tls"
    mount(mounted, pairs / "first", "..1")
    trust = ssl.create_default_context(cafile=str(pairs / "ca.crt"))

    async def shown(port: int) -> str:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
        certificate = writer.get_extra_info("peercert")
        writer.close()
        return str(certificate["subject"][0][0][1])

    async with started(tmp_path / "g.json", kit.config([], []), "--tls", str(mounted)) as program:
        url = program.url.replace("http:", "https:")
        port = httpx.URL(url).port
        assert port
        async with httpx.AsyncClient(base_url=url, verify=trust, trust_env=False) as client:
            assert (await client.get("/healthz")).status_code == 200
            assert await shown(port) == "first"
            mount(mounted, pairs / "second", "..2")
            async with asyncio.timeout(10):
                while await shown(port) != "second":
                    await asyncio.sleep(0.1)
            assert (await client.get("/healthz")).status_code == 200
        program.process.terminate()
        assert (await program.end())[0] == 0


def test_a_pair_that_does_not_fit_is_refused(pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    shutil.copytree(pairs / "first", folder)
    certificates = Certificates(folder)
    assert certificates.poll() is False
    shutil.copy(pairs / "second" / "tls.crt", folder / "tls.crt")
    assert certificates.poll() is False
    (folder / "tls.key").unlink()
    assert certificates.poll() is False
    shutil.copy(pairs / "second" / "tls.key", folder / "tls.key")
    assert certificates.poll() is True


async def test_wrong_usage_is_said_in_one_line(pairs: Path, tmp_path: Path) -> None:
    kit.replace(tmp_path / "g.json", kit.config([], []))
    base = ("--config", str(tmp_path / "g.json"), "--listen", "127.0.0.1:0")
    cases: tuple[tuple[tuple[str, str], dict[str, str], str], ...] = (
        (("--secret", "no-slash"), {}, "expected NAMESPACE/NAME"),
        (("--secret", "a/b"), {}, "POD_NAME"),
        (("--secret", "a/b"), {"POD_NAME": "p"}, "KUBERNETES_SERVICE_HOST"),
        (("--tls", str(tmp_path / "none")), {}, "No such file"),
    )
    for arguments, environment, words in cases:
        code, text = await outcome(*base, *arguments, env=environment)
        assert (code, text.count("\n"), words in text) == (2, 1, True), text
