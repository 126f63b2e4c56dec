"""The answers of a model server in the Responses dialect, with the events that OpenAI describes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from scripted import event, stream

USAGE = {
    "input_tokens": 3,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 5,
}


def message(text: str, at: int = 0) -> dict[str, Any]:
    """An item with one text."""
    return {
        "id": f"msg_{at}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    }


def call(name: str, arguments: object, at: int = 0) -> dict[str, Any]:
    """An item that calls a function."""
    return {
        "id": f"fc_{at}",
        "type": "function_call",
        "status": "completed",
        "call_id": f"call_{at}",
        "name": name,
        "arguments": json.dumps(arguments),
    }


def response(*items: dict[str, Any], status: str = "completed", **more: object) -> dict[str, Any]:
    """A whole answer. It repeats what the caller sent, as servers do."""
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "served",
        "output": list(items),
        "error": None,
        "incomplete_details": None,
        "instructions": "see ![a](https://evil.example/told)",
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1,
        "usage": USAGE if status == "completed" else None,
        **more,
    }


def pieces(text: str, size: int) -> Iterator[str]:
    """The text in pieces of that size."""
    return (text[at : at + size] for at in range(0, len(text), size))


def events(*items: dict[str, Any], size: int = 3, ends: bool = True) -> list[dict[str, Any]]:
    """The data of all events of an answer with these items; without the last one if `ends` is
    false."""
    begun = response(status="in_progress")
    made: list[dict[str, Any]] = []

    def push(kind: str, **more: object) -> None:
        made.append({"type": kind, "sequence_number": len(made), **more})

    push("response.created", response=begun)
    push("response.in_progress", response=begun)
    for index, item in enumerate(items):
        at = {"output_index": index, "item_id": item["id"]}
        empty = {**item, "status": "in_progress"}
        empty |= {"arguments": ""} if "arguments" in item else {"content": []}
        push("response.output_item.added", output_index=index, item=empty)
        for place, part in enumerate(item.get("content", [])):
            within = {**at, "content_index": place}
            push("response.content_part.added", **within, part={**part, "text": ""})
            for piece in pieces(part["text"], size):
                push("response.output_text.delta", **within, delta=piece, logprobs=[])
            push("response.output_text.done", **within, text=part["text"], logprobs=[])
            push("response.content_part.done", **within, part=part)
        if "arguments" in item:
            for piece in pieces(item["arguments"], size):
                push("response.function_call_arguments.delta", **at, delta=piece)
            done = {"arguments": item["arguments"], "name": item["name"]}
            push("response.function_call_arguments.done", **at, **done)
        push("response.output_item.done", output_index=index, item=item)
    if ends:
        push("response.completed", response=response(*items))
    return made


def streamed(*items: dict[str, Any], size: int = 3, ends: bool = True) -> bytes:
    """The same as an HTTP answer."""
    return stream(*(event(one, one["type"]) for one in events(*items, size=size, ends=ends)))


def read(text: str) -> list[dict[str, Any]]:
    """The data of the events in a stream."""
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines]
