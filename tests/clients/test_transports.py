"""Both SDKs over HTTP/1.1 and HTTP/2, with and without TLS; curl as README prints it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess

import anthropic
import openai
import pytest

from clients import Line, claude, line, open_ai, user
from gateway import ROOT, Gateway, environment
from llama_server import MODEL

TEXT = "the gate is open for größe, 模型 and 🙂"


@pytest.fixture(params=["http1", "http2", "tls-http1", "tls-http2"])
def wired(request: pytest.FixtureRequest) -> tuple[Gateway, Line, str]:
    """A gateway, a client for it, and the protocol that the client must use."""
    name: str = request.param
    gateway: Gateway = request.getfixturevalue("over_tls" if name.startswith("tls") else "gateway")
    return (
        gateway,
        line(gateway, http2=name.endswith("http2")),
        "HTTP/2" if name.endswith("http2") else "HTTP/1.1",
    )


def test_openai(wired: tuple[Gateway, Line, str]) -> None:
    gateway, over, version = wired
    client = open_ai(gateway, gateway.token, over)
    assert (
        client.chat.completions.create(model="echo", messages=user(TEXT)).choices[0].message.content
        == TEXT
    )
    chunks = list(client.chat.completions.create(model="echo", messages=user(TEXT), stream=True))
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    )
    assert len(chunks) > 3, "the stream came in one piece"
    assert client.completions.create(model=MODEL, prompt="hello", max_tokens=4).usage is not None
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="echo", messages=user(TEXT), extra_body={"MODEL": "x"})
    assert {answer.http_version for answer in over.answers} == {version}
    assert all(answer.headers["token-shield-request"].startswith("rq_") for answer in over.answers)


def test_anthropic(wired: tuple[Gateway, Line, str]) -> None:
    gateway, over, version = wired
    client = claude(gateway, gateway.token, over)
    assert (
        client.messages.create(model="echo", max_tokens=64, messages=user(TEXT)).content[0].text
        == TEXT
    )
    with client.messages.stream(model="echo", max_tokens=64, messages=user(TEXT)) as stream:
        assert "".join(stream.text_stream) == TEXT
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="nothing", max_tokens=8, messages=user(TEXT))
    assert (
        missing.value.body["type"] == "error"
        and missing.value.body["error"]["type"] == "not_found_error"
    )
    assert {answer.http_version for answer in over.answers} == {version}


def test_a_large_body_and_a_large_answer(wired: tuple[Gateway, Line, str]) -> None:
    gateway, over, _ = wired
    text = " ".join("x" * 1_000 for _ in range(2_000))
    client = open_ai(gateway, gateway.token, over)
    assert (
        client.chat.completions.create(model="echo", messages=user(text)).choices[0].message.content
        == text
    )
    streamed = client.chat.completions.create(model="echo", messages=user(text), stream=True)
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices) == text
    )


def test_clients_that_do_not_wait(gateway: Gateway) -> None:
    async def both() -> tuple[str | None, str]:
        first = openai.AsyncOpenAI(
            base_url=gateway.url + "/v1", api_key=gateway.token, max_retries=0
        )
        second = anthropic.AsyncAnthropic(
            base_url=gateway.url, api_key=gateway.token, max_retries=0
        )
        async with first, second:
            asked = first.chat.completions.create(model="echo", messages=user(TEXT))
            told = second.messages.create(model="echo", max_tokens=64, messages=user(TEXT))
            one, two = await asyncio.gather(asked, told)
            return one.choices[0].message.content, two.content[0].text

    assert asyncio.run(both()) == (TEXT, TEXT)


def test_anthropic_with_a_bearer_token(gateway: Gateway) -> None:
    over = line(gateway)
    client = anthropic.Anthropic(
        base_url=gateway.url, auth_token=gateway.token, http_client=over.http, max_retries=0
    )
    assert (
        client.messages.create(model="echo", max_tokens=8, messages=user("hi")).content[0].text
        == "hi"
    )


def test_a_client_that_does_not_know_our_ca_does_not_talk(over_tls: Gateway) -> None:
    client = openai.OpenAI(base_url=over_tls.url + "/v1", api_key=over_tls.token, max_retries=0)
    with pytest.raises(openai.APIConnectionError):
        client.models.list()


def test_every_request_after_a_stream_passes(gateway: Gateway) -> None:
    """llama.cpp closes a connection after a stream without notice; the gateway handles that."""
    for round_ in range(8):
        client = open_ai(gateway, gateway.issue(f"transports/after-{round_}", models=(MODEL,)))
        for _ in range(40):
            list(
                client.chat.completions.create(
                    model=MODEL, messages=user("hi"), max_tokens=1, stream=True
                )
            )
            client.chat.completions.create(model=MODEL, messages=user("hi"), max_tokens=1)


def test_curl_as_the_readme_prints_it(gateway: Gateway) -> None:
    """Every curl command of the README, with our address, and `$OPENAI_…` set as it describes."""
    shown = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    commands = [found for block in shown for found in _commands(block) if found.startswith("curl ")]
    assert len(commands) >= 2, "the README shows an answer and a refusal"
    folder = gateway.data.parent
    answers = []
    for command in commands:
        pasted = command.replace("http://127.0.0.1:8700", gateway.url)
        variables = environment() | {
            "OPENAI_BASE_URL": gateway.url + "/v1",
            "OPENAI_API_KEY": gateway.token,
        }
        done = subprocess.run(
            ["bash", "-c", pasted],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    assert answers[0]["choices"][0]["message"]["content"] == "hello"
    assert any(answer.get("error", {}).get("code") == "egress-uncontrolled" for answer in answers)


def _commands(block: str) -> list[str]:
    """The commands after each `$ ` of a console block, with continuation lines."""
    found: list[str] = []
    for text in block.splitlines():
        if text.startswith("$ "):
            found.append(text[2:])
        elif found and (found[-1].endswith("\\") or found[-1].count("'") % 2):
            found[-1] += "\n" + text
    return found


def test_headers_that_are_too_large_are_refused_by_name(wired: tuple[Gateway, Line, str]) -> None:
    gateway, over, version = wired
    answer = over.http.get(gateway.url + "/v1/models", headers={"x-long": "a" * 70_000})
    assert (answer.status_code, answer.http_version) == (431, version)
    assert answer.json()["error"]["code"] == "headers-too-large"
    assert answer.headers["token-shield-request"].startswith("rq_")
