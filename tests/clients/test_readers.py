"""The filter and other readers agree on URLs: the URL Standard's (ada, Node.js), and Python's."""

from __future__ import annotations

import ipaddress
import json
import os
import random
import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit

import ada_url
import httpx2
import pytest

from gateway import BINARY, Served, environment
from test_serve import serve

SEED, URLS = 21, 200_000 if os.environ.get("TOKEN_SHIELD_FULL") else 20_000
NODE = """
const lines = require('fs').readFileSync(0, 'utf8').split('\\n');
for (const line of lines) {
  if (line === '') continue;
  try {
    const url = new URL(JSON.parse(line));
    console.log(JSON.stringify([url.protocol, url.hostname, url.port, \
url.username + url.password]));
  } catch { console.log('null'); }
}
"""
PORTS = {"http:": 80, "https:": 443}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = (
        '[[upstream]]\nname = "echo"\nurl = "echo:"\n[[model]]\nname = "echo"\nroute = ["echo"]\n'
    )
    with serve(tmp_path_factory.mktemp("readers"), model) as served:
        yield served


def url(chance: random.Random) -> str:
    """A URL, or a text close to one."""
    host = chance.choice(
        [
            "a.example",
            "A.Example",
            "xn--bcher-kva.example",
            "a-b.c_d.example",
            "127.0.0.1",
            "1.2.3.4",
            "010.0.0.1",
            "1.2.3",
            "0x7f.1",
            "4294967295",
            "[::1]",
            "[2606:4700::1111]",
            "[::ffff:1.2.3.4]",
            "[fe80::1%25lo]",
            "a.example.",
            "a..example",
            "bücher.example",
            "ａ.example",
            "a.1",
            "1.a",
            "0",
            "localhost",
            "a%2eexample",
            "xn--a.example",
            "-a.example",
            "a" * 63 + ".example",
            "a" * 64 + ".example",
        ]
    )
    text = chance.choice(
        [
            "http://",
            "https://",
            "HTTPS://",
            "https:/",
            "https:",
            "//",
            "https:///",
            "ftp://",
            "ws://",
        ]
    )
    text += chance.choice([""] * 6 + ["u@", "u:p@", "@", "a.example@", "%40"]) + host
    text += chance.choice(
        [""] * 4 + [":80", ":443", ":8443", ":0", ":65536", ":080", ":", ":a", ":443@b.example"]
    )
    text += chance.choice(
        [
            "",
            "/",
            "/a/b?c=d#e",
            "?x=@b.example",
            "#@b.example",
            "/@b.example",
            "\\@b.example",
            "/..//b.example",
            ";a",
            "/ü",
            "/%00",
            "/a b",
        ]
    )
    for _ in range(chance.choice([0, 0, 0, 1, 2])):
        at = chance.randrange(len(text) + 1)
        odd = chance.choice(
            [
                "\t",
                " ",
                "\\",
                "/",
                "@",
                ":",
                "?",
                "#",
                "%",
                ".",
                "。",
                "\u200b",
                "\u00ad",
                "\u202e",
                "[",
                "]",
                "ß",
                "\x01",
                "0",
                "x",
                "|",
                "^",
                "\u2100",
                "½",
            ]
        )
        text = text[:at] + odd + text[at + chance.choice([0, 1]) :]
    return text.replace("\n", "").replace("\r", "")


def place(host: str) -> object:
    """A name or an address, in any spelling."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host


def test_what_is_read_is_read_alike(gateway: Served) -> None:
    chance = random.Random(SEED)
    urls = [text for text in (url(chance) for _ in range(URLS)) if text.splitlines() == [text]]
    words = [
        str(BINARY),
        "egress",
        "check",
        "-",
        "--use",
        "links",
        "--json",
        "--data",
        str(gateway.data),
    ]
    done = subprocess.run(
        words,
        input="\n".join(urls),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["url"] for row in rows] == urls, done.stderr
    said = subprocess.run(
        ["node", "-e", NODE],
        input="\n".join(map(json.dumps, urls)),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    browsers = [json.loads(line) for line in said.stdout.splitlines()]
    assert len(browsers) == len(rows)
    read = 0
    for row, node in zip(rows, browsers, strict=True):
        if row["destination"] is None:
            continue
        read += 1
        text, (scheme, rest) = row["url"], row["destination"].split("://")
        host, port = rest.rsplit(":", 1)
        want = (f"{scheme}:", place(host), int(port))
        assert (
            node is not None
            and node[3] == ""
            and (node[0], place(node[1]), int(node[2] or PORTS[node[0]])) == want
        ), (text, node)
        ada = ada_url.URL(text)
        assert (
            ada.protocol,
            place(ada.hostname),
            int(ada.port or PORTS[ada.protocol]),
        ) == want and not ada.username, text
        split = urlsplit(text)
        assert (
            f"{split.scheme}:",
            place(str(split.hostname)),
            split.port or PORTS[f"{scheme}:"],
        ) == want and not split.username, text
        other = httpx2.URL(text)
        assert (
            f"{other.scheme}:",
            place(other.raw_host.decode()),
            other.port or PORTS[f"{scheme}:"],
        ) == want and not other.userinfo, text
    assert read > URLS / 50, f"{read} of {len(urls)} are read: hardly anything was compared"
    assert read < URLS / 2
