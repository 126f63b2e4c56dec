"""HTTP/2 peers that flood control frames are closed soon; others are served, and a stop works."""

from __future__ import annotations

import json
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from clients import user
from fake_upstream import FakeUpstream
from gateway import Gateway, Served
from plain_http2 import PlainHttp2
from test_serve import fake_model, serve
from waiting import wait_until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
(
    DATA,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    PING,
    GOAWAY,
    WINDOW_UPDATE,
    CONTINUATION,
    UNKNOWN,
) = 0, 1, 2, 3, 4, 6, 7, 8, 9, 0x42
END_STREAM, END_HEADERS = 1, 4
ENHANCE_YOUR_CALM = 0xB
# GET / of 127.0.0.1, from HPACK's static table alone: the same bytes on every stream.
ASK = b"\x82\x86\x84\x01\x09127.0.0.1"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + struct.pack(">I", stream) + payload


OPENED = frame(HEADERS, END_HEADERS, 1, ASK)
BEGUN = frame(HEADERS, 0, 1, ASK)
# The first bytes, and the bytes that are repeated.
FLOODS: dict[str, tuple[bytes, bytes]] = {
    "ping": (b"", frame(PING, 0, 0, bytes(8)) * 4096),
    "ping-ack": (b"", frame(PING, 1, 0, bytes(8)) * 4096),
    "settings": (b"", frame(SETTINGS, 0, 0) * 4096),
    "priority": (b"", frame(PRIORITY, 0, 1, b"\0\0\0\0\x10") * 4096),
    "window-update": (b"", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 4096),
    "unknown": (b"", frame(UNKNOWN, 0, 0, b"x") * 4096),
    "unknown-on-a-stream": (OPENED, frame(UNKNOWN, 0, 1) * 4096),
    "goaway": (b"", frame(GOAWAY, 0, 0, bytes(8)) * 4096),
    "empty-data": (OPENED, frame(DATA, 0, 1) * 4096),
    "small-data": (OPENED, frame(DATA, 0, 1, b"x") * 4096),
    "continuation": (BEGUN, frame(CONTINUATION, 0, 1) * 4096),
    "large-continuation": (BEGUN, frame(CONTINUATION, 0, 1, b"\0" * 16_000) * 16),
    "reset": (
        b"",
        b"".join(
            frame(HEADERS, END_HEADERS | END_STREAM, n, ASK) + frame(RST_STREAM, 0, n, bytes(4))
            for n in range(1, 8193, 2)
        ),
    ),
}


def connect(gateway: Gateway) -> socket.socket:
    """An HTTP/2 connection, with TLS if the gateway has it."""
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
    if gateway.url.startswith("https:"):
        context = ssl.create_default_context(cafile=str(gateway.ca))
        context.set_alpn_protocols(["h2"])
        connection = context.wrap_socket(connection, server_hostname="localhost")
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
    return connection


class Flooder:
    """One connection that repeats `flood` and reads answers, until it is closed or told to stop."""

    def __init__(self, gateway: Gateway, first: bytes, flood: bytes) -> None:
        self.stopped = threading.Event()
        self.closed = threading.Event()
        self.received = b""
        self._connection = connect(gateway)
        self._connection.sendall(first)
        # One thread writes and reads, because two threads must not share Python's TLS connections.
        self._thread = threading.Thread(target=self._run, args=(memoryview(flood),), daemon=True)
        self._thread.start()

    def _run(self, flood: memoryview) -> None:
        self._connection.setblocking(False)
        at = 0
        try:
            while not self.stopped.is_set():
                # Both directions are tried in any case, because TLS buffers bytes internally.
                select.select([self._connection], [self._connection], [], 0.2)
                at = (at + self._send(flood[at:])) % len(flood)
                if not self._receive():
                    break
        except OSError:
            pass
        self.closed.set()

    def _send(self, rest: memoryview) -> int:
        try:
            return self._connection.send(rest)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def _receive(self) -> bool:
        """Returns whether more bytes may come."""
        try:
            while piece := self._connection.recv(1 << 16):
                self.received = (self.received + piece)[-65536:]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        return False

    def stop(self) -> None:
        self.stopped.set()
        self._thread.join(20)
        self._connection.close()


@contextmanager
def flooding(gateway: Gateway, kind: str, count: int = 2) -> Iterator[list[Flooder]]:
    flooders = [Flooder(gateway, *FLOODS[kind]) for _ in range(count)]
    try:
        yield flooders
    finally:
        for one in flooders:
            one.stop()


def asks(gateway: Gateway, client: httpx2.Client) -> int:
    body = {"model": "echo", "messages": user("hi")}
    return client.post(
        gateway.url + "/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {gateway.token}"},
    ).status_code


@pytest.fixture(scope="module", params=["cleartext", "tls"])
def flooded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    with Gateway(
        tmp_path_factory.mktemp("flooded") / "data", tls=request.param == "tls"
    ) as gateway:
        yield gateway


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_frames_ends_its_connection_and_nobody_elses(
    flooded: Gateway, kind: str
) -> None:
    trust = (
        ssl.create_default_context(cafile=str(flooded.ca))
        if flooded.url.startswith("https:")
        else False
    )
    with httpx2.Client(
        http2=flooded.url.startswith("https:"), verify=trust, trust_env=False, timeout=20
    ) as client:
        assert asks(flooded, client) == 200
        with flooding(flooded, kind) as flooders:
            began = time.monotonic()
            assert asks(flooded, client) == 200
            for one in flooders:
                assert one.closed.wait(10), f"a flood of {kind} goes on"
            # The limit is two seconds; a busy machine may take longer to notice.
            assert time.monotonic() - began < 5
            assert asks(flooded, client) == 200


def test_a_flooder_is_told_to_calm_down(flooded: Gateway) -> None:
    """Best effort: closing a connection with unread bytes resets it."""
    before = flooded.metric("token_shield_connections_ended_total", reason="flood")
    with connect(flooded) as connection:
        # Just over the budget: everything is read before the connection ends.
        connection.sendall(frame(PRIORITY, 0, 1, b"\0\0\0\0\x10") * 1200)
        data = b""
        try:
            while piece := connection.recv(65536):
                data += piece
        except ConnectionResetError:
            pass
    wait_until(
        lambda: (
            flooded.metric("token_shield_connections_ended_total", reason="flood") == before + 1
        ),
        10,
        "the end is counted",
    )
    assert not data or _last_frame(data) in {SETTINGS, WINDOW_UPDATE, GOAWAY}


def _last_frame(data: bytes) -> int:
    kind = -1
    while len(data) >= 9:
        length, kind = int.from_bytes(data[:3]), data[3]
        if kind == GOAWAY:
            assert int.from_bytes(data[13:17]) == ENHANCE_YOUR_CALM
        data = data[9 + length :]
    return kind


@pytest.mark.parametrize("kind", ["ping", "unknown", "settings"])
def test_a_gateway_stops_under_a_flood(tmp_path: Path, kind: str) -> None:
    with Gateway(tmp_path / "data") as gateway:
        ended = threading.Event()

        def again() -> None:
            """Floods, and reconnects when the connection is closed."""
            while not ended.is_set():
                try:
                    with flooding(gateway, kind, 1) as (one,):
                        one.closed.wait(5)
                except OSError:
                    return

        attackers = [threading.Thread(target=again, daemon=True) for _ in range(2)]
        for one in attackers:
            one.start()
        wait_until(
            lambda: gateway.metric("token_shield_connections_ended_total", reason="flood") >= 2,
            20,
            "the flood is seen",
        )
        began = time.monotonic()
        gateway.terminate()
        assert gateway.ended(20) == 0
        took = time.monotonic() - began
        ended.set()
        for one in attackers:
            one.join(30)
        # The limit is one second on an otherwise idle machine.
        assert took < 4, f"stopped after {took:.1f} s"


@pytest.fixture(scope="module")
def brief(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    times = '[timeouts]\nidle = "1s"\nheader = "2s"\n'
    with serve(tmp_path_factory.mktemp("brief"), times + fake_model(upstream.url)) as served:
        yield served


def test_frames_within_the_budget_do_not_keep_a_connection_without_requests(brief: Served) -> None:
    began = time.monotonic()
    with connect(brief) as connection:
        connection.settimeout(0.02)
        try:
            while time.monotonic() - began < 20:
                connection.sendall(frame(PING, 0, 0, bytes(8)))
                try:
                    if not connection.recv(65536):
                        break
                except TimeoutError:
                    pass
        except OSError:
            pass
    assert time.monotonic() - began < 15


def test_a_header_block_that_never_ends_is_closed_in_time(brief: Served) -> None:
    began = time.monotonic()
    with connect(brief) as connection:
        connection.sendall(BEGUN)
        try:
            while connection.recv(65536):
                pass
        except ConnectionResetError:
            pass
    assert time.monotonic() - began < 15


class Answered:
    """A connection that sends DATA on answered streams, within its window."""

    def __init__(self, gateway: Gateway) -> None:
        self.connection = connect(gateway)
        self._buffer = b""
        self._answered: set[int] = set()
        self.window = 65_535

    def until(self, met: Callable[[], bool]) -> None:
        """Reads until the condition is true; fails if the connection ends."""
        while not met():
            data = self.connection.recv(1 << 16)
            if not data:
                raise ConnectionResetError
            self._buffer += data
            while len(self._buffer) >= 9 and len(self._buffer) >= (
                end := 9 + int.from_bytes(self._buffer[:3])
            ):
                kind, stream, payload = (
                    self._buffer[3],
                    int.from_bytes(self._buffer[5:9]),
                    self._buffer[9:end],
                )
                self._buffer = self._buffer[end:]
                if kind == HEADERS:
                    self._answered.add(stream)
                if (kind, stream) == (WINDOW_UPDATE, 0):
                    self.window += int.from_bytes(payload)
                if kind == GOAWAY:
                    raise ConnectionResetError

    def flood(self, length: int, frames: int) -> int:
        """Sends until the connection is closed; returns how many frames the gateway accepted."""
        sent = 0
        for stream in range(1, 1 << 20, 2):
            try:
                self.connection.sendall(frame(HEADERS, END_HEADERS, stream, ASK))
                self.until(lambda stream=stream: stream in self._answered)
                for _ in range(50):
                    self.until(lambda: self.window >= 100 * length)
                    self.connection.sendall(frame(DATA, 0, stream, b"x" * length) * 100)
                    self.window -= 100 * length
                    sent += 100
                    if sent >= frames:
                        return sent
            except OSError:
                break
        return sent


@pytest.mark.parametrize("length", [1, 256])
def test_data_on_answered_streams_ends_its_connection(flooded: Gateway, length: int) -> None:
    peer = Answered(flooded)
    with peer.connection:
        assert peer.flood(length, 200_000) < 100_000


@pytest.mark.parametrize("piece", [100, 16_384])
def test_an_honest_body_in_pieces_passes(flooded: Gateway, piece: int) -> None:
    if not flooded.url.startswith("https:"):
        return
    body = json.dumps({"model": "echo", "messages": user("word " * 100_000)}).encode()
    pieces = (body[at : at + piece] for at in range(0, len(body), piece))
    trust = ssl.create_default_context(cafile=str(flooded.ca))
    with httpx2.Client(http2=True, verify=trust, trust_env=False, timeout=60) as client:
        headers = {"authorization": f"Bearer {flooded.token}", "content-type": "application/json"}
        answer = client.post(flooded.url + "/v1/chat/completions", content=pieces, headers=headers)
        assert (answer.status_code, answer.http_version) == (200, "HTTP/2"), answer.text[:300]
        assert asks(flooded, client) == 200


def test_a_request_that_is_refused_while_its_body_comes_keeps_the_connection(
    flooded: Gateway,
) -> None:
    """The client writes its whole body before it reads, so the body reaches an ended stream."""
    if not flooded.url.startswith("https:"):
        return
    body = json.dumps({"model": "echo", "messages": user("word " * 20_000)}).encode()
    before = flooded.metric("token_shield_connections_ended_total", reason="flood")
    with httpx2.Client(
        http2=True,
        verify=ssl.create_default_context(cafile=str(flooded.ca)),
        trust_env=False,
        timeout=60,
    ) as client:
        for _ in range(10):
            pieces = (body[at : at + 16_384] for at in range(0, len(body), 16_384))
            refused = client.post(
                flooded.url + "/v1/chat/completions",
                content=pieces,
                headers={"content-type": "application/json"},
            )
            assert refused.status_code == 401
        assert asks(flooded, client) == 200
    assert flooded.metric("token_shield_connections_ended_total", reason="flood") == before


def test_an_honest_client_is_not_closed(flooded: Gateway) -> None:
    """Normal control frames: keep-alive pings, and two window updates per piece of an answer."""
    if flooded.url.startswith("https:"):
        return
    client = PlainHttp2(flooded.port, flooded.token)
    for round_ in range(40):
        stream = client.post(
            "/v1/chat/completions",
            {"model": "echo", "messages": user("word " * 200), "stream": True},
        )
        assert client.whole(stream).endswith(b"data: [DONE]\n\n"), f"round {round_}"
        for _ in range(5):
            client._state.ping(bytes(8))
        client._flush()
    client.close()
