"""Response filter across pieces of an answer, which one reader joins and another leaves out.

The pieces form no URL and no other call for any reader.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest

from clients import claude, open_ai, user
from exfiltration import GOOD
from gateway import Served
from outside import Says
from renderers import YARDSTICKS, loaded_elsewhere, rendered
from test_serve import serve

MODEL, MARK = "says", "#link-removed:"
EVIL = "https://evil.example/x"
# Pieces that lead to another host when they are joined.
CUT = [
    ("![x](/", "/evil.example/x.png)"),
    ("![x](https:/", "/evil.example/x.png)"),
    (f"![x](https://{GOOD}", ".evil.example/x.png)"),
    ("![x](htt", "ps:/evil.example/x.png)"),
    ("![x](", "/\\evil.example/x.png)"),
]
WORDS = ["x", " ", "/"]
Event = dict[str, Any]


@pytest.fixture(scope="module")
def model() -> Iterator[Says]:
    said = Says()
    yield said
    said.stop()


@pytest.fixture(scope="module")
def gateway(model: Says, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    config = f"""
[egress]
media = ["{GOOD}"]
links = ["{GOOD}"]
tunnel = ["{GOOD}"]
fetch_tools = ["fetch"]
[class.default]
rpm = 10000000
burst = 1000000
in_flight = 64
output_tokens = 10000000
[[upstream]]
name = "says"
url = "http://127.0.0.1:{model.port}"
[[model]]
name = "{MODEL}"
route = ["says"]
"""
    with serve(tmp_path_factory.mktemp("joints"), config) as served:
        served.token = served.issue("joints/all", models=(MODEL,))
        yield served


def named(event: Event, name: str | None = "") -> bytes:
    """An event of Anthropic's, named like its type by default."""
    name = event["type"] if name == "" else name
    return (
        (f"event: {name}\n" if name else "").encode()
        + b"data: "
        + json.dumps(event).encode()
        + b"\n\n"
    )


def anthropic_stream(blocks: list[bytes]) -> bytes:
    message = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    end = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 1},
    }
    return b"".join(
        [
            named({"type": "message_start", "message": message}),
            *blocks,
            named(end),
            named({"type": "message_stop"}),
        ]
    )


def start(index: int, block: Event) -> bytes:
    return named({"type": "content_block_start", "index": index, "content_block": block})


def delta(index: int, **of: Any) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": of}


def stop(index: int) -> bytes:
    return named({"type": "content_block_stop", "index": index})


def text(index: int, piece: str) -> bytes:
    return named(delta(index, type="text_delta", text=piece))


TEXT = {"type": "text", "text": ""}
# Events between two pieces of a text, as one block or in one.
BETWEEN: dict[str, Callable[[str], bytes]] = {
    "nothing": lambda _: b"",
    "no name": lambda word: named(delta(0, type="text_delta", text=word), None),
    "another name": lambda word: named(delta(0, type="text_delta", text=word), "ping"),
    "another delta": lambda word: named(delta(0, type="foo_delta", text=word)),
    "deeper": lambda word: named(delta(0, type="foo_delta", x={"text": word})),
    "citation": lambda word: named(
        delta(0, type="citations_delta", citation={"type": "x", "text": word})
    ),
    "ping": lambda word: named({"type": "ping", "text": word}),
    "a block": lambda word: (
        stop(0)
        + start(
            1,
            {
                "type": "mcp_tool_result",
                "tool_use_id": "t",
                "is_error": False,
                "content": [{"type": "text", "text": word}],
            },
        )
        + stop(1)
        + start(2, TEXT)
    ),
}


def harmless(shown: str) -> bool:
    """Whether the text that a reader assembles loads from no other host."""
    return not any(
        loaded_elsewhere(outputs[name], f"https://{GOOD}")
        for _, outputs in rendered([shown])
        for name in YARDSTICKS
    )


@pytest.mark.parametrize("between", BETWEEN)
def test_what_anthropics_sdk_leaves_out_joins_nothing(
    gateway: Served, model: Says, between: str
) -> None:
    client = claude(gateway, gateway.token)
    for (first, second), word in itertools.product(CUT, WORDS):
        behind = 2 if between == "a block" else 0
        model.say(
            f"{between} {first} {word}",
            b"",
            anthropic_stream(
                [
                    start(0, TEXT),
                    text(0, first),
                    BETWEEN[between](word),
                    text(behind, second),
                    stop(behind),
                ]
            ),
        )
        try:
            with client.messages.stream(
                model=MODEL, max_tokens=9, messages=user(f"{between} {first} {word}")
            ) as stream:
                content = stream.get_final_message().content
        except anthropic.APIStatusError as refused:
            assert "upstream-invalid" in str(refused) and between == "another name", refused
            continue
        shown = "".join(block.text for block in content if block.type == "text")
        assert harmless(shown), (first, word, shown)
        assert between != "another name"


def chunk(delta: Event, index: int = 0, **more: Any) -> Event:
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": index, "delta": delta, "finish_reason": None}],
        **more,
    }


def openai_stream(events: list[Event], names: dict[int, str] | None = None) -> bytes:
    written = [
        (
            (f"event: {names[at]}\n".encode() if names and at in names else b"")
            + b"data: "
            + json.dumps(one).encode()
            + b"\n\n"
        )
        for at, one in enumerate(events)
    ]
    return b"".join(written) + b"data: [DONE]\n\n"


def twice(word: str) -> Event:
    """Two entries of one choice."""
    whole = chunk({"content": ""})
    whole["choices"].append(chunk({"content": word})["choices"][0])
    return whole


OTHERWISE: dict[str, Callable[[str], Event]] = {
    "deeper": lambda word: chunk({"x": {"content": word}}),
    "annotation": lambda word: chunk(
        {"annotations": [{"type": "url_citation", "url_citation": {"content": word}}]}
    ),
    "elsewhere": lambda word: chunk({}, content=word),
    "other choices": lambda word: chunk(
        {}, x={"choices": [{"index": 0, "delta": {"content": word}}]}
    ),
    "a message": lambda word: {
        **chunk({}),
        "choices": [{"index": 0, "message": {"content": word}}],
    },
    "two entries": twice,
    "another name": lambda word: chunk({"content": word}),
}


@pytest.mark.parametrize("between", OTHERWISE)
def test_what_openais_sdk_leaves_out_joins_nothing(
    gateway: Served, model: Says, between: str
) -> None:
    client = open_ai(gateway, gateway.token)
    for (first, second), word in itertools.product(CUT, WORDS):
        names = {1: "thread.x"} if between == "another name" else None
        model.say(
            f"{between} {first} {word}",
            b"",
            openai_stream(
                [chunk({"content": first}), OTHERWISE[between](word), chunk({"content": second})],
                names,
            ),
        )
        shown = ""
        try:
            for event in client.chat.completions.create(
                model=MODEL, messages=user(f"{between} {first} {word}"), stream=True
            ):
                shown += "".join(
                    choice.delta.content or "" for choice in event.choices if choice.delta
                )
        except openai.APIError as refused:
            assert "does not pass on" in str(refused) and between in (
                "two entries",
                "another name",
            ), refused
            continue
        assert harmless(shown), (first, word, shown)
        assert between not in ("two entries", "another name")


def part(piece: str) -> list[Event]:
    return [{"type": "text", "text": piece}]


def test_texts_and_parts_of_texts_are_one_text(gateway: Served, model: Says) -> None:
    """Some servers send one text both as a whole and as parts."""

    def pieces(content: list[Any]) -> str:
        return "".join(one if isinstance(one, str) else one["text"] for one in content)

    def asked(mark: str) -> bytes:
        raw = open_ai(gateway, gateway.token).with_raw_response.chat.completions.create(
            model=MODEL, messages=user(mark), stream=True
        )
        return b"".join(raw.http_response.iter_bytes())

    def shown(mark: str) -> str:
        deltas = [
            json.loads(line[6:])["choices"][0]["delta"].get("content", "")
            for line in asked(mark).decode().splitlines()
            if line.startswith("data: {")
        ]
        return "".join(one if isinstance(one, str) else pieces(one) for one in deltas)

    for at, (first, second) in enumerate(CUT):
        for way, events in {
            "then parts": [chunk({"content": first}), chunk({"content": part(second)})],
            "parts first": [chunk({"content": part(first)}), chunk({"content": second})],
            "at once": [chunk({"content": [first, *part(second)]})],
        }.items():
            model.say(f"{way} {at}", b"", openai_stream(events))
            assert harmless(shown(f"{way} {at}")), (way, first, shown(f"{way} {at}"))
    for first, second in [("Use http:", " or https: as you like"), ("see [a](/", " b")]:
        model.say(
            first, b"", openai_stream([chunk({"content": part(first)}), chunk({"content": second})])
        )
        assert shown(first) == first + second
    shares = [{"text": "```\n"}, {"text": f"![x]({EVIL})\n"}, {"text": "```\n"}]
    model.say("fences", b"", openai_stream([chunk({"reasoning_details": [one]}) for one in shares]))
    # An item that is shown by itself is in no fence.
    assert f"]({MARK}{EVIL}".encode() in asked("fences")


# The text that the SDKs assemble, and the text without each second piece.
CALL = ['{"u', '":"', "rl", '","k', '":"https:/', '","m":"', '/evil.example/x"}']


@pytest.mark.parametrize("odd", ["no name", "another name", "another delta", "an array"])
def test_no_call_is_put_together_in_another_way(gateway: Served, model: Says, odd: str) -> None:
    hidden: dict[str, Callable[[str], bytes]] = {
        "no name": lambda piece: named(delta(0, type="input_json_delta", partial_json=piece), None),
        "another name": lambda piece: named(
            delta(0, type="input_json_delta", partial_json=piece), "ping"
        ),
        "another delta": lambda piece: named(delta(0, type="foo_delta", partial_json=piece)),
        "an array": lambda piece: named(delta(0, type="input_json_delta", partial_json=[piece])),
    }
    call = {"type": "tool_use", "id": "t", "name": "fetch", "input": {}}
    pieces = [
        hidden[odd](piece)
        if at % 2
        else named(delta(0, type="input_json_delta", partial_json=piece))
        for at, piece in enumerate(CALL)
    ]
    model.say(odd, b"", anthropic_stream([start(0, call), *pieces, stop(0)]))
    asked = claude(gateway, gateway.token).messages.stream(
        model=MODEL, max_tokens=9, messages=user(odd)
    )
    if odd == "no name":
        # The gateway writes the names that are missing, so that no client leaves a piece out.
        with asked as stream:
            [said] = stream.get_final_message().content
        assert said.input == {"u": "rl", "k": "https:/", "m": "/evil.example/x"}
        return
    with pytest.raises(anthropic.APIStatusError, match="upstream-invalid"), asked as stream:
        stream.get_final_message()


def test_no_call_stands_where_a_stream_has_none(gateway: Served, model: Says) -> None:
    function = {
        "index": 0,
        "id": "c",
        "type": "function",
        "function": {"name": "fetch", "arguments": json.dumps({"url": EVIL})},
    }
    for mark, choices in {
        "one object": [{"index": 0, "delta": {"tool_calls": function}}],
        "a message": [{"index": 0, "message": {"tool_calls": [function]}}],
        "an array": [{"index": 0, "delta": [{"tool_calls": [function]}]}],
        "two entries": [
            {"index": 0, "delta": {}},
            {"index": 0, "delta": {"tool_calls": [function]}},
        ],
    }.items():
        model.say(mark, b"", openai_stream([{**chunk({}), "choices": choices}]))
        with pytest.raises(openai.APIError, match="does not pass on"):
            list(
                open_ai(gateway, gateway.token).chat.completions.create(
                    model=MODEL, messages=user(mark), stream=True
                )
            )


def test_an_answer_of_too_many_texts_is_refused(gateway: Served, model: Says) -> None:
    """The number of texts is limited, because each text needs a filter."""
    whole = {
        **chunk({}),
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        ],
    }
    for count, refused in [(1_000, False), (1_100, True)]:
        many = {f"member{at}": "a text" for at in range(count)}
        model.say(f"whole {count}", json.dumps({**whole, **many}).encode(), b"")
        model.say(f"stream {count}", b"", openai_stream([{**chunk({"content": "x"}), **many}]))
        client = open_ai(gateway, gateway.token)
        asks: list[Callable[[], Any]] = [
            lambda: client.chat.completions.create(model=MODEL, messages=user(f"whole {count}")),
            lambda: list(
                client.chat.completions.create(
                    model=MODEL, messages=user(f"stream {count}"), stream=True
                )
            ),
        ]
        for ask in asks:
            if refused:
                with pytest.raises(openai.APIError, match="not controlled"):
                    ask()
            else:
                assert ask()
