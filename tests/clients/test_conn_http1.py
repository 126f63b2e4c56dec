"""HTTP/1.1 connections: framing, reuse, 100 Continue, half-closes, idle times, methods."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from clients import send_raw, user
from fake_upstream import MODEL, FakeUpstream
from gateway import Gateway, Served
from test_serve import fake_model, serve
from waiting import wait_until

TIMES = '[timeouts]\nheader = "2s"\nidle = "4s"\nstream_idle = "2s"\nbody_idle = "5s"\n'


@pytest.fixture(scope="module")
def served(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = '[limits]\nbody = "1MiB"\n[class.default]\nrpm = 60000\nburst = 1000\n'
    with serve(
        tmp_path_factory.mktemp("http1"),
        TIMES + limits + fake_model(upstream.url),
        "publish_keys = true",
    ) as gateway:
        yield gateway


class Closed(AssertionError):
    """The gateway closed instead of answering."""


class Kept:
    """One connection, byte for byte."""

    def __init__(self, gateway: Gateway, window: int | None = None) -> None:
        self.socket = socket.socket()
        if window is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", gateway.port))
        self._rest = b""

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def more(self) -> bytes:
        return self.socket.recv(65536)

    def line(self) -> bytes:
        """The head of the next answer, interim answers included."""
        while b"\r\n\r\n" not in self._rest:
            piece = self.more()
            if not piece:
                raise Closed(f"closed after {self._rest!r}")
            self._rest += piece
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next final answer."""
        head = self.line()
        while head.startswith(b"HTTP/1.1 1"):
            head = self.line()
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(headers.get("content-length", "0"))
        while len(self._rest) < length:
            piece = self.more()
            assert piece, "the body was cut"
            self._rest += piece
        body, self._rest = self._rest[:length], self._rest[length:]
        return int(lines[0].split(" ")[1]), headers, body

    def ended(self) -> bool:
        """Whether the stream has ended: no more bytes, and the peer is closed."""
        try:
            return not self._rest and not self.more()
        except ConnectionResetError:
            return True


def head(
    gateway: Gateway,
    *more: str,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    token: str | None = None,
) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "host: test",
        f"authorization: Bearer {token or gateway.token}",
        "content-type: application/json",
    ]
    return "\r\n".join([*lines, *more, "", ""]).encode()


def asked(text: str, **more: object) -> bytes:
    return json.dumps({"model": "echo", "messages": user(text), **more}).encode()


def lengthy(gateway: Gateway, body: bytes) -> bytes:
    return head(gateway, f"content-length: {len(body)}") + body


def chunked(gateway: Gateway, *pieces: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head(gateway, "transfer-encoding: chunked") + framed + b"0\r\n\r\n"


def said(body: bytes) -> str:
    return json.loads(body)["choices"][0]["message"]["content"]


# ---- framing -------------------------------------------------------------------------------------


def test_a_line_in_a_body_does_not_harm_the_next_request(served: Served) -> None:
    """As with haproxy in front, which sends another client's request over the same connection."""
    poison = asked("hi").replace(b"{", b"{\r\ncontent-length: 1\r\n", 1)
    with Kept(served) as kept:
        kept.send(lengthy(served, poison))
        status, _, body = kept.answer()
        assert (status, json.loads(body)["error"]["code"]) == (400, "json-invalid")
        kept.send(chunked(served, asked("innocent")))
        status, _, body = kept.answer()
        assert (status, said(body)) == (200, "innocent")


def in_two(text: str) -> tuple[bytes, bytes]:
    """A request's body, cut where its text has `Content-Length`."""
    body = asked(text)
    place = body.index(b"Content-Length")
    return body[:place], body[place:]


def test_a_chunk_that_begins_like_a_header_passes(served: Served) -> None:
    text = "the line Content-Length: 1 is text here"
    with Kept(served) as kept:
        for _ in range(3):
            kept.send(chunked(served, *in_two(text)))
            status, _, body = kept.answer()
            assert (status, said(body)) == (200, text)


def test_requests_in_one_write_are_told_apart(served: Served) -> None:
    texts = [f"one of many {number}" for number in range(6)]
    wire = b"".join(
        (chunked if number % 2 else lengthy)(served, asked(text))
        for number, text in enumerate(texts)
    )
    with Kept(served) as kept:
        kept.send(wire)
        assert [said(kept.answer()[2]) for _ in texts] == texts


def test_pieces_of_any_size_are_followed(served: Served) -> None:
    text = "a Content-Length: 3 b"
    wire = chunked(served, b" \r\n\r\n", *in_two(text)) + lengthy(served, asked("b"))
    for size in (1, 7, 64):
        with Kept(served) as kept:
            kept.send(*(wire[at : at + size] for at in range(0, len(wire), size)))
            assert [said(kept.answer()[2]), said(kept.answer()[2])] == [text, "b"]


@pytest.mark.parametrize("before", ["nothing", "a request"])
def test_both_framings_are_refused_and_end_the_connection(served: Served, before: str) -> None:
    body = asked("hi")
    both = head(served, f"content-length: {len(body)}", "transfer-encoding: chunked") + b"0\r\n\r\n"
    with Kept(served) as kept:
        if before != "nothing":
            kept.send(chunked(served, body))
            assert kept.answer()[0] == 200
        kept.send(both)
        status, headers, answer = kept.answer()
        assert (status, json.loads(answer)["error"]["code"], headers.get("connection")) == (
            400,
            "framing-invalid",
            "close",
        )
        assert kept.ended()


def test_a_chunked_request_keeps_its_connection(served: Served) -> None:
    with Kept(served) as kept:
        for number in range(5):
            kept.send(chunked(served, asked(f"round {number}")))
            status, headers, body = kept.answer()
            assert (status, said(body)) == (200, f"round {number}")
            assert headers.get("connection") != "close"


# ---- 100 Continue --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "token", "expect"),
    [
        ("content-length: 1000", "nobody", 401),
        ("content-length: 99999999", None, 413),
        ("content-length: 1000\r\ncontent-encoding: gzip", None, 415),
        ("content-length: 1000\r\nexpect: 100-continue", "nobody", 401),
    ],
)
def test_what_is_refused_is_refused_before_the_body_is_asked_for(
    served: Served, line: str, token: str | None, expect: int
) -> None:
    with Kept(served) as kept:
        kept.send(head(served, line, "expect: 100-continue", token=token))
        first = kept.line()
        assert first.startswith(b"HTTP/1.1 %d " % expect), first
        assert b"connection: close" in first.lower()


def test_a_good_request_is_asked_for_its_body(served: Served) -> None:
    body = asked("after a while")
    with Kept(served) as kept:
        kept.send(head(served, f"content-length: {len(body)}", "expect: 100-continue"))
        assert kept.line() == b"HTTP/1.1 100 Continue"
        kept.send(body)
        status, headers, answer = kept.answer()
        assert (status, said(answer), headers.get("connection")) == (200, "after a while", None)


# ---- half-closed connections ---------------------------------------------------------------------


@pytest.mark.parametrize("text", ["hi", "behave late half"])
def test_a_caller_that_closes_its_side_gets_its_answer(
    served: Served, upstream: FakeUpstream, text: str
) -> None:
    body = json.dumps({"model": MODEL, "messages": user(text)}).encode()
    with Kept(served) as kept:
        kept.send(lengthy(served, body))
        kept.socket.shutdown(socket.SHUT_WR)
        status, _, answer = kept.answer()
        assert (status, said(answer)) == (200, "fine")
        assert kept.ended()


def test_a_stream_reaches_a_caller_that_closed_its_side(served: Served) -> None:
    with Kept(served) as kept:
        kept.send(lengthy(served, asked("one two three", stream=True)))
        kept.socket.shutdown(socket.SHUT_WR)
        data = b""
        while piece := kept.more():
            data += piece
        assert b"data: [DONE]" in data and data.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("text", ["behave thinking closed", "behave mute closed"])
def test_a_caller_that_closed_its_side_and_left_is_noticed(
    served: Served, upstream: FakeUpstream, text: str
) -> None:
    """A silent stream, or an absent answer: only a probe shows that the caller has left."""
    stream = "mute" in text
    begun = send_raw(
        served, served.token, {"model": MODEL, "messages": user(text), "stream": stream}
    )
    exchange = upstream.exchange(text)
    if stream:
        begun.recv(65536)
    begun.shutdown(socket.SHUT_WR)
    begun.close()
    assert exchange.over.wait(10), "the upstream works for a caller that has left"
    served.idle()


# ---- times ---------------------------------------------------------------------------------------


def test_a_kept_connection_may_be_idle_for_longer_than_a_head_may_take(served: Served) -> None:
    with Kept(served) as kept:
        kept.send(lengthy(served, asked("first")))
        assert kept.answer()[0] == 200
        kept.socket.settimeout(3)
        with pytest.raises(TimeoutError):
            kept.more()
        kept.socket.settimeout(20)
        kept.send(lengthy(served, asked("second")))
        assert said(kept.answer()[2]) == "second"
        began = time.monotonic()
        assert kept.ended()
        assert time.monotonic() - began > 2


def test_a_head_that_has_begun_must_end(served: Served) -> None:
    with Kept(served) as kept:
        kept.send(lengthy(served, asked("first")))
        assert kept.answer()[0] == 200
        kept.send(head(served)[:20])
        began = time.monotonic()
        status, _, body = kept.answer()
        assert (status, json.loads(body)["error"]["code"]) == (408, "headers-slow")
        assert time.monotonic() - began < 10


def test_a_head_that_drips_must_end(served: Served) -> None:
    with Kept(served) as kept:
        kept.socket.settimeout(0.1)
        began, data = time.monotonic(), b""
        kept.send(b"GET / HTTP/1.1\r\n")
        while time.monotonic() - began < 15:
            try:
                kept.send(b"x: y\r\n")
                piece = kept.more()
            except TimeoutError:
                continue
            except OSError:
                break
            if not piece:
                break
            data += piece
        assert time.monotonic() - began < 10
        assert b" 408 " in data


def test_a_steady_slow_reader_is_not_cut(served: Served, upstream: FakeUpstream) -> None:
    """Reads slowly for more than three times `stream_idle`; the answer always has more bytes."""
    text = "behave flood slowly"
    begun = send_raw(
        served, served.token, {"model": MODEL, "messages": user(text), "stream": True}, window=4096
    )
    exchange = upstream.exchange(text)
    began, data = time.monotonic(), b""
    while time.monotonic() - began < 7:
        data += begun.recv(4096)
        until = time.monotonic() + 0.05
        wait_until(lambda: time.monotonic() >= until, 1, "a slow reader reads again")
    assert not exchange.over.is_set(), "the upstream was let go"
    assert b"client-slow" not in data
    begun.close()


# ---- methods and headers -------------------------------------------------------------------------


@pytest.mark.parametrize("http2", [False, True])
def test_head_is_get_without_the_body(served: Served, http2: bool) -> None:
    headers = {"authorization": f"Bearer {served.token}"}
    with httpx2.Client(http1=not http2, http2=http2, trust_env=False, timeout=20) as client:
        for path in (
            "/v1/models",
            "/v1/models/echo",
            "/v1/token-shield/me",
            "/.well-known/jwks.json",
        ):
            got = client.get(served.url + path, headers=headers)
            told = client.head(served.url + path, headers=headers)
            assert (told.status_code, told.content) == (200, b""), path
            assert told.headers["content-type"] == got.headers["content-type"]
            assert abs(int(told.headers["content-length"]) - len(got.content)) < 64, path
        refused = client.head(served.url + "/v1/models")
        assert (refused.status_code, refused.content) == (401, b"")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("HEAD", "/v1/messages", "POST"),
        ("OPTIONS", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/echo", "GET, HEAD"),
        ("PUT", "/v1/token-shield/me", "GET, HEAD"),
        ("POST", "/receipts/x", "GET, HEAD"),
        ("POST", "/.well-known/jwks.json", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(
    served: Served, method: str, path: str, allow: str
) -> None:
    answer = httpx2.request(
        method,
        served.url + path,
        headers={"authorization": f"Bearer {served.token}"},
        timeout=20,
        trust_env=False,
    )
    assert (answer.status_code, answer.headers.get("allow")) == (405, allow)
    if method != "HEAD":
        assert answer.json()["error"]["code"] == "method-not-allowed"


def test_an_unknown_path_is_no_wrong_method(served: Served) -> None:
    answer = httpx2.get(
        served.url + "/v1/nothing",
        headers={"authorization": f"Bearer {served.token}"},
        timeout=20,
        trust_env=False,
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "route-unknown")


@pytest.mark.parametrize("http2", [False, True])
def test_too_many_headers_are_said_to_be_too_many(served: Served, http2: bool) -> None:
    many = {f"x-{number}": "a" for number in range(120)}
    with httpx2.Client(http1=not http2, http2=http2, trust_env=False, timeout=20) as client:
        answer = client.get(served.url + "/v1/models", headers=many)
    assert answer.status_code == 431
    assert (
        "64 KiB" in answer.json()["error"]["message"] and "100" in answer.json()["error"]["message"]
    )


def test_a_gateway_with_half_a_handshake_stops(tmp_path: Path) -> None:
    with Gateway(tmp_path / "data", tls=True) as gateway:
        silent = [
            socket.create_connection(("127.0.0.1", gateway.port), timeout=20) for _ in range(3)
        ]
        silent[1].sendall(b"\x16\x03\x01")
        began = time.monotonic()
        gateway.terminate()
        assert gateway.ended(20) == 0
        assert time.monotonic() - began < 5
        for one in silent:
            one.close()
