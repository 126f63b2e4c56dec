"""The cost of token verification: many agents at one address, and one with many chains."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from clients import open_ai, user
from fake_upstream import FakeUpstream
from gateway import ISSUER
from test_serve import fake_model, serve
from tokens_forge import Issuer, Link

FULL = bool(os.environ.get("TOKEN_SHIELD_FULL"))
WIDE = "[class.default]\nrpm = 1000000\nburst = 100000\nin_flight = 256\n"


def code(client: httpx2.Client, token: str) -> str | None:
    answer = client.get("/v1/token-shield/me", headers={"x-api-key": token})
    if answer.status_code == 429:
        assert int(answer.headers["retry-after"]) >= 1
    return None if answer.status_code == 200 else answer.json()["error"]["code"]


def client_of(url: str) -> httpx2.Client:
    return httpx2.Client(base_url=url, timeout=30, trust_env=False)


def test_many_agents_behind_one_address_after_a_restart(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Regression: 200 a second were served. Now valid tokens do not count, and invalid ones do."""
    fast = Issuer("https://fast.example", tmp_path)
    tokens = [fast.token(f"fleet/agent-{number}") for number in range(5_000 if FULL else 600)]
    with serve(
        tmp_path,
        "[limits]\npeer_rps = 20\n" + WIDE + fake_model(upstream.url) + fast.config,
        issuer=ISSUER,
    ) as gateway:
        for _ in range(2):
            with client_of(gateway.url) as client:
                assert Counter(code(client, token) for token in tokens) == {None: len(tokens)}
                strangers = Counter(
                    code(client, fast.token("fleet/bad")[:-8] + "AAAAAAAA") for _ in range(200)
                )
                assert strangers["peer-rate"] > 0 and strangers[None] == 0, strangers
                assert code(client, tokens[0]) is None, "who is known goes on"
            gateway.restart()


def test_fresh_chains_of_one_root_are_bounded_and_others_go_on(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    fast = Issuer("https://fast.example", tmp_path)
    limits = "[limits]\nroot_rps = 20\n"
    with (
        serve(
            tmp_path, limits + WIDE + fake_model(upstream.url) + fast.config, issuer=ISSUER
        ) as gateway,
        client_of(gateway.url) as client,
    ):
        greedy, honest = Link.root(fast, "tests/greedy"), Link.root(fast, "tests/honest")
        began = time.monotonic()
        codes = Counter(code(client, greedy.leaf(number)) for number in range(300))
        most = 20 + 20 * (time.monotonic() - began) + 1
        assert set(codes) == {None, "root-rate"} and 20 <= codes[None] <= most, codes
        assert code(client, honest.leaf(0)) is None
        again = honest.leaf(1)
        assert [code(client, again) for _ in range(100)] == [None] * 100, (
            "a chain that is known is not charged"
        )
        said = open_ai(gateway, honest.leaf(2)).chat.completions.create(
            model="echo", messages=user("as ever")
        )
        assert said.choices[0].message.content == "as ever"


def test_long_lists_are_refused_and_allowed_ones_pass(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    """The reported chain: a middle token and a leaf with 3,500 entries each."""
    fast = Issuer("https://fast.example", tmp_path, more="token_list = 100\n")

    def names(count: int) -> dict:
        return {"key": "model", "one_of": [f"{number:x}" for number in range(count)]}

    with (
        serve(tmp_path, WIDE + fake_model(upstream.url) + fast.config, issuer=ISSUER) as gateway,
        client_of(gateway.url) as client,
    ):
        for count, expect in ((100, None), (101, "token-list"), (900, "token-list")):
            root = Link.root(fast, f"tests/lists-{count}", [names(count)])
            assert code(client, root.link("middle").leaf(0)) == expect, count
        twice = {"key": "tool_type", "one_of": ["function", "function"]}
        assert code(client, Link.root(fast, "tests/twice", [twice]).leaf(0)) == "token-list"
        assert (
            code(
                client,
                fast.token("tests/audience", aud=["https://gw.example", "https://gw.example"]),
            )
            == "token-list"
        )
        signed = gateway.issue("tests/hundred", models=tuple(f"m{number}" for number in range(64)))
        assert code(client, signed) is None


@pytest.mark.parametrize("names", [1, 6], ids=["the shortest names", "longer names"])
def test_a_memory_full_of_the_worst_tokens_is_as_large_as_documented(
    upstream: FakeUpstream, tmp_path: Path, names: int
) -> None:
    """docs/TOKEN.md: `token_cache` times 9 KiB."""
    fast = Issuer("https://fast.example", tmp_path)
    count = 16_384 if FULL else 4_096
    limits = f"[limits]\nroot_rps = 1000000\ntoken_cache = {count}\n"
    documented = count * 9 * 1024

    def listed(key: str) -> dict:
        return {
            "key": key,
            "one_of": [chr(0x100 + number) * (names // 2 or 1) for number in range(64)],
        }

    with (
        serve(
            tmp_path, limits + WIDE + fake_model(upstream.url) + fast.config, issuer=ISSUER
        ) as gateway,
        client_of(gateway.url) as client,
    ):
        chain = (
            Link.root(
                fast, "tests/worst", [listed("model"), listed("egress_host"), listed("tool_type")]
            )
            .link("a")
            .link("b")
        )
        # Requests of that length need memory too (buffers, the log), which is not the token cache.
        warm = chain.leaf(-1)
        assert {code(client, warm) for _ in range(1_000)} == {None}
        before = gateway.resident_bytes()
        # More than fit: each takes more memory than its text.
        leaves = documented // len(chain.leaf(0)) + 200
        for number in range(leaves):
            assert code(client, chain.leaf(number)) is None
        grown = gateway.resident_bytes() - before
        assert grown <= 1.2 * documented, f"{grown} bytes for {documented}"
