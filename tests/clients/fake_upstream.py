"""A model server that misbehaves on command, and records every request.

The last user message names the behaviour (`behave redirect`), so that tests share no switch. The
server writes raw bytes to plain sockets, because an HTTP library would refuse to misbehave.
"""

from __future__ import annotations

import gzip
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from waiting import wait_until

MODEL = "fake-model"
FLOOD_EVENTS = 1_024
FLOOD_TEXT = "flood " * 8_192

# Headers that the gateway must not copy from its upstream. Connection names X-Hop as hop-by-hop.
OWN_HEADERS = (
    ("Server", "secret-engine/7"),
    ("Set-Cookie", "session=upstream"),
    ("X-Powered-By", "secret-framework"),
    ("Via", "1.1 inner-proxy"),
    ("Alt-Svc", 'h3=":443"'),
    ("Strict-Transport-Security", "max-age=1"),
    ("Access-Control-Allow-Origin", "*"),
    ("WWW-Authenticate", "Basic"),
    ("Location", "http://127.0.0.1:9/elsewhere"),
    ("Refresh", "0; url=http://127.0.0.1:9/"),
    ("Token-Shield-Request", "rq_FORGED"),
    ("X-Should-Retry", "false"),
    ("Keep-Alive", "timeout=5"),
    ("X-Hop", "upstream"),
    ("Connection", "X-Hop"),
)


@dataclass(frozen=True)
class Request:
    """A request as received; header names in lower case, in order, not merged."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    raw_head: bytes

    def header(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def text(self) -> str:
        """The text of the last message, or None."""
        try:
            content = json.loads(self.body)["messages"][-1]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            return ""
        return (
            content
            if isinstance(content, str)
            else "".join(part.get("text", "") for part in content)
        )


@dataclass
class Exchange:
    """One request and the fate of its connection; times are of the monotonic clock, in seconds."""

    request: Request
    sent_bytes: int = 0
    left_at: float | None = None
    over: threading.Event = field(default_factory=threading.Event)


class Gone(Exception):
    """The peer closed the connection."""


class FakeUpstream:
    """Listens until `stop`: on a loopback port, with or without TLS, or on a Unix socket."""

    def __init__(
        self, *, port: int = 0, unix: Path | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        if unix is not None:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(unix))
            self._listener.listen()
            self.url = f"unix:{unix}"
        else:
            self._listener = socket.create_server(("127.0.0.1", port))
            self.port = self._listener.getsockname()[1]
            self.url = f"{'https://localhost' if tls else 'http://127.0.0.1'}:{self.port}"
        self._tls = tls
        self.exchanges: list[Exchange] = []
        self.gate = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stopping = False
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._stopping = True
        self.gate.set()
        # Shut down first: a close alone leaves the port open as long as `accept` waits on it.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                _close(connection)

    def exchange(self, text: str, within: float = 10) -> Exchange:
        """Waits for the newest exchange whose last message has this text."""

        def find() -> Exchange | None:
            with self._lock:
                return next(
                    (one for one in reversed(self.exchanges) if one.request.text() == text), None
                )

        return wait_until(find, within, f"a request {text!r} at the upstream")

    def reached(self, text: str) -> bool:
        """Whether a request with this text has arrived."""
        with self._lock:
            return any(one.request.text() == text for one in self.exchanges)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._welcome, args=(connection,), daemon=True).start()

    def _welcome(self, connection: socket.socket) -> None:
        if self._tls is not None:
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                return
        with self._lock:
            self._open.add(connection)
        self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        try:
            while not self._stopping:
                request = _read(reader)
                if request is None:
                    return
                exchange = Exchange(request)
                with self._lock:
                    self.exchanges.append(exchange)
                try:
                    self._answer(connection, exchange)
                except Gone:
                    return
                finally:
                    exchange.over.set()
        except OSError:
            return
        finally:
            reader.close()
            _close(connection)
            with self._lock:
                self._open.discard(connection)

    def _answer(self, connection: socket.socket, exchange: Exchange) -> None:
        """Answers one request; `Gone` ends the connection."""
        request = exchange.request
        if request.method == "GET":
            models = {
                "object": "list",
                "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "tests"}],
            }
            listed = request.target in ("/v1/models", "/models")
            _write(
                connection,
                exchange,
                _whole(
                    200 if listed else 404,
                    models if listed else {"error": {"message": "no such path"}},
                ),
            )
            return
        _, _, name = request.text().partition("behave ")
        behave = _BEHAVIOURS.get(name.split(" ")[0], _normal)
        behave(self, connection, exchange)


Behaviour = Callable[[FakeUpstream, socket.socket, Exchange], None]


def chunk(text: str | None, finish: str | None = None) -> bytes:
    """One server-sent event of a chat completion."""
    delta = {} if text is None else {"role": "assistant", "content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {
        "id": "chatcmpl-fake",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def completion(text: str) -> dict[str, object]:
    """A whole chat completion."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {
        "id": "chatcmpl-fake",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": choices,
        "usage": usage,
    }


def _whole(status: int, body: object, *headers: tuple[str, str]) -> bytes:
    data = json.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status} X",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_FRAME = b"0\r\n\r\n"


def _write(connection: socket.socket, exchange: Exchange, data: bytes) -> None:
    try:
        while data:
            sent = connection.send(data)
            exchange.sent_bytes += sent
            data = data[sent:]
    except OSError:
        exchange.left_at = time.monotonic()
        raise Gone from None


def _hung_up(connection: socket.socket, exchange: Exchange, wait_s: float) -> bool:
    """Whether the peer closes within this time.

    The peer sends no bytes while an answer runs, so readable means closed.
    """
    readable, _, _ = select.select([connection], [], [], wait_s)
    if readable:
        exchange.left_at = time.monotonic()
    return bool(readable)


def _normal(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    if json.loads(exchange.request.body).get("stream"):
        frames = b"".join(_framed(event) for event in (chunk("fine"), chunk(None, "stop"), DONE))
        _write(connection, exchange, STREAM_HEAD + frames + LAST_FRAME)
    else:
        _write(connection, exchange, _whole(200, completion("fine")))


def _headers(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    _write(connection, exchange, _whole(200, completion("fine"), *OWN_HEADERS))


def _forever(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    _write(connection, exchange, STREAM_HEAD)
    while not _hung_up(connection, exchange, 0.01):
        _write(connection, exchange, _framed(chunk("again ")))
    raise Gone


def _mute(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    """Sends one event, then stays silent until the peer closes."""
    _write(connection, exchange, STREAM_HEAD + _framed(chunk("one ")))
    _hung_up(connection, exchange, 60)
    raise Gone


def _thinking(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    """Sends no byte, not even a status line, until the peer closes."""
    _hung_up(connection, exchange, 60)
    raise Gone


def _late(upstream: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    """Sends the normal answer a second late."""
    if _hung_up(connection, exchange, 1):
        raise Gone
    _normal(upstream, connection, exchange)


def _flood(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    """Sends FLOOD_EVENTS events of about 48 KiB as fast as the peer reads them."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
    _write(connection, exchange, STREAM_HEAD)
    event = _framed(chunk(FLOOD_TEXT))
    for _event in range(FLOOD_EVENTS):
        _write(connection, exchange, event)
    _write(connection, exchange, _framed(chunk(None, "stop")) + _framed(DONE) + LAST_FRAME)


def _large(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    """A whole answer of 16 MiB."""
    _write(connection, exchange, _whole(200, completion("x" * (16 << 20))))


def _gate(upstream: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    """Begins an answer, and continues when the test opens the gate."""
    _write(connection, exchange, STREAM_HEAD + _framed(chunk("before ")))
    upstream.gate.wait(60)
    _write(
        connection,
        exchange,
        b"".join(_framed(event) for event in (chunk("after"), chunk(None, "stop"), DONE))
        + LAST_FRAME,
    )


def _redirect(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    status = int(exchange.request.text().split(" ")[-1])
    _write(connection, exchange, _whole(status, {}, ("Location", "http://127.0.0.1:9/elsewhere")))


def _status(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    status = int(exchange.request.text().split(" ")[-1])
    error = {
        "error": {"message": "the fake says no", "type": "invalid_request_error", "code": status}
    }
    _write(connection, exchange, _whole(status, error))


def _switch(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    _write(
        connection,
        exchange,
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        b"raw bytes",
    )
    raise Gone


def _garbage(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    _write(connection, exchange, b"\x00\xffthis is not HTTP at all\r\n\r\n")
    raise Gone


def _encoded(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    data = gzip.compress(json.dumps(completion("fine")).encode())
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    _write(connection, exchange, head.encode() + data)


def _mislabelled(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    """Sends events under the media type of a whole answer."""
    data = chunk("![x](https://evil.example/x.png)") + b"data: [DONE]\n\n"
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    _write(connection, exchange, head.encode() + data)


def _nothing(_: FakeUpstream, _connection: socket.socket, _exchange: Exchange) -> None:
    raise Gone


def _short(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    """Announces more bytes than it sends."""
    _write(
        connection,
        exchange,
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4096\r\n\r\n"
        b'{"id": "chat',
    )
    raise Gone


def _cut(_: FakeUpstream, connection: socket.socket, exchange: Exchange) -> None:
    """Sends a stream that breaks off in the middle."""
    _write(connection, exchange, STREAM_HEAD + _framed(chunk("half ")))
    raise Gone


_BEHAVIOURS: dict[str, Behaviour] = {
    "cut": _cut,
    "encoded": _encoded,
    "flood": _flood,
    "forever": _forever,
    "garbage": _garbage,
    "gate": _gate,
    "headers": _headers,
    "large": _large,
    "late": _late,
    "mislabelled": _mislabelled,
    "mute": _mute,
    "nothing": _nothing,
    "redirect": _redirect,
    "short": _short,
    "status": _status,
    "switch": _switch,
    "thinking": _thinking,
}


def _read(reader: BinaryIO) -> Request | None:
    """One request from the connection; None at its end."""
    lines: list[bytes] = []
    while (line := reader.readline(65_537)) not in (b"\r\n", b""):
        lines.append(line)
    if not lines:
        return None
    method, target, _ = lines[0].decode("latin-1").split(" ", 2)
    headers = tuple(
        (key.strip().lower(), value.strip())
        for key, _, value in (line.decode("latin-1").partition(":") for line in lines[1:])
    )
    named = dict(headers)
    if "chunked" in named.get("transfer-encoding", "").lower():
        body = b""
        while size := int(reader.readline().split(b";")[0], 16):
            body += reader.read(size)
            reader.readline()
        reader.readline()
    else:
        body = reader.read(int(named.get("content-length", "0")))
    return Request(method, target, headers, body, b"".join(lines))


def _close(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()
