"""A restart without a gap: one process takes over from another under load, and either may crash."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from openai import OpenAI

from clock_upstream import Clock
from fake_upstream import MODEL, FakeUpstream
from gateway import BINARY, START_S, STOP_S, binary, environment
from plain_http2 import Narrow, PlainHttp2
from takeover import (
    CHAT,
    Load,
    Relayed,
    config,
    stream,
)
from waiting import wait_until

FULL = "TOKEN_SHIELD_FULL" in os.environ


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.stop()


def test_nothing_fails_while_processes_take_over_under_load(clock: Clock, memory: Path) -> None:
    """Runs 5 take-overs at 100 requests a second, with streams of 2 s and some of 12 s.

    The full run has 100 take-overs at 500 requests a second. Its streams last 2 s, and 60 s around
    every tenth take-over. A take-over waits until the one before has drained.
    """
    rounds, rate, long = (100, 500, 60.0) if FULL else (5, 100, 12.0)
    with Relayed(memory, config(clock.url)) as gateway:
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

    # Until the predecessor has closed its socket, it may answer itself: "ask that one".
    def is_refused() -> bool:
        assert gateway.successor().wait(START_S) == 1
        return "still drains" in gateway.logged()

    wait_until(is_refused, 20, "the successor refuses too")
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
        lambda: gateway.line("the take-over failed; this process continues") is not None,
        10,
        "it says that it continues",
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
