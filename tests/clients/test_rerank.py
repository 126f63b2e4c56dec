"""Rerank in the forms of Jina, Cohere and vLLM, and Anthropic's count_tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest

from gateway import Served
from stub_server import StubServer

QUERY = "best shield"
DOCUMENTS = ["a spoon", {"text": "the best shield"}, "a round shield"]
MODELS = ("ranker", "talker", "echo")


@pytest.fixture(scope="module")
def server() -> Iterator[StubServer]:
    running = StubServer()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def served(server: StubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = f"""
[class.default]
rpm = 100000
[[upstream]]
name = "vllm"
url = "{server.url}"
profile = "vllm"
[[upstream]]
name = "ollama"
url = "{server.url}"
profile = "ollama"
[[upstream]]
name = "echo"
url = "echo:"
[[model]]
name = "ranker"
route = ["vllm"]
[[model]]
name = "talker"
route = ["ollama"]
[[model]]
name = "echo"
route = ["echo"]
"""
    folder = tmp_path_factory.mktemp("rerank")
    with Served(folder / "data", config) as running:
        yield running


def ask(served: Served, path: str, token: str, **body: Any) -> httpx2.Response:
    return httpx2.post(
        served.url + path,
        json=body,
        headers={"authorization": f"Bearer {token}"},
        timeout=20,
        trust_env=False,
    )


def token_of(served: Served, scope: str) -> str:
    return served.issue("tests/ranks", "--scope", scope, models=MODELS)


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_echo_ranks(served: Served, path: str) -> None:
    token = token_of(served, "inference.rerank")
    asked = {"model": "echo", "query": QUERY, "documents": DOCUMENTS}
    answer = ask(served, path, token, **asked, top_n=2, return_documents=True)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [result["index"] for result in results] == [1, 2]
    assert results[0] == {"index": 1, "relevance_score": 1, "document": DOCUMENTS[1]}


def test_the_server_gets_one_path_and_the_known_fields(served: Served, server: StubServer) -> None:
    token = token_of(served, "inference.rerank")
    server.say("/v1/rerank", {"results": [], "usage": {"total_tokens": 7}})
    asked = {"model": "ranker", "query": "q", "documents": ["d"], "max_tokens_per_doc": 64}
    answer = ask(served, "/v2/rerank", token, **asked, sparkle=1)
    assert answer.status_code == 200, answer.text
    assert answer.headers["token-shield-dropped"] == "sparkle"
    sent = server.last()
    assert sent.path == "/v1/rerank"
    # The gateway adds its request id and the salt of the prompt cache.
    assert set(sent.body) == {*asked, "request_id", "cache_salt"}
    refused = ask(served, "/rerank", token, **asked, max_documents=1)
    assert refused.json()["error"]["code"] == "field-not-allowed"
    refused = ask(served, "/rerank", token, **{**asked, "documents": [{"url": "x"}]})
    assert refused.json()["error"]["code"] == "field-missing"


def test_documents_are_not_rewritten(served: Served, server: StubServer) -> None:
    token = token_of(served, "inference.rerank")
    text = "![x](https://evil.example/?q=1) and <img src=https://evil.example/2>"
    document = {"index": 0, "relevance_score": 0.5, "document": {"text": text}}
    server.say("/v1/rerank", {"results": [document], "usage": {"total_tokens": 7}})
    answer = ask(served, "/v1/rerank", token, model="ranker", query="q", documents=[text])
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"] == [document]
    # The same text in an answer for people loses its destinations.
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    server.say("/v1/chat/completions", {"choices": [{**choice, "finish_reason": "stop"}]})
    said = [{"role": "user", "content": "hi"}]
    token = token_of(served, "inference.chat")
    answer = ask(served, "/v1/chat/completions", token, model="ranker", messages=said)
    assert "](https://evil.example" not in answer.text and "img src" not in answer.text


def test_rerank_needs_its_scope_and_a_server(served: Served) -> None:
    asked = {"query": QUERY, "documents": DOCUMENTS}
    token = token_of(served, "inference.chat")
    refused = ask(served, "/rerank", token, model="echo", **asked)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "scope-missing")
    token = token_of(served, "inference.rerank")
    refused = ask(served, "/rerank", token, model="talker", **asked)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "dialect-not-served")
    refused = httpx2.get(
        served.url + "/rerank", headers={"authorization": f"Bearer {token}"}, trust_env=False
    )
    assert refused.status_code == 405


def claude(served: Served, token: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=served.url, api_key=token, max_retries=0)


def test_the_sdk_counts_tokens(served: Served, server: StubServer) -> None:
    token = token_of(served, "inference.messages")
    said = [{"role": "user", "content": "one two three"}]
    tool = {"name": "f", "input_schema": {"type": "object"}}
    counted = claude(served, token).messages.count_tokens(
        model="echo", messages=said, system="four", tools=[tool]
    )
    assert counted.input_tokens == 4
    server.say("/v1/messages/count_tokens", {"input_tokens": 42})
    counted = claude(served, token).beta.messages.count_tokens(
        model="ranker",
        messages=said,
        betas=["interleaved-thinking-2025-05-14", "mcp-client-2025-04-04"],
    )
    assert counted.input_tokens == 42
    sent = server.last()
    # The SDK adds the value of its own method, `token-counting-…`.
    betas = sent.headers["anthropic-beta"].split(",")
    assert "interleaved-thinking-2025-05-14" in betas
    assert not any(value.startswith("mcp-client") for value in betas)
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert set(sent.body) == {"model", "messages"}


def test_counting_needs_a_server_and_reaches_nothing(served: Served) -> None:
    token = token_of(served, "inference.messages")
    said = [{"role": "user", "content": "hi"}]
    with pytest.raises(anthropic.BadRequestError, match="dialect-not-served"):
        claude(served, token).messages.count_tokens(model="talker", messages=said)
    source = {"type": "url", "url": "https://evil.example/1.png"}
    image = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    with pytest.raises(anthropic.PermissionDeniedError, match="egress-uncontrolled"):
        claude(served, token).messages.count_tokens(model="ranker", messages=image)
