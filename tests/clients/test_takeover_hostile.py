"""Failures around a take-over: crashed askers, two operators, stops, slow readers."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from clock_upstream import Clock
from fake_upstream import MODEL, FakeUpstream
from gateway import ISSUER, START_S, Done, binary
from publisher import OTHER, Publisher, key, other_issuer
from takeover import CHAT, Relayed, config, stream
from test_serve import authority
from test_takeover import is_zombie
from waiting import wait_until

# Connects and sends the line from its standard input; prints what it received, and waits.
ASKER = """
import socket, sys
asks = socket.socket(socket.AF_UNIX)
asks.connect(sys.argv[1])
print("connected", flush=True)
word = sys.stdin.readline().strip().encode()
asks.sendall(len(word).to_bytes(4, "big") + word)
heard, descriptors, _, _ = socket.recv_fds(asks, 65536, 16)
while len(heard) < 4 or len(heard) < 4 + int.from_bytes(heard[:4], "big"):
    more = asks.recv(65536)
    if not more:
        break
    heard += more
print(len(descriptors), heard[4:].decode()[:200], flush=True)
sys.stdin.readline()
"""


class Asker:
    """A process that asks a gateway to hand over, and ignores what it receives."""

    def __init__(self, gateway: Relayed) -> None:
        line = gateway.line("serving", pid=gateway.process.pid)
        assert line
        self._word = {
            "take-over": {
                "protocol": 2,
                "version": "x",
                "policy": "p",
                "name": line["name"],
                "api": line["api"],
                "metrics": line["metrics"],
                "admin": str(gateway.data / "admin.sock"),
                "auditors": None,
            }
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", ASKER, str(gateway.data / "handover.sock")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._hears() == "connected"

    def _hears(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def asks(self) -> str:
        """Asks; returns the number of descriptors and the beginning of the answer."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(self._word) + "\n")
        self.process.stdin.flush()
        return self._hears()

    def dies(self) -> None:
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def gateway(upstream: FakeUpstream, folder: Path) -> Iterator[Relayed]:
    with Relayed(folder, config(upstream.url)) as gateway:
        yield gateway


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.stop()


def upgraded(gateway: Relayed) -> Done:
    """Runs `upgrade`; the newest serving process is the gateway afterwards."""
    done = binary("upgrade", "--data", str(gateway.data), "--json", within=60)
    if done.code == 0:
        pid = json.loads(done.out)["pid"]
        wait_until(lambda: gateway.line("serving", pid=pid) is not None, START_S, "it serves")
        gateway.newest = pid
    return done


def end(gateway: Relayed) -> None:
    """Stops the newest process, which is not a child of this one, and checks the log."""
    pid = gateway.newest
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or is_zombie(pid), 30, "it has stopped")


def test_each_upgrade_of_an_idle_gateway_is_answered(gateway: Relayed) -> None:
    """The former process has no stream to drain, but still reports its successor before it ends."""
    served = set()
    for _ in range(12):
        done = upgraded(gateway)
        assert done.code == 0, done.err
        served.add(json.loads(done.out)["pid"])
        assert json.loads(done.out)["version"]
    assert len(served) == 12
    assert gateway.process.wait(30) == 0
    assert gateway.ask().status_code == 200
    end(gateway)


def test_two_upgrades_at_once_hear_the_truth(gateway: Relayed) -> None:
    done: list[Done] = []
    askers = [
        threading.Thread(
            target=lambda: done.append(
                binary("upgrade", "--data", str(gateway.data), "--json", within=60)
            )
        )
        for _ in range(2)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(60)
    codes = sorted(one.code for one in done)
    assert codes in ([0, 0], [0, 3]), [(one.code, one.err) for one in done]
    pids = [json.loads(one.out)["pid"] for one in done if one.code == 0]
    refused = [one.err for one in done if one.code == 3]
    assert all(
        "another upgrade is under way" in err
        or "still drains" in err
        or "has taken over already" in err
        for err in refused
    ), refused
    gateway.newest = pids[-1]
    wait_until(
        lambda: gateway.line("serving", pid=gateway.newest) is not None, START_S, "it serves"
    )
    assert gateway.ask().status_code == 200
    assert "the take-over failed; this process continues" not in gateway.logged()
    assert gateway.process.wait(30) == 0
    end(gateway)


def test_who_asks_the_former_process_late_is_refused(
    gateway: Relayed, upstream: FakeUpstream
) -> None:
    """A connection from before a take-over asks after it: it receives no socket."""
    late = Asker(gateway)
    upstream.gate.clear()
    seen: list[str] = []
    reader = stream(gateway, "behave gate", seen)
    gateway.take_over()
    heard = late.asks()
    late.dies()
    assert heard.startswith("0 ") and "refused" in heard, heard
    for number in range(8):
        done = binary(
            "agent",
            "suspend",
            f"tests/x{number}",
            "--reason",
            "r",
            "--unregistered",
            "--data",
            str(gateway.data),
        )
        assert done.code == 0, done.err
    upstream.gate.set()
    reader.join(10)
    assert seen[-1] == "data: [DONE]"
    gateway.drained()


def test_a_failed_take_over_leaves_the_policy_of_the_reload(
    gateway: Relayed, upstream: FakeUpstream
) -> None:
    gateway.config.write_text(gateway.config.read_text().replace("rpm = 1000000", "rpm = 999999"))
    gateway.reload()
    asker = Asker(gateway)
    assert int(asker.asks().split()[0]) >= 8
    asker.dies()
    wait_until(
        lambda: gateway.line("the take-over failed; this process continues") is not None,
        10,
        "it goes on",
    )
    assert gateway.ask().status_code == 200
    gateway.stop()
    rows = [
        json.loads(line)
        for line in binary("audit", "query", str(gateway.data / "audit")).out.splitlines()
    ]
    policies = [
        row["payload"]["policy"] for row in rows if row["kind"] in ("start", "reload", "handover")
    ]
    start, reload, asked, goes_on = policies
    assert start != reload and asked == "p" and goes_on == reload


def test_a_shortage_after_a_failed_take_over_passes(gateway: Relayed) -> None:
    """The successor crashes while no descriptor is free: requests are refused until one is."""
    asker = Asker(gateway)
    assert int(asker.asks().split()[0]) >= 8
    pid = gateway.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (5, hard))
    try:
        asker.dies()
        wait_until(
            lambda: "cannot be opened for what is short" in gateway.logged(),
            10,
            "the log falls short",
        )
        wait_until(
            lambda: "sockets of operators and scrapers cannot be opened yet" in gateway.logged(),
            10,
            "the doors fall short",
        )
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    wait_until(lambda: gateway.ask().status_code == 200, 20, "it serves again")
    wait_until(
        lambda: binary("agent", "list", "--data", str(gateway.data)).code == 0,
        20,
        "operators are heard again",
    )
    assert (
        httpx2.get(
            gateway.metrics.replace("/metrics", "/readyz"), timeout=10, trust_env=False
        ).status_code
        == 200
    )
    gateway.take_over()
    gateway.drained()


def test_a_shortage_that_lasts_after_a_failed_take_over_does_not_keep_the_process(
    gateway: Relayed,
) -> None:
    asker = Asker(gateway)
    assert int(asker.asks().split()[0]) >= 8
    pid = gateway.process.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (5, hard))
    asker.dies()
    wait_until(
        lambda: "cannot be opened for what is short" in gateway.logged(), 10, "the log falls short"
    )
    gateway.terminate()
    assert gateway.ended(30) == 1, "it says that its log has failed"
    gateway.process = gateway.successor()
    wait_until(lambda: gateway.serves(gateway.process), START_S, "the next process serves")
    gateway.follow(gateway.process)
    assert gateway.ask().status_code == 200


@pytest.mark.parametrize(
    "kept", [False, True], ids=["begun before", "begun on a kept connection after"]
)
def test_a_stop_of_both_leaves_nothing_unknown(kept: bool, clock: Clock, folder: Path) -> None:
    """A service manager stops both processes at once.

    Streams end with an event that states the cause, and outcomes state what was delivered.
    """
    ends: list[bytes] = []
    with Relayed(folder, config(clock.url, '[timeouts]\ndrain = "2s"\n')) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        connections = [socket.create_connection((host, int(port)), timeout=60) for _ in range(3)]

        def post(connection: socket.socket, seconds: str) -> None:
            body = json.dumps(
                {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": seconds}]}
            ).encode()
            head = (
                f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
                "Content-Type: application/json\r\n"
            )
            connection.sendall(
                head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
            )

        def until(connection: socket.socket, end: bytes) -> bytes:
            got = b""
            while end not in got:
                data = connection.recv(65_536)
                if not data:
                    break
                got += data
            return got

        for connection in connections:
            post(connection, "1")
            assert b"[DONE]" in until(connection, b"0\r\n\r\n")
        if not kept:
            for connection in connections:
                post(connection, "50")
                assert b"tick" in until(connection, b"tick")
        gateway.take_over()
        if kept:
            for connection in connections:
                post(connection, "50")
                assert b"tick" in until(connection, b"tick")
        former = gateway.former[0]
        former.terminate()
        gateway.process.terminate()
        ends.extend(until(connection, b"no such end") for connection in connections)
        assert former.wait(30) == 0 and gateway.process.wait(30) == 0
    for got in ends:
        assert b'"gateway-stopping"' in got, got[-400:]
    rows = [
        json.loads(line)
        for line in binary(
            "audit", "query", str(gateway.data / "audit"), "--kind", "outcome"
        ).out.splitlines()
    ]
    assert len(rows) == 6
    assert [row["payload"]["code"] for row in rows] == ["ok"] * 3 + ["gateway-stopping"] * 3, rows
    assert "without saying what became" not in gateway.logged()


def test_who_does_not_read_holds_nobody_up(gateway: Relayed) -> None:
    """The successor serves kept connections; slow readers take no slots of others."""
    host, port = gateway.url.removeprefix("http://").split(":")

    def connect(buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.connect((host, int(port)))
        connection.settimeout(10)
        return connection

    def post(connection: socket.socket, text: str, stream: bool) -> None:
        body = json.dumps(
            {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": text}]}
        ).encode()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
            "Content-Type: application/json\r\n"
        )
        connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def answer(connection: socket.socket) -> bytes:
        got = b""
        while b"choices" not in got:
            data = connection.recv(65_536)
            assert data, got
            got += data
        return got

    slow, good = [connect(4_096) for _ in range(20)], connect()
    for connection in (*slow, good):
        post(connection, "hello", stream=False)
        answer(connection)
    gateway.take_over()
    for connection in slow:
        post(connection, "behave flood", stream=True)
    for connection in slow:
        assert connection.recv(100)
    post(good, "hello", stream=False)
    assert answer(good).startswith(b"HTTP/1.1 200")
    for connection in (*slow, good):
        connection.close()
    gateway.drained()


def test_published_keys_outlive_a_take_over(
    upstream: FakeUpstream, folder: Path, tmp_path: Path
) -> None:
    """The publisher fails as soon as the successor serves."""
    authority(tmp_path)
    publisher = Publisher(tmp_path)
    key(tmp_path / "other.jwk")
    publisher.text = (tmp_path / "other.jwk.pub").read_text()
    published = other_issuer(publisher.url, tmp_path / "ca.pem")
    with Relayed(folder, config(upstream.url, published), issuer=ISSUER) as gateway:
        # The first answer comes after the first fetch.
        assert gateway.ask().status_code == 200
        words = ["--key", str(tmp_path / "other.jwk"), "--issuer", OTHER]
        gateway.token = gateway.issue(
            "tests/agent", *words, principal="user:agent", models=(MODEL,)
        )
        assert gateway.ask().status_code == 200
        gateway.take_over()
        publisher.status = 404
        before = publisher.asked
        wait_until(lambda: publisher.asked >= before + 2, 30, "the set is asked for again")
        assert gateway.ask().status_code == 200
        gateway.drained()
    publisher.stop()
