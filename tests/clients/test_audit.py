"""The audit log: complete, provable to third parties, confidential, intact after every crash."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import signal
import threading
import time
from datetime import datetime
from pathlib import Path

import httpx2
import pytest

import audit_records
import audit_verifier
import audit_writer
from clients import open_ai, user
from fake_upstream import MODEL, FakeUpstream
from gateway import Gateway, binary
from test_serve import ask, code, fake_model, serve
from waiting import wait_until

KILLS = 300
FULL = bool(os.environ.get("TOKEN_SHIELD_FULL"))


def rows(gateway: Gateway, *words: str) -> list[dict[str, object]]:
    done = binary("audit", *words)
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def query(gateway: Gateway, *words: str) -> list[dict[str, object]]:
    return rows(gateway, "query", str(gateway.data / "audit"), *words)


def inside(row: dict[str, object]) -> dict[str, object]:
    found = row["payload"]
    assert isinstance(found, dict), row
    return found


def verified(gateway: Gateway, **more: object) -> list[audit_verifier.Epoch]:
    """Runs both verifiers, which must agree."""
    done = binary("audit", "verify", str(gateway.data / "audit"), "--json")
    assert done.code == 0, done.out + done.err
    theirs = json.loads(done.out)["epochs"]
    ours = audit_verifier.verify(
        gateway.data / "audit",
        (gateway.data / "log.vkeys").read_text(),
        gateway.data / "secret/head",
        **more,
    )
    assert [(one["origin"], one["records"], one["root"]) for one in theirs] == [
        (one.origin, one.size, one.root) for one in ours
    ]
    return ours


def test_every_request_has_its_admission_and_its_outcome(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        answer = ask(own, "recorded whole")
        assert answer.status_code == 200
        request, name = answer.headers["token-shield-request"], answer.headers["audit-record"]
        stream = open_ai(own, own.token).chat.completions.create(
            model=MODEL, messages=user("recorded streamed"), stream=True
        )
        list(stream)
        refused = ask(own, "x", model="nowhere")
        assert refused.status_code == 404 and refused.headers["audit-record"]
        assert "audit-record" not in ask(own, "x", "no.good.token").headers, (
            "nobody known is recorded one by one"
        )
        admission, outcome = query(own, "--request", request)
        assert admission["kind"] == "admission" and name.endswith(
            f"#{str(admission['record']).split('#')[1]}"
        )
        about = inside(admission)
        assert (about["agent"], about["principal"], about["model"], about["decision"]) == (
            "tests/main",
            "team:tests",
            MODEL,
            "allowed",
        )
        sent = upstream.exchange("recorded whole").request.body
        assert about["forward_bytes"] == len(sent) and about["forward_digest"] == digest(
            about, sent
        )
        ended = inside(outcome)
        assert (ended["code"], ended["status"], ended["admission"]) == (
            "ok",
            200,
            int(name.split("#")[1]),
        )
        assert ended["response_digest"] == digest(ended, answer.content) and ended["usage"]
        kinds = [row["kind"] for row in query(own)]
        assert (
            kinds.count("admission") == kinds.count("outcome") == 2 and kinds.count("refusal") == 1
        )
        told = binary("why", refused.headers["token-shield-request"], "--data", str(own.data))
        assert told.code == 0 and "model-not-found" in told.out
        verified(own, live=True)
    text = b"".join(path.read_bytes() for path in (own.data / "audit").rglob("*") if path.is_file())
    for secret in (b"tests/main", b"team:tests", MODEL.encode(), b"recorded"):
        assert secret not in text, "only the operator reads the log"


def digest(about: dict[str, object], body: bytes) -> str:
    import hmac

    key = base64.urlsafe_b64decode(str(about["digest_key"]) + "==")
    return base64.urlsafe_b64encode(hmac.digest(key, body, "sha256")).decode().rstrip("=")


def test_an_outcome_is_recorded_whatever_becomes_of_the_request(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        with httpx2.stream(
            "POST",
            own.url + "/v1/chat/completions",
            timeout=30,
            trust_env=False,
            headers={"authorization": f"Bearer {own.token}"},
            json={"model": MODEL, "messages": user("behave forever left"), "stream": True},
        ) as left:
            upstream.exchange("behave forever left")
            request = left.headers["token-shield-request"]
        outcome = wait_until(
            lambda: [row for row in query(own, "--request", request) if row["kind"] == "outcome"],
            10,
            "its outcome",
        )
        assert inside(outcome[0])["code"] == "aborted"
        own.command("token", "revoke", own.token, "--reason", "a test")
        refused = ask(own, "x")
        assert refused.status_code == 401 and "audit-record" in refused.headers, (
            "whoever is known is recorded"
        )
        assert inside(query(own, "--decision", "token-revoked")[0])["agent"] == "tests/main"


def test_strangers_verify_one_record_and_read_that_one(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        names = [ask(own, f"disclosed {number}").headers["audit-record"] for number in range(5)]
    folder = ["--dir", str(own.data / "audit")]
    (shown,) = rows(own, "disclose", names[2], *folder)
    record, key = (
        base64.b64decode(str(shown["bytes"])),
        base64.urlsafe_b64decode(str(shown["key"]) + "="),
    )
    opened = audit_verifier.open_with(record, key)
    assert opened["principal"] == "team:tests" and opened["decision"] == "allowed"
    vkeys = (own.data / "log.vkeys").read_text()
    audit_verifier.verify_proof(str(shown["proof"]), record, vkeys)
    other = audit_verifier.record_at(own.data / "audit", "e000001", int(names[3].split("#")[1]))
    with pytest.raises(audit_verifier.Fault):
        audit_verifier.open_with(other, key)
    with pytest.raises(audit_verifier.Fault):
        audit_verifier.verify_proof(str(shown["proof"]), other, vkeys)
    proof = tmp_path / "proof"
    assert binary("audit", "prove", names[2], *folder, "--out", str(proof)).code == 0
    checked = binary(
        "audit", "verify-receipt", str(proof), "--log-keys", str(own.data / "log.vkeys")
    )
    assert checked.code == 0 and f"record {names[2].split('#')[1]} of gw/e000001" in checked.out
    (tmp_path / "other").write_bytes(other)
    words = [
        "verify-receipt",
        str(proof),
        "--log-keys",
        str(own.data / "log.vkeys"),
        "--record",
        str(tmp_path / "other"),
    ]
    differs = binary("audit", *words)
    assert differs.code == 1 and "another record" in differs.err


def test_an_agent_gets_receipts_of_its_own_records(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:

        def receipt(name: str, token: str) -> httpx2.Response:
            path = own.url + "/receipts/" + name.replace("#", "/")
            return httpx2.get(
                path, headers={"authorization": f"Bearer {token}"}, trust_env=False, timeout=10
            )

        asked = {"model": MODEL, "messages": user("a receipt")}
        headers = {"authorization": f"Bearer {own.token}", "want-receipt": "1"}
        answer = httpx2.post(
            own.url + "/v1/chat/completions",
            json=asked,
            headers=headers,
            trust_env=False,
            timeout=10,
        )
        other = own.issue("tests/other", models=(MODEL,))
        for name in (answer.headers["audit-record"], answer.headers["audit-outcome"]):
            proof = wait_until(
                lambda: [found for found in [receipt(name, own.token)] if found.status_code == 200],
                10,
                "a checkpoint",
            )[0]
            record = audit_verifier.record_at(
                own.data / "audit", "e000001", int(name.split("#")[1])
            )
            audit_verifier.verify_proof(proof.text, record, (own.data / "log.vkeys").read_text())
            refused = receipt(name, other)
            assert code(refused) == (404, "receipt-unknown"), (
                "another agent's record is not told from one that is not there"
            )
            _, epoch, index = name.replace("#", "/").split("/")
            for wrong in (f"other/{epoch}#{index}", f"{epoch}#{index}", f"gw/{epoch}#0{index}"):
                assert code(receipt(wrong, own.token)) == (404, "receipt-unknown"), wrong
        assert code(receipt("gw/e000001#99999", own.token)) == (404, "receipt-unknown")
        assert code(receipt("nonsense", own.token)) == (404, "receipt-unknown")


def test_a_principal_is_forgotten_and_its_revocations_are_not(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        token = own.issue("tests/ada", principal="user:ada", models=(MODEL,))
        for _ in range(3):
            assert ask(own, "of ada", token).status_code == 200
        assert ask(own, "of the tests").status_code == 200
        own.command("token", "revoke", token, "--reason", "a test")
        assert ask(own, "x", token).status_code == 401
        before = verified(own, live=True)[0].size
        assert len(query(own, "--principal", "user:ada")) >= 7
        own.command("audit", "forget", "user:ada", "--revoke")
        kept = [path for path in own.data.rglob("*") if path.is_file() and path.suffix != ".sock"]
        assert [path for path in kept if b"user:ada" in path.read_bytes()] == [], (
            "nothing is left of it"
        )
        assert (
            query(own, "--principal", "user:ada") == []
            and len(query(own, "--principal", "team:tests")) >= 2
        )
        assert ask(own, "x", token).status_code == 401, "what is revoked stays so"
        again = binary("audit", "forget", "user:nobody", "--yes", "--data", str(own.data))
        assert again.code == 3 and "no record key" in again.err
        own.restart()
        assert ask(own, "x", token).status_code == 401, "after a start too"
        assert ask(own, "of the tests again").status_code == 200
        assert verified(own, live=True)[0].size > before


def test_usage_is_summed_up(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        other = own.issue("tests/other", principal="team:other", models=(MODEL,))
        for token in (own.token, own.token, other):
            assert ask(own, "counted", token).status_code == 200
        ask(own, "x", other, model="nowhere")
    done = binary(
        "audit",
        "usage",
        str(own.data / "audit"),
        "--by",
        "principal,model",
        "--since",
        "1d",
        "--csv",
    )
    lines = done.out.splitlines()
    assert lines[0] == "principal,model,requests,refused,input_tokens,output_tokens,unreported"
    counts = {tuple(line.split(",")[:2]): line.split(",")[2:] for line in lines[1:]}
    assert (
        counts["team:tests", MODEL][0] == "2"
        and counts["team:other", MODEL][0] == "1"
        and counts["team:other", "-"][:2] == ["0", "1"]
    )
    assert int(counts["team:tests", MODEL][2]) == 2 * int(counts["team:other", MODEL][2]) > 0


def test_floods_do_not_fill_the_disk(upstream: FakeUpstream, tmp_path: Path) -> None:
    seconds = 60 if FULL else 6
    with serve(tmp_path, fake_model(upstream.url) + "[class.loud]\nrpm = 5\n") as own:
        loud = own.issue("tests/loud", "--class", "loud", models=(MODEL,))
        size = verified(own, live=True)[0].size
        stop, sent = time.monotonic() + seconds, [0, 0]

        def flood(place: int, token: str) -> None:
            with httpx2.Client(trust_env=False, timeout=30) as client:
                while time.monotonic() < stop:
                    body = {"model": MODEL, "messages": user("flood")}
                    answer = client.post(
                        own.url + "/v1/chat/completions",
                        json=body,
                        headers={"authorization": f"Bearer {token}"},
                    )
                    sent[place] += answer.status_code in (401, 429)

        threads = [
            threading.Thread(target=flood, args=pair) for pair in ((0, loud), (1, "not.a.token"))
        ]
        [thread.start() for thread in threads]
        asked = served = 0
        while time.monotonic() < stop:
            asked += 1
            served += ask(own, "everyone else").status_code == 200
            time.sleep(0.2)
        [thread.join() for thread in threads]
        # The others are all served. How many they are depends on the machine.
        assert min(sent) > 50 and served == asked >= seconds, (sent, served, asked)
        minutes = seconds // 60 + 2
        grown = verified(own, live=True)[0].size - size - 2 * served
        # One agent and code: ten records a minute, plus its few good requests. Strangers: only
        # counts.
        assert grown <= minutes * (10 + 2 * 5 + 40), grown
    counted = sum(
        row["count"]
        for kind in ("refusals", "unauthenticated-refusals")
        for entry in query(own, "--kind", kind)
        for row in inside(entry)["rows"]
    )
    recorded = len(query(own, "--kind", "refusal"))
    assert counted + recorded >= sum(sent), "every refusal is recorded or counted"


def test_a_log_of_former_times_put_back_is_noticed_by_its_checkpoint(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        ask(own, "before")
    shutil.copytree(own.data / "audit", tmp_path / "older")
    kept = tmp_path / "checkpoint"
    own._start("serve", "--config", str(own.config))
    ask(own, "after")
    own.stop()
    shutil.copy(own.data / "audit/e000001/checkpoint", kept)
    keys = ["--key", str(own.data / "log.vkeys"), "--since", str(kept)]
    assert binary("audit", "verify", str(own.data / "audit"), *keys).code == 0
    assert binary("audit", "verify", str(tmp_path / "older"), *keys).code == 1
    audit_verifier.since(own.data / "audit", (own.data / "log.vkeys").read_text(), kept.read_text())
    with pytest.raises(audit_verifier.Fault):
        audit_verifier.since(
            tmp_path / "older", (own.data / "log.vkeys").read_text(), kept.read_text()
        )


def test_a_record_of_a_newer_version_is_named_as_such(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    """An older token-shield reports a newer version's log, refuses to start, and keeps the log."""
    with serve(tmp_path, fake_model(upstream.url)) as own:
        ask(own, "before")
    folder = own.data / "audit"
    [epoch] = verified(own)
    before = [audit_verifier.record_at(folder, "e000001", index) for index in range(epoch.size)]
    newer = before[-1].replace(b'"v":1}', b'"v":2}')
    segment = max((folder / "e000001/journal").glob("*"))
    data = segment.read_bytes()
    end = max((batch.end for batch in audit_records.batches(data)), default=0)
    appended = audit_writer.batch(before, [newer])
    segment.write_bytes(data[:end] + appended + data[end + len(appended) :])
    changed = segment.read_bytes()
    started = binary("serve", "--config", str(own.config))
    assert started.code == 1 and "which a newer token-shield wrote" in started.err, started.err
    assert segment.read_bytes() == changed
    checked = binary("audit", "verify", str(folder), "--key", str(own.data / "log.vkeys"))
    assert checked.code == 1 and "which a newer token-shield wrote" in checked.out + checked.err, (
        checked.out + checked.err
    )
    segment.write_bytes(data)
    own._start("serve", "--config", str(own.config))
    assert ask(own, "after").status_code == 200
    own.stop()


def test_kill_9_under_load(tmp_path: Path) -> None:
    """Every answer that a caller received is in the log, with its outcome; a start succeeds."""
    chance = random.Random(4)
    data = tmp_path / "data"
    answered: list[tuple[str, str]] = []
    slowest = 0.0
    for number in range(KILLS * (4 if FULL else 1)):
        began = time.monotonic()
        gateway = Gateway(data, upstream="http://127.0.0.1:9")
        slowest = max(slowest, time.monotonic() - began)
        threads = [threading.Thread(target=load, args=(gateway, answered)) for _ in range(3)]
        [thread.start() for thread in threads]
        # Also before the first answer, and at different times after the last one.
        wanted = len(answered) + chance.randrange(4)
        wait_until(lambda: len(answered) >= wanted, 30, "answers under load")  # noqa: B023
        time.sleep(chance.random() * 0.02)
        gateway.process.send_signal(signal.SIGKILL)
        gateway.process.wait()
        gateway.process.stdout.close()
        [thread.join() for thread in threads]
        if number % 30 == 0:
            verified(gateway, live=True)
    assert len(answered) > KILLS and slowest < 10
    Gateway(data, upstream="http://127.0.0.1:9").stop()
    verified(gateway)
    known: dict[str, list[str]] = {}
    for row in query(gateway):
        if row["kind"] in ("admission", "outcome"):
            known.setdefault(str(inside(row)["request"]), []).append(str(row["kind"]))
    lost = [request for request, _ in answered if known.get(request) != ["admission", "outcome"]]
    assert not lost, f"{len(lost)} of {len(answered)}"


def load(gateway: Gateway, answered: list[tuple[str, str]]) -> None:
    """Sends requests until the gateway has ended."""
    with httpx2.Client(trust_env=False, timeout=5) as client:
        while True:
            try:
                answer = client.post(
                    gateway.url + "/v1/chat/completions",
                    json={"model": "echo", "messages": user("x")},
                    headers={"authorization": f"Bearer {gateway.token}"},
                )
            except httpx2.HTTPError:
                return
            if answer.status_code == 200:
                answered.append(
                    (answer.headers["token-shield-request"], answer.headers["audit-record"])
                )


def test_old_records_go_to_the_archive_at_a_start(upstream: FakeUpstream, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    keep = f'epoch = "1s"\nkeep = "1s"\narchive = "{archive}"\n'
    with serve(tmp_path, keep + fake_model(upstream.url)) as own:
        revoked = own.issue("tests/gone")
        own.command("token", "revoke", revoked, "--reason", "a test")
        request = ask(own, "to be archived").headers["token-shield-request"]
        assert len(query(own, "--request", request)) == 2
        # The times in an epoch give its age: it is closed, and pruned once its last record is older
        # than a second.
        for _ in range(2):
            newest = datetime.fromisoformat(str(query(own)[-1]["at"])).timestamp()
            wait_until(lambda newest=newest: time.time() > newest + 1, 5, "a second has gone")
            own.restart()
        assert "old records were pruned" in own.logged() and not query(own, "--request", request)
        seen = verified(own, live=True)
        assert [epoch.pruned for epoch in seen] == [True, False, False]
        done = binary(
            "audit", "verify", str(archive), "--key", str(own.data / "log.vkeys"), "--json"
        )
        assert done.code == 4, "an archive has no head: nothing proves where it ends"
        assert [row["pruned"] for row in json.loads(done.out)["epochs"]] == [False]
        kept = binary(
            "audit",
            "query",
            str(archive),
            "--request",
            request,
            "--keys",
            str(own.data / "secret/record-keys"),
        )
        assert kept.out.count("\n") == 2, kept.err
        assert code(ask(own, "x", revoked)) == (401, "token-revoked"), "what was revoked stays so"


def test_plain_records_name_who_was_stopped(upstream: FakeUpstream, tmp_path: Path) -> None:
    """A key cannot forget plain records, so none of their members is left out."""
    with serve(tmp_path, 'records = "plain"\n' + fake_model(upstream.url)) as own:
        stopped = own.issue("tests/stopped")
        own.command("agent", "suspend", "tests/stopped", "--reason", "a test")
        assert code(ask(own, "x", stopped)) == (403, "agent-suspended")
        (refusal,) = query(own, "--kind", "refusal")
        assert inside(refusal)["agent"] == "tests/stopped"
