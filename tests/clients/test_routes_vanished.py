"""A peer that vanishes: its packets are dropped suddenly, and neither side sees an end."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fake_upstream import MODEL, FakeUpstream
from gateway import Served
from raw_upstream import RawUpstream
from test_routes_failover import route, serve, up
from test_serve import ask, code, fake_model
from waiting import wait_until

HERE, THERE = "198.18.0.1", "198.18.0.2"
CLONE_NEWNET = 0x4000_0000
PIDFD_GETFD = 438
TCP_USER_TIMEOUT = 18


class Everywhere(Served):
    """A gateway that serves at HERE, where THERE can reach it."""

    def write(self, config: str) -> None:
        super().write(config)
        text = self.config.read_text().replace(
            'api = "127.0.0.1:0"', f'api = "{HERE}:0"\ndanger_plaintext = true'
        )
        self.config.write_text(text)


class Far:
    """A network namespace joined by a cable. Needs root.

    The namespace has the address THERE, and the tests have HERE.
    """

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._pid = self._holder.pid
        space = lambda pid: os.readlink(f"/proc/{pid}/ns/net")  # noqa: E731
        wait_until(lambda: space(self._pid) != space("self"), 10, "a namespace of its own")
        self._run(
            "ip",
            "link",
            "add",
            "near",
            "type",
            "veth",
            "peer",
            "name",
            "far",
            "netns",
            str(self._pid),
        )
        self._run("ip", "address", "add", f"{HERE}/30", "dev", "near")
        self._run("ip", "link", "set", "near", "up")
        self.run("ip", "address", "add", f"{THERE}/30", "dev", "far")
        self.run("ip", "link", "set", "far", "up")
        self.run("ip", "link", "set", "lo", "up")

    def _run(self, *words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"

    def run(self, *words: str) -> None:
        """Runs a command in the namespace."""
        self._run("nsenter", "--net", "--target", str(self._pid), *words)

    def socket(self) -> socket.socket:
        """A socket in the namespace, where it stays whichever thread uses it."""
        made: list[socket.socket] = []

        def make() -> None:
            # A thread may be in another namespace than its process (setns(2)).
            with open(f"/proc/{self._pid}/ns/net") as there:
                assert ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET) == 0
            made.append(socket.socket())

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def vanish(self) -> None:
        """Drops every packet that is sent from the namespace."""
        self.run("ip", "route", "add", "blackhole", HERE)

    def stop(self) -> None:
        # The cable is removed with its namespace, which open sockets keep alive.
        subprocess.run(["ip", "link", "delete", "near"], capture_output=True, check=False)
        self._holder.kill()
        self._holder.wait(10)


@pytest.fixture
def far() -> Iterator[Far]:
    there = Far()
    yield there
    there.stop()


@pytest.fixture
def good() -> Iterator[RawUpstream]:
    server = RawUpstream()
    yield server
    server.stop()


def away(far: Far) -> RawUpstream:
    """A model server in the namespace."""
    listener = far.socket()
    listener.bind((THERE, 0))
    listener.listen()
    return RawUpstream(listener=listener)


def options(gateway: Served, local: int | None, remote: int | None) -> dict[str, int] | None:
    """The socket options of the gateway's connection between these ports."""
    libc, process = ctypes.CDLL(None, use_errno=True), os.pidfd_open(gateway.process.pid)
    try:
        for name in os.listdir(f"/proc/{gateway.process.pid}/fd"):
            copy = libc.syscall(PIDFD_GETFD, process, int(name), 0)
            if copy < 0:
                continue
            try:
                end = socket.socket(fileno=copy)
            except OSError:
                os.close(copy)
                continue
            with end:
                try:
                    ports = (end.getsockname()[1], end.getpeername()[1])
                except (OSError, IndexError):
                    continue
                if ports[0] == (local or ports[0]) and ports[1] == (remote or ports[1]):
                    tcp = partial(end.getsockopt, socket.IPPROTO_TCP)
                    return {
                        "keep-alive": end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                        "ends after": tcp(socket.TCP_KEEPIDLE)
                        + tcp(socket.TCP_KEEPINTVL) * tcp(socket.TCP_KEEPCNT),
                        "user timeout": tcp(TCP_USER_TIMEOUT),
                    }
    finally:
        os.close(process)
    return None


def test_what_is_set_on_connections(tmp_path: Path, good: RawUpstream) -> None:
    with serve(tmp_path, route(("good", good.url))) as gateway:
        assert ask(gateway, "hello").status_code == 200
        assert options(gateway, None, good.port) == {
            "keep-alive": 1,
            "ends after": 30,
            "user timeout": 30_000,
        }
        # A busy server reads a large body late. It is alive, and acknowledges that its window is
        # full.
        assert ask(gateway, "x" * 100_000).status_code == 200
        assert options(gateway, None, good.port) == {
            "keep-alive": 1,
            "ends after": 30,
            "user timeout": 0,
        }
        assert ask(gateway, "hello").status_code == 200
        assert options(gateway, None, good.port) == {
            "keep-alive": 1,
            "ends after": 30,
            "user timeout": 30_000,
        }
        with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
            # A slow caller has a full window for a limited time too: `stream_idle` bounds it.
            own = caller.getsockname()[1]
            found = wait_until(
                lambda: options(gateway, gateway.port, own),
                10,
                "the caller's connection is accepted",
            )
            wait_until(
                lambda: (options(gateway, gateway.port, own) or {}).get("ends after") == 30,
                10,
                "its options are set",
            )
            assert (
                found["user timeout"] == 0
                and (options(gateway, gateway.port, own) or {})["keep-alive"] == 1
            )


def test_an_upstream_that_vanishes_costs_one_request_at_the_most(
    tmp_path: Path, far: Far, good: RawUpstream
) -> None:
    bad = away(far)
    times = '[timeouts]\nconnect = "1s"\nfirst_byte = "2s"\n'
    with serve(tmp_path, times + route(("bad", bad.url), ("good", good.url))) as gateway:
        assert ask(gateway, "there").status_code == 200 and bad.texts == ["there"]
        far.vanish()
        began = time.monotonic()
        # Over the kept connection: it was written completely, so the server may have run it.
        first = ask(gateway, "lost")
        assert first.status_code == 200 or code(first) == (504, "upstream-slow"), first.text
        for number in range(5):
            assert ask(gateway, f"next {number}").status_code == 200
        assert time.monotonic() - began < 15
        assert good.texts[-5:] == [f"next {number}" for number in range(5)]
        wait_until(lambda: not up(gateway, "bad"), 15, "a probe notices")
        line = gateway.line("upstream changed", upstream="bad")
        assert line and "timeout" in line["cause"]
    bad.stop()


def test_a_caller_that_vanishes_does_not_keep_its_place(
    tmp_path: Path, far: Far, upstream: FakeUpstream
) -> None:
    config = (
        '[timeouts]\nstream_idle = "2s"\n'
        + "[limits]\nanswer_bytes_per_token = 100000\n"
        + fake_model(upstream.url)
    )
    with Everywhere(tmp_path / "data", config) as gateway:
        gateway.token = gateway.issue("tests/main", models=(MODEL,))
        text = "behave flood vanished"
        body = (
            f'{{"model":"{MODEL}","stream":true,"messages":[{{"role":"user","content":"{text}"}}]}}'
        )
        caller = far.socket()
        caller.connect((HERE, gateway.port))
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {HERE}\r\n"
            f"authorization: Bearer {gateway.token}\r\n"
        )
        caller.sendall(
            (
                f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
            ).encode()
        )
        assert caller.recv(1024).startswith(b"HTTP/1.1 200")
        far.vanish()
        exchange = upstream.exchange(text)
        wait_until(lambda: exchange.over.is_set(), 20, "the upstream is let go")
        gateway.idle()
        caller.close()
