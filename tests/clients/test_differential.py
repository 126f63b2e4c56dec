"""The same request direct to llama.cpp and through the gateway: the same answer, and the same prompt for the model."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from gateway import Gateway
from llama_server import MODEL, LlamaServer
from recorder import Recorder

REQUESTS = 200
WORDS = "the model hello answers a question about größe, 模型, 🙂 and \"quotes\"\n\ttabs".split(" ")
VOLATILE = {"id", "created", "timings", "system_fingerprint", "tokens_cached"}


def generate(rng: random.Random) -> tuple[str, dict[str, object]]:
    """One request: its path and its body."""
    text = lambda: " ".join(rng.choices(WORDS, k=rng.randint(1, 12)))  # noqa: E731
    body: dict[str, object] = {"model": MODEL, "max_tokens": rng.randint(1, 12), "temperature": 0, "seed": rng.randint(0, 99)}
    kind = rng.choice(["chat", "chat", "completions", "messages"])
    if kind == "completions":
        body["prompt"] = text()
    else:
        turns = [{"role": ("user", "assistant")[place % 2], "content": text()} for place in range(rng.choice([1, 3, 7]))]
        body["messages"] = turns
    if kind == "messages":
        body.pop("seed")
        if rng.random() < 0.5:
            body["system"] = text()
        if rng.random() < 0.3:
            body["stop_sequences"] = [text()]
        if rng.random() < 0.3:
            body["messages"][-1]["content"] = [{"type": "text", "text": text()}]  # type: ignore[index]
    else:
        if rng.random() < 0.3:
            body["stop"] = rng.choice([text(), [text(), text()]])
        if rng.random() < 0.3:
            body["top_p"] = 0.9
        if rng.random() < 0.3:
            body |= {"top_k": 5, "min_p": 0.05, "repeat_penalty": 1.1}
    if kind == "chat":
        if rng.random() < 0.2:
            body["messages"].insert(0, {"role": "system", "content": text()})  # type: ignore[attr-defined]
        if rng.random() < 0.2:
            body |= {"logprobs": True, "top_logprobs": 2}
        if rng.random() < 0.2:
            schema = {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]}
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
            body["max_tokens"] = 40
        if rng.random() < 0.2:
            body["messages"][-1]["content"] = [{"type": "text", "text": text()}, {"type": "text", "text": text()}]  # type: ignore[index]
        if rng.random() < 0.1:
            body["n"] = 2
    if rng.random() < 0.4:
        body["stream"] = True
        if kind != "messages" and rng.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
    path = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "messages": "/v1/messages"}[kind]
    return path, body


def plain(value: object) -> object:
    """Without what differs between two runs of the same request."""
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items() if key not in VOLATILE}
    return [plain(item) for item in value] if isinstance(value, list) else value


def ask(url: str, path: str, body: dict[str, object], token: str) -> tuple[int, object]:
    headers = {"authorization": f"Bearer {token}"}
    answer = httpx2.post(url + path, json=body, headers=headers, timeout=60, trust_env=False)
    if not body.get("stream"):
        return answer.status_code, plain(answer.json())
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return answer.status_code, [plain(json.loads(line)) if line.startswith("{") else line for line in lines]


@pytest.fixture(scope="module")
def recorded(llama: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Recorder]]:
    recorder = Recorder(llama.url)
    gateway = Gateway(tmp_path_factory.mktemp("recorded") / "data", upstream=recorder.url)
    yield gateway, recorder
    gateway.stop()
    recorder.stop()


def test_answers_and_prompts_are_the_same(llama: LlamaServer, recorded: tuple[Gateway, Recorder]) -> None:
    gateway, recorder = recorded
    rng = random.Random(20261121)
    prompts = 0
    for number in range(REQUESTS):
        path, body = generate(rng)
        direct = ask(llama.url, path, body, "none")
        recorder.taken()
        through = ask(gateway.url, path, body, gateway.token)
        assert through == direct, f"request {number}: {path} {json.dumps(body)}"
        [forwarded] = recorder.taken()
        if path == "/v1/chat/completions":
            rendered = [
                httpx2.post(llama.url + "/apply-template", content=data, timeout=60, trust_env=False).json()["prompt"]
                for data in (json.dumps(body).encode(), forwarded.body)
            ]
            assert rendered[0] == rendered[1], f"request {number}"
            prompts += 1
    assert prompts > REQUESTS // 4
