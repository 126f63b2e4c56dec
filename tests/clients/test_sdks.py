"""Unmodified OpenAI and Anthropic SDKs through the gateway, with llama.cpp and the model echo."""

from __future__ import annotations

import json
import math
import ssl
import subprocess
import time
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest
from pydantic import BaseModel

from gateway import Gateway
from llama_server import MODEL

HELLO = [{"role": "user", "content": "hello there"}]
# Anthropic streams of the tiny model are greedy. If the first token is half a character, llama.cpp
# leaves out `message_start`, and sampled noise sometimes begins so. The SDK no longer has a
# parameter for this.
GREEDY = {"temperature": 0}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def open_ai(gateway: Gateway, token: str | None = None, **options: object) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=token or gateway.token, **options)


def claude(gateway: Gateway, token: str | None = None, **options: object) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=token or gateway.token, **options)


@pytest.mark.parametrize("model", ["echo", MODEL])
def test_chat(gateway: Gateway, model: str) -> None:
    done = open_ai(gateway).chat.completions.create(model=model, messages=HELLO, max_tokens=8)
    assert done.choices[0].finish_reason in ("stop", "length")
    assert done.usage and done.usage.completion_tokens > 0
    if model == "echo":
        assert done.choices[0].message.content == "hello there"


@pytest.mark.parametrize("model", ["echo", MODEL])
@pytest.mark.parametrize("usage", [False, True])
def test_chat_stream(gateway: Gateway, model: str, usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = list(
        open_ai(gateway).chat.completions.create(
            model=model, messages=HELLO, max_tokens=8, stream=True, **options
        )
    )
    assert any(chunk.choices and chunk.choices[0].finish_reason for chunk in chunks)
    reported = [chunk.usage for chunk in chunks if chunk.usage]
    assert bool(reported) == usage
    if model == "echo":
        assert (
            "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            == "hello there"
        )


def test_tools_and_back(gateway: Gateway) -> None:
    client = open_ai(gateway)
    asked = [{"role": "user", "content": 'call weather {"city": "Paris"}'}]
    first = client.chat.completions.create(model="echo", messages=asked, tools=[TOOL])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls" and message.tool_calls
    call = message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather",
        {"city": "Paris"},
    )
    # The message that the SDK sends back, with every field that it had.
    history = [
        *asked,
        message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    second = client.chat.completions.create(model="echo", messages=history, tools=[TOOL])
    assert second.choices[0].message.content == "sunny"


def test_tools_in_a_stream(gateway: Gateway) -> None:
    asked = [{"role": "user", "content": 'call weather {"city": "Paris"}'}]
    with open_ai(gateway).chat.completions.stream(
        model="echo", messages=asked, tools=[TOOL]
    ) as stream:
        done = stream.get_final_completion()
    assert json.loads(done.choices[0].message.tool_calls[0].function.arguments) == {"city": "Paris"}


def test_structured_output(gateway: Gateway) -> None:
    class Echoed(BaseModel):
        echo: str

    done = open_ai(gateway).chat.completions.parse(
        model="echo", messages=HELLO, response_format=Echoed
    )
    assert done.choices[0].message.parsed == Echoed(echo="hello there")


def test_structured_output_of_a_real_model(gateway: Gateway) -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"type": "boolean"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    done = open_ai(gateway).chat.completions.create(
        model=MODEL, messages=HELLO, response_format=wanted, max_tokens=64
    )
    assert isinstance(json.loads(done.choices[0].message.content)["x"], bool)


def test_completions(gateway: Gateway) -> None:
    client = open_ai(gateway)
    assert (
        client.completions.create(model="echo", prompt="hello there").choices[0].text
        == "hello there"
    )
    assert (
        client.completions.create(model=MODEL, prompt="hello", max_tokens=4).usage.completion_tokens
        <= 4
    )
    assert (
        "".join(
            chunk.choices[0].text
            for chunk in client.completions.create(model="echo", prompt="a b", stream=True)
        )
        == "a b"
    )


def test_embeddings(gateway: Gateway) -> None:
    client = open_ai(gateway)
    both = [
        client.embeddings.create(model="echo", input=["one", "two"], encoding_format=form)
        for form in ("float", "base64")
    ]
    plain = client.embeddings.create(model="echo", input="one", dimensions=16).data[0].embedding
    assert len(plain) == 16 and math.isclose(
        sum(number * number for number in plain), 1, rel_tol=1e-4
    )
    assert len(both[0].data) == 2
    default = client.embeddings.create(model="echo", input=["one", "two"])
    assert default.data[1].embedding == pytest.approx(both[0].data[1].embedding, rel=1e-5)


def test_models(gateway: Gateway) -> None:
    token = gateway.issue("research/reader", models=("echo",))
    assert {model.id for model in open_ai(gateway).models.list()} == {"echo", MODEL}
    assert {model.id for model in open_ai(gateway, token).models.list()} == {"echo"}
    assert {model.id for model in claude(gateway, token).models.list()} == {"echo"}
    assert open_ai(gateway, token).models.retrieve("echo").id == "echo"
    with pytest.raises(openai.NotFoundError):
        open_ai(gateway, token).models.retrieve(MODEL)


@pytest.mark.parametrize("model", ["echo", MODEL])
def test_messages(gateway: Gateway, model: str) -> None:
    done = claude(gateway).messages.create(
        model=model, max_tokens=8, messages=HELLO, system="be brief"
    )
    assert done.stop_reason in ("end_turn", "max_tokens") and done.usage.output_tokens > 0
    if model == "echo":
        assert done.content[0].text == "hello there"


@pytest.mark.parametrize("model", ["echo", MODEL])
def test_messages_stream(gateway: Gateway, model: str) -> None:
    with claude(gateway).messages.stream(
        model=model, max_tokens=8, messages=HELLO, extra_body=GREEDY
    ) as stream:
        text = "".join(stream.text_stream)
        done = stream.get_final_message()
    assert done.usage.output_tokens > 0
    if model == "echo":
        assert text == "hello there"


def test_messages_tools(gateway: Gateway) -> None:
    tool = {
        "name": "weather",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    asked = {"role": "user", "content": 'call weather {"city": "Paris"}'}
    client = claude(gateway)
    first = client.messages.create(model="echo", max_tokens=64, messages=[asked], tools=[tool])
    use = first.content[0]
    assert (first.stop_reason, use.name, use.input) == ("tool_use", "weather", {"city": "Paris"})
    result = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}],
    }
    history = [
        asked,
        {"role": "assistant", "content": [block.model_dump() for block in first.content]},
        result,
    ]
    assert (
        client.messages.create(model="echo", max_tokens=64, messages=history, tools=[tool])
        .content[0]
        .text
        == "sunny"
    )


def test_errors_are_typed(gateway: Gateway) -> None:
    client = open_ai(gateway, max_retries=0)
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(
            model="echo", messages=HELLO, extra_body={"chat_template": "x"}
        )
    assert bad.value.code == "field-not-allowed" and bad.value.param == "chat_template"
    with pytest.raises(openai.AuthenticationError):
        open_ai(gateway, gateway.token[:-6] + "AAAAAA").models.list()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nothing", messages=HELLO)
    with pytest.raises(openai.PermissionDeniedError) as remote:
        picture = {"type": "image_url", "image_url": {"url": "http://169.254.169.254/x"}}
        client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": [picture]}]
        )
    assert remote.value.code == "egress-uncontrolled"
    assert remote.value.param == "messages[0].content[0].image_url.url"
    with pytest.raises(anthropic.BadRequestError):
        claude(gateway).messages.create(
            model="echo", max_tokens=8, messages=HELLO, extra_body={"lora": []}
        )
    with pytest.raises(anthropic.AuthenticationError):
        claude(gateway, "a.b.c").messages.create(model="echo", max_tokens=8, messages=HELLO)


def test_hopeless_requests_are_not_retried(gateway: Gateway) -> None:
    before = gateway.metric("token_shield_refusals_total", code="model-not-found")
    with pytest.raises(openai.NotFoundError):
        open_ai(gateway, max_retries=5).chat.completions.create(model="nothing", messages=HELLO)
    assert gateway.metric("token_shield_refusals_total", code="model-not-found") == before + 1


def test_a_rate_is_kept_and_the_sdk_backs_off(gateway: Gateway) -> None:
    token = gateway.issue("research/paced", "--rps", "1")
    client = open_ai(gateway, token, max_retries=0)
    client.chat.completions.create(model="echo", messages=HELLO)
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model="echo", messages=HELLO)
    assert limited.value.response.headers["retry-after"] == "1"
    # With retries the SDK waits as Retry-After states, and succeeds.
    open_ai(gateway, token, max_retries=4).chat.completions.create(model="echo", messages=HELLO)


def test_http2_and_tls(over_tls: Gateway) -> None:
    trust = ssl.create_default_context(cafile=str(over_tls.ca))
    for http2, version in [(False, "HTTP/1.1"), (True, "HTTP/2")]:
        with httpx2.Client(http2=http2, verify=trust, trust_env=False) as transport:
            done = open_ai(
                over_tls, http_client=transport
            ).chat.completions.with_raw_response.create(model="echo", messages=HELLO)
            assert done.http_response.http_version == version
            assert done.parse().choices[0].message.content == "hello there"
        with httpx2.Client(http2=http2, verify=trust, trust_env=False) as transport:
            with claude(over_tls, http_client=transport).messages.stream(
                model=MODEL, max_tokens=8, messages=HELLO, extra_body=GREEDY
            ) as stream:
                assert stream.get_final_message().usage.output_tokens > 0


def test_tls_is_1_3_and_its_certificate_is_watched(over_tls: Gateway) -> None:
    remaining = over_tls.metric("token_shield_certificate_expiry_seconds") - time.time()
    assert remaining > 86_400, "the certificate's end is not known"
    old = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{over_tls.port}", "-tls1_2"],
        input=b"",
        capture_output=True,
        timeout=30,
    )
    assert old.returncode != 0, "TLS 1.2 was spoken"


def test_curl_as_dev_prints_it(tmp_path: Path) -> None:
    from gateway import BINARY, environment

    process = subprocess.Popen(
        [str(BINARY), "dev", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data")],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        lines = []
        assert process.stdout is not None
        while "-d '" not in (lines[-1] if lines else ""):
            lines.append(process.stdout.readline())
            assert lines[-1], lines
        command = "".join(lines).split("try", 1)[1]
        answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
        assert json.loads(answer.stdout)["choices"][0]["message"]["content"] == "hello", answer
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_a_revoked_token_and_a_quarantine_act_within_a_second(gateway: Gateway) -> None:
    token = gateway.issue("research/stopped")
    client = open_ai(gateway, token, max_retries=0)
    client.chat.completions.create(model="echo", messages=HELLO)
    gateway.command("agent", "quarantine", "research/stopped", "--reason", "test")
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="echo", messages=HELLO)
    gateway.command("agent", "release", "research/stopped", "--reason", "test")
    client.chat.completions.create(model="echo", messages=HELLO)
    shown = gateway.command("agent", "show", "research/stopped", "--json").out.splitlines()
    jti = json.loads(shown[1])["jti"]
    from_then = time.monotonic()
    gateway.command("token", "revoke", jti, "--reason", "test")
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="echo", messages=HELLO)
    assert time.monotonic() - from_then < 5
