"""The data plane against an upstream that misbehaves: what is forwarded, refused or cut."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import httpx2
import openai
import pytest

from clients import send_raw
from fake_upstream import MODEL, OWN_HEADERS, FakeUpstream
from gateway import Gateway
from waiting import settled, wait_until


@pytest.fixture(scope="module")
def fronted(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(
        tmp_path_factory.mktemp("plane") / "data", upstream=upstream.url, profile="generic"
    )
    yield running
    running.stop()


def body(text: str, **more: object) -> dict[str, object]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


def ask(
    gateway: Gateway, text: str, headers: dict[str, str] | None = None, **more: object
) -> httpx2.Response:
    sent = {"authorization": f"Bearer {gateway.token}", **(headers or {})}
    return httpx2.post(
        gateway.url + "/v1/chat/completions",
        json=body(text, **more),
        headers=sent,
        timeout=60,
        trust_env=False,
    )


def open_stream(gateway: Gateway, text: str) -> socket.socket:
    """A raw connection with an open streaming request."""
    return send_raw(gateway, gateway.token, body(text, stream=True))


def test_nothing_of_the_caller_travels_on(fronted: Gateway, upstream: FakeUpstream) -> None:
    theirs = {
        "x-forwarded-for": "203.0.113.9",
        "forwarded": "for=203.0.113.9",
        "cookie": "a=b",
        "x-evil": "1",
        "te": "trailers",
        "referer": "http://x",
        "origin": "http://x",
        "openai-organization": "org",
        "user-agent": "agent/1",
        "via": "1.1 x",
    }
    assert ask(fronted, "hygiene", theirs).status_code == 200
    seen = upstream.exchange("hygiene").request
    names = {name for name, _ in seen.headers}
    assert names == {
        "content-type",
        "accept",
        "accept-encoding",
        "user-agent",
        "x-request-id",
        "host",
        "content-length",
    }, names
    assert seen.header("user-agent")[0].startswith("token-shield/")
    assert fronted.token.encode() not in seen.raw_head


def test_nothing_of_the_upstream_but_its_answer_travels_back(fronted: Gateway) -> None:
    answer = ask(fronted, "behave headers")
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == "fine"
    for name, value in OWN_HEADERS:
        assert value not in answer.headers.get_list(name), name
    assert answer.headers["token-shield-request"].startswith("rq_")


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("behave status 401", 502, "upstream-credential"),
        ("behave status 403", 502, "upstream-credential"),
        ("behave redirect 302", 502, "upstream-invalid"),
        ("behave redirect 307", 502, "upstream-invalid"),
        ("behave switch", 502, "upstream-invalid"),
        ("behave garbage", 502, "upstream-invalid"),
        ("behave encoded", 502, "upstream-invalid"),
        ("behave mislabelled", 502, "upstream-invalid"),
        ("behave nothing", 502, "upstream-invalid"),
        ("behave short", 502, "truncated"),
    ],
)
def test_answers_that_break_a_rule(fronted: Gateway, text: str, status: int, code: str) -> None:
    answer = ask(fronted, text)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
def test_errors_of_the_model_server_pass(fronted: Gateway, status: int) -> None:
    answer = ask(fronted, f"behave status {status}")
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, "the fake says no")


def test_a_stream_that_breaks_off_says_so(fronted: Gateway) -> None:
    client = openai.OpenAI(base_url=fronted.url + "/v1", api_key=fronted.token, max_retries=0)
    with pytest.raises(openai.APIError):
        list(
            client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "behave cut"}], stream=True
            )
        )


@pytest.mark.parametrize("behaviour", ["forever", "mute", "thinking"])
def test_a_caller_who_leaves_cancels_the_upstream_at_once(
    fronted: Gateway, upstream: FakeUpstream, behaviour: str
) -> None:
    text = f"behave {behaviour} leave"
    connection = open_stream(fronted, text)
    exchange = upstream.exchange(text)
    if behaviour != "thinking":
        assert connection.recv(1)
    left = time.monotonic()
    connection.close()
    assert exchange.over.wait(10), "the upstream was not cancelled"
    assert exchange.left_at is None or exchange.left_at - left < 2
    fronted.idle()


def test_back_pressure(fronted: Gateway, upstream: FakeUpstream) -> None:
    connection = open_stream(fronted, "behave flood")
    exchange = upstream.exchange("behave flood")
    sent = settled(lambda: exchange.sent_bytes, 1.0, 30, "the upstream is held back")
    assert sent < 32 << 20, f"{sent} bytes were taken from the upstream for a caller who reads none"
    connection.close()
    assert exchange.over.wait(10)


def test_a_quarantine_ends_an_open_stream_within_a_second(
    fronted: Gateway, upstream: FakeUpstream
) -> None:
    token = fronted.issue("research/streaming", models=(MODEL,))
    client = openai.OpenAI(base_url=fronted.url + "/v1", api_key=token, max_retries=0)
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "behave mute quarantine"}], stream=True
    )
    ended: list[float] = []

    def read() -> None:
        with pytest.raises(openai.APIError):
            for _chunk in stream:
                pass
        ended.append(time.monotonic())

    reader = threading.Thread(target=read)
    reader.start()
    exchange = upstream.exchange("behave mute quarantine")
    fronted.command("agent", "quarantine", "research/streaming", "--reason", "test")
    at = time.monotonic()
    reader.join(10)
    assert ended and ended[0] - at < 1, "the stream went on"
    assert exchange.over.wait(5), "the upstream went on"


def test_sigterm_lets_a_stream_finish(
    upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gateway = Gateway(
        tmp_path_factory.mktemp("drain") / "data", upstream=upstream.url, profile="generic"
    )
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key=gateway.token, max_retries=0)
    upstream.gate.clear()
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "behave gate"}], stream=True
    )
    text = [next(iter(stream)).choices[0].delta.content]
    gateway.terminate()

    def refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", gateway.port), timeout=5).close()
        except OSError:
            return True
        return False

    wait_until(refused, 10, "new connections are refused")
    upstream.gate.set()
    text += [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    assert "".join(piece or "" for piece in text) == "before after"
    gateway.stop()
