"""Adoption of API keys, dates and rates: no key is shown, and no value is truncated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from clients import user
from fake_upstream import MODEL, FakeUpstream
from gateway import Served, binary
from test_chains import Holder, root
from test_handles import adopt, day, refusal
from test_serve import CHAT, fake_model, serve

SECRET = "sk-Zm9vYmFyYmF6cXV4QUJD1234"


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("tokens-adopt"), fake_model(upstream.url)) as served:
        yield served


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (f"{SECRET},tests/a\n{SECRET}x,tests/b\n", "line 1: it is not the header line"),
        (f"{SECRET},tests/a,{MODEL}\n", "line 1: it is not the header line"),
        (f"key,{SECRET}\n", "line 1: the header line has no column agent"),
        (
            f"key,agent,{SECRET}\n{SECRET},tests/a,x\n",
            "line 1: the column 3 has a name that is none of key, agent",
        ),
        ("key,agent,agent\nx,y,z\n", "line 1: the header line names the column agent twice"),
        (
            f"agent,key\n{SECRET},tests/swapped-columns\n",
            "line 2: the column key holds what looks like an agent's name",
        ),
        (
            f"agent,key\n{SECRET},{SECRET}x\n",
            "line 2: the column agent holds what looks like an API key",
        ),
        (
            "agent,key\n0123456789abcdef0123456789abcdef,sk-other-0123456789abcdef\n",
            "line 2: the column agent holds what looks like",
        ),
        (f"key,agent\n{SECRET},Tests/{SECRET}\n", "line 2: the column agent is not an agent name"),
        (
            f"key,agent,principal\n{SECRET},tests/a,{SECRET}\n",
            "line 2: the column principal holds what looks like an API key",
        ),
        (
            f"key,agent,class\n{SECRET},tests/a,{SECRET}\n",
            "line 2: the column class is not a [class.NAME]",
        ),
        (
            f"key,agent,models\n{SECRET},tests/a,{SECRET}\n",
            "line 2: the column models holds what looks like an API key",
        ),
        (
            f"key,agent,scopes\n{SECRET},tests/a,{SECRET}\n",
            "line 2: the column scopes has a name that is no scope",
        ),
        (
            f"key,agent,rpm\n{SECRET},tests/a,{SECRET}\n",
            "line 2: the column rpm is not a whole number",
        ),
        (f"key,agent\n{SECRET}\n", "line 2: it does not have as many fields"),
    ],
)
def test_no_cell_is_ever_shown(gateway: Served, text: str, part: str) -> None:
    code, out, err = adopt(gateway, text)
    assert (code, out) == (1, "") and part in err, err
    assert "Zm9v" not in err and "0123456789" not in err and "Tests/" not in err
    assert SECRET not in gateway.logged() and refusal(gateway, SECRET) == "token-malformed", (
        "no key was adopted"
    )


def test_every_fault_is_named_by_its_line(gateway: Served) -> None:
    lines = [
        f"sk-many-{number:08}-abcdefgh,{'tests/ok' if number % 2 else 'Not A Name'}"
        for number in range(100)
    ]
    code, out, err = adopt(gateway, "key,agent\n" + "\n".join(lines) + "\n")
    assert (code, out) == (1, "") and "50 lines have faults" in err and "and 30 more lines" in err
    named = [line.split(":")[0].strip() for line in err.splitlines() if line.startswith("  line ")]
    assert named == [f"line {number}" for number in range(2, 42, 2)]
    assert "sk-many" not in err and "Not A Name" not in err


def test_honest_files_pass_and_show_nothing_either(gateway: Served) -> None:
    names = [
        "tests/summarizer-2026-production-eu1",
        "worker-3",
        "tests/0123456789abcdef0123456789abcdef",
    ]
    keys = [f"k{number}/AbCdEf0123456789==" for number in range(3)]
    text = "key,agent,principal,models\n" + "".join(
        f"{key},{name},user:550e8400e29b41d4a716446655440000,{MODEL}\n"
        for key, name in zip(keys, names)
    )
    code, out, err = adopt(gateway, text, "--json")
    *rows, end = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["line"] for row in rows] == [2, 3, 4] and end["adopted"] == 3, err
    assert all(refusal(gateway, key) is None for key in keys)
    assert not any(cell in out + err for cell in (*names, *keys, "550e8400"))


def test_a_date_beyond_ttl_max_is_refused(gateway: Served, tmp_path: Path) -> None:
    code, out, err = adopt(
        gateway, f"key,agent,models\n{SECRET},tests/late,{MODEL}\n", until=day(31)
    )
    assert (code, out) == (1, "") and "30d from now (ttl_max)" in err
    latest = (datetime.now(UTC) + timedelta(days=30)).strftime("%Y-%m-%dT")
    assert latest in err, "the largest date is said"
    assert refusal(gateway, SECRET) == "token-malformed"
    assert adopt(gateway, f"key,agent,models\n{SECRET},tests/late,{MODEL}\n", until=day(29))[0] == 0
    # The same for tokens, renewals and children.
    words = ("--data", str(gateway.data))
    done = binary("token", "issue", "--agent", "tests/late", "--ttl", "31d", *words)
    assert done.code == 1 and "30d (ttl_max)" in done.err and latest in done.err and done.out == ""
    handle = gateway.issue("tests/renewed", "--handle", models=(MODEL,))
    done = binary("token", "renew", handle, "--ttl", "31d", *words)
    assert done.code == 1 and "30d (ttl_max)" in done.err and latest in done.err
    done = binary("token", "renew", SECRET, "--ttl", "30d", *words)
    assert done.code == 1 and "longer than the handle is valid" in done.err
    gateway.command("token", "renew", SECRET)
    holder = Holder(tmp_path, "holder")
    parent = root(gateway, holder, "tests/parent", depth=2)
    assert "until 20" in holder.refused(parent, "x", "--ttl", "16m")
    assert holder.delegate(parent, "x", "--ttl", "15m") and holder.delegate(parent, "y")


def test_two_a_minute_are_two(gateway: Served) -> None:
    token = gateway.issue("tests/two", "--rpm", "2")
    body = {"model": "echo", "messages": user("hi")}

    def ask() -> httpx2.Response:
        return httpx2.post(
            gateway.url + CHAT, json=body, headers={"x-api-key": token}, timeout=30, trust_env=False
        )

    answers = [ask() for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].json()["error"]["code"] == "rate-exceeded"
    assert 25 <= int(answers[2].headers["retry-after"]) <= 30
