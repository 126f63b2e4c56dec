"""Handouts are recorded wherever the config is; records name who pruned or began an epoch, and why.

Also: what remains of a forgotten principal.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import audit_verifier
from gateway import BINARY, SERVED, Done, Served, binary, environment
from test_brake_table import ECHO
from test_serve import ask

OWN = f"uid:{os.getuid()}"


class Apart(Served):
    """A gateway whose config is in another folder than its data."""

    def write(self, config: str) -> None:
        self.config = self.data.parent / "etc/gateway.toml"
        self.config.parent.mkdir(exist_ok=True)
        text = SERVED.replace('data = "."', f'data = "{self.data}"').replace(
            "keys/operator", f"{self.data}/keys/operator"
        )
        self.config.write_text(text + self._first + self._listen + config)

    def issue(
        self,
        agent: str,
        *flags: str,
        principal: str = "team:tests",
        models: tuple[str, ...] = ("echo",),
        ttl: str = "1h",
    ) -> str:
        words = [
            "--agent",
            agent,
            "--principal",
            principal,
            "--ttl",
            ttl,
            *(word for model in models for word in ("--model", model)),
            *flags,
        ]
        done = binary("token", "issue", "--config", str(self.config), *words)
        assert done.code == 0, done.err
        self._tokens.append(done.out.strip())
        return done.out.strip()


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Apart]:
    with Apart(tmp_path / "data", ECHO) as gateway:
        assert not (gateway.data / "token-shield.toml").exists()
        yield gateway


def inside(gateway: Served, kind: str) -> list[dict[str, Any]]:
    done = binary("audit", "query", "--dir", str(gateway.data / "audit"), "--kind", kind)
    assert done.code == 0, done.err
    return [json.loads(line)["payload"] for line in done.out.splitlines()]


def run(*words: str, cwd: Path, more: dict[str, str] | None = None) -> Done:
    ended = subprocess.run(
        [str(BINARY), *words],
        cwd=cwd,
        env=environment() | (more or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Done(ended.returncode, ended.stdout, ended.stderr)


WAYS = {
    "--config": ([], "CONFIG"),
    "TOKEN_SHIELD_CONFIG": (["variable"], ""),
    "--dir, and TOKEN_SHIELD_CONFIG": (["variable"], "DIR"),
}


@pytest.mark.parametrize("runs", [True, False], ids=["it runs", "it does not run"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_handed_out_is_recorded(apart: Apart, tmp_path: Path, way: str, runs: bool) -> None:
    ask(apart, "x", model="echo")
    begun = binary("audit", "begin", "--reason", "an export", "--config", str(apart.config))
    assert begun.code == 0, begun.err
    if not runs:
        apart.stop()
    variable, named = WAYS[way]
    flags = {
        "CONFIG": ["--config", str(apart.config)],
        "DIR": ["--dir", str(apart.data / "audit")],
        "": [],
    }[named]
    more = {"TOKEN_SHIELD_CONFIG": str(apart.config)} if variable else {}
    for words, kind in (
        (("audit", "disclose", "gw/e000001#1"), "disclosed"),
        (("audit", "export", str(tmp_path / "export")), "exported"),
        (("backup", str(tmp_path / "backup")), "backup"),
    ):
        place = flags if words[0] == "audit" or named != "DIR" else []
        done = run(*words, *place, cwd=tmp_path, more=more)
        assert done.code == 0 and "not recorded" not in done.err, (words, done)
        [record] = inside(apart, kind)
        assert record["by"] == OWN, record
    copy = run(
        "audit",
        "disclose",
        "gw/e000001#1",
        "--dir",
        str(tmp_path / "backup/audit"),
        cwd=tmp_path,
        more=more,
    )
    assert copy.code == 0 and "not recorded" in copy.err, copy
    assert len(inside(apart, "disclosed")) == 1, "a copy is not the gateway's log"


def test_what_cannot_be_recorded_is_not_handed_out(apart: Apart, tmp_path: Path) -> None:
    ask(apart, "x", model="echo")
    apart.stop()
    apart.config.write_text(apart.config.read_text() + "\nnonsense = 1\n")
    done = run("audit", "disclose", "1", "--config", str(apart.config), cwd=tmp_path)
    assert done.code == 1 and done.out == "" and "no data is handed out" in done.err, done


@pytest.mark.parametrize("runs", [True, False], ids=["it runs", "it does not run"])
def test_a_token_that_is_signed_and_not_registered_is_recorded(
    apart: Apart, tmp_path: Path, runs: bool
) -> None:
    if not runs:
        apart.stop()
    token = apart.issue("tests/aside", "--offline", "--json", principal="user:ada")
    said = json.loads(token)
    [record] = inside(apart, "token-signed")
    assert (record["agent"], record["principal"], record["by"]) == (
        "tests/aside",
        "user:ada",
        OWN,
    ), record
    assert (
        record["token"] not in said["token"]
        and said["recorded"] >= 0
        and "tests/aside" not in agents(apart)
    )
    # The signer signs on another machine, without access to the gateway.
    away = tmp_path / "away"
    (away / "keys").mkdir(parents=True)
    config = away / "token-shield.toml"
    config.write_text(apart.config.read_text().replace(f'data = "{apart.data}"', 'data = "."'))
    key = ("--signing-key", str(apart.data / "keys/operator.jwk"))
    done = binary(
        "token",
        "issue",
        "--offline",
        "--agent",
        "tests/away",
        "--principal",
        "team:x",
        "--config",
        str(config),
        *key,
    )
    assert (
        done.code == 0
        and done.out.count(".") == 2
        and "not recorded" in done.err
        and not (away / "audit").exists()
    ), done
    forgotten = binary("audit", "forget", "user:ada", "--yes", "--config", str(apart.config))
    assert forgotten.code == 0, forgotten.err
    assert inside(apart, "token-signed") == [None], "it is forgotten with its principal"


def agents(gateway: Apart) -> str:
    done = binary("agent", "list", "--config", str(gateway.config))
    assert done.code == 0, done.err
    return done.out


def test_who_pruned_and_why_is_recorded(tmp_path: Path) -> None:
    with Served(tmp_path / "data", ECHO) as gateway:
        gateway.command("audit", "begin", "--reason", "the first is over")
        gateway.stop()
        assert (
            binary("audit", "begin", "--reason", "the second too", "--data", str(gateway.data)).code
            == 0
        )
        gateway.restart()
        gateway.stop()
        done = binary(
            "audit",
            "prune",
            "--keep",
            "0s",
            "--reason",
            "kept long enough",
            "--yes",
            "--data",
            str(gateway.data),
            "--json",
        )
        assert done.code == 0, done.err
        said = json.loads(done.out)
        [record] = inside(gateway, "pruned")
        assert (record["by"], record["reason"], record["through"]) == (
            OWN,
            "kept long enough",
            "e000002",
        ), record
        assert [row["epoch"] for row in said["epochs"]] == ["e000001", "e000002"] and len(
            said["sealed"]
        ) == 1
        # These members are always plain, so no key is needed.
        shown = binary(
            "audit",
            "query",
            "--dir",
            str(gateway.data / "audit"),
            "--kind",
            "pruned",
            "--record-keys",
            "/dev/null",
        )
        assert '"kept long enough"' in shown.out and OWN in shown.out, shown
        epochs = [(row["reason"], row["by"]) for row in inside(gateway, "epoch")]
        assert epochs == [("the second too", OWN)], (
            "the one that says why the third began; the others' records are gone"
        )
        seen = audit_verifier.verify(
            gateway.data / "audit",
            (gateway.data / "log.vkeys").read_text(),
            gateway.data / "secret/head",
        )
        assert [epoch.pruned for epoch in seen] == [True, True, False]
        gateway.restart()


def test_what_stays_names_the_standing(tmp_path: Path) -> None:
    with Served(tmp_path / "data", ECHO) as gateway:
        gateway.issue("tests/ada", principal="user:ada")
        gateway.issue("tests/bob", principal="user:bob")
        gateway.command("principal", "suspend", "user:ada", "--reason", "an odd one")
        ada = gateway.command("audit", "forget", "user:ada", "--revoke", "--reason", "a request")
        assert (
            "user:ada is suspended since" in ada.err
            and "an odd one" in ada.err
            and "principal release" in ada.err
        ), ada.err
        bob = gateway.command("audit", "forget", "user:bob", "--revoke", "--reason", "a request")
        assert "user:bob is" not in bob.err and "principal suspend and release" in bob.err, bob.err
        listed = [
            json.loads(line)
            for line in gateway.command("principal", "list", "--json").out.splitlines()
        ]
        assert [(row["principal"], row["reason"]) for row in listed] == [
            ("user:ada", "an odd one")
        ], "as it was said"
