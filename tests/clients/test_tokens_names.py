"""Names across issuers and in output: a principal belongs to its issuer; names fill no table."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest

from clients import open_ai, user
from fake_upstream import MODEL, FakeUpstream
from gateway import ISSUER, Served, binary
from test_serve import ask, fake_model, serve
from tokens_forge import Issuer, Link

WIDE = "[class.default]\nrpm = 6000\nburst = 1000\nin_flight = 64\n"
CAPS = "rpm = 2\nburst = 1\n"


def said(gateway: Served, token: str) -> str | None:
    answer = ask(gateway, "hi", token, model="echo")
    return None if answer.status_code == 200 else answer.json()["error"]["code"]


# ---- principals ----------------------------------------------------------------------------------


def test_an_issuer_speaks_for_its_own_principals_alone(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Regression: issuer B could use up the limits of A's principal and share its prompt cache."""
    support = Issuer("https://support.example", tmp_path, principals='["support:*", "team:help"]')
    caps = f'[principal."team:research"]\n{CAPS}'
    salted = fake_model(upstream.url, 'profile = "vllm"')
    # The first issuer's `principals = ["*"]` would make the caps ambiguous.
    with serve(
        tmp_path,
        WIDE + salted + caps + support.config,
        issuer=ISSUER,
        principals='["team:research", "team:tests"]',
    ) as gateway:
        assert said(gateway, support.token("support/desk", "team:research")) == "token-principal"
        assert said(gateway, support.token("support/desk", "team:tests")) == "token-principal"
        assert said(gateway, support.token("support/desk", "support:desk")) is None
        assert said(gateway, support.token("support/desk", "team:help")) is None
        own = gateway.issue("tests/own", principal="team:research")
        assert [said(gateway, own) for _ in range(2)] == [None, "rate-exceeded"], (
            "nothing of it was used up"
        )
        done = binary(
            "token",
            "issue",
            "--data",
            str(gateway.data),
            "--agent",
            "tests/x",
            "--principal",
            "team:help",
            "--issuer",
            ISSUER,
        )
        assert done.code == 1 and "speaks for team:research, team:tests" in done.err
        # A chain keeps its root's principal: the leaf cannot change it.
        chain = Link.root(support, "support/planner", sub="support:desk")
        assert said(gateway, chain.leaf(0)) is None
        assert said(gateway, chain.leaf(1, sub="team:research")) == "chain-principal"


def test_a_name_belongs_to_the_issuer_that_names_it_most_exactly(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    support = Issuer("https://support.example", tmp_path, principals='["support:*", "user:ada"]')
    night = Issuer("https://night.example", tmp_path, principals='["support:night:*", "user:*"]')
    caps = f'[principal."support:night:desk"]\n{CAPS}'
    with serve(
        tmp_path,
        WIDE + caps + fake_model(upstream.url) + support.config + night.config,
        issuer=ISSUER,
    ) as gateway:
        takes = {
            "support:desk": [support],
            "support:night:desk": [night],
            "user:ada": [support],
            "user:adam": [night],
            "team:x": [],
        }
        for principal, owners in takes.items():
            for issuer in (support, night):
                said_so = said(gateway, issuer.token("support/desk", principal))
                assert said_so == (None if issuer in owners else "token-principal"), (
                    issuer.iss,
                    principal,
                )
            done = binary(
                "token",
                "issue",
                "--data",
                str(gateway.data),
                "--agent",
                "tests/x",
                "--principal",
                principal,
                "--issuer",
                ISSUER,
            )
            assert done.code == (1 if owners else 0), done.err
            assert not owners or "without those that another issuer names more exactly" in done.err
        assert said(gateway, night.token("support/desk", "support:night:desk")) == "rate-exceeded"


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (
            '[[issuer]]\niss = "https://b"\naud = "x"\nnamespaces = ["b"]\n',
            "because there are several issuers",
        ),
        (
            '[[issuer]]\niss = "https://b"\naud = "x"\nnamespaces = ["b"]\nprincipals = ["a*b"]\n',
            '"a*b" is neither a principal',
        ),
        (
            (
                '[[issuer]]\niss = "https://b"\naud = "x"\nnamespaces = ["b"]\n'
                'principals = ["b", "*"]\n'
            ),
            'https://a and https://b both have "*"',
        ),
        (
            (
                '[[issuer]]\niss = "https://b"\naud = "x"\nnamespaces = ["b"]\n'
                'principals = ["b"]\n[issuer.principal."b"]\nrpm = 1\n[principal."b"]\nrpm = 1\n'
            ),
            "already has caps",
        ),
        (
            (
                '[[issuer]]\niss = "https://b"\naud = "x"\nnamespaces = ["b"]\n'
                'principals = ["b"]\ntoken_list = 0\n'
            ),
            "must be 1 to 4096",
        ),
    ],
)
def test_a_config_says_whose_principals_are_whose(tmp_path: Path, config: str, part: str) -> None:
    file = tmp_path / "token-shield.toml"
    file.write_text(
        (
            'name = "gw"\n[[issuer]]\niss = "https://a"\naud = "x"\nnamespaces = ["a"]\n'
            'principals = ["*"]\n'
        )
        + config
    )
    done = binary("config", "check", str(file))
    assert done.code == 1 and part in done.out + done.err


# ---- output and counts ---------------------------------------------------------------------------


def test_a_holders_children_fill_no_labels(upstream: FakeUpstream, tmp_path: Path) -> None:
    fast = Issuer("https://fast.example", tmp_path)
    config = (
        "[metrics]\nagent_label = 3\n[limits]\nroot_rps = 1000\n"
        + WIDE
        + fake_model(upstream.url)
        + fast.config
    )
    with serve(tmp_path, config, issuer=ISSUER) as gateway:
        planner = Link.root(fast, "tests/planner")
        for number in range(10):
            assert said(gateway, planner.leaf(number, f"child-{number}")) is None
        assert said(gateway, gateway.issue("tests/later")) is None
        gateway.idle()
        requests = "token_shield_agent_requests_total"
        assert (
            gateway.metric(requests, agent="tests/planner") == 10
            and gateway.metric(requests, agent="tests/later") == 1
        )
        assert gateway.metric(requests, agent="other") == 0 and "child-0" not in gateway.scrape()


def test_a_token_that_is_not_yet_valid_can_be_revoked_by_its_text(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    fast = Issuer("https://fast.example", tmp_path)
    with serve(tmp_path, WIDE + fake_model(upstream.url) + fast.config, issuer=ISSUER) as gateway:
        later = fast.token("tests/later", nbf=int(time.time()) + 600)
        assert said(gateway, later) == "token-not-yet-valid"
        assert "sealed as" in gateway.command("token", "revoke", later, "--reason", "a test").err
        soon = fast.token("tests/soon", nbf=int(time.time()) + 7)
        gateway.command("token", "revoke", soon, "--reason", "a test")
        # The token expires (the leeway is five seconds), and stays refused.
        deadline = time.monotonic() + 20
        while (refused := said(gateway, soon)) == "token-not-yet-valid":
            assert time.monotonic() < deadline
        assert refused == "token-revoked"
        over = fast.token("tests/over", iat=int(time.time()) - 60, exp=int(time.time()) - 1)
        done = binary("token", "revoke", over, "--reason", "a test", "--data", str(gateway.data))
        assert done.code == 3 and "token-expired" in done.err


@pytest.fixture(scope="module")
def named(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = "".join(f'[[model]]\nname = "{name}"\nroute = ["fake"]\n' for name in NAMES)
    with serve(
        tmp_path_factory.mktemp("named"), WIDE + fake_model(upstream.url) + models
    ) as served:
        yield served


NAMES = ["größe/模型-7b", "meta-llama/Llama-3.1-8B", "sum=1", "a b:c", "100%"]


@pytest.mark.parametrize("name", NAMES)
def test_every_model_that_can_be_called_can_be_retrieved(named: Served, name: str) -> None:
    token = named.issue("tests/models", models=(*NAMES, MODEL))
    client = open_ai(named, token)
    assert client.chat.completions.create(model=name, messages=user("hi")).choices
    assert client.models.retrieve(name).id == name
    for path in (quote(name, safe="/"), quote(name, safe="")):
        answer = httpx2.get(
            f"{named.url}/v1/models/{path}",
            headers={"x-api-key": token},
            timeout=30,
            trust_env=False,
        )
        assert (answer.status_code, answer.json().get("id")) == (200, name), path


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/%ff",
        "/v1/models/%c0%af",
        "/v1/models/%2",
        "/v1/models/%zz",
        "/v1/models/a%00b",
        "/v1/models/%0d%0a",
        "/v1/models/%2e%2e",
        "/v1/models/a%2f..%2fb",
        "/v1/models/%2fa",
        "/v1%2fmodels/echo",
        "/v1/%6dodels/echo",
        "/v1/models%2fecho",
        "/v1/models/%25%32%65",
    ],
)
def test_escapes_elsewhere_and_tricks_are_refused(named: Served, path: str) -> None:
    """No text is decoded twice, and no decoded name is a path."""
    with socket.create_connection(("127.0.0.1", named.port), timeout=20) as connection:
        connection.sendall(
            (
                f"GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {named.token}\r\n"
                "connection: close\r\n\r\n"
            ).encode()
        )
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ")), answer[:80]


def test_a_table_of_usage_runs_nothing_in_a_spreadsheet(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    names = ["=1+1", "+x", "-x", "@x", "plain"]
    models = "".join(f'[[model]]\nname = "{name}"\nroute = ["fake"]\n' for name in names)
    with serve(tmp_path, WIDE + fake_model(upstream.url) + models) as gateway:
        token = gateway.issue(
            "tests/usage",
            "--model=-x",
            principal="=cmd|x",
            models=tuple(name for name in names if name != "-x"),
        )
        for name in names:
            assert ask(gateway, "hi", token, model=name).status_code == 200
        gateway.idle()
        data = gateway.data
    table = binary("audit", "usage", str(data / "audit"), "--by", "principal,model", "--csv")
    assert table.code == 0, table.err
    rows = [line for line in table.out.splitlines() if "cmd" in line]
    assert len(rows) == 5 and all(row.startswith("'=cmd|x,") for row in rows)
    assert {row.split(",")[1] for row in rows} == {"'=1+1", "'+x", "'-x", "'@x", "plain"}
    # Programs read the JSON, which is unchanged.
    exact = binary("audit", "usage", str(data / "audit"), "--by", "principal,model", "--json")
    assert {json.loads(line)["model"] for line in exact.out.splitlines() if "cmd" in line} == set(
        names
    )
