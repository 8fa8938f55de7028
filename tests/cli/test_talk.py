"""`run`, `ps`, `stop` and the conversation, against a small server that records what it is asked."""

from __future__ import annotations

import argparse
import http.server
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paddock_operator.cli import main
from paddock_operator.cli.chat import Chat
from paddock_operator.cli.client import Client, client_for
from paddock_operator.cli.errors import CliError
from paddock_operator.executors.local.home import Home, Ownership

DONE = {"done": True, "total_duration": 2_000_000_000, "load_duration": 0, "prompt_eval_count": 3,
        "prompt_eval_duration": 500_000_000, "eval_count": 10, "eval_duration": 1_000_000_000}  # fmt: skip


class Server(http.server.ThreadingHTTPServer):
    """`replies` by path: a list of lines, or (status, body)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.replies: dict[str, Any] = {
            "/api/generate": [{"response": "Hel"}, {"response": "lo", **DONE}],
            "/api/chat": [{"message": {"content": "Hi "}}, {"message": {"content": "you"}, **DONE}],
            "/api/show": [{}],
            "/api/ps": [{"models": [
                {"name": "tiny:latest", "digest": "ab" * 32, "size": 1000, "size_vram": 0, "context_length": 1024,
                 "expires_at": "2318-01-01T00:00:00Z"},
                {"name": "half:latest", "digest": "cd" * 32, "size": 1000, "size_vram": 520, "expires_at": ""}]}],
        }  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        self.server.asked.append((self.path, self.headers.get("Authorization", ""), body))
        reply = self.server.replies[self.path]
        status, lines = reply if isinstance(reply, tuple) else (200, reply)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(lines if isinstance(lines, bytes) else b"".join(json.dumps(x).encode() + b"\n" for x in lines))

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("PADDOCK_API_KEY", raising=False)
    found = Home.at(tmp_path / "home")
    found.prepare()
    return found


class Typed(io.TextIOWrapper):
    """Standard input with these bytes, a terminal or not."""

    def __init__(self, data: bytes, terminal: bool) -> None:
        super().__init__(io.BytesIO(data))
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def paddock(
    home: Home, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run a verb while an `up` with one Endpoint seems to run."""
    owned = Ownership.take(home)
    owned.publish({"default/main": server.url})
    home.local_key.write_text("local-key\n")

    def run(*arguments: str, stdin: bytes = b"", terminal: bool = True) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", Typed(stdin, terminal))
        return (main([*arguments, "--home", str(home.root)]), *capsys.readouterr())

    yield run
    owned.release()


Paddock = Callable[..., tuple[int, str, str]]


def test_one_question_with_the_key_of_this_run(paddock: Paddock, server: Server) -> None:
    assert paddock("run", "tiny", "Say", "hello") == (0, "Hello\n", "")
    assert server.asked == [
        ("/api/generate", "Bearer local-key", {"model": "tiny", "prompt": "Say hello", "stream": True})
    ]


def test_standard_input_is_the_prompt_or_goes_behind_it(paddock: Paddock, server: Server) -> None:
    paddock("run", "tiny", stdin=b"from a pipe\n", terminal=False)
    paddock("run", "tiny", "Summarise:", stdin="Gr\u00fc\u00dfe \xff".encode("latin-1"), terminal=False)
    assert [body["prompt"] for _, _, body in server.asked] == ["from a pipe", "Summarise:\n\nGr\ufffd\ufffde \ufffd"]
    code, out, err = paddock("run", "tiny", terminal=False)
    assert (code, out, err) == (2, "", "paddock: standard input is empty; give a prompt\n")


def test_statistics_go_to_stderr(paddock: Paddock) -> None:
    _, out, err = paddock("run", "tiny", "x", "--verbose")
    assert out == "Hello\n"
    for words in (
        "total duration:       2.000s",
        "prompt eval count:    3 token(s)",
        "eval rate:            10.00 tokens/s",
    ):
        assert words in err


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((404, [{"error": "model 'tiny' not found"}]), "model 'tiny' not found (404)"),
        ((401, [{"error": {"message": "no key"}}]), "no key (401)"),
        ((500, b"<html>"), "the server answered 500"),
        ((200, [{"response": "x"}, {"error": "the engine died"}]), "the engine died"),
        ((200, b"<html>\n"), "no JSON"),
    ],
)
def test_refusals_are_one_line(paddock: Paddock, server: Server, reply: Any, words: str) -> None:
    server.replies["/api/generate"] = reply
    code, _, err = paddock("run", "tiny", "x")
    assert code == 1
    assert words in err
    assert err.count("\n") == 1


def test_nobody_there(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ps", "--home", str(home.root)]) == 1
    assert capsys.readouterr().err.startswith(f"paddock: no paddock up runs for {home.root}; start one")
    owned = Ownership.take(home)
    assert main(["ps", "--home", str(home.root)]) == 1
    assert "has no Endpoint that answers yet" in capsys.readouterr().err
    owned.release()
    assert main(["ps", "--home", str(home.root), "--url", "http://127.0.0.1:1"]) == 1
    assert "127.0.0.1:1 does not answer" in capsys.readouterr().err
    assert main(["ps", "--home", str(home.root), "--url", "ftp://x"]) == 2


def test_the_local_key_stays_at_home(paddock: Paddock, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    paddock("run", "tiny", "x", "--url", server.url)
    monkeypatch.setenv("PADDOCK_API_KEY", "mine")
    paddock("run", "tiny", "x", "--url", server.url + "/")
    paddock("run", "tiny", "x")
    assert [key for _, key, _ in server.asked] == ["", "Bearer mine", "Bearer mine"]


def test_ps_and_stop(paddock: Paddock, server: Server) -> None:
    lines = paddock("ps")[1].splitlines()
    assert lines[0].split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert lines[1].split() == ["tiny:latest", "abababababab", "1.0", "KB", "100%", "CPU", "1024", "Forever"]
    assert "48%/52% CPU/GPU" in lines[2]
    assert paddock("stop", "tiny") == (0, "", "stopped 'tiny'\n")
    assert server.asked[-1][2] == {"model": "tiny", "keep_alive": 0, "stream": False}


def test_of_several_endpoints_the_one_that_shows_the_model(home: Home, server: Server) -> None:
    other = Server()
    other.replies["/api/show"] = (404, [{"error": "not found"}])
    thread = threading.Thread(target=other.serve_forever, args=(0.01,))
    thread.start()
    owned = Ownership.take(home)
    owned.publish({"default/a": other.url, "default/b": server.url})
    with client_for(argparse.Namespace(home=str(home.root), url=None), "tiny").post("/api/generate", {}) as answer:
        assert len(list(answer)) == 2
    assert [path for path, _, _ in server.asked] == ["/api/show", "/api/generate"]
    owned.release()
    other.shutdown()
    thread.join()
    other.server_close()


# The conversation


def talk(server: Server, *lines: str | type[BaseException], verbose: bool = False) -> list[dict[str, Any]]:
    """Type these lines; the bodies of the chats that were asked."""
    waiting = iter(lines)

    def ask(_: str) -> str:
        line = next(waiting, EOFError)
        if isinstance(line, str):
            return line
        raise line

    assert Chat(Client(server.url, "k"), "tiny", verbose, ask).loop() == 0
    return [body for path, _, body in server.asked if path == "/api/chat"]


def test_a_conversation_has_a_memory(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = talk(server, "hello", "again", "/bye")
    assert capsys.readouterr().out == "Hi you\nHi you\n"
    assert first["messages"] == [{"role": "user", "content": "hello"}]
    assert second["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hi you"},
        {"role": "user", "content": "again"},
    ]


def test_clear_and_settings(server: Server) -> None:
    asked = talk(
        server, "a", "/clear", "/set system Be brief.", "/set parameter temperature 0.5", "/set parameter stop x", "b"
    )
    assert asked[1]["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "b"}]
    assert asked[1]["options"] == {"temperature": 0.5, "stop": "x"}


def test_several_lines(server: Server) -> None:
    asked = talk(server, '"""one', "two", 'three"""', '"""all in one"""', '/set system """a', 'b"""', "c")
    assert [body["messages"][-1]["content"] for body in asked] == ["one\ntwo\nthree", "all in one", "c"]
    assert asked[2]["messages"][0] == {"role": "system", "content": "a\nb"}


def test_help_and_unknown_commands(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert talk(server, "/?", "/dance", "/set nothing", "", "   ") == []
    out = capsys.readouterr().out
    assert "/bye" in out
    assert "/dance is no command" in out


def test_interrupt_at_the_prompt_does_not_leave(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(talk(server, KeyboardInterrupt, "hello")) == 1
    assert "Use Ctrl-D or /bye" in capsys.readouterr().out


def test_an_error_does_not_end_the_conversation(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.replies["/api/chat"] = (503, [{"error": "not ready"}])
    assert len(talk(server, "a", "b")) == 2
    assert capsys.readouterr().err == "error: not ready (503)\n" * 2


def test_interrupt_stops_the_answer_and_keeps_what_was_said(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed: list[bool] = []

    class Interrupted:
        def __enter__(self) -> Iterator[dict[str, Any]]:
            yield {"message": {"content": "half an"}}
            raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None:
            closed.append(True)

    class Once(Client):
        def post(self, path: str, body: Any) -> Any:
            return super().post(path, body) if closed else Interrupted()

    lines = iter(["hello", "go on"])

    def ask(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    assert Chat(Once(server.url, ""), "tiny", False, ask).loop() == 0
    assert closed == [True], "the connection is closed, so the server stops too"
    assert server.asked[0][2]["messages"][1] == {"role": "assistant", "content": "half an"}
    assert capsys.readouterr().out == "half an\nHi you\n\n"


def test_verbose_conversation(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    talk(server, "a", "/set quiet", "b", verbose=True)
    assert capsys.readouterr().err.count("eval count:") == 2, "prompt eval and eval, once"


def test_a_url_needs_no_scheme_but_a_port_that_is_one() -> None:
    Client("127.0.0.1:11434", "")
    with pytest.raises(CliError, match="no valid port"):
        Client("http://h:99999999", "").get("/")
