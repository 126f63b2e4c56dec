"""Response filter, tool calls: URLs in calls of `fetch_tools` are checked.

A call passes unchanged, or is refused.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from clients import claude, open_ai, user
from gateway import Served, binary
from outside import Says
from test_audit import inside, query
from test_serve import CHAT, serve

SEED, ANSWERS = 3, 2_000 if os.environ.get("TOKEN_SHIELD_FULL") else 400
MODEL = "says"


@pytest.fixture(scope="module")
def model() -> Iterator[Says]:
    said = Says()
    yield said
    said.stop()


@pytest.fixture(scope="module")
def gateway(model: Says, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = f"""
[egress]
tunnel = ["good.example", "good.example:80", "*.good.example:8443"]
fetch_tools = ["fetch", "browser_*"]
[class.default]
rpm = 10000000
burst = 1000000
in_flight = 64
[class.reported]
answers = {{ tool_calls = "report" }}
[class.ended]
answers = {{ tool_calls = "block" }}
[class.blocked]
answers = {{ fetched = "block" }}
[[upstream]]
name = "says"
url = "http://127.0.0.1:{model.port}"
[[model]]
name = "{MODEL}"
route = ["says"]
[[upstream]]
name = "echo"
url = "echo:"
[[model]]
name = "echo"
route = ["echo"]
"""
    with serve(tmp_path_factory.mktemp("tools"), config) as served:
        served.token = served.issue("tools/all", models=(MODEL,))
        yield served


def place(chance: random.Random) -> tuple[str, bool]:
    """A destination, and whether it is controlled."""
    good = [
        "https://good.example/a?b=1",
        "http://good.example",
        "https://x.good.example:8443/",
        "HTTPS://GOOD.example:443/x#y",
        "good.example/x",
    ]
    evil = [
        "https://evil.example/",
        "http://127.0.0.1/",
        "//evil.example/x",
        "https://good.example@evil.example",
        "https://good.example.evil.example",
        "http://169.254.169.254/latest",
        "evil.example",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https:evil.example",
        "\\\\evil.example\\x",
        "http://2130706433/",
        "https://good.example:444/",
        "wss://evil.example/",
        "HTTPS:\\\\evil.example",
    ]
    controlled = chance.random() < 0.5
    return chance.choice(good if controlled else evil), controlled


def call(chance: random.Random) -> tuple[str, dict[str, Any], bool]:
    """A tool, its arguments, and whether the call may pass."""
    tool = chance.choice(["fetch", "Fetch", "browser_open", "write_file", "prefetch"])
    where, controlled = place(chance)
    arguments: dict[str, Any] = {
        "note": chance.choice(["report.pdf", "ünï – “quoted”\n\t", "e.g. a/b", ""]),
        "n": chance.randrange(9),
    }
    match chance.randrange(4):
        case 0:
            arguments["url"] = where
        case 1:
            arguments["request"] = {"hosts": ["good.example", where]}
        case 2:
            arguments = {"targetUrl": where, "method": "GET"}
        case _:
            controlled = True
    judged = tool.lower() == "fetch" or tool.startswith("browser_")
    return tool, arguments, controlled or not judged


def answer(chance: random.Random, calls: list[tuple[str, str]]) -> dict[str, Any]:
    made = [
        {"id": f"call_{at}", "type": "function", "function": {"name": tool, "arguments": text}}
        for at, (tool, text) in enumerate(calls)
    ]
    message = {
        "role": "assistant",
        "content": chance.choice([None, "let me see"]),
        "tool_calls": made,
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [choice],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def streamed(chance: random.Random, whole: dict[str, Any]) -> bytes:
    """The same answer in pieces of any size."""
    message, events = whole["choices"][0]["message"], []

    def event(delta: dict[str, Any], finish: str | None = None) -> None:
        events.append(
            {
                "id": "c",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": MODEL,
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            }
        )

    event({"role": "assistant", "content": message["content"]})
    for at, one in enumerate(message["tool_calls"]):
        text = one["function"]["arguments"]
        event(
            {
                "tool_calls": [
                    {
                        "index": at,
                        "id": one["id"],
                        "type": "function",
                        "function": {"name": one["function"]["name"], "arguments": ""},
                    }
                ]
            }
        )
        while text:
            size = chance.randrange(1, 12)
            event({"tool_calls": [{"index": at, "function": {"arguments": text[:size]}}]})
            text = text[size:]
    event({}, "tool_calls")
    return (
        b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in events)
        + b"data: [DONE]\n\n"
    )


REFUSED = "[refused by policy: answer-uncontrolled – the tool "


def calls_of(choice: Any) -> list[tuple[str, str]]:
    """The calls of an answer. Its finish reason and its text fit them."""
    calls = choice.message.tool_calls or []
    assert choice.finish_reason == ("tool_calls" if calls else "stop")
    return [(one.function.name, one.function.arguments) for one in calls]


def put_together(client: openai.OpenAI, mark: str) -> Any:
    """The choice of a stream, as the SDK's reader assembles it."""
    with client.chat.completions.stream(model=MODEL, messages=user(mark)) as stream:
        return stream.get_final_completion().choices[0]


def test_calls_go_on_byte_for_byte_or_not_at_all(gateway: Served, model: Says) -> None:
    client = open_ai(gateway, gateway.token)

    def one(number: int) -> str | None:
        mine = random.Random(f"{SEED} {number}")
        drawn = [call(mine) for _ in range(mine.randrange(1, 4))]
        calls = [
            (
                tool,
                json.dumps(
                    arguments,
                    ensure_ascii=mine.random() < 0.5,
                    separators=(",", ":") if mine.random() < 0.5 else None,
                ),
            )
            for tool, arguments, _ in drawn
        ]
        passing = [may for *_, may in drawn]
        passes = all(passing)
        expected = calls if passes else calls[: passing.index(False)]
        whole, mark = answer(mine, calls), f"answer {number}."
        model.say(mark, json.dumps(whole).encode(), streamed(mine, whole))
        made = client.chat.completions.create(model=MODEL, messages=user(mark)).choices[0]
        if calls_of(made) != expected or (REFUSED in str(made.message.content)) == passes:
            return f"{calls} went on as {made}"
        found = put_together(client, mark)
        # A call that was held together with the refused one is not sent.
        if (
            calls_of(found) != expected[: len(calls_of(found))]
            or passes != (calls_of(found) == calls)
            or (REFUSED in str(found.message.content)) == passes
        ):
            return f"{calls} went on in a stream as {found}"
        return None

    with ThreadPoolExecutor(8) as pool:
        wrong = [what for what in pool.map(one, range(ANSWERS)) if what]
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong[:5])


def test_nothing_of_a_refused_call_comes_out(gateway: Served, model: Says) -> None:
    chance = random.Random(1)
    whole = answer(
        chance,
        [("write_file", '{"path":"a.txt"}'), ("fetch", '{"url":"https://evil.example/SECRET"}')],
    )
    model.say("refused", json.dumps(whole).encode(), streamed(chance, whole))
    headers = {"authorization": f"Bearer {gateway.token}"}
    for stream in (False, True):
        body = {"model": MODEL, "messages": user("refused"), "stream": stream}
        said = httpx2.post(
            gateway.url + CHAT, json=body, headers=headers, timeout=30, trust_env=False
        )
        assert (
            "SECRET" not in said.text
            and "answer-uncontrolled" in said.text
            and '"fetch"' not in said.text
        )
        assert said.status_code == 200 and "write_file" in said.text, "the call before it came out"
        rows = query(gateway, "--request", said.headers["token-shield-request"])
        [outcome] = [inside(row) for row in rows if row["kind"] == "outcome"]
        assert outcome["code"] == "answer-uncontrolled"
        assert outcome["outbound"] == [
            {
                "kind": "tool-call",
                "reason": "not-listed",
                "target": "https://evil.example/ (fetch)",
                "verdict": "replace",
            }
        ]


def test_what_comes_behind_a_refused_image_is_not_sent(gateway: Served, model: Says) -> None:
    """All bytes come at once: the text before the image is sent, then the error, no normal end."""
    token = gateway.issue("tools/blocked", "--class", "blocked", models=(MODEL,))
    piece = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    events = [
        {**piece, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        for text in ("before ", "![a](https://evil.example/) ", "behind")
    ]
    events.append({**piece, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    model.say(
        "a link",
        b"{}",
        b"".join(f"data: {json.dumps(one)}\n\n".encode() for one in events) + b"data: [DONE]\n\n",
    )
    said = ""
    with pytest.raises(openai.APIError, match="not controlled"):
        for chunk in open_ai(gateway, token).chat.completions.create(
            model=MODEL, messages=user("a link"), stream=True
        ):
            said += chunk.choices[0].delta.content or ""
    assert said.startswith("before ") and "behind" not in said and "evil" not in said


def test_a_class_may_only_be_told(gateway: Served, model: Says) -> None:
    token = gateway.issue("tools/told", "--class", "reported", models=(MODEL,))
    chance = random.Random(1)
    calls = [("fetch", '{"url": "https://evil.example/"}')]
    whole = answer(chance, calls)
    model.say("reported", json.dumps(whole).encode(), streamed(chance, whole))
    assert calls_of(put_together(open_ai(gateway, token), "reported")) == calls
    assert (
        gateway.metric(
            "token_shield_egress_total", filter="answer", verdict="report", reason="not-listed"
        )
        >= 1
    )


def test_a_token_leaves_less(gateway: Served, model: Says) -> None:
    chance = random.Random(1)
    calls = [("fetch", '{"url": "https://good.example/"}')]
    whole = answer(chance, calls)
    model.say("narrowed", json.dumps(whole).encode(), streamed(chance, whole))
    assert calls_of(put_together(open_ai(gateway, gateway.token), "narrowed")) == calls
    narrow = gateway.issue("tools/narrow", "--egress", "none", models=(MODEL,))
    said = open_ai(gateway, narrow).chat.completions.create(model=MODEL, messages=user("narrowed"))
    assert said.choices[0].message.content.endswith(f"{REFUSED}fetch may reach no host]")


def test_a_class_may_have_an_error_instead(gateway: Served, model: Says) -> None:
    token = gateway.issue("tools/ended", "--class", "ended", models=(MODEL,))
    chance = random.Random(1)
    whole = answer(chance, [("fetch", '{"url": "https://evil.example/"}')])
    model.say("ended", json.dumps(whole).encode(), streamed(chance, whole))
    client = open_ai(gateway, token)
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.chat.completions.create(model=MODEL, messages=user("ended"))
    assert refused.value.code == "answer-uncontrolled"
    with pytest.raises(openai.APIError, match="not controlled"):
        put_together(client, "ended")


def test_an_agent_goes_on_after_a_refused_call(gateway: Served, model: Says) -> None:
    """The text names what is allowed."""
    chance = random.Random(1)
    whole = answer(chance, [("fetch", '{"url": "https://evil.example/"}')])
    model.say("first", json.dumps(whole).encode(), streamed(chance, whole))
    client = open_ai(gateway, gateway.token)
    for found in (
        client.chat.completions.create(model=MODEL, messages=user("first")).choices[0],
        put_together(client, "first"),
    ):
        assert found.finish_reason == "stop" and not found.message.tool_calls
        assert "fetch may reach good.example:443, good.example:80, *.good.example:8443]" in (
            found.message.content
        )
    said = whole["choices"][0]["message"]["content"]
    history = [*user("first"), found.message.model_dump(exclude_none=True), *user("second")]
    calls = [("fetch", '{"url": "https://good.example/"}')]
    again = answer(chance, calls)
    model.say("second", json.dumps(again).encode(), streamed(chance, again))
    made = client.chat.completions.create(model=MODEL, messages=history).choices[0]
    assert calls_of(made) == calls and said in (None, "let me see")


def block(name: str, url: str, late: bool) -> tuple[bytes, bytes]:
    """An answer of Anthropic's with a tool call, whole and streamed.

    With `late`, all blocks end at the end of the answer, as in llama.cpp.
    """
    about = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    content = [
        {"type": "text", "text": "so"},
        {"type": "tool_use", "id": "t", "name": name, "input": {"url": url}},
    ]
    whole = json.dumps(
        {**about, "content": content, "stop_reason": "tool_use", "stop_sequence": None}
    ).encode()
    arguments = json.dumps({"url": url})
    events: list[dict[str, Any]] = [
        {
            "type": "message_start",
            "message": {**about, "content": [], "stop_reason": None, "stop_sequence": None},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "so"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "t", "name": name, "input": {}},
        },
        *(
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": arguments[at : at + 5]},
            }
            for at in range(0, len(arguments), 5)
        ),
        {"type": "content_block_stop", "index": 1},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {"output_tokens": 1},
        },
        {"type": "message_stop"},
    ]
    if late:
        stops = [one for one in events if one["type"] == "content_block_stop"]
        events = [one for one in events[:-2] if one not in stops] + stops + events[-2:]
    return whole, b"".join(
        f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events
    )


@pytest.mark.parametrize("late", [False, True])
def test_anthropic_tools_too(gateway: Served, model: Says, late: bool) -> None:
    client = claude(gateway, gateway.token)
    for mark, name, url, passes in [
        ("one good call", "fetch", "https://good.example/", True),
        ("one evil call", "fetch", "https://evil.example/", False),
        ("another tool", "write", "https://evil.example/", True),
    ]:
        mark = f"{mark} {late}"
        model.say(mark, *block(name, url, late))
        if passes:
            assert client.messages.create(model=MODEL, max_tokens=9, messages=user(mark)).content[
                1
            ].input == {"url": url}
            with client.messages.stream(model=MODEL, max_tokens=9, messages=user(mark)) as stream:
                assert stream.get_final_message().content[1].input == {"url": url}
            continue
        whole = client.messages.create(model=MODEL, max_tokens=9, messages=user(mark))
        with client.messages.stream(model=MODEL, max_tokens=9, messages=user(mark)) as stream:
            found = stream.get_final_message()
        for message in (whole, found):
            assert message.stop_reason == "end_turn"
            assert [part.type for part in message.content] == ["text", "text"]
            assert message.content[0].text == "so"
            assert message.content[1].text.startswith(f"{REFUSED}fetch may reach good.example")


def test_egress_check_says_why(gateway: Served) -> None:
    def check(*words: str) -> tuple[int, str, str]:
        done = binary("egress", "check", *words, "--data", str(gateway.data))
        return done.code, done.out, done.err

    code, out, _ = check("https://good.example/a", "--use", "tunnel")
    assert code == 0 and "controlled" in out and "[egress] tunnel has good.example:443" in out
    code, out, err = check("https://evil.example/a", "--use", "tunnel", "--agent", "tools/told")
    assert (
        code == 1
        and "class reported" in out
        and "passes, and is recorded" in out
        and "not on the list" in err
    )
    code, out, _ = check("http://127.1/", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (
        code == 1
        and [row["use"] for row in rows] == ["media", "links", "tunnel"]
        and all(row["reason"] == "unreadable" for row in rows)
    )
    narrow = gateway.issue("tools/less", "--egress-host", "x.good.example")
    code, out, _ = check("https://good.example/", "--use", "tunnel", "--token", narrow)
    assert code == 1 and "it leaves x.good.example" in out and narrow not in out
    code, out, _ = check("https://x.good.example:8443/", "--use", "tunnel", "--token", narrow)
    assert code == 0, out


def test_an_agent_is_told_what_it_may_reach(gateway: Served) -> None:
    def me(token: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {token}"}
        return httpx2.get(
            gateway.url + "/v1/token-shield/me", headers=headers, timeout=30, trust_env=False
        ).json()["egress"]

    assert me(gateway.token) == {
        "media": [],
        "links": [],
        "tunnel": ["good.example:443", "good.example:80", "*.good.example:8443"],
    }
    assert me(gateway.issue("tools/less", "--egress-host", "x.good.example"))["tunnel"] == [
        "x.good.example:8443"
    ]
    assert me(gateway.issue("tools/none", "--egress", "none"))["tunnel"] == []
