"""A token's limits, as unmodified SDKs see them: rates, slots, output, scopes, models."""

from __future__ import annotations

import time

import anthropic
import openai
import pytest

from clients import claude, line, open_ai, user
from gateway import Gateway
from llama_server import MODEL


def test_an_sdk_waits_as_retry_after_says(gateway: Gateway) -> None:
    over = line(gateway)
    client = open_ai(gateway, gateway.issue("limits/waits", "--rps", "1"), over, retries=3)
    at = time.monotonic()
    for _ in range(3):
        client.chat.completions.create(model="echo", messages=user("hi"))
    assert over.statuses() == [200, 429, 200, 429, 200]
    assert all(
        answer.headers["retry-after"] == "1" for answer in over.answers if answer.status_code == 429
    )
    assert time.monotonic() - at >= 2, "the SDK did not wait"


def test_a_rate_by_the_minute_says_when_to_come_back(gateway: Gateway) -> None:
    client = open_ai(gateway, gateway.issue("limits/minute", "--rpm", "3"))
    passed = 0
    with pytest.raises(openai.RateLimitError) as limited:
        for _ in range(6):
            client.chat.completions.create(model="echo", messages=user("hi"))
            passed += 1
    assert 1 <= passed <= 4, "at most rpm + burst in a minute"
    headers = limited.value.response.headers
    assert limited.value.code == "rate-exceeded" and 1 <= int(headers["retry-after"]) <= 60
    assert headers.get("x-should-retry") != "false"


def test_a_new_token_does_not_reset_the_agents_rate(gateway: Gateway) -> None:
    first, second = (gateway.issue("limits/twice", "--rpm", "1") for _ in range(2))
    open_ai(gateway, first).chat.completions.create(model="echo", messages=user("hi"))
    with pytest.raises(openai.RateLimitError):
        open_ai(gateway, second).chat.completions.create(model="echo", messages=user("hi"))


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_hopeless_429_is_not_tried_again(gateway: Gateway, dialect: str) -> None:
    over = line(gateway)
    token = gateway.issue(f"limits/zero-{dialect}", "--rpm", "0")
    if dialect == "openai":
        with pytest.raises(openai.RateLimitError):
            open_ai(gateway, token, over, retries=3).chat.completions.create(
                model="echo", messages=user("hi")
            )
    else:
        with pytest.raises(anthropic.RateLimitError):
            claude(gateway, token, over, retries=3).messages.create(
                model="echo", max_tokens=8, messages=user("hi")
            )
    # Without this header both SDKs would retry a 429 three times.
    assert over.statuses() == [429] and over.answers[0].headers["x-should-retry"] == "false"


def test_one_request_in_flight(gateway: Gateway) -> None:
    client = open_ai(gateway, gateway.issue("limits/one", "--in-flight", "1"))
    text = " ".join(["word" * 1_000] * 4_000)
    with client.chat.completions.create(model="echo", messages=user(text), stream=True) as stream:
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as limited:
            client.chat.completions.create(model="echo", messages=user("hi"))
        assert limited.value.code == "in-flight-exceeded"
    # Closing the stream frees the slot.
    gateway.idle()
    client.chat.completions.create(model="echo", messages=user("hi"))


def test_output_is_cut_to_what_the_token_allows(gateway: Gateway) -> None:
    token = gateway.issue("limits/short", "--output-tokens", "3", models=("echo", MODEL))
    client, other = open_ai(gateway, token), claude(gateway, token)
    done = client.chat.completions.create(model="echo", messages=user("a b c d e"), max_tokens=5)
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("a b c", "length")
    message = other.messages.create(model="echo", max_tokens=5, messages=user("a b c d e"))
    assert (message.content[0].text, message.stop_reason) == ("a b c", "max_tokens")
    # The real server gets the cap as well, also if the caller gave none.
    real = client.chat.completions.create(model=MODEL, messages=user("hello"))
    assert real.usage and real.usage.completion_tokens <= 3


def test_scopes_and_models(gateway: Gateway) -> None:
    reader = gateway.issue("limits/reader", "--scope", "models.read")
    assert [model.id for model in open_ai(gateway, reader).models.list()] == ["echo"]
    with pytest.raises(openai.PermissionDeniedError) as denied:
        open_ai(gateway, reader).chat.completions.create(model="echo", messages=user("hi"))
    assert denied.value.code == "scope-missing"
    with pytest.raises(anthropic.PermissionDeniedError):
        claude(gateway, reader).messages.create(model="echo", max_tokens=8, messages=user("hi"))
    chat = gateway.issue("limits/chat", "--scope", "inference.chat")
    open_ai(gateway, chat).chat.completions.create(model="echo", messages=user("hi"))
    with pytest.raises(openai.PermissionDeniedError):
        open_ai(gateway, chat).embeddings.create(model="echo", input="hi")
    with pytest.raises(openai.NotFoundError) as missing:
        open_ai(gateway, chat).chat.completions.create(model=MODEL, messages=user("hi"))
    assert missing.value.code == "model-not-found"


def test_what_is_out_of_reach(gateway: Gateway) -> None:
    token = gateway.issue("limits/routes")
    client = open_ai(gateway, token)
    with pytest.raises(openai.NotFoundError) as unknown:
        client.batches.list()
    assert unknown.value.code == "route-unknown"
    # A host name is refused before any DNS query, which loopback_only.py would report.
    picture = {"type": "image_url", "image_url": {"url": "https://images.example.com/cat.png"}}
    with pytest.raises(openai.PermissionDeniedError) as remote:
        client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": [picture]}]
        )
    assert remote.value.code == "egress-uncontrolled"
    with pytest.raises(anthropic.PermissionDeniedError) as hosted:
        tool = {"type": "web_search_20250305", "name": "web_search"}
        claude(gateway, token).messages.create(
            model="echo", max_tokens=8, messages=user("hi"), tools=[tool]
        )
    assert hosted.value.body["error"]["type"] == "permission_error"
