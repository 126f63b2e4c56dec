"""A full upstream: which request waits, which is next, and which is told to retry."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from fake_upstream import MODEL
from gateway import Served
from raw_upstream import RawUpstream, answers
from test_routes_failover import route, serve
from test_serve import ask, code
from waiting import wait_until


class Held:
    """A server that answers a request when the test releases it."""

    def __init__(self) -> None:
        self._gates: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self.server = RawUpstream(self._behave)

    def gate(self, text: str) -> threading.Event:
        with self._lock:
            return self._gates.setdefault(text, threading.Event())

    def _behave(self, server: RawUpstream, connection: socket.socket, body: bytes) -> bool:
        import json

        self.gate(json.loads(body)["messages"][-1]["content"]).wait(60)
        return answers(server, connection, body)

    def release(self, *texts: str) -> None:
        for text in texts:
            self.gate(text).set()

    def all(self) -> None:
        with self._lock:
            for gate in self._gates.values():
                gate.set()


@pytest.fixture
def held() -> Iterator[Held]:
    server = Held()
    yield server
    server.all()
    server.server.stop()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def full(held: Held, places: int, more: str = "") -> str:
    """The config of one upstream with `places` slots."""
    return route(("held", held.server.url)).replace(
        "[[model]]", f"in_flight = {places}\n{more}\n[[model]]"
    )


def waiting(gateway: Served, upstream: str = "held") -> int:
    return int(gateway.metric("token_shield_upstream_waiting", upstream=upstream))


def queued(gateway: Served, count: int) -> None:
    wait_until(lambda: waiting(gateway) == count, 20, f"{count} requests wait")


def begun(held: Held, *texts: str) -> None:
    wait_until(
        lambda: all(text in held.server.texts for text in texts), 20, f"{texts} at the server"
    )


def test_an_agent_with_one_request_is_next(
    tmp_path: Path, held: Held, pool: ThreadPoolExecutor
) -> None:
    with serve(tmp_path, full(held, 4)) as gateway:
        greedy = gateway.issue("tests/greedy", models=(MODEL,))
        modest = gateway.issue("tests/modest", models=(MODEL,))
        many: list[Future[httpx2.Response]] = [
            pool.submit(ask, gateway, f"greedy {number}", greedy) for number in range(4)
        ]
        begun(held, *[f"greedy {number}" for number in range(4)])
        many += [pool.submit(ask, gateway, f"greedy {number}", greedy) for number in range(4, 16)]
        queued(gateway, 12)
        one = pool.submit(ask, gateway, "modest", modest)
        queued(gateway, 13)
        held.release("greedy 0")
        begun(held, "modest")
        assert len(held.server.texts) == 5, "the next place was the other agent's"
        held.release("modest", *[f"greedy {number}" for number in range(16)])
        assert one.result().status_code == 200 and {
            answer.result().status_code for answer in many
        } == {200}
        wait_until(
            lambda: gateway.metric("token_shield_upstream_in_flight", upstream="held") == 0,
            10,
            "all places are given back",
        )
        assert (
            gateway.metric("token_shield_upstream_wait_seconds_count", upstream="held") == 13
            and waiting(gateway) == 0
        )


def test_a_full_queue_and_a_long_wait_are_told(
    tmp_path: Path, held: Held, pool: ThreadPoolExecutor
) -> None:
    with serve(tmp_path, full(held, 1, 'queue = 1\nqueue_time = "2s"')) as gateway:
        first = pool.submit(ask, gateway, "first")
        begun(held, "first")
        second = pool.submit(ask, gateway, "second")
        queued(gateway, 1)
        for answer in (ask(gateway, "third"), second.result()):
            assert (
                code(answer) == (503, "upstream-full") and int(answer.headers["retry-after"]) >= 1
            )
            assert "held is full" in answer.json()["error"]["message"]
        held.release("first")
        assert first.result().status_code == 200
        held.release("fourth")
        assert ask(gateway, "fourth").status_code == 200
        assert "second" not in held.server.texts and "third" not in held.server.texts


def test_nobody_waits_where_the_queue_is_off(
    tmp_path: Path, held: Held, pool: ThreadPoolExecutor
) -> None:
    with serve(tmp_path, full(held, 1, "queue = 0")) as gateway:
        first = pool.submit(ask, gateway, "first")
        begun(held, "first")
        assert code(ask(gateway, "second")) == (503, "upstream-full")
        held.release("first")
        assert first.result().status_code == 200


def test_who_leaves_gives_up_its_turn(tmp_path: Path, held: Held, pool: ThreadPoolExecutor) -> None:
    with serve(tmp_path, full(held, 1)) as gateway:
        first = pool.submit(ask, gateway, "first")
        begun(held, "first")
        body = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": "left"}}]}}'
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {gateway.token}\r\nContent-Type: application/json\r\n"
        )
        with socket.create_connection(("127.0.0.1", gateway.port)) as left:
            left.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
            queued(gateway, 1)
            left.shutdown(socket.SHUT_RDWR)
        queued(gateway, 0)
        held.release("first", "next")
        assert first.result().status_code == 200 and ask(gateway, "next").status_code == 200
        assert "left" not in held.server.texts


def test_who_was_suspended_while_it_waited_is_refused(
    tmp_path: Path, held: Held, pool: ThreadPoolExecutor
) -> None:
    with serve(tmp_path, full(held, 1)) as gateway:
        first = pool.submit(ask, gateway, "first")
        begun(held, "first")
        other = gateway.issue("tests/other", models=(MODEL,))
        second = pool.submit(ask, gateway, "second", other)
        queued(gateway, 1)
        gateway.command("agent", "suspend", "tests/other", "--reason", "a test")
        held.release("first")
        assert first.result().status_code == 200
        assert code(second.result()) == (403, "agent-suspended")
        assert "second" not in held.server.texts


def test_nobody_waits_while_another_server_has_a_free_place(
    tmp_path: Path, held: Held, pool: ThreadPoolExecutor
) -> None:
    spare = RawUpstream()
    config = route(("held", held.server.url), ("spare", spare.url)).replace(
        f'url = "{held.server.url}"\n', f'url = "{held.server.url}"\nin_flight = 1\n'
    )
    with serve(tmp_path, config) as gateway:
        first = pool.submit(ask, gateway, "first")
        begun(held, "first")
        assert ask(gateway, "second").status_code == 200 and spare.texts == ["second"]
        held.release("first")
        assert first.result().status_code == 200
    spare.stop()


def test_who_waits_is_next_at_every_server_of_the_route(
    tmp_path: Path, held: Held, pool: ThreadPoolExecutor
) -> None:
    spare = Held()
    config = route(("held", held.server.url), ("spare", spare.server.url))
    for server in (held.server, spare.server):
        config = config.replace(f'url = "{server.url}"\n', f'url = "{server.url}"\nin_flight = 1\n')
    with serve(tmp_path, config) as gateway:
        first = pool.submit(ask, gateway, "first")
        begun(held, "first")
        second = pool.submit(ask, gateway, "second")
        begun(spare, "second")
        third = pool.submit(ask, gateway, "third")
        wait_until(
            lambda: waiting(gateway, "spare") == 1 and waiting(gateway) == 1, 20, "it waits at both"
        )
        fourth = pool.submit(ask, gateway, "fourth")
        wait_until(lambda: waiting(gateway, "spare") == 2, 20, "another one behind it")
        spare.release("second", "third")
        assert third.result().status_code == 200 and spare.server.texts[:2] == ["second", "third"]
        held.release("first", "fourth")
        spare.release("fourth")
        assert {answer.result().status_code for answer in (first, second, fourth)} == {200}
        for name in ("held", "spare"):
            wait_until(
                lambda name=name: (
                    gateway.metric("token_shield_upstream_in_flight", upstream=name) == 0
                ),
                10,
                "its place is given back",
            )
            assert waiting(gateway, name) == 0
    spare.all()
    spare.server.stop()
