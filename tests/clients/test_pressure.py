"""Callers that hold a resource: an unsent body, an unread answer, an idle connection.

Commands and time limits still work.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import send_raw, user
from fake_upstream import MODEL, FakeUpstream
from gateway import Gateway, Served
from test_serve import ask, fake_model, last_error, serve
from waiting import wait_until

TIMES = (
    '[timeouts]\nheader = "2s"\nidle = "2s"\nbody_idle = "20s"\nstream_idle = "2s"\ntotal = "20s"\n'
)
AT_ONCE = "[class.default]\nin_flight = 2\nrpm = 6000\nburst = 1000\n"


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = "[limits]\npeer_connections = 40\nanswer_bytes_per_token = 100000\n"
    with serve(
        tmp_path_factory.mktemp("pressure"), TIMES + AT_ONCE + limits + fake_model(upstream.url)
    ) as served:
        yield served


class Begun:
    """A request on a new connection, without its last byte."""

    def __init__(self, gateway: Gateway, token: str, text: str, **more: object) -> None:
        body = {"model": MODEL, "messages": user(text), **more}
        # A small window: unread bytes soon block the gateway.
        self.socket = send_raw(gateway, token, body, held_back=1, window=4096)

    def finish(self) -> None:
        self.socket.sendall(b"}")

    def answer(self) -> tuple[int, str]:
        """Status and code of a refusal."""
        data = self.socket.recv(65536)
        while b"\r\n\r\n" not in data or not data.endswith(b"}"):
            data += self.socket.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(body)["error"]["code"]

    def rest(self) -> bytes:
        """Everything until the gateway closes."""
        data = b""
        try:
            while piece := self.socket.recv(1 << 20):
                data += piece
        except ConnectionResetError:
            pass
        return data


@pytest.mark.parametrize("command", ["suspend", "quarantine", "revoke"])
def test_a_no_reaches_a_request_whose_body_is_still_coming(
    gateway: Served, upstream: FakeUpstream, command: str
) -> None:
    agent = f"tests/held-{command}"
    token = gateway.issue(agent, models=(MODEL,))
    text = f"kept back {command}"
    begun = Begun(gateway, token, text)
    wait_until(lambda: gateway.metric("token_shield_in_flight") >= 1, 5, "the request is known")
    gateway.command("agent", command, agent, "--reason", "a test")
    begun.finish()
    status, refused = begun.answer()
    assert (status, refused.split("-")[0]) == (403, "agent")
    assert not upstream.reached(text)


def test_a_key_is_revoked_while_a_body_is_coming(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, TIMES + fake_model(upstream.url)) as own:
        begun = Begun(own, own.token, "kept back for a key")
        wait_until(lambda: own.metric("token_shield_in_flight") >= 1, 5, "the request is known")
        kid = json.loads(own.command("keys", "list", "--json").out.splitlines()[0])["kid"]
        own.command("keys", "revoke", kid, "--reason", "a test")
        begun.finish()
        assert begun.answer() == (401, "key-revoked")
        assert not upstream.reached("kept back for a key")


def test_a_token_runs_out_while_its_body_is_coming(gateway: Served, upstream: FakeUpstream) -> None:
    token = gateway.issue("tests/brief", models=(MODEL,), ttl="2s")
    begun = Begun(gateway, token, "kept back too long")
    wait_until(lambda: ask(gateway, "x", token).status_code == 401, 10, "the token runs out")
    begun.finish()
    assert begun.answer() == (401, "token-expired")
    assert not upstream.reached("kept back too long")


def test_a_stream_ends_with_its_token(gateway: Served, upstream: FakeUpstream) -> None:
    token = gateway.issue("tests/brief-stream", models=(MODEL,), ttl="2s")
    answer = ask(gateway, "behave forever brief", token, stream=True)
    assert last_error(answer) == "token-expired"
    assert upstream.exchange("behave forever brief").over.wait(5)


def test_bodies_that_never_end_take_places_and_no_more(gateway: Served) -> None:
    token = gateway.issue("tests/greedy", models=(MODEL,))
    held = [Begun(gateway, token, f"greedy {number}") for number in range(2)]
    wait_until(lambda: gateway.metric("token_shield_in_flight") >= 2, 5, "both are known")
    third = Begun(gateway, token, "greedy 3")
    assert third.answer() == (429, "in-flight-exceeded"), (
        "a third is refused before its body is read"
    )
    assert ask(gateway, "somebody else").status_code == 200
    for one in held:
        one.socket.close()
    wait_until(
        lambda: ask(gateway, "again", token).status_code == 200, 5, "the places are given back"
    )


def test_a_no_reaches_a_stream_that_nobody_reads(gateway: Served, upstream: FakeUpstream) -> None:
    token = gateway.issue("tests/unread", models=(MODEL,))
    begun = Begun(gateway, token, "behave flood unread", stream=True)
    begun.finish()
    exchange = upstream.exchange("behave flood unread")
    wait_until(lambda: exchange.sent_bytes > 0, 5, "the stream has begun")
    gateway.command("agent", "quarantine", "tests/unread", "--reason", "a test")
    assert exchange.over.wait(1), "the upstream still works for an agent in quarantine"
    gateway.idle()
    assert b'"agent-quarantined"' in begun.rest()


@pytest.mark.parametrize("text", ["behave flood left", "behave large left"])
def test_an_answer_that_nobody_reads_is_not_kept(
    gateway: Served, upstream: FakeUpstream, text: str
) -> None:
    begun = Begun(gateway, gateway.token, text, stream="flood" in text)
    begun.finish()
    assert not closed(begun.socket), "an open connection must be seen as such"
    assert upstream.exchange(text).over.wait(10), (
        "the upstream is held by a caller who does not read"
    )
    wait_until(
        lambda: closed(begun.socket), 15, "the connection of a caller who does not read is closed"
    )
    begun.socket.close()


def closed(connection: socket.socket) -> bool:
    """Whether the gateway has closed its end; bytes it wrote before may still wait."""
    local, peer = connection.getsockname(), connection.getpeername()
    named = f"{peer[0]}:{peer[1]}", f"{local[0]}:{local[1]}"
    listed = subprocess.run(
        ["ss", "-Htn"], capture_output=True, text=True, timeout=10, check=True
    ).stdout
    return not any(
        line.split()[0] == "ESTAB" and line.split()[3:5] == [*named] for line in listed.splitlines()
    )


def test_an_http2_connection_without_requests_is_closed(gateway: Served) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        while connection.recv(65536):
            pass


def test_one_peer_cannot_take_every_connection(gateway: Served) -> None:
    crowd = [socket.create_connection(("127.0.0.1", gateway.port), timeout=20) for _ in range(80)]
    refused = 0
    for one in crowd:
        one.settimeout(0.5)
        try:
            refused += one.recv(1) == b""
        except TimeoutError:
            pass
        except ConnectionResetError:
            refused += 1
    for one in crowd:
        one.close()
    assert refused >= 40, f"only {refused} of 80 connections were closed at once"
    wait_until(
        lambda: ask(gateway, "after the crowd").status_code == 200, 10, "the places are given back"
    )


def test_a_caller_who_leaves_is_said_so(gateway: Served, upstream: FakeUpstream) -> None:
    begun = Begun(gateway, gateway.token, "behave thinking leaver")
    begun.finish()
    upstream.exchange("behave thinking leaver")
    before = gateway.metric("token_shield_requests_total", code="aborted")
    begun.socket.close()
    wait_until(
        lambda: gateway.metric("token_shield_requests_total", code="aborted") == before + 1,
        5,
        "the request counts as aborted",
    )


def test_a_scraper_that_says_nothing_does_not_keep_the_gateway(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    gateway = serve(tmp_path, '[timeouts]\nheader = "60s"\n' + fake_model(upstream.url))
    host, port = gateway.metrics.split("/")[2].split(":")
    # The same holds for a connection without a request, whatever the time limit for a head.
    silent = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
    with silent, socket.create_connection((host, int(port)), timeout=20) as half:
        half.sendall(b"GET /metr")
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.ended(10) == 0
    assert '"stopped"' in gateway.logged()
