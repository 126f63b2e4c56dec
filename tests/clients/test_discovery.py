"""`dev` finds the inference servers of this machine on their usual ports, and reports them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients import open_ai, user
from fake_upstream import MODEL, FakeUpstream
from gateway import Gateway

USUAL = {11434: "ollama", 8000: "vllm", 8080: "llama.cpp", 1234: "generic", 30000: "sglang"}


def on_a_usual_port(taken: set[int]) -> FakeUpstream:
    """A server on the first usual port that is free on this machine."""
    for port in USUAL.keys() - taken:
        try:
            return FakeUpstream(port=port)
        except OSError:
            continue
    pytest.fail("every usual port of an inference server is taken: stop one of those servers")


def test_servers_on_usual_ports_are_found_and_serve(tmp_path: Path) -> None:
    first = on_a_usual_port(set())
    second = on_a_usual_port({first.port})
    try:
        with Gateway(tmp_path / "data") as gateway:
            config = (tmp_path / "data/token-shield.toml").read_text()
            for server in (first, second):
                assert (
                    f'url = "http://127.0.0.1:{server.port}"\nprofile = "{USUAL[server.port]}"'
                    in config
                )
            assert {model.id for model in open_ai(gateway, gateway.token).models.list()} >= {
                "echo",
                MODEL,
            }
            answer = open_ai(gateway, gateway.token).chat.completions.create(
                model=MODEL, messages=user("found")
            )
            assert answer.choices[0].message.content
            # Both servers list the model: the first one in the config serves it.
            ports = [port for port in USUAL if port in (first.port, second.port)]
            assert [server.port for server in (first, second) if server.reached("found")] == ports[
                :1
            ]
    finally:
        first.stop()
        second.stop()
