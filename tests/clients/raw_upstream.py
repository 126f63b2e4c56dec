"""A model server on plain sockets; its behaviour is a function that tests can change."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable

from fake_upstream import completion

Behaviour = Callable[["RawUpstream", socket.socket, bytes], bool]


class RawUpstream:
    """Listens on a loopback port, or at `listener`, until `stop`.

    `on_accept` gets each new connection and returns whether to serve it. `on_request` gets each
    complete request as text, and returns whether to keep the connection. `texts` holds the last
    message of every complete request. `dialled` counts connections. `silent` counts connections
    that ended without a byte, as probes do.
    """

    def __init__(
        self,
        on_request: Behaviour | None = None,
        on_accept: Callable[[socket.socket], bool] | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        self.on_request = on_request or answers
        self.on_accept = on_accept or (lambda _: True)
        self.texts: list[str] = []
        self.dialled = 0
        self.silent = 0
        self._listener = listener or socket.create_server(("127.0.0.1", 0), backlog=512)
        host, self.port = self._listener.getsockname()
        self.url = f"http://{host}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.dialled += 1
            if self.on_accept(connection):
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            try:
                first = True
                while (body := _body(reader)) is not None:
                    first = False
                    if body:
                        self.texts.append(json.loads(body)["messages"][-1]["content"])
                    if not body:
                        # The gateway asks for the weights of the model.
                        connection.sendall(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")
                    elif not self.on_request(self, connection, body):
                        return
                self.silent += first
            except OSError:
                pass  # the gateway has closed


def _body(reader: object) -> bytes | None:
    """The body of the next request; None at the end of the connection."""
    length, line = 0, reader.readline()
    if not line:
        return None
    while (line := reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return reader.read(length)


def whole(text: str, status: int = 200, *headers: str) -> bytes:
    """A whole answer in wire format."""
    body = json.dumps(completion(text) if status == 200 else {"error": {"message": text}}).encode()
    lines = [
        f"HTTP/1.1 {status} X",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answers(_: RawUpstream, connection: socket.socket, body: bytes) -> bool:
    """Returns the request's text."""
    connection.sendall(whole(json.loads(body)["messages"][-1]["content"]))
    return True


def status(code: int, *headers: str) -> Behaviour:
    """Answers every request with that status."""

    def behave(_: RawUpstream, connection: socket.socket, _body: bytes) -> bool:
        connection.sendall(whole("no", code, *headers))
        return True

    return behave


def hangs_up(_: RawUpstream, _connection: socket.socket, _body: bytes) -> bool:
    """Reads the request and closes."""
    return False


def closes(connection: socket.socket) -> bool:
    """Accepts and closes."""
    connection.close()
    return False


def resets(connection: socket.socket) -> bool:
    """Accepts and resets the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    return False


def resets_soon(connection: socket.socket) -> bool:
    """Reads a few bytes and resets the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.recv(1024)
    return resets(connection)
