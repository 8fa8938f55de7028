"""The engine's end of the socket, which never blocks a step. Called by `engine.loop`, `.startup` and `.child`."""

from __future__ import annotations

import os
import selectors
import socket
from collections import deque

from paddock_runner.engine.protocol import FrameReader, FromEngine, ToEngine, decode, encode

# The front drains the socket always, so more than this means that it is stuck: then the engine stops generating.
BACKLOG_BYTES = 4 * 1024 * 1024
_READ_BYTES = 256 * 1024


class LinkClosedError(Exception):
    """The front is gone."""


class FrameLink:
    """Frames over a connected socket. `wake` may be called from any thread, all else from one."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._reader = FrameReader()
        self._received: deque[ToEngine] = deque()
        self._out = bytearray()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)
        self._selector.register(self._wake_fd, selectors.EVENT_READ)

    @property
    def backlogged(self) -> bool:
        """The front does not read: generate nothing until it does."""
        return len(self._out) > BACKLOG_BYTES

    def receive(self) -> list[ToEngine]:
        """All frames that have arrived. Raises LinkClosedError at the end, DecodeError for nonsense."""
        self._read()
        frames = list(self._received)
        self._received.clear()
        return frames

    def receive_one(self) -> ToEngine:
        """Wait for a frame, with everything sent before. Raises as `receive`."""
        while not self._received:
            self.wait()
            self._read()
        return self._received.popleft()

    def send(self, message: FromEngine) -> None:
        """Queue a frame and write what the socket takes. Raises LinkClosedError."""
        self._out += encode(message)
        self.flush()

    def flush(self) -> None:
        """Write queued bytes as far as the socket takes them. Raises LinkClosedError."""
        try:
            while self._out:
                written = self._socket.send(self._out)
                del self._out[:written]
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkClosedError from error

    def drain(self, timeout: float) -> None:
        """Write everything, waiting up to `timeout` seconds for the front to read. Raises LinkClosedError."""
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(self._out)
        except OSError as error:
            raise LinkClosedError from error

    def wait(self) -> None:
        """Sleep until a frame arrives, `wake` is called, or queued bytes can be written."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        self._selector.modify(self._socket, events)
        for key, _ in self._selector.select():
            if key.fd == self._wake_fd:
                os.eventfd_read(self._wake_fd)
        self.flush()

    def wake(self) -> None:
        """Make the current or next `wait` return at once."""
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        self._selector.close()
        self._socket.close()
        os.close(self._wake_fd)

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                raise LinkClosedError from error
            if not data:
                raise LinkClosedError
            self._received.extend(_to_engine(payload) for payload in self._reader.feed(data))


def _to_engine(payload: bytes) -> ToEngine:
    message = decode(payload)
    if not isinstance(message, ToEngine):
        raise LinkClosedError(f"the front sent {type(message).__name__}, which is not its to send")
    return message
