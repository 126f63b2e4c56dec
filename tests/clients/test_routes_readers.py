"""Slow readers over HTTP/2: each stream's progress counts alone, whatever other streams do."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import user
from fake_upstream import MODEL, FakeUpstream
from gateway import Served
from plain_http2 import Narrow
from test_serve import authority, fake_model, serve
from waiting import wait_until

pace = threading.Event()
TIMES = '[timeouts]\nstream_idle = "2s"\n[limits]\nanswer_bytes_per_token = 100000\n'
CLASS = "[class.default]\nrpm = 600\nburst = 100\nin_flight = 16\noutput_tokens = 4096\n"


@pytest.fixture(scope="module")
def served(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(
        tmp_path_factory.mktemp("readers"), TIMES + CLASS + fake_model(upstream.url)
    ) as running:
        yield running


def flood(text: str) -> dict[str, object]:
    return {"model": MODEL, "messages": user(text), "stream": True}


def test_a_steady_slow_reader_is_not_cut_and_one_that_stands_still_is(
    served: Served, upstream: FakeUpstream
) -> None:
    """Reads 64 bytes at a time, and completes no event within three times `stream_idle`."""
    client = Narrow(served.port, served.token, 1024)
    slow = client.post("/v1/chat/completions", flood("behave flood h2 slow"))
    idle = client.post("/v1/chat/completions", flood("behave flood h2 idle"))
    exchanges = [
        upstream.exchange(text) for text in ("behave flood h2 slow", "behave flood h2 idle")
    ]
    began = time.monotonic()
    while time.monotonic() - began < 7:
        client.listen(0.1)
        client.give(slow, 64)
    assert exchanges[1].over.is_set(), "a reader that stands still keeps its upstream"
    assert not exchanges[0].over.is_set() and slow not in client.over, "a reader that reads was cut"
    assert 4096 < len(client.read[slow]) < 16_384 and len(client.read[idle]) <= 1024
    wait_until(
        lambda: served.line("request", code="client-slow"),
        5,
        "the one that stands still is recorded so",
    )
    # After a stop it is cut as well, within twice the time.
    wait_until(
        lambda: client.listen(0.1) or exchanges[0].over.is_set(),
        10,
        "a reader that has stopped is cut",
    )
    client.close()
    assert served.metric("token_shield_refusals_total", code="client-slow") == 2


def test_a_caller_that_takes_nothing_loses_its_connection(served: Served) -> None:
    """Without a token: the windows stay closed, but the caller answers every ping.

    Only its answers keep the connection.
    """
    client = Narrow(served.port, "none", 0)
    stream = client.post("/v1/chat/completions", flood("hi"))
    began = time.monotonic()
    while not client.is_closed:
        assert time.monotonic() - began < 30, "the connection stays"
        client._state.ping(bytes(8))
        client._flush()
        client.listen(0.2)
    # Twice `stream_idle` of 2 s, and 5 s, because a connection is checked every 5 s.
    assert time.monotonic() - began > 8 and stream not in client.read


def test_a_caller_that_takes_a_little_keeps_its_connection(served: Served) -> None:
    client = Narrow(served.port, "none", 0)
    stream = client.post("/v1/chat/completions", flood("hi"))
    began = time.monotonic()
    while stream not in client.over:
        client.give(stream, 8)
        client.listen(0.6)
        assert not client.is_closed, f"closed after {time.monotonic() - began:.0f} s"
    assert (
        time.monotonic() - began > 12
        and json.loads(client.read[stream])["error"]["code"] == "token-malformed"
    )
    client.close()


@pytest.fixture(scope="module", params=["cleartext", "tls"])
def brief(
    request: pytest.FixtureRequest, upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Idle connections are closed after a second."""
    folder = tmp_path_factory.mktemp("brief")
    listen = ""
    config = (
        '[timeouts]\nidle = "1s"\n[limits]\nanswer_bytes_per_token = 100000\n'
        + CLASS
        + fake_model(upstream.url)
    )
    if request.param == "tls":
        authority(folder)
        listen = f'tls = {{ cert = "{folder}/server.pem", key = "file:{folder}/server.key" }}\n'
    with serve(folder, config, listen, tls=request.param == "tls") as running:
        yield running


def test_a_whole_answer_reaches_a_steady_slow_reader(brief: Served) -> None:
    """The gateway is done with the answer long before its reader: the connection is not idle."""
    body = json.dumps({"model": MODEL, "messages": user("behave large")}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {brief.token}\r\n"
        "Content-Type: application/json\r\n"
    )
    with socket.socket() as connection:
        # A small kernel buffer keeps the gateway's end of the connection full most of the time.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", brief.port))
        over = connection
        if brief.url.startswith("https:"):
            over = ssl.create_default_context(cafile=str(brief.data.parent / "ca.pem")).wrap_socket(
                connection, server_hostname="localhost"
            )
        over.sendall(
            f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        came, began = 0, time.monotonic()
        while piece := over.recv(1 << 18):
            came += len(piece)
            # A steady pace of about 2 MB/s.
            pace.wait(max(0.0, began + came / 2e6 - time.monotonic()))
        took = time.monotonic() - began
    assert came > 16 << 20, f"cut after {came} bytes and {took:.1f} s"
    assert took > 6


def test_the_rest_of_a_stream_comes_whole_after_a_slow_beginning(
    served: Served, upstream: FakeUpstream, tmp_path: Path
) -> None:
    client = Narrow(served.port, served.token, 256)
    stream = client.post(
        "/v1/chat/completions", {"model": MODEL, "messages": user("hi"), "stream": True}
    )
    while stream not in client.over:
        client.give(stream, 64)
        client.listen(0.05)
    events = [
        line[6:] for line in client.read[stream].decode().splitlines() if line.startswith("data: ")
    ]
    assert events[-1] == "[DONE]" and "fine" in "".join(events)
    assert all(json.loads(event) for event in events[:-1])
    client.close()
