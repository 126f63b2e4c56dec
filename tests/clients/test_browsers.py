"""Requests as browsers and probes send them: CORS, HEAD of the root, upgrades."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from clients import user
from fake_upstream import MODEL, FakeUpstream
from gateway import Served, binary
from test_serve import fake_model, serve

PAGE = "https://app.example"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


@pytest.fixture(scope="module")
def served(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    listen = f'cors = ["{PAGE}", "http://localhost:5173"]'
    with serve(tmp_path_factory.mktemp("browsers"), fake_model(upstream.url), listen) as gateway:
        gateway.token = gateway.issue("browsers/page", models=(MODEL,))
        yield gateway


def ask(served: Served, method: str, path: str, **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.request(method, served.url + path, headers=named, timeout=30, trust_env=False)


def test_a_page_of_a_listed_origin_may_call(served: Served) -> None:
    allowed = ask(served, "OPTIONS", "/v1/chat/completions", **PREFLIGHT)
    assert allowed.status_code == 200 and allowed.content == b""
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert "POST" in allowed.headers["access-control-allow-methods"]
    wanted = PREFLIGHT["access-control-request-headers"]
    assert allowed.headers["access-control-allow-headers"] == wanted
    assert allowed.headers["vary"] == "Origin"
    answer = httpx2.post(
        f"{served.url}/v1/chat/completions",
        json={"model": MODEL, "messages": user("hi")},
        headers={"origin": PAGE, "authorization": f"Bearer {served.token}"},
        timeout=30,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "token-shield-request" in answer.headers["access-control-expose-headers"]
    # A page must see why it is refused.
    refused = ask(served, "POST", "/v1/chat/completions", origin=PAGE)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE


def test_another_origin_gets_no_permission(served: Served) -> None:
    for origin in ["https://evil.example", "null", "http://app.example", f"{PAGE}:8443"]:
        answer = ask(served, "OPTIONS", "/v1/models", **{**PREFLIGHT, "origin": origin})
        assert answer.status_code == 401
        assert "access-control-allow-origin" not in answer.headers
    # Without the header of a preflight request it is an ordinary request.
    assert ask(served, "OPTIONS", "/v1/models", origin=PAGE).status_code == 401


def test_what_is_no_origin_is_a_fault_of_the_config(tmp_path: Path) -> None:
    for text in ["*", "https://app.example/", "app.example", "https://App.example"]:
        config = tmp_path / "token-shield.toml"
        config.write_text(f'name = "gw"\n[listen]\ncors = ["{text}"]\n')
        done = binary("config", "check", "--config", str(config))
        assert done.code != 0 and "is not an origin" in done.out + done.err, text


def test_a_probe_of_the_root_is_answered(served: Served) -> None:
    answer = ask(served, "HEAD", "/")
    assert answer.status_code == 200 and answer.content == b""
    assert ask(served, "GET", "/").status_code == 401


def test_an_upgrade_is_refused_as_such(served: Served) -> None:
    answer = ask(
        served,
        "GET",
        "/v1/responses",
        connection="upgrade",
        upgrade="websocket",
        sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==",
        sec_websocket_version="13",
    )
    assert answer.status_code == 426, answer.text
    assert answer.json()["error"]["code"] == "upgrade-not-served"
    assert answer.headers["connection"] == "close" and answer.headers["upgrade"] == "HTTP/1.1"
