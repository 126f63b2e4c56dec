"""Request filter: URLs to fetch are refused or removed, without a DNS query or a request."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from clients import claude, open_ai, user
from fake_upstream import MODEL, FakeUpstream
from gateway import Served, binary
from test_serve import CHAT, fake_model, serve
from waiting import wait_until

CLASSES = """
[class.default]
rpm = 1000000
burst = 100000
[class.stripped]
rpm = 6000
requests = { media = "strip", hosted_tools = "strip", mcp = "strip" }
"""
# Hosts that lead inside, or to another destination than they seem to.
HOSTS = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "localhost",
    "169.254.169.254",
    "169.254.169.254.",
    "metadata.google.internal",
    "100.100.100.200",
    "10.0.0.1",
    "192.168.1.1",
    "[fd00:ec2::254]",
    "[fe80::1%25lo]",
    "good.example@127.0.0.1",
    "127.0.0.1\\@good.example",
    "%31%32%37.0.0.1",
    "１２７.0.0.1",
    "127。0。0。1",
    "0",
    "evil.example",
    "1.1.1.1",
]
PREFIXES = [
    "http://{}/x.png",
    "HTTPS://{}/x",
    "//{}/x",
    "file://{}/etc/passwd",
    "ftp://{}/x",
    "gopher://{}:70/x",
]
URLS = [prefix.format(host) for host in HOSTS for prefix in PREFIXES]


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(
        tmp_path_factory.mktemp("egress"), CLASSES + fake_model(upstream.url, 'profile = "vllm"')
    ) as served:
        yield served


def part(content: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, content]}]}


def turn(block: dict[str, Any]) -> dict[str, Any]:
    return {**part(block), "max_tokens": 9}


def fields(url: str) -> list[tuple[str, dict[str, Any], str]]:
    """Every place for a URL: the requested path, the body, and the place that the refusal names."""
    at, messages = "messages[0].content[1].", "/v1/messages"
    result = {
        "type": "tool_result",
        "tool_use_id": "t",
        "content": [{"type": "image", "source": {"type": "url", "url": url}}],
    }
    return [
        (CHAT, part({"type": "image_url", "image_url": {"url": url}}), f"{at}image_url.url"),
        (CHAT, part({"type": "image_url", "image_url": url}), f"{at}image_url"),
        (CHAT, part({"type": "input_image", "image_url": url}), f"{at}image_url"),
        (CHAT, part({"type": "audio_url", "audio_url": {"url": url}}), f"{at}audio_url.url"),
        (CHAT, part({"type": "video_url", "video_url": {"url": url}}), f"{at}video_url.url"),
        (
            CHAT,
            part({"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}),
            f"{at}input_audio.data",
        ),
        (CHAT, part({"type": "file", "file": {"file_url": url}}), f"{at}file.file_url"),
        (CHAT, part({"type": "file", "file": {"file_data": url}}), f"{at}file.file_data"),
        (messages, turn({"type": "image", "source": {"type": "url", "url": url}}), f"{at}source"),
        (
            messages,
            turn({"type": "document", "source": {"type": "url", "url": url}}),
            f"{at}source",
        ),
        (
            messages,
            turn(
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": url},
                }
            ),
            f"{at}source.data",
        ),
        (messages, turn(result), f"{at}content[0].source"),
    ]


def issued(gateway: Served, agent: str, *flags: str) -> str:
    return gateway.issue(agent, *flags, models=(MODEL, "echo"))


def post(
    client: httpx2.Client, gateway: Served, path: str, body: dict[str, Any], token: str
) -> httpx2.Response:
    return client.post(
        gateway.url + path,
        json={"model": MODEL, **body},
        headers={"authorization": f"Bearer {token}"},
    )


def test_no_place_takes_a_url(gateway: Served, upstream: FakeUpstream) -> None:
    token, before = issued(gateway, "egress/blocked"), len(upstream.exchanges)
    with httpx2.Client(trust_env=False, timeout=60) as client:
        for url in URLS:
            for path, body, place in fields(url):
                if place.endswith("data") and re.fullmatch("[A-Za-z0-9+/=]*", url):
                    continue  # any base64 is allowed, because such a field holds content
                answer = post(client, gateway, path, body, token)
                assert answer.status_code == 403, (url, place, answer.text)
                error = answer.json()["error"]
                told = error.get("code") or error["message"]
                assert "egress-uncontrolled" in (told if path == CHAT else answer.text), answer.text
                assert path != CHAT or error["param"] == place, answer.text
    assert len(upstream.exchanges) == before, "nothing was forwarded"
    assert (
        'token_shield_egress_total{filter="request"'
        in httpx2.get(gateway.metrics, trust_env=False).text
    )


def test_the_refusal_says_where_it_leads_and_why(gateway: Served) -> None:
    client = open_ai(gateway, issued(gateway, "egress/told"))
    for url, says in [
        ("http://169.254.169.254/latest", "169.254.169.254 is not a controlled destination"),
        ("https://evil.example/x.png", "evil.example is not a controlled destination"),
        ("http://127.1/", "some readers take for an address"),
    ]:
        with pytest.raises(openai.PermissionDeniedError, match=says) as raised:
            client.chat.completions.create(
                model=MODEL,
                messages=part({"type": "image_url", "image_url": {"url": url}})["messages"],
            )
        assert raised.value.code == "egress-uncontrolled"
        host = says.split(" is not")[0] if "is not" in says else ""
        request = raised.value.response.headers["token-shield-request"]
        line = wait_until(
            lambda: gateway.line("uncontrolled destination", request=request),
            10,
            "the refusal is said in the log",
        )
        assert (line["filter"], line["host"], line["verdict"]) == ("request", host, "block")
        assert "latest" not in gateway.logged() and "x.png" not in gateway.logged(), (
            "no more than the host"
        )


def test_what_is_stripped_gives_way_to_a_note(gateway: Served, upstream: FakeUpstream) -> None:
    token = issued(gateway, "egress/stripped", "--class", "stripped")
    hosted, own = (
        {"type": "web_search"},
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
    )
    content = [
        {"type": "text", "text": "strip me"},
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/x"}},
    ]
    body = {
        "messages": [{"role": "user", "content": content}],
        "tools": [hosted, own],
        "mcp_servers": [{"url": "http://10.0.0.1/"}],
    }
    with httpx2.Client(trust_env=False, timeout=60) as client:
        answer = post(client, gateway, CHAT, body, token)
    assert answer.status_code == 200, answer.text
    places = answer.headers["token-shield-stripped"].split(", ")
    assert set(places) == {"messages[0].content[1].image_url.url", "tools[0]", "mcp_servers"}
    sent = next(
        json.loads(one.request.body)
        for one in upstream.exchanges
        if b"strip me" in one.request.body
    )
    assert sent["tools"] == [own] and "mcp_servers" not in sent
    assert (
        sent["messages"][0]["content"][1]["type"] == "text"
        and "removed here" in sent["messages"][0]["content"][1]["text"]
    )
    assert "169.254" not in json.dumps(sent) and "10.0.0.1" not in json.dumps(sent)
    shown = binary(
        "audit", "show", answer.headers["audit-record"], "--dir", str(gateway.data / "audit")
    )
    shown = json.loads(shown.out)
    assert [item["kind"] for item in shown["payload"]["stripped"]] == [
        "media",
        "hosted-tool",
        "mcp",
    ], shown
    assert shown["payload"]["stripped"][0]["target"] == "http://169.254.169.254/x"


def test_unmodified_sdks_go_on_where_something_is_stripped(gateway: Served) -> None:
    token = issued(gateway, "egress/sdks", "--class", "stripped")
    image = {"type": "image_url", "image_url": {"url": "https://evil.example/x.png"}}
    told = open_ai(gateway, token).chat.completions.create(
        model="echo", messages=part(image)["messages"]
    )
    assert told.choices[0].message.content
    source = {"type": "image", "source": {"type": "url", "url": "https://evil.example/x.png"}}
    said = claude(gateway, token).messages.create(
        model="echo", max_tokens=64, messages=part(source)["messages"]
    )
    assert said.content[0].text


def test_a_token_narrows_the_types_of_tools(gateway: Served) -> None:
    own = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    functions, custom = (
        issued(gateway, f"egress/{kind}", "--tool-type", kind) for kind in ("function", "custom")
    )

    def answered(token: str) -> httpx2.Response:
        with httpx2.Client(trust_env=False, timeout=60) as client:
            return post(client, gateway, CHAT, {"messages": user("hi"), "tools": [own]}, token)

    assert answered(functions).status_code == 200
    refused = answered(custom)
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "tool-not-allowed", (
        refused.text
    )
    assert refused.json()["error"]["param"] == "tools[0]"


def test_what_a_token_leaves_is_told(gateway: Served) -> None:
    token = issued(
        gateway,
        "egress/me",
        "--egress",
        "none",
        "--egress-host",
        "CDN.example",
        "--tool-type",
        "function",
    )
    told = httpx2.get(
        gateway.url + "/v1/token-shield/me",
        headers={"x-api-key": token},
        timeout=30,
        trust_env=False,
    ).json()
    limits = told["tokens"][0]["limits"]
    assert (limits["egress"], limits["egress_hosts"], limits["tool_types"]) == (
        "none",
        ["cdn.example"],
        ["function"],
    )
    assert told["class"]["requests"] == {"media": "block", "hosted_tools": "block", "mcp": "block"}
