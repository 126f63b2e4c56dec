"""A model server that answers with exactly the bytes of the test, and then closes."""

from __future__ import annotations

import json
import socket
import threading

from fake_upstream import _read

JSON_HEAD = "HTTP/1.1 {} X\r\ncontent-type: {}\r\nconnection: close\r\n"


def whole(
    body: bytes | object,
    status: int = 200,
    media: str = "application/json",
    length: int | None = None,
    **headers: str,
) -> bytes:
    """An answer with a length, which may differ from the announced length."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = JSON_HEAD.format(status, media) + "".join(
        f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()
    )
    return (
        f"{head}content-length: {len(data) if length is None else length}\r\n\r\n".encode() + data
    )


def stream(*events: bytes, media: str = "text/event-stream") -> bytes:
    """Events that end with the connection."""
    return (JSON_HEAD.format(200, media) + "\r\n").encode() + b"".join(events)


def event(data: object, name: str = "") -> bytes:
    """One event; a value other than text is written as JSON."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


class Scripted:
    """Listens on a loopback port until `stop`.

    The text of the last message, the prompt or the input selects the answer.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._answers: dict[str, tuple[bytes, bool]] = {}
        self.sent: dict[str, int] = {}
        self.bodies: dict[str, bytes] = {}
        threading.Thread(target=self._accept, daemon=True).start()

    def say(self, mark: str, answer: bytes, *, endless: bool = False) -> None:
        """Sets the answer to requests for `mark`.

        An endless answer repeats its last event until the peer closes.
        """
        self._answers[mark] = (answer, endless)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            request = _read(reader)
            if request is None:
                return
            if request.method == "GET":
                connection.sendall(whole({}, 404))
                return
            asked = json.loads(request.body)
            mark = asked.get("prompt") or asked.get("input") or asked["messages"][-1]["content"]
            answer, endless = self._answers[mark]
            self.bodies[mark] = request.body
            events = answer.partition(b"\r\n\r\n")[2]
            last = events.rstrip().rpartition(b"\n\n")[2] + b"\n\n"
            try:
                connection.sendall(answer)
                while endless:
                    connection.sendall(last * 64)
                    self.sent[mark] = self.sent.get(mark, 0) + 64 * len(last)
                # A close with unread bytes would reset the connection.
                connection.shutdown(socket.SHUT_WR)
                reader.read()
            except OSError:
                return
