"""The same request to llama.cpp directly and through the gateway: equal answers and prompts."""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import product

import httpx2
import pytest

from gateway import Gateway
from llama_server import MODEL, LlamaServer
from recorder import Recorder

# With the other dialects, 500 at full size.
REQUESTS = 245 if os.environ.get("TOKEN_SHIELD_FULL") else 200
PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "messages": "/v1/messages",
}
WORDS = [
    "the",
    "model",
    "hello",
    "answers",
    "größe,",
    "模型",
    "🙂",
    '"quoted"',
    "a\ttab",
    "\n\n",
    "\\",
    "e\u0301",
    "\u202eleft",
    "</s>",
    "{}",
]
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "größe"},
        "days": {"type": "integer", "minimum": 0, "default": 1e2},
    },
    "required": ["city"],
}
SCHEMA = {
    "type": "object",
    "properties": {"z": {"type": "boolean"}, "a": {"enum": [1, 2]}},
    "required": ["z", "a"],
    "additionalProperties": False,
}
# Members that differ between two runs of the same request.
VOLATILE = {"id", "created", "timings", "system_fingerprint"}

Body = dict[str, object]

# A new connection for each request: llama.cpp closes one after a stream without an announcement.
HTTP = httpx2.Client(verify=False, trust_env=False, timeout=60, headers={"connection": "close"})


class Requests:
    """Varied requests from one seed; `used` counts the features that they use."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.used: Counter[str] = Counter()

    def __iter__(self) -> Iterator[tuple[str, Body]]:
        while True:
            kind = self._rng.choice(["chat", "chat", "completions", "messages"])
            body: Body = {
                "model": MODEL,
                "max_tokens": self._rng.randint(1, 12),
                "stream": self._rng.random() < 0.5,
            }
            # Greedy with a seed that must not matter, or sampled with a seed that decides.
            body["temperature"] = self._rng.choice([0, 0, 0.7, 1])
            {"chat": self._chat, "completions": self._completions, "messages": self._messages}[
                kind
            ](body)
            keys = list(body)
            self._rng.shuffle(keys)
            self.used.update(keys)
            yield kind, {key: body[key] for key in keys}

    def _maybe(self, share: float) -> bool:
        return self._rng.random() < share

    def _text(self) -> str:
        return " ".join(self._rng.choices(WORDS, k=self._rng.randint(1, 12)))

    def _history(self) -> list[Body]:
        """An odd number of turns, the last one the user's; sometimes a long history."""
        turns = self._rng.choice([1, 1, 3, 7, 25])
        return [
            {"role": ("user", "assistant")[turn % 2], "content": self._text()}
            for turn in range(turns)
        ]

    def _sampling(self, body: Body) -> None:
        body["seed"] = self._rng.randint(0, 2**31)
        options: Body = {
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.05,
            "repeat_penalty": 1.1,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
        }
        options |= {
            "logit_bias": {"61": -100},
            "stop": self._rng.choice([self._text(), [self._text(), "e"]]),
            "user": "somebody",
        }
        body.update({key: value for key, value in options.items() if self._maybe(0.15)})
        if body["stream"] and self._maybe(0.5):
            body["stream_options"] = {"include_usage": self._maybe(0.8)}

    def _chat(self, body: Body) -> None:
        messages = self._history()
        if self._maybe(0.3):
            messages.insert(0, {"role": "system", "content": self._text()})
        if self._maybe(0.25):
            messages[-1]["content"] = [
                {"type": "text", "text": self._text()} for _ in range(self._rng.randint(1, 3))
            ]
        if self._maybe(0.3):
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": "weather",
                        "description": self._text(),
                        "parameters": PARAMETERS,
                    },
                }
            ]
            body["tool_choice"] = self._rng.choice(["auto", "none"])
            if self._maybe(0.5):
                call = {
                    "id": "call_1",
                    "type": "function",
                    "function": {
                        "name": "weather",
                        "arguments": '{"city": "K\\u00f6ln",  "days":1}',
                    },
                }
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
                messages.append({"role": "tool", "tool_call_id": "call_1", "content": self._text()})
                self.used["tool result"] += 1
        elif self._maybe(0.25):
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
            }
            body["max_tokens"] = 48
        # llama.cpp refuses logprobs in a stream with tools.
        if self._maybe(0.25) and not (body["stream"] and "tools" in body):
            body |= {"logprobs": True, "top_logprobs": self._rng.randint(1, 4)}
        if self._maybe(0.15):
            body["n"] = 2
        if self._maybe(0.3):
            body["max_completion_tokens"] = body.pop("max_tokens")
        body["messages"] = messages
        self._sampling(body)

    def _completions(self, body: Body) -> None:
        body["prompt"] = self._text() if self._maybe(0.7) else [self._text(), self._text()]
        if self._maybe(0.3):
            body["logprobs"] = self._rng.randint(1, 4)
        self._sampling(body)

    def _messages(self, body: Body) -> None:
        # This dialect has no seed, so only greedy answers can be compared.
        body["temperature"] = 0
        messages = self._history()
        if self._maybe(0.5):
            body["system"] = (
                self._text() if self._maybe(0.5) else [{"type": "text", "text": self._text()}]
            )
        if self._maybe(0.3):
            body["stop_sequences"] = [self._text(), "e"]
        if self._maybe(0.3):
            messages[-1]["content"] = [{"type": "text", "text": self._text()}]
        if self._maybe(0.3):
            body["tools"] = [
                {"name": "weather", "description": self._text(), "input_schema": PARAMETERS}
            ]
            body["tool_choice"] = {"type": "auto"}
            if self._maybe(0.5):
                use = {
                    "type": "tool_use",
                    "id": "toolu_1",
                    "name": "weather",
                    "input": {"days": 1, "city": "Köln"},
                }
                result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": self._text()}
                messages += [
                    {"role": "assistant", "content": [use]},
                    {"role": "user", "content": [result]},
                ]
                self.used["tool result"] += 1
        body["messages"] = messages


def plain(value: object) -> object:
    """The answer without the members that differ between two runs."""
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items() if key not in VOLATILE}
    return [plain(item) for item in value] if isinstance(value, list) else value


def ask(url: str, kind: str, body: Body, token: str) -> tuple[int, object]:
    """Status and answer; for a stream every event in order, with its name."""
    answer = HTTP.post(url + PATHS[kind], json=body, headers={"authorization": f"Bearer {token}"})
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.status_code, plain(answer.json())
    lines = [tuple(line.split(": ", 1)) for line in answer.text.splitlines() if line]
    events = [
        (name, plain(json.loads(data)) if data.startswith("{") else data) for name, data in lines
    ]
    return answer.status_code, together(events)


def together(events: list[tuple[str, object]]) -> tuple[list[object], dict[str, str]]:
    """The events of a stream without their texts, and the texts joined.

    Equal events in a row count once, because the gateway delays text that could begin a URL.
    """
    shapes: list[object] = []
    texts: defaultdict[str, str] = defaultdict(str)
    for event in events:
        inside = event[1] if isinstance(event[1], dict) else {}
        holders = [
            (choice["index"], choice.get("delta") or choice) for choice in inside.get("choices", [])
        ]
        holders += [(0, inside["delta"])] if "delta" in inside else []
        for (index, holder), key in product(
            holders, ("content", "text", "reasoning_content", "thinking")
        ):
            if isinstance(holder.get(key), str):
                texts[f"{index} {key}"] += holder[key]
                holder[key] = ""
        if not shapes or shapes[-1] != event:
            shapes.append(event)
    return shapes, dict(texts)


def looks(kind: str, body: Body) -> list[str]:
    """The endpoint of llama.cpp that shows how it reads such a body.

    `/apply-template` does not support Anthropic tools; for these the length is compared.
    """
    if kind == "messages":
        return ["/v1/messages/count_tokens"] + ([] if "tools" in body else ["/apply-template"])
    return ["/apply-template"] if kind == "chat" else []


def prompt(llama: LlamaServer, path: str, body: bytes) -> Body:
    """What llama.cpp makes of a body before the model: the prompt, or its length in tokens."""
    made: Body = HTTP.post(llama.url + path, content=body).json()
    return made


@pytest.fixture(scope="module")
def recorded(
    llama: LlamaServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, Recorder]]:
    recorder = Recorder(llama.url)
    gateway = Gateway(tmp_path_factory.mktemp("recorded") / "data", upstream=recorder.url)
    yield gateway, recorder
    gateway.stop()
    recorder.stop()


def test_answers_and_prompts_are_the_same(
    llama: LlamaServer, recorded: tuple[Gateway, Recorder]
) -> None:
    gateway, recorder = recorded
    requests = Requests(seed=20261121)
    answered: Counter[int] = Counter()
    token = ""
    for number, (kind, body) in zip(range(REQUESTS), requests):
        if number % 20 == 0:
            # A new agent before the rate of the last one is used up.
            token = gateway.issue(f"differential/agent-{number}", models=(MODEL,))
        shown = f"request {number}: {PATHS[kind]} {json.dumps(body)}"
        direct = ask(llama.url, kind, body, "none")
        recorder.taken()
        assert ask(gateway.url, kind, body, token) == direct, shown
        answered[direct[0]] += 1
        [forwarded] = recorder.taken()
        assert forwarded.path == PATHS[kind]
        for look in looks(kind, body):
            ours = prompt(llama, look, json.dumps(body).encode())
            assert "error" not in ours, (shown, ours)
            assert prompt(llama, look, forwarded.body) == ours, shown
    # Some histories are too long for the server: its error must be the same too. With more such
    # errors the test would compare too few answers.
    assert answered[200] >= 0.95 * REQUESTS, answered
    wanted = (
        "n seed stop tools logprobs response_format stream_options logit_bias "
        "max_completion_tokens system stop_sequences"
    )
    assert {*wanted.split(), "tool result"} <= set(requests.used), "the seed leaves something out"


def test_a_difference_would_show(llama: LlamaServer) -> None:
    """Checks the comparison: other sampling, another tool or one more character is detected."""
    body: Body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 12,
        "temperature": 1,
        "seed": 1,
    }
    one = ask(llama.url, "chat", body, "none")
    assert ask(llama.url, "chat", body, "none") == one
    assert ask(llama.url, "chat", body | {"seed": 2}, "none") != one
    assert ask(llama.url, "chat", body | {"stream": True}, "none") != one

    def encoded(changed: Body) -> bytes:
        return json.dumps(body | changed).encode()

    same = prompt(llama, "/apply-template", encoded({}))
    tool = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
    assert prompt(llama, "/apply-template", encoded({"tools": [tool]})) != same
    assert (
        prompt(
            llama, "/apply-template", encoded({"messages": [{"role": "user", "content": "hello "}]})
        )
        != same
    )
