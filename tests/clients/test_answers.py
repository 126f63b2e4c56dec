"""Response filter: a rendered answer loads only from allowed hosts, and code stays as it is."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import httpx2
import openai
import pytest

from clients import claude, open_ai, user
from exfiltration import GOOD, harmful, harmless
from gateway import Served
from renderers import (
    NODE,
    OTHERS,
    YARDSTICKS,
    code,
    images,
    links,
    loaded_elsewhere,
    rendered,
)
from test_audit import inside, query
from test_serve import serve
from waiting import wait_until

SEED, TEXTS = 5, 10_000 if os.environ.get("TOKEN_SHIELD_FULL") else 1_000
MARK = "#link-removed:"
SPEC = NODE / "commonmark-spec/spec.txt"
CONFIG = f"""
[egress]
media = ["{GOOD}"]
links = ["{GOOD}"]
[class.default]
rpm = 10000000
burst = 1000000
in_flight = 64
output_tokens = 1000000
[class.strict]
answers = {{ clicked = "strip" }}
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


def through(gateway: Served, texts: list[str], *flags: str, **more: object) -> list[str]:
    """The texts as an agent receives them from a model that returns them."""
    token = gateway.issue(f"answers/{flags[-1] if flags else 'all'}", *flags, models=("echo",))

    def some(mine: list[str]) -> list[str]:
        with httpx2.Client(
            trust_env=False, timeout=60, headers={"authorization": f"Bearer {token}"}
        ) as client:
            answers = (
                client.post(
                    f"{gateway.url}/v1/chat/completions",
                    json={"model": "echo", "messages": user(text), **more},
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


def generated(kind: Callable[[random.Random], str], count: int = TEXTS) -> list[str]:
    chance = random.Random(SEED)
    return list(islice(iter(lambda: kind(chance), None), count))


def loading(texts: list[str]) -> Iterator[tuple[str, str, str]]:
    """Each text that makes a renderer load from elsewhere, with the renderer and the URL."""
    for text, outputs in rendered(texts):
        for renderer, html in outputs.items():
            for url in loaded_elsewhere(html, f"https://{GOOD}"):
                yield text, renderer, url


def test_no_rendered_answer_loads_from_elsewhere(gateway: Served) -> None:
    texts = generated(harmful)
    said = dict(zip(through(gateway, texts), texts, strict=True))
    wrong, others = [], defaultdict[str, set[str]](set)
    for text, renderer, url in loading(list(said)):
        if renderer in YARDSTICKS:
            wrong.append(f"{said[text]!r}\nbecame {text!r}\nand {renderer} loads {url}")
        else:
            others[renderer].add(text)
    assert not wrong, f"{len(wrong)} of {len(texts)}:\n\n" + "\n\n".join(
        re.sub("A{20,}", "A…", one)[:2000] for one in wrong[:8]
    )
    # docs/EGRESS.md names these renderers as not covered.
    shares = {renderer: len(others[renderer]) / len(texts) for renderer in OTHERS}
    print(shares)
    assert shares["marked"] < 0.02 and shares["mistune"] < 0.04, shares


def test_the_renderers_would_load_it() -> None:
    """Without the gateway, many of the texts load from another host."""
    texts = generated(harmful, 500)
    led = {text for text, renderer, _ in loading(texts) if renderer in YARDSTICKS}
    assert len(led) > len(texts) / 4, len(led)


def examples() -> list[str]:
    """The examples of CommonMark, with addresses at another host."""
    found = re.findall(r"^`{32} example\n(.*?)^\.\n", SPEC.read_text(), re.DOTALL | re.MULTILINE)
    texts = [one.replace("→", "\t") for one in found]
    address = re.compile(r"(?<![\w/:.])/(?:url|my|bar|path|train)\b|(?<=\()foo\b")
    return [address.sub(r"http://evil.example/\g<0>", one) for one in texts]


def kept(before: dict[str, str], after: dict[str, str], names: tuple[str, ...]) -> bool:
    """Whether what all these renderers call code is the same."""
    common = [set(code(before[name])) for name in names]
    everywhere = set.intersection(*common)
    return all(everywhere <= set(code(after[name])) for name in names)


def test_the_examples_of_commonmark_keep_their_code_and_load_nothing(gateway: Served) -> None:
    texts = examples()
    assert len(texts) == 652
    # The same with an image for each link.
    texts += [re.sub(r"(?<![!\\\]])\[", "![", one) for one in texts if "[" in one]
    said = through(gateway, texts)
    changed = sum(one != text for one, text in zip(said, texts, strict=True))
    assert changed > 40, changed
    for (text, before), (one, after) in zip(rendered(texts), rendered(said), strict=True):
        assert kept(before, after, YARDSTICKS), (text, one)
        for name in YARDSTICKS:
            assert not loaded_elsewhere(after[name], f"https://{GOOD}"), (text, one, name)


def documents() -> list[str]:
    """Documents of installed packages."""
    cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo")) / "registry/src"
    agents = NODE.parents[1] / "agents"
    files = sorted([*cargo.glob("*/*/**/*.md"), *NODE.glob("**/*.md"), *agents.glob("**/*.md")])
    small = (path for path in files if path.stat().st_size < 200_000)
    texts = {path.read_text(errors="replace") for path in small}
    chosen = random.Random(SEED).sample(sorted(texts), min(len(texts), 600))
    return chosen if os.environ.get("TOKEN_SHIELD_FULL") else chosen[:60]


def test_documents_keep_their_code_and_their_links(gateway: Served) -> None:
    texts = documents()
    assert len(texts) >= (600 if os.environ.get("TOKEN_SHIELD_FULL") else 60)
    said = through(gateway, texts)
    count = Counter[str]()
    for (text, before), (_, after) in zip(rendered(texts), rendered(said), strict=True):
        for name in YARDSTICKS:
            assert code(after[name]) == code(before[name]), (name, text[:200])
            assert links(after[name]) == links(before[name]), (name, text[:200])
            assert not loaded_elsewhere(after[name], f"https://{GOOD}"), (name, text[:200])
            own = [image for image in images(before[name]) if "//" not in image]
            count["code"] += len(code(before[name]))
            count["links"] += len(links(before[name]))
            count["harmless images"] += len(own)
            count["changed images"] += len(set(own) - set(images(after[name])))
    print(dict(count))
    assert count["code"] > 1_000 and count["links"] > 1_000
    assert count["changed images"] <= count["harmless images"] / 200
    # The reader is a program: nothing is changed.
    for text, one in zip(texts, through(gateway, texts, "--class", "coding"), strict=True):
        assert one == text


def test_what_the_request_declares_is_never_changed(gateway: Served) -> None:
    texts = generated(harmful, 100)
    for form in [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    ]:
        said = through(gateway, texts, response_format=form)
        assert [json.loads(one)["echo"] for one in said] == texts
    # Plain text is no form.
    image = "![a](https://evil.example/x)"
    assert through(gateway, [image], response_format={"type": "text"}) != [image]


def test_an_answer_continues_the_callers_text(gateway: Served) -> None:
    token = gateway.issue("answers/prefill", models=("echo",))
    image = "![a](https://evil.example/x)\n"
    for prefill, expect in [("```\n", image), ("text\n", f"![a]({MARK}https://evil.example/x)\n")]:
        answer = httpx2.post(
            f"{gateway.url}/v1/chat/completions",
            json={
                "model": "echo",
                "messages": [*user(image), {"role": "assistant", "content": prefill}],
            },
            headers={"authorization": f"Bearer {token}"},
            timeout=60,
        )
        assert answer.json()["choices"][0]["message"]["content"] == expect, prefill


def test_records_headers_metrics_and_the_log_say_it(gateway: Served) -> None:
    token = gateway.issue("answers/told", models=("echo",))
    headers = {"authorization": f"Bearer {token}"}
    text = (
        "![a](https://x.evil.example/?d=1) [b](https://evil.example) https://good.example "
        "http://localhost:8080/ `https://evil.example/code` postgres://evil.example"
    )
    body = {"model": "echo", "messages": user(text)}
    answer = httpx2.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)
    said = answer.json()["choices"][0]["message"]["content"]
    assert said == text.replace("](https://x.", f"]({MARK}https://x.")
    assert answer.headers["token-shield-removed"] == "1"
    rows = query(gateway, "--request", answer.headers["token-shield-request"])
    [outcome] = [inside(row) for row in rows if row["kind"] == "outcome"]
    found = {row["kind"]: row for row in outcome["outbound"]}
    assert found == {
        "fetched": {
            "kind": "fetched",
            "reason": "not-listed",
            "target": "https://x.evil.example/",
            "verdict": "strip",
        },
        "clicked": {
            "kind": "clicked",
            "reason": "not-listed",
            "target": "https://evil.example/",
            "verdict": "report",
        },
    }
    assert outcome["outbound_count"] == 2
    for verdict in ("strip", "report"):
        labels = {"filter": "answer", "verdict": verdict, "reason": "not-listed"}
        assert gateway.metric("token_shield_egress_total", **labels) >= 1
    request = answer.headers["token-shield-request"]
    line = wait_until(
        lambda: gateway.line("uncontrolled destination", request=request),
        10,
        "what was found is said in the log",
    )
    assert (line["level"], line["filter"], line["count"]) == ("WARN", "answer", 2)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_link_in_the_last_line_is_recorded(gateway: Served, streamed: bool) -> None:
    token = gateway.issue("answers/last", models=("echo",))
    body = {"model": "echo", "messages": user("see https://evil.example/x"), "stream": streamed}
    answer = httpx2.post(
        f"{gateway.url}/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {token}"},
        timeout=60,
    )
    assert answer.status_code == 200 and "removed" not in answer.text
    request = answer.headers["token-shield-request"]

    def outcome() -> dict[str, object] | None:
        rows = query(gateway, "--request", request)
        return next((inside(row) for row in rows if row["kind"] == "outcome"), None)

    [found] = wait_until(outcome, 10, "the outcome is recorded")["outbound"]
    assert (found["kind"], found["target"]) == ("clicked", "https://evil.example/")


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
    token = gateway.issue("answers/streams", "--class", "strict", models=("echo",))
    for text, expect in [
        ("see https://evil.example/x now", f"see {MARK}evil.example/x now"),
        ("see ![a](https://evil.example/x) now", f"see ![a]({MARK}evil.example/x) now"),
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
