"""The unmodified Ollama clients of Python and Node.js through the gateway."""

from __future__ import annotations

import json
import subprocess

import httpx2
import ollama
import pytest

from gateway import Served

# `served` and `server` are fixtures.
from ollama_served import (
    HELLO,
    LINES,
    PNG,
    SECRET,
    TIMES,
    TOOL,
    base,
    chat_says,
    client,
    last,
    line,
    post,
    served,
    server,
    used,
)
from renderers import NODE
from stub_server import StubServer


def test_chat(served: Served, server: StubServer) -> None:
    message = {"role": "assistant", "content": "hi there", "thinking": "so"}
    server.say("/api/chat", base(message=message, done=True, done_reason="stop", **TIMES))
    answer = client(served).chat(
        model="llama", messages=HELLO, think=True, options={"temperature": 0.5, "num_ctx": 9999}
    )
    assert (answer.message.content, answer.message.thinking) == ("hi there", "so")
    assert (answer.done_reason, answer.prompt_eval_count, answer.eval_count) == ("stop", 7, 3)
    sent = server.last()
    assert sent.path == "/api/chat"
    assert sent.body["model"] == "llama3.2" and sent.body["stream"] is False
    assert sent.body["options"] == {"temperature": 0.5}
    assert sent.headers["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_chat_stream(served: Served, server: StubServer, size: int) -> None:
    whole = line("hi ", thinking="hm") + line("there\u2028x") + last()
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    chat_says(server, *pieces)
    answer = list(client(served).chat(model="llama", messages=HELLO, stream=True))
    assert "".join(part.message.content or "" for part in answer) == "hi there\u2028x"
    assert answer[0].message.thinking == "hm"
    assert answer[-1].done and answer[-1].eval_count == 3
    assert server.last().headers["accept"] == LINES
    ended = used(served, post(served, "/api/chat", model="llama", messages=HELLO))
    assert ended["usage"] == {"input": 7, "output": 3}, ended


def test_a_stream_is_the_default(served: Served, server: StubServer) -> None:
    chat_says(server, line("a"), last())
    answer = post(served, "/api/chat", model="llama", messages=HELLO)
    assert answer.headers["content-type"] == LINES
    assert [json.loads(one)["done"] for one in answer.text.splitlines()] == [False, True]
    assert "stream" not in server.last().body


def test_generate(served: Served, server: StubServer) -> None:
    whole = base(response="hi", context=[1, 2], done=True, done_reason="stop", **TIMES)
    server.say("/api/generate", whole)
    answer = client(served).generate(
        model="llama", prompt="hello", system="s", images=[PNG], keep_alive="10m"
    )
    assert (answer.response, list(answer.context or [])) == ("hi", [1, 2])
    sent = server.last().body
    assert sent["images"] == [PNG] and sent["system"] == "s" and "keep_alive" not in sent
    end = json.dumps({**whole, "response": ""}).encode() + b"\n"
    server.say(
        "/api/generate", json.dumps(base(response="hi", done=False)).encode() + b"\n" + end,
        media=LINES,
    )  # fmt: skip
    parts = list(client(served).generate(model="llama", prompt="hello", stream=True))
    assert [part.response for part in parts] == ["hi", ""] and parts[-1].done


def test_a_request_that_loads_a_model_is_one_line(served: Served, server: StubServer) -> None:
    server.say("/api/generate", base(response="", done=True, done_reason="load"))
    answer = post(served, "/api/generate", model="llama", keep_alive=0)
    assert answer.headers["content-type"] == LINES
    assert json.loads(answer.text)["done_reason"] == "load"
    assert answer.headers["token-shield-dropped"] == "keep_alive"
    assert server.last().body == {"model": "llama3.2"}


def test_a_server_that_streams_unasked_gives_one_document(
    served: Served, server: StubServer
) -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    chat_says(server, line("hi ", thinking="so"), line("there", tool_calls=[call]), last())
    answer = client(served).chat(model="llama", messages=HELLO)
    assert (answer.message.content, answer.message.thinking) == ("hi there", "so")
    assert answer.message.tool_calls and answer.message.tool_calls[0].function.name == "f"
    assert answer.eval_count == 3


def test_embed(served: Served, server: StubServer) -> None:
    server.say("/api/embed", base(embeddings=[[0.5, 1.0]], prompt_eval_count=4))
    answer = client(served).embed(model="llama", input=["a"])
    assert answer.embeddings == [[0.5, 1.0]] and answer.prompt_eval_count == 4
    server.say("/api/embeddings", {"embedding": [0.5]})
    assert client(served).embeddings(model="llama", prompt="a").embedding == [0.5]


def test_models(served: Served) -> None:
    ours = client(served)
    assert [model.model for model in ours.list().models] == ["cloudy", "llama"]
    shown = ours.show("llama")
    assert shown.capabilities and "completion" in shown.capabilities
    assert list(ours.ps().models) == []
    version = httpx2.get(
        served.url + "/api/version",
        headers={"authorization": f"Bearer {served.token}"},
        trust_env=False,
    )
    assert tuple(map(int, version.json()["version"].split("."))) >= (0, 6, 4)
    with pytest.raises(ollama.ResponseError, match="no model") as refused:
        ours.show("other")
    assert refused.value.status_code == 404


def test_a_token_lists_only_its_models(served: Served) -> None:
    token = served.issue("tests/none", models=("echo",))
    assert list(client(served, token).list().models) == []
    with pytest.raises(ollama.ResponseError) as refused:
        client(served, token).show("llama")
    assert refused.value.status_code == 404


def test_tools(served: Served, server: StubServer) -> None:
    call = {"function": {"index": 0, "name": "weather", "arguments": {"city": "Paris"}}}
    chat_says(server, line("", tool_calls=[call]), last())
    parts = list(client(served).chat(model="llama", messages=HELLO, tools=[TOOL], stream=True))
    found = parts[0].message.tool_calls
    assert found and found[0].function.arguments == {"city": "Paris"}
    # The message that the client sends back, and the result of the tool.
    history = [*HELLO, parts[0].message, {"role": "tool", "content": "sun", "tool_name": "weather"}]
    server.say("/api/chat", base(message={"role": "assistant", "content": "ok"}, done=True))
    assert client(served).chat(model="llama", messages=history).message.content == "ok"
    assert server.last().body["messages"][1]["tool_calls"][0]["function"]["name"] == "weather"


def test_a_schema_is_a_declared_form(served: Served, server: StubServer) -> None:
    text = '{"a":"![x](https://evil.example/)"}'
    server.say("/api/chat", base(message={"role": "assistant", "content": text}, done=True))
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    for form in ("json", schema):
        answer = client(served).chat(model="llama", messages=HELLO, format=form)
        assert answer.message.content == text
        assert server.last().body["format"] == form
    plain = post(served, "/api/chat", model="llama", messages=HELLO, format="", stream=False)
    assert "](https://evil" not in plain.text


NODE_CLIENT = """
const { Ollama } = require("ollama");
const [url, token] = process.argv.slice(1);
const client = new Ollama({ host: url, headers: { Authorization: `Bearer ${token}` } });
const messages = [{ role: "user", content: "hello" }];
async function main() {
  const texts = [];
  for await (const part of await client.chat({ model: "llama", messages, stream: true })) {
    texts.push(part.message.content);
  }
  const found = { text: texts.join(""), models: (await client.list()).models.length };
  found.embeddings = (await client.embed({ model: "llama", input: "a" })).embeddings;
  found.running = (await client.ps()).models.length;
  found.capabilities = (await client.show({ model: "llama" })).capabilities;
  found.error = await client.pull({ model: "llama" }).catch((error) => String(error));
  console.log(JSON.stringify(found));
}
main();
"""


def test_the_client_of_node(served: Served, server: StubServer) -> None:
    chat_says(server, line("hi "), line("there"), last())
    server.say("/api/embed", base(embeddings=[[0.5]], prompt_eval_count=4))
    ran = subprocess.run(
        ["node", "-e", NODE_CLIENT, served.url, served.token],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
        cwd=NODE,
    )
    found = json.loads(ran.stdout)
    assert (found["text"], found["models"], found["running"]) == ("hi there", 2, 0)
    assert found["embeddings"] == [[0.5]] and "completion" in found["capabilities"]
    assert "There is no such route" in found["error"]
