"""Request filter, `inline`: the gateway fetches controlled URLs from the address that it checked.

The model server fetches no URL.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx2
import openai
import pytest

from clients import claude, open_ai
from fake_upstream import MODEL, FakeUpstream
from gateway import Served
from outside import PDF, PNG, Content, Names
from spellings import internal
from test_audit import digest, inside, query
from test_serve import CHAT, authority, code, fake_model, serve
from waiting import wait_until

FULL = bool(os.environ.get("TOKEN_SHIELD_FULL"))
FLIPS = 2_000 if FULL else 400


def config(
    upstream: str,
    port: int,
    more: str = "",
    networks: str = '"127.0.0.2/32"',
    name: str = "pics.test",
) -> str:
    return f"""
[egress]
media = ["{name}:{port}", "10.1.2.3:{port}"]
networks = [{networks}]
[egress.fetch]
bytes = "256KiB"
time = "2s"
{more}
[class.default]
rpm = 1000000
burst = 100000
requests = {{ media = "inline" }}
[class.frugal]
rpm = 6000
fetch_per_hour = "1KiB"
requests = {{ media = "inline" }}
""" + fake_model(upstream, 'profile = "vllm"')


def looking_at(*urls: str, mark: str = "look") -> list[dict[str, Any]]:
    return [
        {
            "role": "user",
            "content": [{"type": "text", "text": mark}]
            + [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in urls],
        }
    ]


class Outside:
    """Content at 127.0.0.2, which is allowed.

    The same port of 127.0.0.1 and 127.0.0.3 has content too, and is not allowed.
    """

    def __init__(self) -> None:
        self.content = Content("127.0.0.2")
        self.others = [
            Content(address, self.content.port) for address in ("127.0.0.1", "127.0.0.3")
        ]
        self.port = self.content.port
        self.answers = itertools.repeat(["127.0.0.2"])
        self.names = Names(lambda name: next(self.answers) if name == "pics.test" else [])

    def url(self, path: str) -> str:
        return f"http://pics.test:{self.port}/{path}"

    def stop(self) -> None:
        for one in (self.content, *self.others, self.names):
            one.stop()


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    world = Outside()
    yield world
    world.stop()


@pytest.fixture(scope="module")
def gateway(
    upstream: FakeUpstream, outside: Outside, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    more = f'resolver = "127.0.0.1:{outside.names.port}"'
    with serve(
        tmp_path_factory.mktemp("inline"), config(upstream.url, outside.port, more)
    ) as served:
        yield served


def ask(
    gateway: Served, messages: list[dict[str, Any]], token: str | None = None
) -> httpx2.Response:
    headers = {"authorization": f"Bearer {token or gateway.token}"}
    return httpx2.post(
        gateway.url + CHAT,
        json={"model": MODEL, "messages": messages},
        headers=headers,
        timeout=60,
        trust_env=False,
    )


def sent(upstream: FakeUpstream, mark: str) -> dict[str, Any]:
    return json.loads(upstream.exchange(mark).request.body)


def test_content_stands_where_its_url_stood(
    gateway: Served, upstream: FakeUpstream, outside: Outside
) -> None:
    before = len(outside.content.asked)
    urls = [outside.url("a.png?x=ü#part"), outside.url("octets/b"), outside.url("chunked/c")]
    answer = ask(gateway, looking_at(*urls, mark="three pictures"))
    assert answer.status_code == 200, answer.text
    parts = sent(upstream, "three pictures")["messages"][0]["content"]
    want = [PNG, PNG, PNG + bytes(1000)]
    assert [part["image_url"] for part in parts[1:]] == [
        {"url": "data:image/png;base64," + base64.b64encode(body).decode(), "detail": "low"}
        for body in want
    ]
    asked = outside.content.asked[before:]
    assert [path for path, _ in asked] == ["/a.png?x=%C3%BC", "/octets/b", "/chunked/c"]
    for _, headers in asked:
        assert set(headers) == {"host", "accept", "accept-encoding", "user-agent"}, headers
        assert headers["host"] == f"pics.test:{outside.port}"
    rows = query(gateway, "--request", answer.headers["token-shield-request"])
    [admission], [outcome] = (
        [inside(row) for row in rows if row["kind"] == kind] for kind in ("admission", "outcome")
    )
    assert (
        "forward_digest" not in admission
        and [one["target"] for one in admission["fetches"]] == urls
    )
    assert admission["fetches"][0]["target_digest"] == digest(admission, urls[0].encode())
    assert outcome["forward_digest"] == digest(
        outcome, upstream.exchange("three pictures").request.body
    )
    assert [(one["target"], one["bytes"], one["media_type"]) for one in outcome["fetched"]] == [
        (url, len(body), "image/png") for url, body in zip(urls, want, strict=True)
    ]
    assert [one["digest"] for one in outcome["fetched"]] == [digest(outcome, body) for body in want]
    assert (
        outcome["fetched"][0]["path"] == "messages[0].content[1].image_url.url"
        and outcome["fetched_count"] == 3
    )
    assert gateway.metric("token_shield_fetched_bytes_total") >= sum(map(len, want))


def test_both_sdks_get_their_answers(
    gateway: Served, upstream: FakeUpstream, outside: Outside
) -> None:
    told = open_ai(gateway, gateway.token).chat.completions.create(
        model=MODEL, messages=looking_at(outside.url("a.png"))
    )
    assert told.choices[0].message.content
    blocks = [
        {"type": "text", "text": "two documents"},
        {"type": "image", "source": {"type": "url", "url": outside.url("a.png")}},
        {"type": "document", "source": {"type": "url", "url": outside.url("pdf/a")}},
    ]
    claude(gateway, gateway.token).messages.create(
        model=MODEL, max_tokens=9, messages=[{"role": "user", "content": blocks}]
    )
    _, image, document = sent(upstream, "two documents")["messages"][0]["content"]
    assert image["source"] == {
        "type": "base64",
        "media_type": "image/png",
        "data": base64.b64encode(PNG).decode(),
    }
    assert document["source"] == {
        "type": "base64",
        "media_type": "application/pdf",
        "data": base64.b64encode(PDF).decode(),
    }
    wrong = [{"type": "document", "source": {"type": "url", "url": outside.url("a.png")}}]
    with pytest.raises(anthropic.UnprocessableEntityError):
        claude(gateway, gateway.token).messages.create(
            model=MODEL, max_tokens=9, messages=[{"role": "user", "content": wrong}]
        )


@pytest.mark.parametrize(
    "path",
    [
        "svg/a",
        "html/a",
        "mislabelled/a",
        "playlist/a",
        "redirect/a",
        "gzip/a",
        "missing/a",
        "empty/a",
        "large/a",
        "endless/a",
        "pdf/a",
    ],
)
def test_what_is_not_the_content_itself_is_refused(
    gateway: Served, upstream: FakeUpstream, outside: Outside, path: str
) -> None:
    before, others = len(upstream.exchanges), [other.reached for other in outside.others]
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        open_ai(gateway, gateway.token).chat.completions.create(
            model=MODEL, messages=looking_at(outside.url("a.png"), outside.url(path))
        )
    assert (
        refused.value.code == "fetch-failed"
        and refused.value.param == "messages[0].content[2].image_url.url"
    )
    assert (
        len(upstream.exchanges) == before and [other.reached for other in outside.others] == others
    )


def test_what_was_fetched_is_recorded_whatever_becomes_of_the_rest(
    gateway: Served, outside: Outside
) -> None:
    answer = ask(gateway, looking_at(outside.url("a.png?d=SECRET"), outside.url("missing/x")))
    assert code(answer) == (422, "fetch-failed")
    rows = query(gateway, "--request", answer.headers["token-shield-request"])
    [admission], [outcome] = (
        [inside(row) for row in rows if row["kind"] == kind] for kind in ("admission", "outcome")
    )
    assert [one["target"] for one in admission["fetches"]] == [
        outside.url("a.png?d=SECRET"),
        outside.url("missing/x"),
    ]
    assert [one["target"] for one in outcome["fetched"]] == [
        outside.url("a.png?d=SECRET")
    ] and "forward_digest" not in outcome


def test_content_that_trickles_has_its_time(gateway: Served, outside: Outside) -> None:
    assert code(ask(gateway, looking_at(outside.url("drip/a")))) == (504, "fetch-slow")


def test_what_is_not_controlled_is_not_even_looked_up(gateway: Served, outside: Outside) -> None:
    asked, reached = len(outside.names.queries), outside.content.reached
    narrow = gateway.issue("inline/narrow", "--egress-host", "else.test", models=(MODEL,))
    none = gateway.issue("inline/none", "--egress", "none", models=(MODEL,))
    for url, token in [
        ("http://other.test/a.png", None),
        (f"http://pics.test:{outside.port + 1}/a", None),
        (outside.url("a"), narrow),
        (outside.url("a"), none),
    ]:
        assert code(ask(gateway, looking_at(url), token)) == (403, "egress-uncontrolled")
    assert code(ask(gateway, looking_at(outside.url("a"), "http://127.0.0.1/"))) == (
        403,
        "egress-uncontrolled",
    )
    assert (len(outside.names.queries), outside.content.reached) == (asked, reached)


def test_nothing_inside_is_reached_however_it_is_spelled(gateway: Served, outside: Outside) -> None:
    urls = sorted(set(internal()))
    assert len(urls) >= 5_000
    urls = urls[:: 1 if FULL else 10]
    asked, reached = (
        len(outside.names.queries),
        [one.reached for one in (outside.content, *outside.others)],
    )

    def passed(mine: list[str]) -> list[tuple[str, int]]:
        with httpx2.Client(
            trust_env=False, timeout=60, headers={"authorization": f"Bearer {gateway.token}"}
        ) as client:
            answers = (
                (
                    url,
                    client.post(
                        gateway.url + CHAT, json={"model": MODEL, "messages": looking_at(url)}
                    ).status_code,
                )
                for url in mine
            )
            return [(url, status) for url, status in answers if status != 403]

    with ThreadPoolExecutor(4) as pool:
        wrong = [one for part in pool.map(passed, [urls[at::4] for at in range(4)]) for one in part]
    assert not wrong, wrong[:5]
    assert (
        len(outside.names.queries),
        [one.reached for one in (outside.content, *outside.others)],
    ) == (asked, reached)


def test_an_hour_has_so_many_bytes(gateway: Served, outside: Outside) -> None:
    parent = gateway.issue("inline/frugal", "--class", "frugal", models=(MODEL,))
    for _ in range(4):
        assert ask(gateway, looking_at(outside.url("a.png")), parent).status_code == 200
    before = len(outside.content.asked)
    with pytest.raises(openai.RateLimitError) as refused:
        open_ai(gateway, parent).chat.completions.create(
            model=MODEL, messages=looking_at(outside.url("a.png"))
        )
    assert (
        refused.value.code == "fetch-quota"
        and int(refused.value.response.headers["retry-after"]) > 0
    )
    assert len(outside.content.asked) <= before + 1
    assert ask(gateway, looking_at(outside.url("a.png"))).status_code == 200, (
        "others have their own"
    )


def test_too_many_pieces(gateway: Served, outside: Outside) -> None:
    assert code(ask(gateway, looking_at(*[outside.url("a.png")] * 17))) == (400, "field-invalid")


def test_a_name_that_leads_elsewhere_each_time(gateway: Served, outside: Outside) -> None:
    """A name with changing addresses: the gateway connects only if all addresses are allowed."""
    bad = [
        "127.0.0.1",
        "127.0.0.3",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "::ffff:127.0.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "fd00::1",
        "::ffff:7f00:3",
    ]
    answers = itertools.cycle(
        [
            ["127.0.0.2"],
            *([one] for one in bad),
            *(["127.0.0.2", one] for one in bad),
            *([one, "127.0.0.2"] for one in bad),
        ]
    )
    reached = [other.reached for other in outside.others]
    outside.answers, passed, refused = answers, 0, 0
    with httpx2.Client(
        trust_env=False, timeout=60, headers={"authorization": f"Bearer {gateway.token}"}
    ) as client:
        for _ in range(FLIPS):
            answer = client.post(
                gateway.url + CHAT,
                json={"model": MODEL, "messages": looking_at(outside.url("a.png"))},
            )
            passed, refused = (
                passed + (answer.status_code == 200),
                refused + (answer.status_code in (403, 422)),
            )
    outside.answers = itertools.repeat(["127.0.0.2"])
    assert passed + refused == FLIPS and passed > 0 and refused > FLIPS / 2, (passed, refused)
    assert [other.reached for other in outside.others] == reached, "nobody else was connected to"


def test_upstreams_and_the_gateway_itself_are_reached_under_no_name(
    upstream: FakeUpstream, outside: Outside, tmp_path: Path
) -> None:
    port = urlsplit(upstream.url).port
    names = Names(lambda name: ["127.0.0.1"])
    more = f'resolver = "127.0.0.1:{names.port}"'
    with serve(tmp_path, config(upstream.url, port or 0, more, networks='"127.0.0.0/8"')) as own:
        before = len(upstream.exchanges)
        assert code(ask(own, looking_at(f"http://pics.test:{port}/a.png"))) == (
            403,
            "egress-uncontrolled",
        )
        assert len(upstream.exchanges) == before
    names.stop()


def test_a_listener_at_a_port_of_the_systems_choice_is_none_either(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, config(upstream.url, 9)) as own:
        port = urlsplit(own.metrics).port
        text = own.config.read_text()
        own.config.write_text(text.replace("media = [", f'media = ["127.0.0.1:{port}", ', 1))
        own.reload()
        answer = ask(own, looking_at(f"http://127.0.0.1:{port}/metrics"))
        assert code(answer) == (403, "egress-uncontrolled")
        assert (
            own.metric(
                "token_shield_egress_total", filter="request", verdict="block", reason="self"
            )
            == 1
        )
        assert "addresses take effect at the next start" not in own.logged(), "nothing has moved"


def test_a_listener_at_every_address_is_reached_under_none(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    own_address = address_of_this_machine()
    names, port = Names(lambda name: [own_address]), free_port()
    more = f'resolver = "127.0.0.1:{names.port}"'
    listen = f'danger_plaintext = true\nmetrics = "0.0.0.0:{port}"\n'
    with Everywhere(
        tmp_path / "data", config(upstream.url, port, more, networks='"0.0.0.0/0"'), listen
    ) as own:
        own.token = own.issue("tests/main", models=(MODEL,))
        answer = ask(own, looking_at(f"http://pics.test:{port}/metrics"))
        assert code(answer) == (403, "egress-uncontrolled")
        rows = query(own, "--request", answer.headers["token-shield-request"])
        assert "a part of this gateway" in next(
            str(inside(row)["detail"]) for row in rows if row["kind"] == "outcome"
        )
    names.stop()


class Everywhere(Served):
    """A gateway whose metrics listen on every address."""

    def write(self, config: str) -> None:
        self._listen = self._listen.replace('metrics = "127.0.0.1:0"\n', "", 1)
        super().write(config)

    def _hello(self) -> None:
        super()._hello()
        self.metrics = self.metrics.replace("0.0.0.0", "127.0.0.1")


def address_of_this_machine() -> str:
    """An address other than loopback: the source address of a datagram outward. None is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.connect(("192.0.2.1", 9))
        return datagram.getsockname()[0]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return held.getsockname()[1]


@pytest.mark.parametrize("trusted", [True, False], ids=["own-ca", "unknown-ca"])
def test_over_tls(upstream: FakeUpstream, tmp_path: Path, trusted: bool) -> None:
    authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    content, names = Content("127.0.0.1", tls=context), Names(lambda name: ["127.0.0.1"])
    more = f'resolver = "127.0.0.1:{names.port}"\n' + (
        f'ca = "{tmp_path}/ca.pem"' if trusted else ""
    )
    with serve(
        tmp_path,
        config(
            upstream.url, content.port, more, networks='"127.0.0.1/32", "::1/128"', name="localhost"
        ),
    ) as own:
        answer = ask(own, looking_at(f"https://localhost:{content.port}/a.png"))
        if trusted:
            assert answer.status_code == 200, answer.text
        else:
            assert code(answer) == (422, "fetch-failed")
    content.stop()
    names.stop()


def test_who_leaves_ends_the_fetch(gateway: Served, outside: Outside) -> None:
    token = gateway.issue("inline/left", models=(MODEL,))
    with pytest.raises(httpx2.ReadTimeout):
        body = {"model": MODEL, "messages": looking_at(outside.url("drip/left"))}
        httpx2.post(
            gateway.url + CHAT,
            json=body,
            headers={"authorization": f"Bearer {token}"},
            timeout=0.5,
            trust_env=False,
        )
    outcome = wait_until(
        lambda: [
            row for row in query(gateway, "--agent", "inline/left") if row["kind"] == "outcome"
        ],
        10,
        "its outcome",
    )
    assert inside(outcome[0])["code"] == "aborted", "it did not wait for the time to be up"
