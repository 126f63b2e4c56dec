"""Streams under load: which wait, which complete, and how the gateway ends them."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator

import openai
import pytest

from clients import line, open_ai, user
from fake_upstream import FLOOD_EVENTS, FLOOD_TEXT, MODEL, FakeUpstream
from gateway import Gateway
from plain_http2 import PlainHttp2
from test_serve import fake_model, serve
from waiting import settled, wait_until

MIB = 1 << 20


@pytest.fixture(scope="module")
def fronted(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    quick = (
        "[limits]\nanswer_bytes_per_token = 100000\n[class.default]\nrpm = 600\nburst = 100\n"
        "in_flight = 16\noutput_tokens = 4096\n"
    )
    with serve(tmp_path_factory.mktemp("streams"), quick + fake_model(upstream.url)) as running:
        yield running


@pytest.mark.parametrize("http2", [False, True], ids=["http1", "http2"])
def test_a_slow_reader_holds_the_upstream_back_and_gets_everything(
    fronted: Gateway, upstream: FakeUpstream, http2: bool
) -> None:
    text = f"behave flood {http2}"
    fronted.idle()
    before = fronted.resident_bytes()
    sent = {"model": MODEL, "messages": user(text), "stream": True}
    over = line(fronted, http2=http2)
    with over.http.stream(
        "POST",
        fronted.url + "/v1/chat/completions",
        json=sent,
        headers={"x-api-key": fronted.token},
    ) as answer:
        pieces = answer.iter_bytes()
        got = next(pieces)
        exchange = upstream.exchange(text)
        held_at = settled(lambda: exchange.sent_bytes, 1.0, 30, "the upstream is held back")
        assert held_at < 24 * MIB, (
            f"{held_at} bytes taken from the upstream for a caller who reads nothing"
        )
        assert fronted.resident_bytes() - before < 24 * MIB, (
            "the gateway holds the stream in memory"
        )
        got += b"".join(pieces)
    assert got.count(FLOOD_TEXT.encode()) == FLOOD_EVENTS
    assert got.endswith(b"data: [DONE]\n\n")


def test_a_caller_who_resets_one_stream(fronted: Gateway, upstream: FakeUpstream) -> None:
    """Over HTTP/2 the connection stays: the gateway stops this stream's upstream request only."""
    connection = PlainHttp2(fronted.port, fronted.token)
    stream = connection.post(
        "/v1/chat/completions",
        {"model": MODEL, "messages": user("behave mute reset"), "stream": True},
    )
    assert b"one " in connection.first_data(stream)
    exchange = upstream.exchange("behave mute reset")
    assert not exchange.over.is_set()
    connection.reset(stream)
    assert exchange.over.wait(2), "the upstream goes on for nobody"
    fronted.idle()
    again = connection.post("/v1/chat/completions", {"model": MODEL, "messages": user("hi")})
    assert b"fine" in connection.whole(again)
    connection.close()


def test_a_refused_credential_is_the_operators_matter(fronted: Gateway) -> None:
    over = line(fronted)
    with pytest.raises(openai.InternalServerError) as failed:
        open_ai(fronted, fronted.token, over, retries=3).chat.completions.create(
            model=MODEL, messages=user("behave status 401")
        )
    assert failed.value.code == "upstream-credential"
    assert over.statuses() == [502], "a hopeless request was tried again"


def test_a_broken_upstream_is_not_asked_twice_by_the_sdk(fronted: Gateway) -> None:
    """It may have done the work: `x-should-retry: false` keeps the SDK from paying for it twice."""
    over = line(fronted)
    with pytest.raises(openai.InternalServerError):
        open_ai(fronted, fronted.token, over, retries=1).chat.completions.create(
            model=MODEL, messages=user("behave garbage")
        )
    assert over.statuses() == [502]


def test_an_upstream_that_is_gone(tmp_path_factory: pytest.TempPathFactory) -> None:
    fake = FakeUpstream()
    with Gateway(tmp_path_factory.mktemp("gone") / "data", upstream=fake.url) as gateway:
        client = open_ai(gateway, gateway.token)
        client.chat.completions.create(model=MODEL, messages=user("hi"))
        fake.stop()
        with pytest.raises(openai.InternalServerError) as failed:
            client.chat.completions.create(model=MODEL, messages=user("hi"))
        assert (failed.value.status_code, failed.value.code) == (503, "upstream-unavailable")
        # A request without an upstream still passes.
        client.chat.completions.create(model="echo", messages=user("hi"))


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2-prior-knowledge"])
def test_sigterm_with_a_stream_and_an_idle_connection(
    upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory, protocol: str
) -> None:
    """With curl, because PyPI's h2 drops its streams at the first GOAWAY.

    RFC 9113 section 6.8 lets them finish.
    """
    with Gateway(tmp_path_factory.mktemp("drain") / "data", upstream=upstream.url) as gateway:
        upstream.gate.clear()
        idle = line(gateway)
        open_ai(gateway, gateway.token, idle).models.list()
        sent = json.dumps(
            {"model": MODEL, "messages": user(f"behave gate {protocol}"), "stream": True}
        )
        words = [
            "curl",
            "-sS",
            "-N",
            protocol,
            gateway.url + "/v1/chat/completions",
            "-H",
            f"x-api-key: {gateway.token}",
        ]
        curl = subprocess.Popen(
            [*words, "-H", "content-type: application/json", "-d", sent],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert curl.stdout is not None
            said = curl.stdout.readline()
            assert b"before " in said
            gateway.terminate()
            wait_until(lambda: _refused(gateway.port), 10, "new connections are refused")
            assert gateway.process.poll() is None, "it left while a stream was open"
            upstream.gate.set()
            rest, complaint = curl.communicate(timeout=30)
            said += rest
            assert curl.returncode == 0, complaint
        finally:
            curl.kill()
            curl.wait(10)
        assert b"after" in said and said.endswith(b"data: [DONE]\n\n")
        assert gateway.ended(10) == 0, "the idle connection held it up, or it failed"


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False
