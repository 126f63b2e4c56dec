"""Responses and counts of tokens from llama.cpp, directly and through the gateway: equal."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict

import pytest

from gateway import Gateway
from llama_server import MODEL, LlamaServer
from test_differential import HTTP, PARAMETERS, REQUESTS, SCHEMA, WORDS, Body

# Members that differ between two runs of the same request.
VOLATILE = {"completed_at", "created_at", "id", "item_id", "timings"}
# Members of the answer that repeat the request. The gateway writes `store`.
REQUESTED = {"store"}


def text(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, 12)))


def request(chance: random.Random) -> Body:
    """A greedy request: an input of text or of items, with tools or a declared form."""
    body: Body = {
        "model": MODEL,
        "max_output_tokens": chance.randint(2, 12),
        "temperature": 0,
        "stream": chance.random() < 0.5,
        "input": text(chance),
    }
    if chance.random() < 0.6:
        turns: list[Body] = []
        for turn in range(chance.choice([1, 3, 5])):
            role, kind = (("user", "input_text"), ("assistant", "output_text"))[turn % 2]
            content: object = [{"type": kind, "text": text(chance)}]
            turns.append({"type": "message", "role": role, "content": content})
        body["input"] = turns
    if chance.random() < 0.3:
        body["instructions"] = text(chance)
    if chance.random() < 0.3:
        tool = {"type": "function", "name": "weather", "description": text(chance)}
        body["tools"] = [{**tool, "parameters": PARAMETERS}]
        body["tool_choice"] = "auto"
    elif chance.random() < 0.3:
        form = {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}
        body |= {"text": {"format": form}, "max_output_tokens": 48}
    if chance.random() < 0.2:
        body["top_p"] = 0.9
    return body


def plain(value: object) -> object:
    if isinstance(value, dict):
        left_out = VOLATILE | REQUESTED
        return {key: plain(member) for key, member in value.items() if key not in left_out}
    return [plain(item) for item in value] if isinstance(value, list) else value


def ask(url: str, path: str, body: Body, token: str) -> tuple[int, object]:
    """Status and answer; of a stream the events without their deltas, and the deltas joined."""
    answer = HTTP.post(url + path, json=body, headers={"authorization": f"Bearer {token}"})
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.status_code, plain(answer.json())
    shapes: list[object] = []
    deltas: defaultdict[str, str] = defaultdict(str)
    for line in answer.text.splitlines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        if isinstance(event.get("delta"), str):
            deltas[event["type"]] += event["delta"]
            event["delta"] = ""
        # The gateway delays text that could begin a URL, so their number may differ.
        event.pop("sequence_number", None)
        event = plain(event)
        if not shapes or shapes[-1] != event:
            shapes.append(event)
    return answer.status_code, (shapes, dict(deltas))


@pytest.fixture(scope="module")
def chance() -> random.Random:
    return random.Random(20261130)


def test_responses_are_the_same(
    llama: LlamaServer, gateway: Gateway, chance: random.Random
) -> None:
    answered: Counter[int] = Counter()
    used: Counter[str] = Counter()
    token = ""
    for number in range(REQUESTS):
        if number % 20 == 0:
            # A new agent before the rate of the last one is used up.
            token = gateway.issue(f"responses/agent-{number}", models=(MODEL,))
        body = request(chance)
        used.update(list(body))
        shown = f"request {number}: {json.dumps(body)}"
        direct = ask(llama.url, "/v1/responses", body, "none")
        assert ask(gateway.url, "/v1/responses", body, token) == direct, shown
        answered[direct[0]] += 1
    assert answered[200] >= 0.95 * REQUESTS, answered
    assert {"instructions", "tools", "text", "stream"} <= set(used), used


def test_counts_are_the_same(llama: LlamaServer, gateway: Gateway, chance: random.Random) -> None:
    token = gateway.issue("responses/counts", models=(MODEL,))
    for _ in range(15):
        messages = [{"role": "user", "content": text(chance)}]
        body: Body = {"model": MODEL, "messages": messages}
        if chance.random() < 0.5:
            body["system"] = text(chance)
        path = "/v1/messages/count_tokens"
        direct = ask(llama.url, path, body, "none")
        assert ask(gateway.url, path, body, token) == direct and direct[0] == 200, body
