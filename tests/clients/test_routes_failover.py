"""Failover from an upstream that accepts and does not serve: which one is tried next, if any."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from fake_upstream import MODEL
from gateway import Served, binary
from raw_upstream import RawUpstream, answers, closes, hangs_up, resets, resets_soon, status, whole
from test_serve import ask, code
from waiting import wait_until

FULL = os.environ.get("TOKEN_SHIELD_FULL") == "1"
CLASS = (
    "[class.default]\nrpm = 1000000\nburst = 100000\nin_flight = 1000\noutput_tokens = 1000000\n"
)


def route(*upstreams: tuple[str, str]) -> str:
    """The config of one model on these upstreams: names with URLs, or with further lines."""
    names = json.dumps([name for name, _ in upstreams])
    tables = "".join(f'[[upstream]]\nname = "{name}"\nurl = "{url}"\n' for name, url in upstreams)
    return tables + f'[[model]]\nname = "{MODEL}"\nroute = {names}\n' + CLASS


def serve(folder: Path, config: str) -> Served:
    served = Served(folder / "data", config)
    served.token = served.issue("tests/main", models=(MODEL,))
    return served


@pytest.fixture
def good() -> Iterator[RawUpstream]:
    server = RawUpstream()
    yield server
    server.stop()


@pytest.fixture
def bad() -> Iterator[RawUpstream]:
    server = RawUpstream()
    yield server
    server.stop()


def failures(gateway: Served, count: int, text: str = "hello") -> list[httpx2.Response]:
    """Sends `count` requests, four at a time; returns the answers other than 200."""
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda number: ask(gateway, f"{text} {number}"), range(count)))
    return [answer for answer in got if answer.status_code != 200]


def up(gateway: Served, upstream: str) -> bool:
    return gateway.metric("token_shield_upstream_up", upstream=upstream) == 1


# ---- which upstream is tried next ----------------------------------------------------------------


def test_a_server_that_declines_costs_no_request(
    tmp_path: Path, good: RawUpstream, bad: RawUpstream
) -> None:
    bad.on_request = status(503, "Retry-After: 1")
    with serve(tmp_path, route(("bad", bad.url), ("good", good.url))) as gateway:
        assert failures(gateway, 200) == []
        assert bad.texts and len(good.texts) == 200
        line = gateway.line("upstream changed", upstream="bad")
        assert line and line["up"] is False and line["cause"] == "it answers 503"


def test_a_request_that_was_not_sent_whole_goes_on(
    tmp_path: Path, good: RawUpstream, bad: RawUpstream
) -> None:
    bad.on_accept = resets_soon
    with serve(tmp_path, route(("bad", bad.url), ("good", good.url))) as gateway:
        assert failures(gateway, 8, "x" * (12 << 20)) == []
        assert len(good.texts) == 8 and not up(gateway, "bad")


@pytest.mark.parametrize("how", ["closes", "resets", "hangs up", "503", "502", "504"])
def test_a_server_that_does_not_serve_is_left_alone(
    tmp_path: Path, good: RawUpstream, bad: RawUpstream, how: str
) -> None:
    if how in ("closes", "resets"):
        bad.on_accept = {"closes": closes, "resets": resets}[how]
    else:
        bad.on_request = hangs_up if how == "hangs up" else status(int(how))
    with serve(tmp_path, route(("bad", bad.url), ("good", good.url))) as gateway:
        began = time.monotonic()
        failed = failures(gateway, 200)
        # Three failures in a row mark it as down. Three more requests were in flight then. A trial
        # follows after 5, 10, 20 s and so on.
        trials = 1 + int(math.log2((time.monotonic() - began) / 5 + 1))
        assert len(failed) <= 6 + trials, f"{len(failed)} of 200 failed"
        print(f"{how}: {len(failed)} of 200 failed")
        assert not up(gateway, "bad")
        # A successful connection alone does not put it back into service.
        silent, dialled = bad.silent, bad.dialled
        wait_until(
            lambda: bad.silent > silent if bad.on_request is not answers else bad.dialled > dialled,
            15,
            "a probe dials",
        )
        assert not up(gateway, "bad")
        # A served request does.
        bad.on_accept, bad.on_request = (lambda _: True), answers
        wait_until(
            lambda: ask(gateway, "again").status_code == 200 and up(gateway, "bad"),
            65,
            "a trial is served",
        )


def test_the_last_resort_is_asked_though_it_is_down(tmp_path: Path, bad: RawUpstream) -> None:
    bad.on_request = hangs_up
    with serve(tmp_path, route(("bad", bad.url))) as gateway:
        for _ in range(5):
            assert code(ask(gateway, "no")) == (502, "upstream-invalid")
        assert not up(gateway, "bad")
        bad.on_request = answers
        assert ask(gateway, "yes").status_code == 200 and up(gateway, "bad")


def test_a_declined_request_is_answered_so_where_nobody_else_takes_it(
    tmp_path: Path, bad: RawUpstream
) -> None:
    bad.on_request = status(503, "Retry-After: 7")
    other = RawUpstream(status(503, "Retry-After: 9"))
    with serve(tmp_path, route(("bad", bad.url), ("other", other.url))) as gateway:
        answer = ask(gateway, "no")
        assert answer.status_code == 503 and answer.headers["retry-after"] in ("7", "9")
        assert len(bad.texts) == len(other.texts) == 1, "asked once each"
    other.stop()


# ---- which upstream is not tried again -----------------------------------------------------------


def test_a_request_that_may_have_run_is_not_repeated(
    tmp_path: Path, good: RawUpstream, bad: RawUpstream
) -> None:
    def deadly(server: RawUpstream, connection: socket.socket, body: bytes) -> bool:
        return "die" not in server.texts[-1] and answers(server, connection, body)

    bad.on_request = deadly
    with serve(tmp_path, route(("bad", bad.url), ("good", good.url))) as gateway:
        assert ask(gateway, "fine").status_code == 200
        # Over the kept connection.
        assert code(ask(gateway, "die")) == (502, "upstream-invalid")
        assert bad.texts == ["fine", "die"] and good.texts == []


def test_a_connection_that_ended_while_it_was_kept_costs_no_request(
    tmp_path: Path, bad: RawUpstream
) -> None:
    bad.on_request = lambda server, connection, body: answers(server, connection, body) and False
    with serve(tmp_path, route(("bad", bad.url))) as gateway:
        for number in range(50):
            assert ask(gateway, f"once {number}").status_code == 200
        assert bad.texts == [f"once {number}" for number in range(50)]


# ---- unrequested answers -------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
def test_an_answer_that_nobody_asked_for_reaches_nobody(
    tmp_path: Path, bad: RawUpstream, together: bool
) -> None:
    sent = threading.Event()

    def twice(_: RawUpstream, connection: socket.socket, body: bytes) -> bool:
        own, stray = whole(json.loads(body)["messages"][-1]["content"]), whole("stray")
        if together:
            connection.sendall(own + stray)
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(own)
            connection.sendall(stray)
        sent.set()
        return True

    bad.on_request = twice
    with (
        serve(tmp_path, route(("bad", bad.url))) as gateway,
        httpx2.Client(trust_env=False, timeout=60) as client,
    ):
        headers = {"authorization": f"Bearer {gateway.token}"}
        for number in range(2000 if FULL else 200):
            body = {"model": MODEL, "messages": [{"role": "user", "content": f"own {number}"}]}
            answer = client.post(gateway.url + "/v1/chat/completions", json=body, headers=headers)
            assert answer.json()["choices"][0]["message"]["content"] == f"own {number}"
            # Bytes sent after the next request cannot be distinguished from its answer.
            assert sent.wait(10)
            sent.clear()


def test_connections_are_kept_apart_by_principal(tmp_path: Path, bad: RawUpstream) -> None:
    whose: dict[int, set[str]] = {}

    def remembers(server: RawUpstream, connection: socket.socket, body: bytes) -> bool:
        whose.setdefault(connection.getpeername()[1], set()).add(server.texts[-1])
        return answers(server, connection, body)

    bad.on_request = remembers
    apart = route(("bad", bad.url)).replace(
        f'url = "{bad.url}"\n', f'url = "{bad.url}"\npool = "principal"\n'
    )
    with serve(tmp_path, apart) as gateway:
        other = gateway.issue("tests/other", principal="team:others", models=(MODEL,))
        for _ in range(10):
            assert ask(gateway, "one").status_code == 200
            assert ask(gateway, "other", other).status_code == 200
        assert sorted(len(texts) for texts in whose.values()) == [1, 1], whose


def test_connections_to_upstreams_probe_for_peers_that_vanished(
    tmp_path: Path, bad: RawUpstream
) -> None:
    with serve(tmp_path, route(("bad", bad.url))) as gateway:
        assert ask(gateway, "hello").status_code == 200

        def timers() -> list[str]:
            """Timers of idle connections to the upstream; 02 is keep-alive (proc_net_tcp(5))."""
            rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            return [
                row[5].split(":")[0]
                for row in rows
                if int(row[2].split(":")[1], 16) == bad.port and row[3] == "01"
            ]

        wait_until(lambda: timers() and set(timers()) == {"02"}, 10, "keep-alive probes")


def test_connections_of_callers_are_probed_too(tmp_path: Path, bad: RawUpstream) -> None:
    with (
        serve(tmp_path, route(("bad", bad.url))) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port)) as caller,
    ):
        own = caller.getsockname()[1]

        def timer() -> str | None:
            rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            ends = [(row, [int(end.split(":")[1], 16) for end in row[1:3]]) for row in rows]
            return next(
                (row[5].split(":")[0] for row, ends in ends if ends == [gateway.port, own]), None
            )

        wait_until(lambda: timer() == "02", 10, "keep-alive probes")


# ---- causes --------------------------------------------------------------------------------------


def test_the_cause_is_where_people_look(tmp_path: Path, bad: RawUpstream) -> None:
    bad.on_request = hangs_up
    with serve(tmp_path, route(("bad", bad.url))) as gateway:
        answer = ask(gateway, "a secret prompt")
        request = answer.headers["token-shield-request"]
        line = wait_until(
            lambda: gateway.line("request", request=request), 10, "the line of the request"
        )
        assert (
            line["cause"]
            == "upstream bad: closed: the server ended the connection without an answer"
        )
        live = gateway.command("why", request).out
        assert (
            "closed: the server ended the connection without an answer" in live
            and "upstream-invalid" in live
        )
        gateway.stop()
        assert binary("why", request, "--data", str(gateway.data)).out == live
        assert "a secret prompt" not in live + gateway.logged()
