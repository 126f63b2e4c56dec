"""Incomplete answers: what the caller receives, and what usage the record states."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import anthropic
import httpx2
import openai
import pytest

from clients import claude, open_ai, send_raw, user
from fake_upstream import MODEL
from gateway import Served, binary
from scripted import Scripted, event, stream, whole
from secret_places import OPENED, block, chunk
from test_answers_secrets import ask
from test_audit import inside, query, rows
from test_serve import fake_model, last_error, serve
from waiting import wait_until

QUICK = "[class.default]\nrpm = 10000000\nburst = 1000000\nin_flight = 64\noutput_tokens = 1000\n"
DONE = event("[DONE]")
TEXT = "half of it \u00e9"
LENGTH = len(TEXT.encode())


@pytest.fixture(scope="module")
def model() -> Iterator[Scripted]:
    said = Scripted()
    yield said
    said.stop()


@pytest.fixture(scope="module")
def gateway(model: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("cut"), QUICK + fake_model(model.url)) as served:
        yield served


def outcome(gateway: Served, request: str) -> dict[str, object]:
    """The request's outcome in the log; waits for it."""

    def find() -> dict[str, object] | None:
        return next(
            (
                inside(row)
                for row in query(gateway, "--request", request)
                if row["kind"] == "outcome"
            ),
            None,
        )

    return wait_until(find, 10, "the outcome")


def used(ended: dict[str, object]) -> tuple[int, int, object]:
    usage = ended["usage"]
    assert isinstance(usage, dict)
    return usage["input"], usage["output"], ended["usage_source"]


def usage(read: object, wrote: object, choices: list[object] | None = None) -> bytes:
    body = {
        "id": "c",
        "choices": choices or [],
        "usage": {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": 0},
    }
    return event(body)


@pytest.mark.parametrize(
    ("mark", "events"),
    [
        ("nothing at all", []),
        ("no finish reason", [chunk({"content": TEXT})]),
        ("usage and no finish reason", [chunk({"content": TEXT}), usage(3, 4)]),
        (
            "one of two choices",
            [
                event(
                    {
                        "choices": [
                            {"index": 0, "delta": {}, "finish_reason": "stop"},
                            {"index": 1, "delta": {"content": "x"}},
                        ]
                    }
                )
            ],
        ),
        ("half an event", [chunk({"content": TEXT}), b'data: {"choi']),
    ],
)
def test_a_stream_without_an_end_is_told_so(
    gateway: Served, model: Scripted, mark: str, events: list[bytes]
) -> None:
    model.say(mark, stream(*events))
    answer = ask(gateway, "chat", mark, stream=True)
    assert answer.status_code == 200 and last_error(answer) in ("truncated", "upstream-invalid"), (
        answer.text
    )
    ended = outcome(gateway, answer.headers["token-shield-request"])
    assert (ended["code"], ended["status"], ended["response_bytes"]) == (
        last_error(answer),
        200,
        len(answer.content),
    )
    with pytest.raises(openai.APIError):
        list(
            open_ai(gateway, gateway.token).chat.completions.create(
                model=MODEL, messages=user(mark), stream=True
            )
        )


def test_messages_without_an_end_are_told_so(gateway: Served, model: Scripted) -> None:
    begin = [
        event(OPENED, "message_start"),
        event(
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""},
            },
            "content_block_start",
        ),
    ]
    model.say("half a message", stream(*begin, block(type="text_delta", text=TEXT)))
    answer = ask(gateway, "messages", "half a message", stream=True)
    assert answer.text.count("event: error") == 1 and last_error(answer) == "truncated", answer.text
    ended = outcome(gateway, answer.headers["token-shield-request"])
    assert (ended["code"], ended["status"]) == ("truncated", 200) and used(ended) == (
        1,
        1 + LENGTH,
        "running",
    )
    with pytest.raises(anthropic.APIStatusError):
        with claude(gateway, gateway.token).messages.stream(
            model=MODEL, max_tokens=99, messages=user("half a message")
        ) as events:
            events.get_final_message()


@pytest.mark.parametrize(
    ("mark", "events"),
    [
        ("a reason and no last event", [chunk({"content": TEXT}), chunk({}, "stop")]),
        ("a last event and no reason", [chunk({"content": TEXT}), DONE]),
        ("both", [chunk({"content": TEXT}), chunk({}, "length"), DONE]),
    ],
)
def test_what_honest_servers_leave_out_is_no_cut(
    gateway: Served, model: Scripted, mark: str, events: list[bytes]
) -> None:
    model.say(mark, stream(*events))
    answer = ask(gateway, "chat", mark, stream=True)
    assert answer.content == b"".join(events)
    ended = outcome(gateway, answer.headers["token-shield-request"])
    assert ended["code"] == "ok" and used(ended) == (len(model.bodies[mark]), LENGTH, "bound")


def test_a_whole_answer_that_is_cut_short(gateway: Served, model: Scripted) -> None:
    model.say("short", whole({"choices": []}, length=4096))
    answer = ask(gateway, "chat", "short")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "truncated")
    assert answer.headers["x-should-retry"] == "false" and "retry-after" not in answer.headers
    ended = outcome(gateway, answer.headers["token-shield-request"])
    assert (ended["code"], ended["status"]) == ("truncated", 502) and used(ended) == (
        len(model.bodies["short"]),
        0,
        "bound",
    )


def test_an_invalid_answer_is_not_asked_for_again(gateway: Served, model: Scripted) -> None:
    model.say("invalid", whole(b"no JSON"))
    answer = ask(gateway, "chat", "invalid")
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream-invalid")
    assert answer.headers["x-should-retry"] == "false" and "retry-after" not in answer.headers


def test_an_error_that_the_server_tells_is_no_success(gateway: Served, model: Scripted) -> None:
    model.say(
        "own error",
        stream(
            chunk({"content": TEXT}),
            event({"error": {"message": "out of memory", "type": "server_error"}}),
        ),
    )
    answer = ask(gateway, "chat", "own error", stream=True)
    assert answer.text.count('"error"') == 1
    ended = outcome(gateway, answer.headers["token-shield-request"])
    assert (ended["code"], ended["status"]) == ("upstream-error", 200) and ended[
        "usage_source"
    ] == "bound"


@pytest.mark.parametrize(
    ("mark", "read", "wrote", "source"),
    [
        ("honest", 9, 5, "reported"),
        ("zero", 0, 0, "bound"),
        ("no output", 9, 0, "bound"),
        ("negative", -9, -5, "bound"),
        ("absurd input", 1 << 40, 5, "bound"),
        ("absurd output", 9, 1 << 40, "bound"),
        ("a word", "9", "5", "bound"),
        ("missing", None, None, "bound"),
    ],
)
def test_reports_that_cannot_be_true_are_silence(
    gateway: Served, model: Scripted, mark: str, read: object, wrote: object, source: str
) -> None:
    for streamed in (False, True):
        name = f"{mark} {streamed}"
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT},
            "finish_reason": "stop",
        }
        told = {"prompt_tokens": read, "completion_tokens": wrote}
        if streamed:
            model.say(
                name, stream(chunk({"content": TEXT}), chunk({}, "stop"), usage(read, wrote), DONE)
            )
        else:
            model.say(name, whole({"choices": [choice], "usage": told}))
        answer = ask(gateway, "chat", name, stream=streamed)
        assert answer.status_code == 200, answer.text
        ended = outcome(gateway, answer.headers["token-shield-request"])
        expect = (9, 5) if source == "reported" else (len(model.bodies[name]), LENGTH)
        assert ended["code"] == "ok" and used(ended) == (*expect, source)


def test_running_usage_counts_where_the_stream_is_cut(gateway: Served, model: Scripted) -> None:
    running = [{"index": 0, "delta": {"content": "abc"}, "finish_reason": None}]
    model.say(
        "running", stream(usage(9, 1, running), usage(9, 2, running), chunk({"content": "four"}))
    )
    answer = ask(gateway, "chat", "running", stream=True)
    ended = outcome(gateway, answer.headers["token-shield-request"])
    assert ended["code"] == "truncated" and used(ended) == (9, 2 + len("four"), "running")


def test_who_leaves_early_is_counted(gateway: Served, model: Scripted) -> None:
    mark = "left early"
    model.say(mark, stream(chunk({"content": TEXT})), endless=True)
    connection = send_raw(
        gateway, gateway.token, {"model": MODEL, "messages": user(mark), "stream": True}
    )
    head = b""
    while (
        TEXT.encode() not in head.decode("unicode_escape").encode("latin-1", "replace")
        and len(head) < 4096
    ):
        head += connection.recv(4096)
    connection.close()
    request = (
        head.decode()
        .lower()
        .partition("token-shield-request: ")[2]
        .split("\r\n")[0]
        .replace("rq_", "rq_")
    )
    gateway.idle()
    [ended] = [
        inside(row)
        for row in query(gateway, "--agent", "tests/main")
        if row["kind"] == "outcome" and inside(row)["code"] == "aborted"
    ]
    assert (
        request
        and used(ended)[0] == len(model.bodies[mark])
        and used(ended)[1] > 0
        and ended["usage_source"] == "bound"
    )
    assert ended["status"] == 200


def test_requests_that_did_not_run_cost_nothing(gateway: Served, model: Scripted) -> None:
    model.say("bad request", whole({"error": {"message": "no"}}, 400))
    answer = ask(gateway, "chat", "bad request")
    ended = outcome(gateway, answer.headers["token-shield-request"])
    assert (ended["code"], ended["status"]) == ("upstream-error", 400) and used(ended) == (
        0,
        0,
        "bound",
    )


@pytest.mark.parametrize("operation", ["chat", "messages"])
def test_an_endless_stream_is_cut_at_what_its_cap_can_be(
    gateway: Served, model: Scripted, operation: str
) -> None:
    mark = f"endless {operation}"
    if operation == "chat":
        model.say(mark, stream(chunk({"content": "x" * 1000})), endless=True)
    else:
        opened = [
            event(OPENED, "message_start"),
            event(
                {
                    "type": "content_block_start",
                    "index": 0,
                    "content_block": {"type": "text", "text": ""},
                },
                "content_block_start",
            ),
        ]
        model.say(mark, stream(*opened, block(type="text_delta", text="x" * 1000)), endless=True)
    answer = ask(gateway, operation, mark, stream=True, max_tokens=100)
    assert last_error(answer) == "upstream-endless"
    text = answer.text.count("x" * 1000) * 1000
    allowed = 256 * 100 + (1 << 20)
    assert allowed - 100_000 < text <= allowed
    ended = outcome(gateway, answer.headers["token-shield-request"])
    assert (ended["code"], ended["status"], ended["response_bytes"]) == (
        "upstream-endless",
        200,
        len(answer.content),
    )
    sent = model.sent[mark]
    assert sent < 64 << 20, "the upstream's connection was not closed"


def test_an_endless_stream_without_text_is_cut_too(gateway: Served, model: Scripted) -> None:
    model.say(
        "endless nothing",
        stream(chunk({"content": "x"}), event({"id": "z" * 100_000, "choices": []})),
        endless=True,
    )
    answer = ask(gateway, "chat", "endless nothing", stream=True, max_tokens=10)
    assert last_error(answer) == "upstream-endless" and len(answer.content) < 40 << 20


def test_a_whole_answer_is_bounded_so_too(gateway: Served, model: Scripted) -> None:
    long = {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "x" * ((1 << 20) + 256 * 10 + 1)},
                "finish_reason": "stop",
            }
        ]
    }
    model.say("long", whole(long))
    answer = ask(gateway, "chat", "long", max_tokens=10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream-endless")
    assert ask(gateway, "chat", "long", max_tokens=11).status_code == 200
    assert ask(gateway, "chat", "long", max_tokens=10, n=2).status_code == 200


def test_usage_is_shown_with_what_was_not_reported(gateway: Served, model: Scripted) -> None:
    ask(
        gateway, "chat", "no finish reason", stream=True
    ) if "no finish reason" in model.bodies else None
    done = binary("audit", "usage", str(gateway.data / "audit"), "--by", "agent", "--json")
    assert done.code == 0 and json.loads(done.out.splitlines()[0])["unreported"] > 0, done.out


def test_streams_that_the_drain_cuts_end_with_an_event(
    model: Scripted, tmp_path_factory: pytest.TempPathFactory
) -> None:
    short = '[timeouts]\ndrain = "1s"\n'
    with serve(
        tmp_path_factory.mktemp("drain"),
        short + QUICK.replace("1000\n", "1000000000\n") + fake_model(model.url),
    ) as own:
        model.say("draining", stream(chunk({"content": "x"}), b": \n\n"))
        held = socket.create_server(("127.0.0.1", 0))
        held.close()
        model.say("drain me", stream(chunk({"content": "x"})), endless=True)
        with httpx2.Client(trust_env=False, timeout=60) as client:
            body = {"model": MODEL, "messages": user("drain me"), "stream": True}
            with client.stream(
                "POST",
                f"{own.url}/v1/chat/completions",
                json=body,
                headers={"authorization": f"Bearer {own.token}"},
            ) as answer:
                pieces = answer.iter_bytes()
                next(pieces)
                own.terminate()
                rest = b"".join(pieces)
        assert (
            json.loads(rest.rstrip().rsplit(b"data: ", 1)[1])["error"]["code"] == "gateway-stopping"
        )
        own.ended()
        ends = [
            inside(row)
            for row in rows(own, "query", str(own.data / "audit"))
            if row["kind"] == "outcome"
        ]
        assert ends[-1]["code"] == "gateway-stopping" and ends[-1]["status"] == 200


def test_no_shape_of_an_answer_ends_the_gateway(gateway: Served, model: Scripted) -> None:
    nested = b"[" * 100_000 + b"]" * 100_000
    deep = b'{"id":"c","choices":[{"index":0,"delta":' + nested + b"}]}"
    wide = (
        b'{"id":"c","object":"text_completion","x":"'
        + b"x" * (1 << 20)
        + b'","choices":['
        + b",".join([b"{}"] * 100)
        + b"]}"
    )
    pid = gateway.process.pid
    model.say("deep events", stream(b"data: " + deep + b"\n\n"))
    model.say("deep whole", whole(deep.replace(b"delta", b"message")))
    model.say("wide", whole(wide))
    ask(gateway, "chat", "deep events", stream=True)
    assert ask(gateway, "chat", "deep whole").status_code == 502
    assert ask(gateway, "completions", "wide", stream=True).status_code == 502
    model.say(
        "plain",
        whole(
            {
                "id": "c",
                "object": "text_completion",
                "choices": [{"index": 0, "text": "fine", "finish_reason": "stop"}],
            }
        ),
    )
    assert ask(gateway, "completions", "plain").json()["choices"][0]["text"] == "fine"
    assert gateway.process.poll() is None and gateway.process.pid == pid
