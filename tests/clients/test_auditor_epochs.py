"""The next epoch in a running gateway: streams continue; a closed epoch is exported at once."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx2

import audit_verifier
from clients import open_ai, user
from fake_upstream import MODEL, FakeUpstream
from gateway import binary
from test_audit import inside, query, verified
from test_backup import load
from test_serve import ask, fake_model, serve

BUSY = "[class.busy]\nrpm = 1000000\nburst = 100000\nin_flight = 64\n"


def test_an_epoch_begins_beside_a_running_gateway(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url) + BUSY) as own:
        busy = own.issue("tests/busy", "--class", "busy", models=("echo",))
        stop, served = threading.Event(), []
        threads = [threading.Thread(target=load, args=(own, busy, stop, served)) for _ in range(4)]
        upstream.gate.clear()
        stream = open_ai(own, own.token).chat.completions.create(
            model=MODEL, messages=user("behave gate over"), stream=True
        )
        upstream.exchange("behave gate over")
        [thread.start() for thread in threads]
        try:
            for number in range(2, 5):
                begun = own.command("audit", "begin", "--reason", f"quarter {number}")
                assert f"gw/e{number:06} begins" in begun.out, begun.out
                theirs = json.loads(
                    binary("audit", "verify", str(own.data / "audit"), "--json").out
                )["epochs"]
                ours = audit_verifier.verify(
                    own.data / "audit",
                    (own.data / "log.vkeys").read_text(),
                    own.data / "secret/head",
                    live=True,
                )
                origins = [f"gw/e{place:06}" for place in range(1, number + 1)]
                assert (
                    [epoch["origin"] for epoch in theirs]
                    == [epoch.origin for epoch in ours]
                    == origins
                )
        finally:
            stop.set()
            [thread.join() for thread in threads]
            upstream.gate.set()
        assert list(stream), "the stream that began in the first epoch went on"
        assert ask(own, "in the fourth").headers["audit-record"].startswith("gw/e000004#")
        own.command("token", "revoke", busy, "--reason", "a test")
        assert ask(own, "x", busy, model="echo").status_code == 401
        lost = binary("audit", "begin", "--after-loss", "--reason", "x", "--data", str(own.data))
        assert lost.code == 1 and "no record of it is lost" in lost.err
    rows = query(own)
    known: dict[str, list[str]] = {}
    for row in rows:
        if row["kind"] in ("admission", "outcome"):
            known.setdefault(str(inside(row)["request"]), []).append(str(row["kind"]))
    assert served and all(known[request] == ["admission", "outcome"] for request in served), (
        "no record is lost"
    )
    begun = [inside(row) for row in rows if row["kind"] == "epoch"]
    assert len(begun) == 3 and all(row["by"].startswith("uid:") for row in begun)
    crossing = [
        row
        for row in rows
        if row["kind"] == "outcome" and str(row["record"]).startswith("e000004#")
    ]
    assert crossing, "the outcome of a request that was admitted in an earlier epoch"
    exported = tmp_path / "exported"
    done = binary("audit", "export", str(exported), "--dir", str(own.data / "audit"))
    assert done.code == 0, done.err
    assert len(audit_verifier.verify(exported / "audit", (exported / "log.vkeys").read_text())) == 3
    checked = binary("audit", "replay", str(exported / "audit"))
    assert checked.code == 0, checked.out + checked.err


def test_a_revocation_holds_across_epochs_and_a_start(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        token = own.issue("tests/gone", models=(MODEL,))
        own.command("token", "revoke", token, "--reason", "a test")
        done = binary("audit", "begin", "--reason", "x", "--json", "--data", str(own.data))
        assert json.loads(done.out)["origin"] == "gw/e000002"
        receipt = ask(own, "a receipt").headers["audit-record"]
        assert receipt.startswith("gw/e000002#")
        own.restart()
        assert ask(own, "x", token).status_code == 401
        path = own.url + "/receipts/" + receipt.replace("#", "/")
        assert (
            httpx2.get(
                path, headers={"authorization": f"Bearer {own.token}"}, trust_env=False
            ).status_code
            == 200
        )
    again = binary("audit", "begin", "--reason", "stopped", "--data", str(own.data))
    assert again.code == 0 and "gw/e000003 begins" in again.out, "with no gateway running too"
    verified(own)
