"""Unmodified clients of every kind, in front of a model server that plays scenarios.

Each runs with the gateway's default class. What the model says has links, code with images, and
data with both: the clients must get it as the model said it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_runs import CHAT, PLACE, SUNNY, Client, results, scenarios, surroundings
from clients_table import Row, keep
from gateway import Served
from test_serve import fake_model
from turns import MODEL, VECTOR, Turn, TurnServer

CLIENTS = (
    Client("openai", "python", "python/openai_sdk.py", "`base_url`, `api_key`"),
    Client("anthropic", "python", "python/anthropic_sdk.py", "`base_url`, `auth_token`"),
    Client("llm", "python", "python/llm_cli.py", "`api_base`, key"),
    Client("langchain", "python", "python/langchain_graph.py", "`base_url`, `api_key`; LangGraph"),
    Client("openai-agents", "python", "python/openai_agents.py", "the chat completions model"),
    Client("pydantic-ai-slim", "python", "python/pydantic_agent.py", "`base_url`, `api_key`"),
    Client("litellm", "python", "python/litellm_providers.py", "`api_base`, `api_key`"),
    Client("haystack-ai", "python", "python/haystack_pipeline.py", "`api_base_url`, `api_key`"),
    Client("agno", "python", "python/agno_agent.py", "`base_url`, `api_key`"),
    Client("semantic-kernel", "python", "python/semantic_kernel_agent.py", "a client of `openai`"),
    Client("dspy", "python", "python/dspy_program.py", "`api_base`, `api_key`", "coding"),
    Client("instructor", "python-older", "python/instructor_models.py", "clients of the SDKs"),
    Client(
        "llama-index-llms-openai-like",
        "python-older",
        "python/llama_index_agent.py",
        "`api_base`, `api_key`",
    ),
    Client("strands-agents", "python-older", "python/strands_agent.py", "`client_args`"),
    Client("openai", "node", "node/openai.mjs", "`baseURL`, `apiKey`"),
    Client("@anthropic-ai/sdk", "node", "node/anthropic.mjs", "`baseURL`, `authToken`"),
    Client("ai", "node", "node/ai_sdk.mjs", "`baseURL`, `apiKey` or `authToken`"),
    Client("HttpClient", "java", "java/Chat.java", "URL, header `authorization`"),
)


@pytest.fixture(scope="module")
def model() -> Iterator[TurnServer]:
    server = TurnServer()
    scenarios(server.script)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def served(model: TurnServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("agents") / "data", fake_model(model.url)) as running:
        yield running


@pytest.fixture(scope="module")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where clients keep compiled modules: many of them use the same ones."""
    return tmp_path_factory.mktemp("bytecode")


def wanted(kind: str) -> object:
    """What a result of this kind must be."""
    for part, value in (
        ("structured", PLACE),
        ("tools", SUNNY),
        ("markers", {**PLACE, "picture": "none"}),
        ("embeddings", VECTOR),
    ):
        if part in kind:
            return value
    return CHAT


def check(client: Client, served: Served, bytecode: Path, home: Path) -> None:
    """Runs a client, compares what it got with what the model said, and keeps its row."""
    agent = f"clients/{Path(client.script).stem.lower()}"
    token = served.issue(agent, "--class", client.token_class, models=(MODEL,))
    env = surroundings(home, served.url, token, PYTHONPYCACHEPREFIX=str(bytecode))
    got = results(client, home, env)
    if client.place == "java":
        assert got["status"] == 200
        got = {"chat": got["answer"]["choices"][0]["message"]["content"]}
    assert got == {kind: wanted(kind) for kind in got}
    keep(
        Row(
            client.name,
            client.version,
            ", ".join(kind.replace("_", " ") for kind in got),
            "as the model said it",
            f"class `{client.token_class}`; {client.settings}",
        )
    )


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_gets_what_the_model_said(
    client: Client, served: Served, bytecode: Path, tmp_path: Path
) -> None:
    check(client, served, bytecode, tmp_path / "home")


def test_the_comparison_notices_an_answer_that_is_changed(
    model: TurnServer, served: Served, bytecode: Path, tmp_path: Path
) -> None:
    """The default class changes an image in prose: then a client gets something else."""
    model.script.play("chat", Turn("![x](https://images.example/x.png)"))
    try:
        with pytest.raises(AssertionError, match="link-removed"):
            check(CLIENTS[0], served, bytecode, tmp_path / "home")
    finally:
        scenarios(model.script)
