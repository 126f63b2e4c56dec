"""A restart without a gap: one process takes over from another under load, and either may crash."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from clock_upstream import TICKS, Clock
from fake_upstream import MODEL, FakeUpstream
from gateway import BINARY, START_S, STOP_S, Served, binary, environment
from plain_http2 import Narrow, PlainHttp2
from waiting import wait_until

FULL = "TOKEN_SHIELD_FULL" in os.environ
CHAT = "/v1/chat/completions"
# How long a client keeps an idle connection.
IDLE_S = 5


def config(url: str, more: str = "") -> str:
    return (
        # All callers come from one address.
        f'{more}\n[limits]\npeer_connections = 10000\n[[upstream]]\nname = "fake"\nurl = "{url}"\n'
        f'in_flight = 100000\n[[model]]\nname = "{MODEL}"\nroute = ["fake"]\n'
        "[class.default]\nrpm = 1000000\nburst = 100000\nin_flight = 100000\n"
    )


class Relayed(Served):
    """A gateway whose process is replaced by take-overs, repeatedly."""

    def __init__(self, folder: Path, config: str, issuer: str | None = None, **more: str) -> None:
        self.env = environment() | more
        self.former: list[subprocess.Popen[str]] = []
        # The serving process, if it is not a child of this one.
        self.newest = 0
        super().__init__(folder / "data", config, issuer=issuer)
        self.token = self.issue("tests/main", models=(MODEL,))

    def _start(self, *words: str) -> None:
        self.process = self._spawn(self.env, *words)
        try:
            self._hello()
        except BaseException:
            self.process.kill()
            self.process.wait(STOP_S)
            raise

    def _spawn(self, env: dict[str, str], *words: str) -> subprocess.Popen[str]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [str(BINARY), *words], env=env, stdin=subprocess.DEVNULL, stderr=log, text=True
            )

    def successor(self, **env: str) -> subprocess.Popen[str]:
        """A process that asks to take over."""
        return self._spawn(
            environment() | env, "serve", "--config", str(self.config), "--take-over"
        )

    def serves(self, process: subprocess.Popen[str]) -> bool:
        return self.line("serving", pid=process.pid) is not None

    def take_over(self) -> None:
        """Another process takes over, and the former one drains."""
        process = self.successor()
        wait_until(
            lambda: self.serves(process) or process.poll() is not None,
            START_S,
            "the successor serves",
        )
        assert process.poll() is None, self.logged()[-4000:]
        self.former.append(self.process)
        self.process = process

    def drained(self, within: float = 60) -> None:
        """Checks that every former process has ended with exit code 0."""
        for process in self.former:
            assert process.wait(within) == 0, self.logged()[-4000:]

    def follow(self, process: subprocess.Popen[str]) -> None:
        """Makes that process the current gateway, at its new addresses."""
        line = self.line("serving", pid=process.pid)
        assert line, self.logged()[-4000:]
        self.url, self.metrics = f"http://{line['api']}", f"http://{line['metrics']}/metrics"
        self.process = process

    def ask(self, text: str = "hello") -> httpx2.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx2.post(self.url + CHAT, json=body, headers=headers, timeout=30, trust_env=False)

    def kinds(self) -> dict[str, int]:
        """The number of records of each kind in the log."""
        found: dict[str, int] = {}
        for line in binary(
            "audit", "query", str(self.data / "audit"), within=1800
        ).out.splitlines():
            kind = json.loads(line)["kind"]
            found[kind] = found.get(kind, 0) + 1
        return found


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.stop()


def _has_ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the server has closed an idle connection.

    It asks the system, as HTTP libraries do, because the event loop may not have noticed yet.
    """
    poll = select.poll()
    poll.register(writer.get_extra_info("socket"), select.POLLIN)
    return reader.at_eof() or bool(poll.poll(0))


class Load:
    """A client like an SDK's, with retries off.

    It has a pool of kept connections, and uses the last one first. It does not reuse a connection
    that the server has closed, or that was idle for 5 s (the default of httpx and of the SDKs).
    """

    def __init__(self, gateway: Relayed) -> None:
        self.host, port = gateway.url.removeprefix("http://").split(":")
        self.port, self.token = int(port), gateway.token
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = []
        self.asked = self.done = 0
        self.long: float | None = None
        self.failed: list[str] = []

    async def ask(self, seconds: float) -> None:
        self.asked += 1
        try:
            await asyncio.wait_for(self._ask(seconds), 60 + seconds)
            self.done += 1
        except (OSError, asyncio.IncompleteReadError, TimeoutError, AssertionError) as error:
            self.failed.append(
                f"{seconds} s, at {datetime.now(timezone.utc):%H:%M:%S.%f}: {error!r}"
            )

    async def _ask(self, seconds: float) -> None:
        body = json.dumps(
            {
                "model": MODEL,
                "stream": True,
                "messages": [{"role": "user", "content": str(seconds)}],
            }
        ).encode()
        while self.idle:
            reader, writer, since = self.idle.pop()
            if time.monotonic() - since < IDLE_S and not _has_ended(reader, writer):
                break
            writer.close()
        else:
            reader, writer = await asyncio.open_connection(self.host, self.port)
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {self.token}\r\n"
            "Content-Type: application/json\r\n"
        )
        writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        head_of_answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head_of_answer.startswith("http/1.1 200"), head_of_answer
        text = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            text += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        assert text.endswith(b"data: [DONE]\n\n") and text.count(b"tick") == int(seconds * TICKS), (
            text[-300:]
        )
        if "connection: close" in head_of_answer:
            writer.close()
        else:
            self.idle.append((reader, writer, time.monotonic()))

    async def run(self, rate: float, over: asyncio.Event) -> None:
        """Sends `rate` requests a second until `over`, then waits for all.

        Streams last 2 s; with `long`, one in fifty lasts that long.
        """
        asked, loop = [], asyncio.get_running_loop()
        began = loop.time()
        while not over.is_set():
            seconds = self.long if self.long and len(asked) % 50 == 49 else 2.0
            asked.append(asyncio.create_task(self.ask(seconds)))
            await asyncio.sleep(max(0.0, began + len(asked) / rate - loop.time()))
        await asyncio.gather(*asked)
        for _, writer, _ in self.idle:
            writer.close()


def test_nothing_fails_while_processes_take_over_under_load(clock: Clock, folder: Path) -> None:
    """Runs 5 take-overs at 100 requests a second, with streams of 2 s and some of 12 s.

    The full run has 100 take-overs at 500 requests a second. Its streams last 2 s, and 60 s around
    every tenth take-over. A take-over waits until the one before has drained.
    """
    rounds, rate, long = (100, 500, 60.0) if FULL else (5, 100, 12.0)
    with Relayed(folder, config(clock.url)) as gateway:
        load = Load(gateway)

        async def all_of_it() -> None:
            over = asyncio.Event()
            running = asyncio.create_task(load.run(rate, over))
            for number in range(rounds):
                load.long = long if not FULL or number % 10 == 9 else None
                before = load.asked
                while load.asked < before + rate:
                    await asyncio.sleep(0.05)
                await asyncio.to_thread(gateway.take_over)
                # No process takes over during a drain, which waits for its streams.
                await asyncio.to_thread(gateway.drained, 120)
            over.set()
            await running

        asyncio.run(all_of_it())
        assert load.failed == [], f"{len(load.failed)} of {load.asked}: {load.failed[:5]}"
        assert load.done == load.asked
        gateway.stop()
        kinds = gateway.kinds()
    assert (kinds["admission"], kinds["outcome"], kinds["handover"]) == (
        load.asked,
        load.asked,
        rounds,
    )
    assert (kinds["start"], kinds["stop"]) == (1, 1)


@pytest.fixture
def gateway(upstream: FakeUpstream, folder: Path) -> Iterator[Relayed]:
    with Relayed(folder, config(upstream.url)) as gateway:
        yield gateway


def stream(gateway: Relayed, text: str, seen: list[str]) -> threading.Thread:
    """Reads a stream's events in a thread, from a separate connection."""

    def read() -> None:
        body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": text}]}
        headers = {"authorization": f"Bearer {gateway.token}"}
        with httpx2.stream(
            "POST", gateway.url + CHAT, json=body, headers=headers, timeout=60, trust_env=False
        ) as answer:
            seen.extend(line for line in answer.iter_lines() if line.startswith("data: "))

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: seen, 10, "the first event")
    return reader


def test_a_stream_goes_on_and_its_connection_serves_on(
    gateway: Relayed, upstream: FakeUpstream
) -> None:
    """An unmodified SDK with retries off: an open stream stays, and the same client continues."""
    client = OpenAI(base_url=gateway.url + "/v1", api_key=gateway.token, max_retries=0, timeout=30)
    upstream.gate.clear()
    open_stream = client.chat.completions.create(
        model=MODEL, stream=True, messages=[{"role": "user", "content": "behave gate"}]
    )
    first = next(iter(open_stream))
    assert first.choices[0].delta.content == "before "
    kept = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "kept"}]
    )
    gateway.take_over()
    for number in range(5):
        answer = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=[{"role": "user", "content": f"n{number}"}]
        )
        assert answer.parse().choices[0].message.content == kept.choices[0].message.content
    upstream.gate.set()
    assert (
        "".join(event.choices[0].delta.content or "" for event in open_stream if event.choices)
        == "after"
    )
    client.close()
    gateway.drained()
    gateway.stop()
    kinds = gateway.kinds()
    assert (kinds["admission"], kinds["outcome"], kinds["handover"], kinds["start"]) == (7, 7, 1, 1)


def test_requests_on_kept_connections_are_answered_and_their_connections_end(
    gateway: Relayed,
) -> None:
    with httpx2.Client(
        timeout=30, trust_env=False, headers={"authorization": f"Bearer {gateway.token}"}
    ) as client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
        assert "connection" not in client.post(gateway.url + CHAT, json=body).headers
        gateway.take_over()
        through = client.post(gateway.url + CHAT, json=body)
        assert (through.status_code, through.headers["connection"]) == (200, "close")
        again = client.post(gateway.url + CHAT, json=body)
        assert again.status_code == 200 and "connection" not in again.headers
    gateway.drained()


def test_a_connection_outlives_the_last_stream_on_it(
    gateway: Relayed, upstream: FakeUpstream
) -> None:
    """A stream's head from before the take-over announces no close: the next request passes."""
    host, port = gateway.url.removeprefix("http://").split(":")
    upstream.gate.clear()
    connection = http.client.HTTPConnection(host, int(port), timeout=30)

    def ask(text: str, stream: bool) -> http.client.HTTPResponse:
        body = json.dumps(
            {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": text}]}
        )
        connection.request(
            "POST",
            CHAT,
            body,
            {"authorization": f"Bearer {gateway.token}", "content-type": "application/json"},
        )
        return connection.getresponse()

    streams = ask("behave gate", stream=True)
    assert b"before" in streams.read1(65_536)
    gateway.take_over()
    began = time.monotonic()
    wait_until(
        lambda: time.monotonic() - began > 7, 10, "kept connections that are idle have ended"
    )
    upstream.gate.set()
    assert streams.read().endswith(b"data: [DONE]\n\n")
    ended = time.monotonic()
    wait_until(lambda: time.monotonic() - ended > 1, 10, "the former process has seen the end")
    connection.auto_open = 0
    answer = ask("hello", stream=False)
    assert (answer.status, answer.getheader("connection")) == (200, "close")
    answer.read()
    gateway.drained()


def test_who_is_revoked_at_the_successor_is_cut_at_the_predecessor(
    gateway: Relayed, upstream: FakeUpstream
) -> None:
    upstream.gate.clear()
    seen: list[str] = []
    reader = stream(gateway, "behave gate", seen)
    gateway.take_over()
    gateway.command("agent", "suspend", "tests/main", "--reason", "a test")
    reader.join(10)
    assert not reader.is_alive() and json.loads(seen[-1][6:])["error"]["code"] == "agent-suspended"
    upstream.gate.set()
    gateway.drained()
    gateway.command("agent", "resume", "tests/main", "--reason", "a test")


def test_while_one_drains_nobody_takes_over(gateway: Relayed, upstream: FakeUpstream) -> None:
    upstream.gate.clear()
    seen: list[str] = []
    reader = stream(gateway, "behave gate", seen)
    gateway.take_over()
    refused = gateway.successor()
    assert refused.wait(START_S) == 1
    assert "still drains" in gateway.logged()
    upgrade = binary("upgrade", "--config", str(gateway.config))
    assert upgrade.code == 3 and re.search("still drains, for [0-9]+ s", upgrade.err)
    assert gateway.ask().status_code == 200
    upstream.gate.set()
    reader.join(10)
    assert seen[-1] == "data: [DONE]"
    gateway.drained()


def test_limits_and_places_go_on(upstream: FakeUpstream, folder: Path) -> None:
    tight = config(upstream.url).replace(
        "rpm = 1000000\nburst = 100000\nin_flight = 100000\n", "rpm = 6\nburst = 4\nin_flight = 1\n"
    )
    with Relayed(folder, tight) as gateway:
        upstream.gate.clear()
        seen: list[str] = []
        reader = stream(gateway, "behave gate", seen)
        gateway.take_over()
        assert gateway.ask().json()["error"]["code"] == "in-flight-exceeded"
        upstream.gate.set()
        reader.join(10)
        gateway.drained()
        codes = [gateway.ask().status_code for _ in range(5)]
        assert 429 in codes, f"a restart gave the whole burst again: {codes}"


def test_places_at_upstreams_go_on(upstream: FakeUpstream, folder: Path) -> None:
    tight = config(upstream.url).replace(
        "in_flight = 100000\n[[model]]", "in_flight = 1\nqueue = 0\n[[model]]"
    )
    with Relayed(folder, tight) as gateway:
        upstream.gate.clear()
        seen: list[str] = []
        reader = stream(gateway, "behave gate", seen)
        gateway.take_over()
        assert gateway.ask().json()["error"]["code"] == "upstream-full"
        upstream.gate.set()
        reader.join(10)
        gateway.drained()
        wait_until(lambda: gateway.ask().status_code == 200, 10, "the place is given back")


def test_epochs_begin_before_and_after_a_take_over(
    gateway: Relayed, upstream: FakeUpstream
) -> None:
    """The newest epoch's log is handed over; later records of the former process go there."""
    gateway.command("audit", "begin", "--reason", "before")
    upstream.gate.clear()
    seen: list[str] = []
    reader = stream(gateway, "behave gate", seen)
    gateway.take_over()
    gateway.command("audit", "begin", "--reason", "while one drains")
    assert gateway.ask().status_code == 200
    upstream.gate.set()
    reader.join(10)
    assert seen[-1] == "data: [DONE]"
    gateway.drained()
    gateway.take_over()
    gateway.command("audit", "begin", "--reason", "after")
    assert gateway.ask().status_code == 200
    gateway.drained()
    kinds = gateway.kinds()
    assert (kinds["admission"], kinds["outcome"], kinds["epoch"]) == (3, 3, 3), kinds
    verified = binary("audit", "verify", str(gateway.data / "audit"))
    assert verified.code == 0, verified.out + verified.err


def test_a_take_over_that_does_not_suit_is_refused(gateway: Relayed) -> None:
    text = gateway.config.read_text()
    other = gateway.data / "other.toml"
    for changed, why in [
        (text.replace('name = "gw"', 'name = "another"', 1), "name is"),
        (
            text.replace('metrics = "127.0.0.1:0"', 'metrics = "127.0.0.1:9"'),
            "[listen] of the config has changed",
        ),
    ]:
        other.write_text(changed)
        done = binary("serve", "--config", str(other), "--take-over")
        assert done.code == 1 and why in done.err, done.err
    other.unlink()
    assert gateway.ask().status_code == 200
    assert gateway.line("another process has taken over") is None


def test_an_upgrade_starts_the_successor(gateway: Relayed) -> None:
    done = binary("upgrade", "--config", str(gateway.config), "--json")
    assert done.code == 0, done.err + gateway.logged()[-4000:]
    pid = json.loads(done.out)["pid"]
    assert gateway.process.wait(30) == 0
    assert gateway.ask().status_code == 200
    gateway.command("agent", "list")
    os.kill(pid, signal.SIGTERM)
    wait_until(
        lambda: not Path(f"/proc/{pid}").exists() or is_zombie(pid), STOP_S, "the successor stops"
    )
    verified = binary("audit", "verify", str(gateway.data / "audit"))
    assert verified.code == 0, verified.err


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_an_upgrade_to_what_cannot_serve_changes_nothing(gateway: Relayed) -> None:
    text = gateway.config.read_text()
    gateway.config.write_text(text + "\nno_such_key = 1\n")
    failed = subprocess.run(
        [str(BINARY), "serve", "--config", str(gateway.config), "--take-over"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert failed.returncode == 1
    gateway.config.write_text(text)
    assert gateway.ask().status_code == 200


STEPS = ["shut", "recorded", "paused", "passed", "ready", "gone", "served", "left"]
SUCCESSORS_STEPS = ["successor-asks", "successor-has", "successor-ready", "successor-goes"]


@pytest.mark.parametrize("step", STEPS)
def test_the_predecessor_may_die_at_any_step(
    step: str, upstream: FakeUpstream, folder: Path
) -> None:
    with Relayed(folder, config(upstream.url), TOKEN_SHIELD_DIES_AT=step) as gateway:
        assert gateway.ask().status_code == 200
        successor = gateway.successor()
        assert gateway.process.wait(START_S) == -signal.SIGKILL
        wait_until(
            lambda: gateway.serves(successor) or successor.poll() is not None,
            START_S,
            "the successor serves",
        )
        assert successor.poll() is None, gateway.logged()[-4000:]
        gateway.follow(successor)
        assert gateway.ask().status_code == 200
        gateway.command("agent", "list")


@pytest.mark.parametrize("step", SUCCESSORS_STEPS)
def test_the_successor_may_die_at_any_step(
    step: str, gateway: Relayed, upstream: FakeUpstream
) -> None:
    upstream.gate.clear()
    seen: list[str] = []
    reader = stream(gateway, "behave gate", seen)
    successor = gateway.successor(TOKEN_SHIELD_DIES_AT=step)
    assert successor.wait(START_S) == -signal.SIGKILL
    assert gateway.ask().status_code == 200
    gateway.command("agent", "list")
    upstream.gate.set()
    reader.join(10)
    assert seen[-1] == "data: [DONE]"
    gateway.take_over()
    assert gateway.ask().status_code == 200
    gateway.drained()


@pytest.mark.parametrize("step", ["successor-has", "successor-ready"])
def test_a_successor_that_hangs_takes_nothing_over(
    step: str, gateway: Relayed, upstream: FakeUpstream
) -> None:
    """A stopped process does not report that it is ready: the predecessor ends it and continues."""
    upstream.gate.clear()
    seen: list[str] = []
    reader = stream(gateway, "behave gate", seen)
    successor = gateway.successor(TOKEN_SHIELD_HANGS_AT=step)
    assert successor.wait(START_S) == -signal.SIGKILL
    wait_until(
        lambda: gateway.line("the take-over failed; this process goes on") is not None,
        10,
        "it says that it goes on",
    )
    assert gateway.ask().status_code == 200
    gateway.command("agent", "list")
    upstream.gate.set()
    reader.join(10)
    assert seen[-1] == "data: [DONE]"
    gateway.take_over()
    gateway.drained()


def test_http2_streams_stay_and_their_connection_is_told_to_leave(
    gateway: Relayed, upstream: FakeUpstream
) -> None:
    """An open stream completes, and the kept connection is served; then comes GOAWAY.

    The successor answers the request on the kept connection.
    """
    upstream.gate.clear()
    port = int(gateway.url.rpartition(":")[2])
    kept = PlainHttp2(port, gateway.token)
    said = [{"role": "user", "content": "behave gate"}]
    streamed = kept.post(CHAT, {"model": MODEL, "stream": True, "messages": said})
    assert b"before " in kept.first_data(streamed)
    gateway.take_over()
    through = kept.post(
        CHAT, {"model": MODEL, "messages": [{"role": "user", "content": "through"}]}
    )
    assert "choices" in json.loads(kept.whole(through))
    upstream.gate.set()
    assert kept.whole(streamed).endswith(b"data: [DONE]\n\n")
    assert kept.goes_away(), "GOAWAY, and the connection ends"
    kept.close()
    gateway.drained()
    gateway.stop()
    kinds = gateway.kinds()
    assert (kinds["admission"], kinds["outcome"], kinds["handover"]) == (2, 2, 1)


def test_a_caller_that_takes_nothing_keeps_no_former_process(
    upstream: FakeUpstream, folder: Path
) -> None:
    """Its windows are closed, and it has no token: `drain` applies, not `drain_streams`."""
    with Relayed(folder, config(upstream.url, '[timeouts]\ndrain = "2s"\n')) as gateway:
        caller = Narrow(int(gateway.url.rsplit(":", 1)[1]), "none", 0)
        caller.post(CHAT, {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]})
        gateway.take_over()
        assert caller.goes_away()
        gateway.drained(10)


def test_a_successor_that_dies_later_leaves_streams_that_end_with_an_error(
    gateway: Relayed, upstream: FakeUpstream
) -> None:
    upstream.gate.clear()
    seen: list[str] = []
    reader = stream(gateway, "behave gate", seen)
    gateway.take_over()
    # If it is killed before the former process knows that it serves, there is no take-over.
    taken_over = "another process has taken over"
    wait_until(
        lambda: gateway.line(taken_over, pid=gateway.process.pid) is not None,
        START_S,
        "the former process knows",
    )
    gateway.process.kill()
    gateway.process.wait(10)
    reader.join(10)
    assert (
        not reader.is_alive() and json.loads(seen[-1][6:])["error"]["code"] == "audit-unavailable"
    )
    upstream.gate.set()
    assert gateway.former[0].wait(30) == 0
    gateway._start("serve", "--config", str(gateway.config))
    wait_until(lambda: gateway.serves(gateway.process), START_S, "it serves again")
    gateway.follow(gateway.process)
    assert gateway.ask().status_code == 200


def test_a_predecessor_that_dies_leaves_outcomes_that_say_so(
    gateway: Relayed, upstream: FakeUpstream
) -> None:
    upstream.gate.clear()
    seen: list[str] = []
    errors: list[Exception] = []

    def read() -> None:
        try:
            stream(gateway, "behave gate", seen).join(20)
        except Exception as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: seen, 10, "the first event")
    gateway.take_over()
    gateway.former[0].kill()
    gateway.former[0].wait(10)
    reader.join(20)
    upstream.gate.set()
    assert gateway.ask().status_code == 200
    gateway.former.clear()
    gateway.stop()
    rows = [
        json.loads(line)
        for line in binary(
            "audit", "query", str(gateway.data / "audit"), "--kind", "outcome"
        ).out.splitlines()
    ]
    assert len(rows) == 2 and any('"unknown"' in json.dumps(row) for row in rows), rows


def test_a_stop_ends_streams_with_an_error_event(upstream: FakeUpstream, folder: Path) -> None:
    with Relayed(folder, config(upstream.url, '[timeouts]\ndrain = "1s"\n')) as gateway:
        upstream.gate.clear()
        seen: list[str] = []
        reader = stream(gateway, "behave gate", seen)
        gateway.stop()
        reader.join(10)
        assert json.loads(seen[-1][6:])["error"]["code"] == "gateway-stopping"
        upstream.gate.set()


class Manager:
    """A service manager that records notifications."""

    def __init__(self, name: str | Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name[1:]}" if isinstance(name, str) else str(name))
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def says(self, line: str) -> bool:
        try:
            while True:
                self.heard += self._socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return line in self.heard


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told(abstract: bool, upstream: FakeUpstream, folder: Path) -> None:
    name = f"@token-shield-tests-{os.getpid()}" if abstract else folder / "notify.sock"
    manager = Manager(name)
    more = {"NOTIFY_SOCKET": str(name), "WATCHDOG_USEC": "400000"}
    with Relayed(folder, config(upstream.url), **more) as gateway:
        wait_until(lambda: manager.says("READY=1"), 10, "READY=1")
        assert f"MAINPID={gateway.process.pid}" in manager.heard
        wait_until(lambda: manager.says("WATCHDOG=1"), 10, "WATCHDOG=1")
        gateway.reload()
        wait_until(lambda: manager.says("RELOADING=1"), 10, "RELOADING=1")
        before = gateway.process
        gateway.take_over()
        wait_until(
            lambda: manager.says(f"MAINPID={gateway.process.pid}"), 10, "the successor's MAINPID"
        )
        assert before.wait(30) == 0
        assert gateway.ask().status_code == 200
        os.kill(gateway.process.pid, signal.SIGTERM)
        assert gateway.process.wait(STOP_S) == 0


def test_sockets_that_a_service_manager_has_bound_are_taken(
    upstream: FakeUpstream, folder: Path
) -> None:
    """`LISTEN_FDS`: three descriptors from 3 on, in any order; the gateway binds no socket.

    The admin socket's file stays.
    """
    api, metrics = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    with Relayed(folder, config(upstream.url)) as gateway:
        gateway.stop()
        admin = socket.socket(socket.AF_UNIX)
        path = gateway.data / "admin.sock"
        admin.bind(str(path))
        admin.listen()
        text = gateway.config.read_text()
        text = text.replace('api = "127.0.0.1:0"', f'api = "127.0.0.1:{api.getsockname()[1]}"')
        gateway.config.write_text(
            text.replace(
                'metrics = "127.0.0.1:0"', f'metrics = "127.0.0.1:{metrics.getsockname()[1]}"'
            )
        )
        passed = [metrics, admin, api]
        # The shell puts them at 3, 4 and 5 and then becomes the gateway, so that LISTEN_PID is
        # right.
        puts = " ".join(f"{place}<&{one.fileno()}" for place, one in enumerate(passed, 3))
        script = f'exec {puts}; LISTEN_PID=$$ LISTEN_FDS=3 exec "$0" "$@"'
        with gateway.log.open("ab") as log:
            gateway.process = subprocess.Popen(
                ["bash", "-c", script, str(BINARY), "serve", "--config", str(gateway.config)],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stderr=log,
                text=True,
                pass_fds=[one.fileno() for one in passed],
            )
        wait_until(lambda: gateway.serves(gateway.process), START_S, "it serves")
        gateway.follow(gateway.process)
        assert gateway.url.endswith(f":{api.getsockname()[1]}")
        assert gateway.ask().status_code == 200
        gateway.command("agent", "list")
        gateway.stop()
        assert path.exists(), "a socket that it did not bind is not its to remove"
