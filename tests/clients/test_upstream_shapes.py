"""Answers and errors in the shapes of real servers and proxies: passed, repaired or refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from clients import claude, open_ai, user
from fake_upstream import MODEL
from gateway import Served
from scripted import Scripted, event, stream, whole
from secret_places import OPENED, block, chunk
from test_answers_cut import QUICK, outcome
from test_answers_media import CHAT, DONE
from test_answers_secrets import ask
from test_serve import fake_model, serve

# Errors as the servers write them: name, status, headers, body.
ERRORS: list[tuple[str, int, dict[str, str], dict[str, Any]]] = [
    (
        "vllm",
        400,
        {},
        {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}},
    ),
    (
        "vllm before 0.10",
        404,
        {},
        {"object": "error", "message": "no model", "type": "NotFoundError", "code": 404},
    ),
    ("fastapi", 422, {}, {"detail": [{"loc": ["body", "n"], "msg": "a number", "type": "int"}]}),
    ("tgi", 422, {}, {"error": "Input validation error", "error_type": "validation"}),
    ("tgi is full", 429, {}, {"error": "Model is overloaded", "error_type": "overloaded"}),
    (
        "llama.cpp",
        400,
        {},
        {
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 900,
                "n_ctx": 512,
            }
        },
    ),
    (
        "llama.cpp loads",
        503,
        {"retry_after": "5"},
        {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
    ),
    (
        "ollama",
        404,
        {},
        {"error": {"message": "model not found", "type": "api_error", "code": None}},
    ),
    ("lm studio", 400, {}, {"error": "No models loaded. Please load a model first."}),
    (
        "sglang",
        400,
        {},
        {"object": "error", "message": "too long", "type": "BadRequest", "code": 400},
    ),
]
HTML = b"<html><head><title>413 Request Entity Too Large</title></head><body>nginx</body></html>"
# Errors that are no JSON: name, answer, status, Retry-After.
OPAQUE: list[tuple[str, bytes, int, str | None]] = [
    ("nginx 413", whole(HTML, 413, "text/html"), 413, None),
    ("nginx 502", whole(HTML, 502, "text/html"), 502, None),
    ("nginx 429", whole(HTML, 429, "text/html", retry_after="7"), 429, "7"),
    ("nginx 503", whole(HTML, 503, "text/html", retry_after="30"), 503, "30"),
    ("uvicorn", whole(b"Internal Server Error", 500, "text/plain; charset=utf-8"), 500, None),
    ("no text", whole(b"", 504, "text/plain"), 504, None),
    ("an envoy", whole(b"upstream connect error", 503, "text/plain"), 503, None),
    ("half of json", whole(b'{"error":{"mess', 400), 400, None),
    ("zipped", whole(gzip.compress(b"{}"), 413, content_encoding="gzip"), 413, None),
    ("an event", whole(b"data: {}\n\n", 500, "text/event-stream"), 500, None),
]


@pytest.fixture(scope="module")
def model() -> Iterator[Scripted]:
    said = Scripted()
    yield said
    said.stop()


@pytest.fixture(scope="module")
def gateway(model: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = QUICK + "[limits]\nanswer_bytes_per_token = 100000\n" + fake_model(model.url)
    with serve(tmp_path_factory.mktemp("shapes"), config) as served:
        yield served


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("name", "status", "headers", "body"), ERRORS, ids=[e[0] for e in ERRORS])
def test_errors_of_servers_pass(
    gateway: Served,
    model: Scripted,
    name: str,
    status: int,
    headers: dict[str, str],
    body: dict[str, Any],
    streamed: bool,
) -> None:
    model.say(name, whole(body, status, **headers))
    answer = ask(gateway, "chat", name, stream=streamed)
    assert (answer.status_code, answer.json()) == (status, body)
    assert answer.headers.get("retry-after") == headers.get("retry_after")
    assert "x-should-retry" not in answer.headers
    # The same under the media type of a text.
    model.say(f"{name}, text", whole(body, status, "text/plain", **headers))
    answer = ask(gateway, "chat", f"{name}, text", stream=streamed)
    assert (answer.status_code, answer.json()) == (status, body)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("operation", ["chat", "messages"])
@pytest.mark.parametrize(("name", "said", "status", "wait"), OPAQUE, ids=[e[0] for e in OPAQUE])
def test_an_error_without_json_keeps_its_status(
    gateway: Served,
    model: Scripted,
    name: str,
    said: bytes,
    status: int,
    wait: str | None,
    operation: str,
) -> None:
    model.say(name, said)
    answer = ask(gateway, operation, name)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, "upstream-error"), answer.text
    assert answer.headers.get("retry-after") == wait
    assert str(status) in error["message"] and "nginx" not in answer.text
    ended = outcome(gateway, answer.headers["token-shield-request"])
    assert (ended["code"], ended["status"]) == ("upstream-error", status)
    assert f"status {status}" in ended["detail"]


def test_sdks_raise_the_error_of_the_status(gateway: Served, model: Scripted) -> None:
    model.say("too large", whole(HTML, 413, "text/html"))
    with pytest.raises(openai.APIStatusError) as refused:
        open_ai(gateway, gateway.token).chat.completions.create(
            model=MODEL, messages=user("too large")
        )
    assert refused.value.status_code == 413
    with pytest.raises(anthropic.RequestTooLargeError):
        claude(gateway, gateway.token).messages.create(
            model=MODEL, max_tokens=9, messages=user("too large")
        )
    model.say("busy", whole(HTML, 429, "text/html", retry_after="0"))
    with pytest.raises(openai.RateLimitError):
        open_ai(gateway, gateway.token).chat.completions.create(model=MODEL, messages=user("busy"))


@pytest.mark.parametrize("media", ["text/plain", "application/octet-stream", "text/json", ""])
def test_json_under_another_media_type_is_an_answer(
    gateway: Served, model: Scripted, media: str
) -> None:
    model.say(f"json as {media}", whole(CHAT, media=media))
    answer = ask(gateway, "chat", f"json as {media}")
    assert (answer.status_code, answer.json()) == (200, CHAT)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("media", ["text/plain", "text/plain; charset=utf-8", ""])
@pytest.mark.parametrize("first", [b"", b": ping\n\n", b"\n\n"])
def test_events_under_another_media_type_stream(
    gateway: Served, model: Scripted, media: str, first: bytes
) -> None:
    mark = f"events as {media} after {first!r}"
    events = [chunk({"content": "fi"}), chunk({"content": "ne"}), chunk({}, "stop"), DONE]
    model.say(mark, stream(first, *events, media=media))
    answer = open_ai(gateway, gateway.token).chat.completions.create(
        model=MODEL, messages=user(mark), stream=True
    )
    assert "".join(part.choices[0].delta.content or "" for part in answer) == "fine"
    # A caller without a stream gets one document.
    assert ask(gateway, "chat", mark).json()["choices"][0]["message"]["content"] == "fine"


def test_what_is_neither_json_nor_events_is_refused(gateway: Served, model: Scripted) -> None:
    for body in (HTML, b"", b"hello"):
        model.say("html", whole(body, media="text/html"))
        answer = ask(gateway, "chat", "html", stream=True)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream-invalid")
        assert "text/html" in outcome(gateway, answer.headers["token-shield-request"])["detail"]


def test_white_space_without_an_end_is_no_answer(gateway: Served, model: Scripted) -> None:
    for status, expect in ((200, (502, "upstream-invalid")), (500, (500, "upstream-error"))):
        model.say("spaces", whole(b" " * (4 << 20), status, "text/html"))
        answer = ask(gateway, "chat", "spaces")
        assert (answer.status_code, answer.json()["error"]["code"]) == expect


def test_an_image_under_another_media_type_is_changed_too(gateway: Served, model: Scripted) -> None:
    image = "![x](https://evil.example/x.png)"
    model.say(
        "image", stream(chunk({"content": image}), chunk({}, "stop"), DONE, media="text/plain")
    )
    for streamed in (False, True):
        assert "#link-removed:" in ask(gateway, "chat", "image", stream=streamed).text


def test_lone_surrogates_are_replaced(gateway: Served, model: Scripted) -> None:
    content = b'"\\ud83d and \\ud83d\\ude00 and \\udc00"'
    said = json.dumps(CHAT).encode().replace(b'"fine"', content)
    model.say("whole surrogate", whole(said))
    answer = ask(gateway, "chat", "whole surrogate")
    expect = "\ufffd and \U0001f600 and \ufffd"
    assert answer.json()["choices"][0]["message"]["content"] == expect
    piece = chunk({"content": "fine"}).replace(b'"fine"', content)
    model.say("surrogate", stream(piece, chunk({}, "stop"), DONE))
    streamed = open_ai(gateway, gateway.token).chat.completions.create(
        model=MODEL, messages=user("surrogate"), stream=True
    )
    assert "".join(part.choices[0].delta.content or "" for part in streamed) == expect


def test_keys_that_occur_twice_pass_where_nobody_reads_them(
    gateway: Served, model: Scripted
) -> None:
    said = json.dumps(CHAT).encode()
    said = said.replace(b'"created": 1', b'"created": 1, "timings": {"a": 1, "a": 2}, "created": 1')
    model.say("twice", whole(said))
    answer = ask(gateway, "chat", "twice")
    assert answer.status_code == 200 and answer.content == said
    piece = chunk({"content": "fine"}).replace(b'{"', b'{"timings": {"a": 1, "a": 2}, "', 1)
    model.say("twice, streamed", stream(piece, chunk({}, "stop"), DONE))
    assert piece.strip() in ask(gateway, "chat", "twice, streamed", stream=True).content


def test_an_event_of_some_mebibytes_passes(gateway: Served, model: Scripted) -> None:
    long = "x" * (5 << 20)
    model.say("long", stream(chunk({"content": long}), chunk({}, "stop"), DONE))
    streamed = open_ai(gateway, gateway.token).chat.completions.create(
        model=MODEL, messages=user("long"), stream=True, max_tokens=100
    )
    assert "".join(part.choices[0].delta.content or "" for part in streamed) == long


def test_heartbeats_pass(gateway: Served, model: Scripted) -> None:
    beats = b": ping\n\n:\n\n\n\ndata:\n\ndata: \n\nretry: 5\n\n"
    model.say(
        "beats",
        stream(beats, chunk({"content": "fi"}), beats, chunk({"content": "ne"}, "stop"), DONE),
    )
    answer = ask(gateway, "chat", "beats", stream=True)
    assert answer.text.count(": ping") == 2 and answer.text.endswith("data: [DONE]\n\n")
    assert outcome(gateway, answer.headers["token-shield-request"])["code"] == "ok"


def test_anthropic_events_without_names_get_them(gateway: Served, model: Scripted) -> None:
    events = [
        OPENED,
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 5},
        },
        {"type": "message_stop"},
    ]
    text = block(type="text_delta", text="fine").partition(b"\n")[2]
    pieces = [event(data) for data in events]
    model.say("nameless", stream(*pieces[:2], text, *pieces[2:]))
    with claude(gateway, gateway.token).messages.stream(
        model=MODEL, max_tokens=9, messages=user("nameless")
    ) as said:
        message = said.get_final_message()
    assert message.content[0].text == "fine" and message.stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("vllm", b'data: {"error": {"message": "out of memory", "code": 500}}\n\n' + DONE),
        ("tgi", b'data:{"error":"Request failed","error_type":"generation"}\n\n'),
        ("lm studio", b'event: error\ndata: {"error":{"message":"crashed"}}\n\n'),
        ("sglang", b'data: {"error": {"message": "aborted", "code": 400}}\n\n'),
    ],
)
def test_an_error_inside_a_stream_is_one(
    gateway: Served, model: Scripted, name: str, last: bytes
) -> None:
    model.say(f"{name} fails", stream(chunk({"content": "begun"}), last))
    answer = ask(gateway, "chat", f"{name} fails", stream=True)
    assert answer.status_code == 200 and "begun" in answer.text and '"error"' in answer.text
    assert outcome(gateway, answer.headers["token-shield-request"])["code"] == "upstream-error"


def test_a_stream_without_an_end_is_an_error(gateway: Served, model: Scripted) -> None:
    model.say("no end", stream(chunk({"content": "begun"})))
    with pytest.raises(openai.APIError, match="before it was complete"):
        list(
            open_ai(gateway, gateway.token).chat.completions.create(
                model=MODEL, messages=user("no end"), stream=True
            )
        )
