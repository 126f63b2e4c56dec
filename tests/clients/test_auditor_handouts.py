"""Exports, receipts, disclosures, fingerprints and epoch ends: complete, provable, recorded."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

import audit_verifier
from fake_upstream import MODEL, FakeUpstream
from gateway import Done, Served, binary
from test_audit import inside, query
from test_serve import ask, fake_model, serve
from waiting import wait_until


@pytest.fixture(scope="module")
def kept(
    upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, list[str]]]:
    """A stopped gateway, and the names of its admissions."""
    with serve(tmp_path_factory.mktemp("kept"), fake_model(upstream.url)) as own:
        names = [ask(own, f"kept {number}").headers["audit-record"] for number in range(3)]
    yield own, names


def folder(own: Served) -> list[str]:
    return ["--dir", str(own.data / "audit")]


def fingerprint(own: Served, origin: str = "gw/e000001") -> str:
    """SHA-256 over both lines, as docs/AUDIT.md defines it."""
    lines = [
        line
        for line in (own.data / "log.vkeys").read_text().splitlines(keepends=True)
        if line.startswith(origin + "+")
    ]
    assert len(lines) == 2
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def test_verify_says_which_keys_it_went_by(kept: tuple[Served, list[str]], tmp_path: Path) -> None:
    own, _ = kept
    log, mine = str(own.data / "audit"), fingerprint(own)
    beside = binary("audit", "verify", log)
    assert (
        beside.code == 0 and mine in beside.out and "warning: the keys come from" in beside.err
    ), beside.err
    elsewhere = tmp_path / "log.vkeys"
    elsewhere.write_bytes((own.data / "log.vkeys").read_bytes())
    done = binary("audit", "verify", log, "--log-keys", str(elsewhere))
    assert done.code == 0 and "warning" not in done.err and str(elsewhere) in done.out
    trusted = binary("audit", "verify", log, "--trust", mine.upper())
    assert trusted.code == 0 and "warning" not in trusted.err
    other = binary("audit", "verify", log, "--trust", "0" * 64)
    assert other.code == 1 and mine in other.err, "it says which ones are there"
    assert binary("audit", "verify", log, "--trust", "abc").code == 2
    told = json.loads(binary("audit", "verify", log, "--json").out)
    assert (
        told["epochs"][0]["fingerprint"] == mine
        and told["keys_in_data_folder"]
        and told["end_proven"]
    )


def test_an_end_that_no_head_proves_has_its_own_exit_code(
    kept: tuple[Served, list[str]], tmp_path: Path
) -> None:
    own, _ = kept
    copy = tmp_path / "copy"
    for path in (own.data / "audit").rglob("*"):
        target = copy / path.relative_to(own.data / "audit")
        target.mkdir(parents=True, exist_ok=True) if path.is_dir() else target.write_bytes(
            path.read_bytes()
        )
    keys = ["--log-keys", str(own.data / "log.vkeys")]
    done = binary("audit", "verify", str(copy), *keys)
    assert (
        done.code == 4
        and "VALID PREFIX, END UNPROVEN" in done.err
        and "valid: gw/e000001" in done.out
    )
    told = binary("audit", "verify", str(copy), *keys, "--json")
    assert (
        told.code == 4 and json.loads(told.out)["valid"] and not json.loads(told.out)["end_proven"]
    )
    assert (
        binary("audit", "verify", str(copy), *keys, "--head", str(own.data / "secret/head")).code
        == 0
    )
    (copy / "e000001/checkpoint").write_text("x")
    assert binary("audit", "verify", str(copy), *keys).code == 1, (
        "what is wrong is not merely unproven"
    )


def test_an_export_is_there_whole_or_not_at_all(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        request = ask(own, "for the regulator").headers["token-shield-request"]
        out = tmp_path / "for-the-regulator"
        early = binary("audit", "export", str(out), *folder(own))
        assert early.code == 1 and "no closed epoch yet: token-shield audit begin" in early.err, (
            early.err
        )
        assert not list(tmp_path.glob("*regulator*")) and not list(tmp_path.glob(".*regulator*"))
        # As README prints it: from the folder that contains ./data.
        assert binary("audit", "begin", "--reason", "for the regulator", cwd=tmp_path).code == 0
        (own.data / "log.vkeys").rename(tmp_path / "away")
        lost = binary("audit", "export", "./for-the-regulator", cwd=tmp_path)
        assert lost.code == 1 and not out.exists() and not list(tmp_path.glob(".*regulator*")), (
            "nothing is left half"
        )
        (tmp_path / "away").rename(own.data / "log.vkeys")
        done = binary("audit", "export", "./for-the-regulator", cwd=tmp_path)
        assert done.code == 0, done.err
        words = done.out.split("verify with", 1)[1].splitlines()[0].split()
        assert binary(*words[1:], cwd=tmp_path).code == 4, (
            "what it prints works, and an export has no head"
        )
        assert [row["kind"] for row in query(own, "--request", request)] == ["admission", "outcome"]
        assert binary("audit", "export", "./for-the-regulator", cwd=tmp_path).code == 1, (
            "never written over"
        )
        recorded = inside(query(own, "--kind", "exported")[-1])
        assert (recorded["epochs"], recorded["keys"]) == ("e000001", True) and recorded[
            "by"
        ].startswith("uid:")
    audit_verifier.verify(out / "audit", (out / "log.vkeys").read_text())


def test_a_receipt_needs_nothing_but_the_keys(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        name = ask(own, "a receipt").headers["audit-record"]
        path, headers = (
            own.url + "/receipts/" + name.replace("#", "/"),
            {"authorization": f"Bearer {own.token}"},
        )
        found = wait_until(
            lambda: [
                one
                for one in [httpx2.get(path, headers=headers, trust_env=False, timeout=10)]
                if one.status_code == 200
            ],
            10,
            "a checkpoint",
        )[0]
    index, vkeys = int(name.split("#")[1]), (own.data / "log.vkeys").read_text()
    record = audit_verifier.record_at(own.data / "audit", "e000001", index)
    assert audit_verifier.verify_receipt(found.text, vkeys) == record
    receipt = tmp_path / "receipt"
    receipt.write_text(found.text)
    keys = ["--log-keys", str(own.data / "log.vkeys")]
    done = binary("audit", "verify-receipt", str(receipt), *keys, "--json")
    told = json.loads(done.out)
    assert (told["index"], told["origin"], told["kind"]) == (index, "gw/e000001", "admission")
    assert base64.b64decode(told["bytes"]) == record and told["fingerprint"] == fingerprint(own)
    proved = tmp_path / "proved"
    assert binary("audit", "prove", name, *folder(own), "--out", str(proved)).code == 0
    assert (
        binary("audit", "verify-receipt", str(proved), *keys, "--trust", fingerprint(own)).code == 0
    )
    lines = found.text.split("\n")
    assert lines[1].startswith("extra ")
    other = base64.b64encode(
        audit_verifier.record_at(own.data / "audit", "e000001", index + 1)
    ).decode()
    for changed in (
        [*lines[:1], f"extra {other}", *lines[2:]],
        [*lines[:1], *lines[2:]],
        [*lines[:1], lines[1] + "=", *lines[2:]],
    ):
        receipt.write_text("\n".join(changed))
        assert binary("audit", "verify-receipt", str(receipt), *keys).code == 1
        with pytest.raises(audit_verifier.Fault):
            audit_verifier.verify_receipt("\n".join(changed), vkeys)
    receipt.write_text(found.text + "x" * 200_000)
    assert binary("audit", "verify-receipt", str(receipt), *keys).code == 1, "its size is bounded"


def disclosed(own: Served, *names: str) -> Done:
    done = binary("audit", "disclose", *names, *folder(own))
    assert done.code == 0, done.err
    return done


def test_what_is_disclosed_is_verified_offline(
    kept: tuple[Served, list[str]], tmp_path: Path
) -> None:
    own, names = kept
    before = len(query(own))
    done = disclosed(own, *names[:2])
    assert (
        "recorded as #" in done.err
        and inside(query(own, "--kind", "disclosed")[-1])["records"].count("e000001#") == 2
    )
    assert len(query(own)) == before + 1
    file, keys = tmp_path / "for-the-court.jsonl", ["--log-keys", str(own.data / "log.vkeys")]
    file.write_text(done.out)
    shown = binary("audit", "verify-disclosure", str(file), *keys, "--json")
    rows = [json.loads(line) for line in shown.out.splitlines()]
    assert shown.code == 0 and [row["record"] for row in rows] == names[:2], shown.err
    assert all(
        row["payload"]["principal"] == "team:tests" and row["fingerprint"] == fingerprint(own)
        for row in rows
    )
    assert [
        audit_verifier.verify_disclosure(line, (own.data / "log.vkeys").read_text())
        for line in done.out.splitlines()
    ] == [row["payload"] for row in rows]
    first, second = map(json.loads, done.out.splitlines())
    changes = {
        "another key": {**first, "key": second["key"]},
        "another record": {**first, "bytes": second["bytes"]},
        "another proof": {**first, "proof": second["proof"]},
        "no proof": {**first, "proof": None},
        "another name": {**first, "record": "e000001#0"},
        "more": {**first, "more": 1},
        "no canonical base64": {**first, "key": first["key"][:-1] + chr(ord(first["key"][-1]) ^ 1)},
    }
    for what, changed in changes.items():
        file.write_text(json.dumps(changed))
        refused = binary("audit", "verify-disclosure", str(file), *keys)
        assert refused.code == 1 and "line 1" in refused.err, what
        with pytest.raises(audit_verifier.Fault):
            audit_verifier.verify_disclosure(
                json.dumps(changed), (own.data / "log.vkeys").read_text()
            )
    file.write_text("")
    assert binary("audit", "verify-disclosure", str(file), *keys).code == 1


def test_a_copy_is_nobodys_log_and_nothing_is_recorded_in_it(
    kept: tuple[Served, list[str]], tmp_path: Path
) -> None:
    own, names = kept
    backup = tmp_path / "backup"
    assert binary("backup", str(backup), "--data", str(own.data)).code == 0
    before = sorted((path, path.read_bytes()) for path in backup.rglob("*") if path.is_file())
    done = binary("audit", "disclose", names[0], "--dir", str(backup / "audit"))
    assert done.code == 0 and "not recorded" in done.err
    assert before == sorted(
        (path, path.read_bytes()) for path in backup.rglob("*") if path.is_file()
    )


def test_a_log_that_does_not_verify_is_not_replayed(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        ask(own, "x")
    log = str(own.data / "audit")
    assert binary("audit", "replay", log).code == 0
    note = own.data / "audit/e000001/checkpoint"
    text = note.read_bytes()
    note.write_bytes(text[:-20] + bytes([text[-20] ^ 1]) + text[-19:])
    assert binary("audit", "verify", log).code == 1
    done = binary("audit", "replay", log)
    assert done.code == 1 and "does not verify" in done.err, done.out


def test_a_model_that_is_not_there_is_recorded_by_its_name(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        ask(own, "x", model="gpt-unknown" + "y" * 200)
        detail = str(inside(query(own, "--kind", "refusal")[-1])["detail"])
        assert "gpt-unknown" in detail and len(detail) < 120
        own.write("this is no config")
        own.reload()
        wait_until(
            lambda: query(own, "--kind", "reload-refused"), 10, "the refused reload is recorded"
        )
        assert inside(query(own, "--kind", "reload-refused")[-1])["why"]
        own.write(fake_model(upstream.url))
    assert MODEL
