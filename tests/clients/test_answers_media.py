"""Answers in another media type than requested are converted or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from clients import claude, open_ai, user
from fake_upstream import MODEL
from gateway import Served
from scripted import Scripted, event, stream, whole
from secret_places import OPENED, block, chunk
from test_answers_cut import QUICK, outcome, used
from test_answers_secrets import ask
from test_serve import fake_model, serve

DONE = event("[DONE]")
CALL = {"id": "call-1", "type": "function", "function": {"name": "go", "arguments": '{"to": 1}'}}
USAGE = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
CHAT = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "usage": USAGE,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "fine", "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ],
}
MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 9, "output_tokens": 5},
    "content": [
        {"type": "text", "text": "fine"},
        {"type": "tool_use", "id": "t", "name": "go", "input": {"to": 1}},
    ],
}


@pytest.fixture(scope="module")
def model() -> Iterator[Scripted]:
    said = Scripted()
    yield said
    said.stop()


@pytest.fixture(scope="module")
def gateway(model: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("media"), QUICK + fake_model(model.url)) as served:
        yield served


def test_a_whole_answer_streams_where_a_stream_was_asked_for(
    gateway: Served, model: Scripted
) -> None:
    model.say("json for chat", whole(CHAT))
    with open_ai(gateway, gateway.token).chat.completions.stream(
        model=MODEL, messages=user("json for chat"), stream_options={"include_usage": True}
    ) as events:
        final = events.get_final_completion()
    choice = final.choices[0]
    assert (choice.message.content, choice.finish_reason, final.usage.completion_tokens) == (
        "fine",
        "tool_calls",
        5,
    )
    assert (
        choice.message.tool_calls[0].function.arguments == '{"to": 1}'
        and choice.message.tool_calls[0].id == "call-1"
    )
    answer = ask(gateway, "chat", "json for chat", stream=True)
    assert (
        answer.headers["content-type"] == "text/event-stream"
        and answer.content.endswith(DONE)
        and '"usage"' not in answer.text
    )
    ended = outcome(gateway, answer.headers["token-shield-request"])
    assert (
        ended["code"] == "ok"
        and used(ended) == (9, 5, "reported")
        and ended["response_bytes"] == len(answer.content)
    )
    model.say(
        "json for text",
        whole(
            {
                "id": "c",
                "object": "text_completion",
                "created": 1,
                "model": MODEL,
                "choices": [{"index": 0, "text": "fine", "finish_reason": "stop"}],
                "usage": USAGE,
            }
        ),
    )
    chunks = list(
        open_ai(gateway, gateway.token).completions.create(
            model=MODEL, prompt="json for text", stream=True
        )
    )
    assert "".join(one.choices[0].text for one in chunks if one.choices) == "fine"
    model.say("json for messages", whole(MESSAGE))
    with claude(gateway, gateway.token).messages.stream(
        model=MODEL, max_tokens=99, messages=user("json for messages")
    ) as said:
        message = said.get_final_message()
    assert message.content[0].text == "fine" and message.content[1].input == {"to": 1}
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == (
        "tool_use",
        9,
        5,
    )


def test_events_are_one_answer_where_one_was_asked_for(gateway: Served, model: Scripted) -> None:
    call = {"tool_calls": [{**CALL, "index": 0, "function": {"name": "go", "arguments": '{"to"'}}]}
    more = {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]}
    usage = event(
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": MODEL,
            "choices": [],
            "usage": USAGE,
        }
    )
    model.say(
        "events for chat",
        stream(
            chunk({"role": "assistant", "content": "fi"}),
            chunk({"content": "ne"}),
            chunk(call),
            chunk(more),
            chunk({}, "tool_calls"),
            usage,
            DONE,
        ),
    )
    answer = open_ai(gateway, gateway.token).chat.completions.create(
        model=MODEL, messages=user("events for chat")
    )
    assert (
        answer.choices[0].message.content == "fine"
        and answer.choices[0].finish_reason == "tool_calls"
        and answer.usage.completion_tokens == 5
    )
    assert answer.choices[0].message.tool_calls[0].function.arguments == '{"to": 1}'
    opened = event(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        "content_block_start",
    )
    end = event(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 5},
        },
        "message_delta",
    )
    stop = event({"type": "content_block_stop", "index": 0}, "content_block_stop")
    model.say(
        "events for messages",
        stream(
            event(OPENED, "message_start"),
            opened,
            block(type="text_delta", text="fi"),
            block(type="text_delta", text="ne"),
            stop,
            end,
            event({"type": "message_stop"}, "message_stop"),
        ),
    )
    message = claude(gateway, gateway.token).messages.create(
        model=MODEL, max_tokens=99, messages=user("events for messages")
    )
    assert (message.content[0].text, message.stop_reason, message.usage.output_tokens) == (
        "fine",
        "end_turn",
        5,
    )


def test_a_long_answer_in_small_events_is_put_together(gateway: Served, model: Scripted) -> None:
    """80,000 pieces: a piece must not copy all earlier ones, which would take quadratic time."""
    opened = event(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        "content_block_start",
    )
    end = event(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 5},
        },
        "message_delta",
    )
    stop = event({"type": "content_block_stop", "index": 0}, "content_block_stop")
    pieces = block(type="text_delta", text="abcdefgh ") * 80_000
    model.say(
        "many pieces",
        stream(
            event(OPENED, "message_start"),
            opened,
            pieces,
            stop,
            end,
            event({"type": "message_stop"}, "message_stop"),
        ),
    )
    answer = ask(gateway, "messages", "many pieces", max_tokens=1_000_000)
    assert answer.status_code == 200 and answer.json()["content"] == [
        {"type": "text", "text": "abcdefgh " * 80_000}
    ], answer.text[:300]


@pytest.mark.parametrize(
    ("mark", "answer", "streamed", "code"),
    [
        ("an error as 200", whole({"error": {"message": "no"}}), True, "upstream-invalid"),
        ("a list", whole([]), True, "upstream-invalid"),
        ("another dialect", whole(MESSAGE), True, "upstream-invalid"),
        (
            "sound",
            stream(chunk({"audio": {"data": "x"}}), chunk({}, "stop"), DONE),
            False,
            "upstream-invalid",
        ),
        ("half", stream(chunk({"content": "x"})), False, "truncated"),
        ("no events", stream(b"hello"), False, "truncated"),
        ("text", whole(b"hello", media="text/plain"), False, "upstream-invalid"),
    ],
)
def test_what_cannot_be_converted_is_refused(
    gateway: Served, model: Scripted, mark: str, answer: bytes, streamed: bool, code: str
) -> None:
    model.say(mark, answer)
    refused = ask(gateway, "chat", mark, stream=streamed)
    assert (refused.status_code, refused.json()["error"]["code"]) == (502, code)
    assert refused.headers["x-should-retry"] == "false"


def test_what_would_be_loaded_is_changed_in_a_converted_answer_too(
    gateway: Served, model: Scripted
) -> None:
    text = "![x](https://evil.example/x.png)"
    model.say(
        "led",
        whole(
            {
                **CHAT,
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "finish_reason": "stop",
                    }
                ],
            }
        ),
    )
    model.say(
        "led too",
        stream(chunk({"content": text[:9]}), chunk({"content": text[9:]}), chunk({}, "stop"), DONE),
    )
    for mark, streamed in [("led", True), ("led too", False)]:
        answer = ask(gateway, "chat", mark, stream=streamed)
        assert answer.status_code == 200, answer.text
        assert "](#link-removed:https://evil" in answer.text, answer.text
