"""A gateway in front of a server with Ollama's answers.

The answers have the members that Ollama documents in `docs/api.md`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import ollama
import pytest

from gateway import Served
from stub_server import StubServer
from test_answers_cut import outcome

LINES = "application/x-ndjson"
MODELS = ("llama", "cloudy", "capped", "echo")
HELLO = [{"role": "user", "content": "hello"}]
TIMES = {
    "total_duration": 5,
    "load_duration": 1,
    "prompt_eval_count": 7,
    "prompt_eval_duration": 1,
    "eval_count": 3,
    "eval_duration": 2,
}
SECRET = "sk-canary-0123456789-abcdefghij"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").decode()
TOOL = {
    "type": "function",
    "function": {
        "name": "fetch",
        "description": "d",
        "parameters": {"type": "object", "properties": {"url": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[StubServer]:
    running = StubServer()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def served(server: StubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("ollama")
    credential = folder / "credential"
    credential.write_text(SECRET)
    credential.chmod(0o600)
    config = f"""
[class.default]
rpm = 100000
[class.capped]
rpm = 100000
output_tokens = 64
[egress]
fetch_tools = ["fetch"]
[[upstream]]
name = "ollama"
url = "{server.url}"
profile = "ollama"
credential = "file:{credential}"
[[upstream]]
name = "vllm"
url = "{server.url}"
profile = "vllm"
[[model]]
name = "llama"
route = ["ollama"]
as = "llama3.2"
[[model]]
name = "cloudy"
route = ["ollama"]
as = "gpt-oss:120b-cloud"
[[model]]
name = "echo"
route = ["vllm"]
"""
    with Served(folder / "data", config) as running:
        running.token = running.issue("tests/ollama", models=MODELS)
        yield running


def client(served: Served, token: str | None = None) -> ollama.Client:
    headers = {"Authorization": f"Bearer {token or served.token}"}
    return ollama.Client(host=served.url, headers=headers, trust_env=False)


def post(served: Served, path: str, token: str | None = None, **body: Any) -> httpx2.Response:
    return httpx2.post(
        served.url + path,
        json=body,
        headers={"authorization": f"Bearer {token or served.token}"},
        timeout=20,
        trust_env=False,
    )


def line(piece: str, **more: Any) -> bytes:
    """A line of a chat."""
    message = {"role": "assistant", "content": piece, **more}
    # Raw characters above ASCII, as Ollama writes most of them.
    return json.dumps(base(message=message, done=False), ensure_ascii=False).encode() + b"\n"


def last(**more: Any) -> bytes:
    """The last line of a chat."""
    end = {"message": {"role": "assistant", "content": ""}, "done_reason": "stop", "done": True}
    return json.dumps(base(**end, **TIMES, **more)).encode() + b"\n"


def base(**members: Any) -> dict[str, Any]:
    return {"model": "llama3.2", "created_at": "2026-01-02T03:04:05.678901Z", **members}


def chat_says(server: StubServer, *lines: bytes, cut: bool = False) -> None:
    server.say("/api/chat", *lines, media=LINES, cut=cut)


def used(served: Served, answer: httpx2.Response) -> dict[str, object]:
    """The recorded outcome of a request."""
    return outcome(served, answer.headers["token-shield-request"])
