"""Answers and streams with a value in each of their places, for tests of credentials."""

from __future__ import annotations

import json
from collections.abc import Iterator

from fake_upstream import MODEL
from responses_server import call as response_call
from responses_server import message as response_message
from responses_server import response
from scripted import event, stream


def documents(hole: str) -> Iterator[tuple[str, str, object]]:
    """Whole answers with a value in one place after another."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    message = {"role": "assistant", "content": "fine"}

    def chat(choice: dict[str, object], **more: object) -> dict[str, object]:
        return {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": [choice],
            "usage": usage,
            **more,
        }

    plain = {"index": 0, "message": message, "finish_reason": "stop"}
    call = {
        "id": "c",
        "type": "function",
        "function": {"name": "go", "arguments": json.dumps({"with": [hole]})},
    }
    yield "chat", "content", chat({**plain, "message": {**message, "content": f"it is {hole}."}})
    yield "chat", "reasoning", chat({**plain, "message": {**message, "reasoning_content": hole}})
    yield "chat", "refusal", chat({**plain, "message": {**message, "refusal": hole}})
    yield (
        "chat",
        "arguments",
        chat({**plain, "message": {**message, "content": None, "tool_calls": [call]}}),
    )
    yield (
        "chat",
        "tool's name",
        chat(
            {
                **plain,
                "message": {
                    **message,
                    "content": None,
                    "tool_calls": [{**call, "function": {"name": hole, "arguments": "{}"}}],
                },
            }
        ),
    )
    yield (
        "chat",
        "tool's id",
        chat(
            {**plain, "message": {**message, "content": None, "tool_calls": [{**call, "id": hole}]}}
        ),
    )
    yield "chat", "finish reason", chat({**plain, "finish_reason": hole})
    for name in ["id", "model", "system_fingerprint", "service_tier", "debug"]:
        yield "chat", name, chat(plain, **{name: hole})
    yield "chat", "nested", chat(plain, debug={"headers": [{"Authorization": [hole]}]})
    yield "chat", "a name", chat(plain, debug={hole: 1})
    yield (
        "chat",
        "tokens",
        chat(
            {
                **plain,
                "logprobs": {
                    "content": [
                        {"token": letter, "logprob": -1, "top_logprobs": []} for letter in hole
                    ]
                },
            }
        ),
    )
    yield (
        "chat",
        "parts",
        chat(
            {
                **plain,
                "message": {
                    **message,
                    "content": [
                        {"type": "text", "text": hole[:9]},
                        {"type": "text", "text": hole[9:]},
                    ],
                },
            }
        ),
    )
    yield (
        "completions",
        "text",
        {
            "id": "c",
            "object": "text_completion",
            "model": MODEL,
            "choices": [{"index": 0, "text": hole, "finish_reason": "stop"}],
            "usage": usage,
        },
    )
    yield (
        "embeddings",
        "embedding",
        {
            "object": "list",
            "model": MODEL,
            "data": [{"object": "embedding", "index": 0, "embedding": hole}],
            "usage": usage,
        },
    )
    yield (
        "embeddings",
        "model",
        {
            "object": "list",
            "model": hole,
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
            "usage": usage,
        },
    )
    for block in [
        {"type": "text", "text": hole},
        {"type": "thinking", "thinking": hole, "signature": "x"},
        {"type": "tool_use", "id": "t", "name": "go", "input": {"with": hole}},
    ]:
        yield (
            "messages",
            block["type"],
            {
                "id": "m",
                "type": "message",
                "role": "assistant",
                "model": MODEL,
                "content": [block],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 1, "output_tokens": 1},
            },
        )
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": hole}]}
    for place, item in [
        ("text", response_message(hole)),
        ("arguments", response_call("go", {"with": [hole]})),
        ("summary", reasoning),
    ]:
        yield "responses", place, response(item)
    yield "responses", "instructions", response(response_message("x"), instructions=hole)


def chunk(delta: dict[str, object], finish: str | None = None) -> bytes:
    return event(
        {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": MODEL,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
    )


def block(**delta: object) -> bytes:
    return event({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")


def delta(kind: str, piece: str) -> bytes:
    data = {"type": kind, "output_index": 0, "content_index": 0, "delta": piece}
    return event(data, kind)


def call(arguments: str) -> dict[str, object]:
    return {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}


OPENED = {
    "type": "message_start",
    "message": {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
}
STREAMS = {
    "content": ("chat", lambda piece: chunk({"content": piece})),
    "reasoning": ("chat", lambda piece: chunk({"reasoning_content": piece})),
    "arguments": ("chat", lambda piece: chunk(call(piece))),
    "text": (
        "completions",
        lambda piece: event(
            {
                "id": "c",
                "object": "text_completion",
                "model": MODEL,
                "choices": [{"index": 0, "text": piece, "finish_reason": None}],
            }
        ),
    ),
    "message": ("messages", lambda piece: block(type="text_delta", text=piece)),
    "input": ("messages", lambda piece: block(type="input_json_delta", partial_json=piece)),
    "output text": ("responses", lambda piece: delta("response.output_text.delta", piece)),
    "call": ("responses", lambda piece: delta("response.function_call_arguments.delta", piece)),
}


def streamed(operation: str, pieces: list[bytes], block_type: str = "text") -> bytes:
    if operation == "messages":
        opened = event(
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""}
                if block_type == "text"
                else {"type": "tool_use", "id": "t", "name": "go", "input": {}},
            },
            "content_block_start",
        )
        ends = [
            event({"type": "content_block_stop", "index": 0}, "content_block_stop"),
            event(
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn"},
                    "usage": {"output_tokens": 1},
                },
                "message_delta",
            ),
            event({"type": "message_stop"}, "message_stop"),
        ]
        return stream(event(OPENED, "message_start"), opened, *pieces, *ends)
    if operation == "responses":
        done = {"type": "response.completed", "response": response()}
        return stream(*pieces, event(done, "response.completed"))
    end = (
        chunk({}, "stop")
        if operation == "chat"
        else event({"id": "c", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
    )
    begin = (
        [
            chunk(
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "index": 0,
                            "id": "c",
                            "type": "function",
                            "function": {"name": "go", "arguments": ""},
                        }
                    ],
                }
            )
        ]
        if block_type == "call"
        else []
    )
    return stream(*begin, *pieces, end, event("[DONE]"))
