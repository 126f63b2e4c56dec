"""Backups: of a running gateway, restored elsewhere, stored by others, and changed by attackers."""

from __future__ import annotations

import json
import shutil
import threading
import time
from datetime import datetime
from pathlib import Path

import httpx2
import pytest

import audit_verifier
from clients import user
from fake_upstream import MODEL, FakeUpstream
from gateway import Done, Served, binary
from test_audit import query, verified
from test_serve import ask, fake_model, serve
from waiting import wait_until


def backup(gateway: Served, folder: Path, *flags: str) -> Done:
    return gateway.command("backup", str(folder), *flags)


def sizes(folder: Path) -> list[tuple[str, int, str]]:
    """The sizes that both verifiers report of a backup or data folder; they must agree."""
    done = binary("audit", "verify", str(folder / "audit"), "--json")
    assert done.code == 0, done.out + done.err
    theirs = [
        (one["origin"], one["records"], one["root"]) for one in json.loads(done.out)["epochs"]
    ]
    ours = audit_verifier.verify(
        folder / "audit", (folder / "log.vkeys").read_text(), folder / "secret/head"
    )
    assert theirs == [(one.origin, one.size, one.root) for one in ours]
    return theirs


def restored(own: Served, data: Path) -> Served:
    """A gateway over a restored data folder; `own` has stopped, and its tokens are valid here."""
    other = object.__new__(Served)
    other.__dict__.update(own.__dict__)
    other.data, other.log, other.config = (
        data,
        data.parent / f"{data.name}.log",
        data / "token-shield.toml",
    )
    other._start("serve", "--config", str(other.config))
    return other


def load(gateway: Served, token: str, stop: threading.Event, served: list[str]) -> None:
    with httpx2.Client(trust_env=False, timeout=30) as client:
        while not stop.is_set():
            body = {"model": "echo", "messages": user("load")}
            answer = client.post(
                gateway.url + "/v1/chat/completions",
                json=body,
                headers={"authorization": f"Bearer {token}"},
            )
            if answer.status_code == 200:
                served.append(answer.headers["token-shield-request"])


def test_a_running_gateway_is_backed_up_and_goes_on_elsewhere(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    config = (
        fake_model(upstream.url) + "[class.busy]\nrpm = 100000\nburst = 10000\nin_flight = 64\n"
    )
    with serve(tmp_path, config) as own:
        revoked = own.issue("tests/revoked", models=(MODEL, "echo"))
        handle = own.issue("tests/short", "--handle", models=(MODEL,))
        busy = own.issue("tests/busy", "--class", "busy", models=("echo",))
        own.command("token", "revoke", revoked, "--reason", "a test")
        own.command("agent", "suspend", "tests/short", "--reason", "a test")
        own.command("agent", "resume", "tests/short", "--reason", "a test")
        agents = own.command("agent", "list", "--json").out
        stop, served = threading.Event(), []
        threads = [threading.Thread(target=load, args=(own, busy, stop, served)) for _ in range(4)]
        [thread.start() for thread in threads]
        try:
            for number in range(8):
                before = len(served)
                backup(own, tmp_path / f"backup{number}", "--with-operator-keys")
                assert sum(size for _, size, _ in sizes(tmp_path / f"backup{number}")) >= before
        finally:
            stop.set()
            [thread.join() for thread in threads]
        assert served, "there was load"
    last = tmp_path / "backup7"
    assert all(path.stat().st_mode & 0o077 == 0 for path in [last, *last.rglob("*")]), (
        "for nobody else"
    )
    data = tmp_path / "restored"
    done = binary("restore", str(last), "--data", str(data))
    assert done.code == 0, done.err
    *before, new = sizes(data)
    assert [row[0] for row in before] == [row[0] for row in sizes(last)] and new[:2] == (
        "gw/e000002",
        2,
    ), "a new epoch begins"
    again = binary("restore", str(last), "--data", str(data))
    assert again.code == 1 and "already exists" in again.err
    with restored(own, data) as other:
        assert other.command("agent", "list", "--json").out == agents
        assert ask(other, "x", revoked).status_code == 401
        assert (
            ask(other, "by handle", handle).status_code
            == ask(other, "as before").status_code
            == 200
        )
        kinds = [row["kind"] for row in query(other)]
        assert kinds.count("start") == 2 and {"token-revoked", "epoch", "restored", "backup"} <= {
            *kinds
        }
        verified(other, live=True)


def test_a_pruned_log_is_backed_up_and_goes_on_elsewhere(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    """A backup has the state from pruned records: a gateway without its cache starts again."""
    with serve(tmp_path, 'epoch = "1s"\n' + fake_model(upstream.url)) as own:
        revoked = own.issue("tests/revoked", models=(MODEL, "echo"))
        own.command("token", "revoke", revoked, "--reason", "a test")
        agents = own.command("agent", "list", "--json").out
        newest = datetime.fromisoformat(str(query(own)[-1]["at"])).timestamp()
        wait_until(lambda: time.time() > newest + 1, 5, "a second has gone")
        own.restart()
        own.stop()
        pruned = own.command("audit", "prune", "--keep", "0s")
        assert pruned.code == 0 and "e000001" in pruned.out + pruned.err
        for name in ("cache", "pruned/e000001"):
            (own.data / "secret" / name).rename(tmp_path / name.replace("/", "-"))
            if name == "cache":
                own._start("serve", "--config", str(own.config))
                assert ask(own, "x", revoked).status_code == 401
                assert own.command("agent", "list", "--json").out == agents
                done = backup(own, tmp_path / "kept", "--with-operator-keys")
                assert done.code == 0, done.err
                own.stop()
        (own.data / "secret/cache").unlink()
        refused = binary("serve", "--config", str(own.config))
        assert refused.code == 1 and "the records of e000001 were pruned" in refused.err
        damaged = bytearray((tmp_path / "pruned-e000001").read_bytes())
        damaged[20] ^= 1
        (own.data / "secret/pruned/e000001").write_bytes(damaged)
        assert binary("serve", "--config", str(own.config)).code == 1
    (tmp_path / "kept/secret/pruned/e000001").rename(tmp_path / "aside")
    data = tmp_path / "restored"
    refused = binary("restore", str(tmp_path / "kept"), "--data", str(data))
    assert (
        refused.code == 1
        and "the records of e000001 were pruned" in refused.err
        and not data.exists()
    )
    (tmp_path / "aside").rename(tmp_path / "kept/secret/pruned/e000001")
    done = binary("restore", str(tmp_path / "kept"), "--data", str(data))
    assert done.code == 0, done.err
    with restored(own, data) as other:
        assert ask(other, "x", revoked).status_code == 401
        assert other.command("agent", "list", "--json").out == agents
        assert ask(other, "x").status_code == 200
        verified(other, live=True)


def test_a_log_pruned_by_an_older_version_is_backed_up_after_the_next_prune(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, 'epoch = "1s"\n' + fake_model(upstream.url)) as own:
        newest = datetime.fromisoformat(str(query(own)[-1]["at"])).timestamp()
        wait_until(lambda: time.time() > newest + 1, 5, "a second has gone")
        own.restart()
        own.stop()
        assert own.command("audit", "prune", "--keep", "0s").code == 0
        (own.data / "secret/pruned/e000001").unlink()
        lacks = binary("backup", str(tmp_path / "lacks"), "--data", str(own.data))
        assert lacks.code == 1 and "lacks secret/pruned/e000001" in lacks.err, lacks.err
        assert own.command("audit", "prune", "--keep", "400d").code == 0
        assert binary("backup", str(tmp_path / "whole"), "--data", str(own.data)).code == 0


def test_a_backup_without_keys_verifies_and_opens_nothing(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    with serve(tmp_path, fake_model(upstream.url)) as own:
        assert ask(own, "a secret matter").status_code == 200
        backup(own, kept, "--without-keys")
    assert sizes(kept)
    names = {path.name for path in kept.rglob("*") if path.is_file()}
    assert (
        not names & {"record-keys", "operator.jwk", "e000001.key"} and "operator.jwk.pub" in names
    )
    rows = [
        json.loads(line) for line in binary("audit", "query", str(kept / "audit")).out.splitlines()
    ]
    assert not [row for row in rows if row["payload"] is not None]
    done = binary("restore", str(kept), "--data", str(tmp_path / "restored"))
    assert done.code == 1 and "no record keys" in done.err
    assert binary("backup", str(kept), "--data", str(own.data)).code == 1, (
        "a backup is never written over"
    )


@pytest.mark.parametrize("what", ["tile/entries/000.p/*", "tile/0/000.p/*", "checkpoint", "head"])
def test_a_backup_that_somebody_changed_is_not_restored(
    upstream: FakeUpstream, tmp_path: Path, what: str
) -> None:
    kept = tmp_path / "kept"
    with serve(tmp_path, fake_model(upstream.url)) as own:
        ask(own, "x")
    backup(own, kept)
    (changed,) = [kept / "secret/head"] if what == "head" else (kept / "audit/e000001").glob(what)
    data = bytearray(changed.read_bytes())
    data[40] ^= 1
    if what == "head":
        data[512 + 40] ^= 1
    changed.write_bytes(data)
    done = binary("restore", str(kept), "--data", str(tmp_path / "restored"))
    assert done.code == 1 and "does not verify" in done.err, done.err
    assert not (tmp_path / "restored").exists(), "nothing of it was taken"


def test_an_older_backup_put_back_is_noticed_by_its_checkpoint(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        ask(own, "before")
        backup(own, tmp_path / "older")
        ask(own, "after")
    newer = tmp_path / "checkpoint"
    shutil.copy(own.data / "audit/e000001/checkpoint", newer)
    data = tmp_path / "restored"
    assert binary("restore", str(tmp_path / "older"), "--data", str(data)).code == 0
    with restored(own, data) as other:
        ask(other, "another after")
    assert binary("audit", "verify", str(data / "audit")).code == 0, "by itself it looks whole"
    noticed = binary("audit", "verify", str(data / "audit"), "--since", str(newer))
    assert noticed.code == 1, noticed.out
    assert binary("audit", "verify", str(own.data / "audit"), "--since", str(newer)).code == 0
