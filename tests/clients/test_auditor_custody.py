"""Forgetting, backups and restores of the log.

A forgotten principal is stopped first, and stays stopped. An invalid backup is reported. A restored
log has another history from then on.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import audit_verifier
from fake_upstream import MODEL, FakeUpstream
from gateway import binary
from test_audit import inside, query, verified
from test_backup import restored
from test_serve import ask, code, fake_model, serve

ADA = "user:ada"


def test_a_principal_that_is_acted_for_is_not_forgotten(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        token = own.issue("tests/ada", principal=ADA, models=(MODEL,))
        handle = own.issue("tests/short", "--handle", principal=ADA, models=(MODEL,))
        assert (
            ask(own, "of ada", token).status_code == ask(own, "of ada", handle).status_code == 200
        )
        refused = binary("audit", "forget", ADA, "--yes", "--data", str(own.data))
        assert (
            refused.code == 3 and "agent tests/ada" in refused.err and "--revoke" in refused.err
        ), refused.err
        assert query(own, "--principal", ADA), "nothing has changed"
        done = own.command("audit", "forget", ADA, "--revoke", "--reason", "a request")
        assert "what stays" in done.err and "log lines" in done.err
        assert query(own, "--principal", ADA) == []
        for credential in (token, handle):
            assert ask(own, "x", credential).status_code in (401, 403), (
                "it is stopped in the same act"
            )
        kinds = [row["kind"] for row in query(own)]
        assert kinds[-1] != "admission" and {
            "agent-status",
            "token-revoked",
            "handle-revoked",
            "forgotten",
        } <= {*kinds}
        assert inside(query(own, "--kind", "forgotten")[0])["reason"] == "a request"
        assert ask(own, "of the others").status_code == 200
        agents = own.command("agent", "list", "--json").out
        assert ADA not in agents and "revoked" in agents
        own.restart()
        assert ask(own, "x", token).status_code in (401, 403)
        verified(own, live=True)


def test_a_revoked_token_that_asks_again_does_not_bring_its_name_back(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        token = own.issue("tests/ada", principal=ADA, models=(MODEL,))
        assert ask(own, "of ada", token).status_code == 200
        own.command("audit", "forget", ADA, "--revoke")
        (status, reason) = code(ask(own, "x", token))
        assert status in (401, 403) and "revoked" in reason
        assert query(own, "--principal", ADA) == []
        own.restart()
        assert code(ask(own, "x", token)) == (status, reason), "as before, from what the log says"
        own.restart()
        assert query(own, "--principal", ADA) == [] and query(own, "--kind", "refusal") == []
        counted = [
            row
            for entry in query(own, "--kind", "unauthenticated-refusals")
            for row in inside(entry)["rows"]
            if row["code"] == reason
        ]
        assert [(row["network"], row["count"]) for row in counted] == [("127.0.0.1", 1)] * 2, (
            counted
        )
        assert "a principal that was forgotten is recorded again" not in own.logged()
        # Refusals name other principals.
        other = own.issue("tests/bob", principal="user:bob", models=(MODEL,))
        own.command("agent", "revoke", "tests/bob", "--reason", "lost")
        assert code(ask(own, "x", other)) == (403, "agent-revoked")
        assert inside(query(own, "--kind", "refusal")[-1])["agent"] == "tests/bob"


def test_counted_refusals_are_forgotten_with_their_principal(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        ada = own.issue("tests/ada", principal=ADA, models=(MODEL,))
        for token in (ada, own.token):
            assert {code(ask(own, "x", token, model="nowhere")) for _ in range(14)} == {
                (404, "model-not-found")
            }
        # A stop records the counts.
        own.restart()
        counted = {
            str(inside(row)["principal"]): inside(row)["rows"]
            for row in query(own, "--kind", "refusals")
        }
        assert counted[ADA] == [{"agent": "tests/ada", "code": "model-not-found", "count": 4}]
        assert counted["team:tests"][0]["agent"] == "tests/main"
        own.command("audit", "forget", ADA, "--revoke")
        rows = query(own, "--kind", "refusals")
        assert [row["payload"] is None for row in rows].count(True) == 1 and "tests/ada" not in str(
            rows
        )


def test_a_token_that_brings_a_name_back_is_warned_of(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        strange = own.issue(
            "tests/elsewhere",
            "--offline",
            "--key",
            str(own.data / "keys/operator.jwk"),
            principal=ADA,
            models=(MODEL,),
        )
        assert ask(own, "known by its requests alone", strange).status_code == 200
        own.command("audit", "forget", ADA)
        assert query(own, "--principal", ADA) == []
        assert ask(own, "again", strange).status_code == 200
        assert "a principal that was forgotten is recorded again" in own.logged()


@pytest.mark.parametrize(
    "missing", ["secret/record-keys", "secret/log/e000001.key", "keys/operator.jwk.pub"]
)
def test_a_backup_names_what_it_lacks(upstream: FakeUpstream, tmp_path: Path, missing: str) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        ask(own, "x")
    (own.data / missing).rename(tmp_path / "away")
    done = binary("backup", str(tmp_path / "backup"), "--data", str(own.data))
    assert done.code == 1 and f"lacks {missing}" in done.err, done.err
    assert not (own.data / missing).exists(), "nothing is put in its place"
    (tmp_path / "away").rename(own.data / missing)
    whole = binary("backup", str(tmp_path / "whole"), "--data", str(own.data))
    assert whole.code == 0, whole.err
    recorded = inside(query(own, "--kind", "backup")[-1])
    assert (recorded["keys"], recorded["operator_keys"]) == (True, False) and recorded[
        "by"
    ].startswith("uid:")


def test_what_is_restored_is_another_history_under_other_keys(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        ask(own, "before")
        own.command("backup", str(tmp_path / "backup"))
        # The gateway and the restored one both continue, each in another epoch.
        own.command("audit", "begin", "--reason", "it goes on")
        ask(own, "after")
        over = binary("restore", str(tmp_path / "backup"), "--data", str(own.data))
        assert over.code == 1 and "a gateway runs on" in over.err, over.err
    data = tmp_path / "restored"
    done = binary("restore", str(tmp_path / "backup"), "--data", str(data))
    assert done.code == 0 and "gw/e000002 begins" in done.out, done.err
    with restored(own, data) as other:
        ask(other, "another after")
        head = inside(query(other, "--kind", "restored")[0])["head"]
        assert head["origin"] == "gw/e000001" and head["size"] > 0
        verified(other, live=True)
    forked = binary(
        "audit", "verify", str(data / "audit"), "--log-keys", str(own.data / "log.vkeys")
    )
    assert forked.code == 1 and "e000002" in forked.err, (
        "the one's keys do not sign the other's history"
    )
    with pytest.raises(audit_verifier.Fault):
        audit_verifier.verify(
            data / "audit", (own.data / "log.vkeys").read_text(), data / "secret/head"
        )


def test_a_restore_that_was_interrupted_is_no_log(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        ask(own, "x")
        own.command("backup", str(tmp_path / "backup"), "--with-operator-keys")
    data = tmp_path / "restored"
    assert binary("restore", str(tmp_path / "backup"), "--data", str(data)).code == 0
    # The state that a crash leaves before the new epoch has recorded the restore.
    shutil.move(data / "secret/head", data / "secret/head.restored")
    started = binary("serve", "--config", str(data / "token-shield.toml"))
    assert started.code == 1 and "secret/head is missing" in started.err, started.err
    again = binary("restore", str(tmp_path / "backup"), "--data", str(data))
    assert again.code == 1 and "already exists" in again.err
