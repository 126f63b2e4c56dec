"""Callers that hold every connection, under a small limit of open files.

The log continues, and afterwards service returns to normal.
"""

from __future__ import annotations

import os
import resource
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

import gateway as gateways
from fake_upstream import MODEL
from gateway import Gateway, Served, binary
from test_conn_frames import ASK, END_HEADERS, HEADERS, PREFACE, SETTINGS, frame
from test_conn_http1 import Closed, Kept, asked, lengthy, said
from test_serve import ask, fake_model
from waiting import wait_until

FULL = bool(os.environ.get("TOKEN_SHIELD_FULL"))
LIMITS = [256, 1024, 4096] if FULL else [256]
ROUNDS = 3 if FULL else 1
TIMES = (
    '[timeouts]\nhandshake = "2s"\nheader = "2s"\nidle = "4s"\nbody_idle = "2s"\n'
    'first_byte = "3s"\nconnect = "2s"\n'
)
MORE = (
    "[limits]\npeer_connections = 100000\npeer_rps = 100000\n[class.default]\nrpm = 600000\n"
    "burst = 10000\nin_flight = 100000\n"
)


class Dead:
    """An upstream that accepts and never answers."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                self._held.append(self._listener.accept()[0])
            except OSError:
                return

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._held:
            one.close()


class Limited(Served):
    """A gateway whose soft and hard limits of open files are `limit`."""

    def __init__(self, data: Path, limit: int, config: str, **more: object) -> None:
        self._limit = limit
        super().__init__(data, config, **more)

    def _start(self, *words: str) -> None:
        limit = self._limit
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(gateways.BINARY), *words],
                env=gateways.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
            )
        self._hello()


@pytest.fixture(scope="module", autouse=True)
def plenty() -> Iterator[None]:
    """Raises this process's descriptor limit, for its end of every connection."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 20_000), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def limited(folder: Path, limit: int) -> Iterator[Limited]:
    dead = Dead()
    try:
        with Limited(folder / "data", limit, TIMES + MORE + fake_model(dead.url)) as running:
            running.token = running.issue("tests/main", models=(MODEL, "echo"))
            yield running
    finally:
        dead.stop()


Hold = Callable[[Gateway], socket.socket]


def silent(gateway: Gateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=20)


def half_tls(gateway: Gateway) -> socket.socket:
    """Half a ClientHello; for a listener without TLS it is a head that never ends."""
    connection = silent(gateway)
    connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
    return connection


def streams(gateway: Gateway) -> socket.socket:
    """HTTP/2 streams that are open and send no request."""
    connection = silent(gateway)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
    connection.sendall(
        b"".join(frame(HEADERS, END_HEADERS, number, ASK) for number in range(1, 40, 2))
    )
    return connection


def _head(gateway: Gateway, length: int) -> bytes:
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\n"
        f"authorization: Bearer {gateway.token}\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


def slow_body(gateway: Gateway) -> socket.socket:
    connection = silent(gateway)
    connection.sendall(_head(gateway, 1000) + b"{")
    return connection


def dead_upstream(gateway: Gateway) -> socket.socket:
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "x"}]}' % MODEL.encode()
    connection = silent(gateway)
    connection.sendall(_head(gateway, len(body)) + body)
    return connection


@pytest.mark.parametrize("limit", LIMITS)
def test_whoever_holds_everything_does_not_stop_the_gateway(tmp_path: Path, limit: int) -> None:
    with limited(tmp_path, limit) as gateway:
        lowered = [line for line in gateway.logged().splitlines() if "is lowered to" in line]
        assert len(lowered) == 1 and "RLIMIT_NOFILE" in lowered[0] and str(limit) in lowered[0]
        for hold in (silent, half_tls, streams, slow_body, dead_upstream):
            for _ in range(ROUNDS):
                _exhaust(gateway, hold, limit)
        assert "audit log" not in gateway.logged() and "Too many open files" not in gateway.logged()
    verified = binary("audit", "verify", str(gateway.data / "audit"))
    assert verified.code == 0, verified.out + verified.err


def _exhaust(gateway: Limited, hold: Hold, limit: int) -> None:
    # An existing connection, because each request needs a record and sometimes a file of the log.
    kept = Kept(gateway)
    held = []
    try:
        for _ in range(limit):
            try:
                held.append(hold(gateway))
            except OSError:
                break
        for _ in range(40):
            try:
                kept.send(lengthy(gateway, asked("still here")))
                answer = kept.answer()
            except (Closed, OSError):
                # An idle connection is closed when others wait for its place.
                break
            assert (answer[0], said(answer[2])) == (200, "still here")
        listed = gateway.command("agent", "list")
        assert "tests/main" in listed.out, "operators are served whatever callers hold"
        assert len(os.listdir(f"/proc/{gateway.process.pid}/fd")) < limit - 16
    finally:
        for one in held:
            one.close()
        kept.socket.close()
    wait_until(
        lambda: ask(gateway, "after all", model="echo").status_code == 200,
        20,
        f"service after {hold.__name__}",
    )
    wait_until(
        lambda: ask(gateway, "and again", model="echo").status_code == 200, 20, "service goes on"
    )


def test_half_handshakes_do_not_stop_the_gateway(tmp_path: Path) -> None:
    """`dev --tls` under a small limit, with TLS handshakes that do not continue."""

    class LimitedDev(Gateway):
        _start = Limited._start
        _limit = 256

    with LimitedDev(tmp_path / "data", tls=True) as gateway:
        held = []
        for _ in range(256):
            connection = silent(gateway)
            connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
            held.append(connection)
        assert gateway.command("agent", "list").code == 0
        for one in held:
            one.close()
        trust = ssl.create_default_context(cafile=str(gateway.ca))

        headers = {"authorization": f"Bearer {gateway.token}"}

        def served() -> bool:
            return (
                httpx2.get(
                    gateway.url + "/v1/models",
                    headers=headers,
                    verify=trust,
                    trust_env=False,
                    timeout=20,
                ).status_code
                == 200
            )

        wait_until(served, 20, "service after half handshakes")


def test_a_limit_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            str(gateways.BINARY),
            "dev",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--data",
            str(tmp_path / "data"),
        ],
        env=gateways.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (72, 72)),
    )
    assert done.returncode != 0
    assert "RLIMIT_NOFILE" in done.stderr and "raise it to" in done.stderr


def test_the_soft_limit_is_raised(tmp_path: Path) -> None:
    class Soft(Gateway):
        def _start(self, *words: str) -> None:
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
            try:
                super()._start(*words)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)

    with Soft(tmp_path / "data") as gateway:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        assert gateway.metric("token_shield_descriptors_limit") == hard
        assert 0 < gateway.metric("token_shield_descriptors_open") < 256
