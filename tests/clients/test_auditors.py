"""Auditors read the log's tree over a socket or with a credential, and get no more than that."""

from __future__ import annotations

import base64
import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import audit_verifier
import httpx2
import pytest
from fake_upstream import FakeUpstream
from gateway import Served, binary
from test_audit import query
from test_serve import CHAT, ask, code, fake_model, serve
from waiting import wait_until

SECRET = "an-auditor's-credential-0123456789"


def fetch(client: httpx2.Client, folder: Path, vkeys: Path) -> int:
    """Downloads a log like any tlog-tiles reader; returns the size of its checkpoint."""
    keys = client.get("/audit/log.vkeys")
    assert keys.status_code == 200, keys.text
    vkeys.write_bytes(keys.content)
    total = 0
    for origin in sorted({line.split("+")[0] for line in keys.text.splitlines()}):
        epoch = origin.rsplit("/", 1)[1]
        (folder / epoch / "journal").mkdir(parents=True)
        (folder / epoch / "lock").touch()

        def whole(origin: str = origin, to: Path = folder / epoch) -> int | None:
            return fetch_epoch(client, origin, to)

        total += wait_until(whole, 10, "a tree whose checkpoint stays while it is fetched")
    return total


def fetch_epoch(client: httpx2.Client, origin: str, to: Path) -> int | None:
    """Downloads one epoch. None if a new checkpoint has replaced partial tiles meanwhile."""
    note = client.get(f"/audit/{origin}/checkpoint")
    assert note.status_code == 200 and note.headers["content-type"].startswith("text/plain"), (
        note.text
    )
    size = int(note.text.splitlines()[1])
    (to / "checkpoint").write_bytes(note.content)
    for path in tiles(size):
        tile = client.get(f"/audit/{origin}/{path}")
        if tile.status_code == 404 and ".p/" in path:
            now = client.get(f"/audit/{origin}/checkpoint").content
            assert now != note.content, f"{path} of the newest checkpoint"
            shutil.rmtree(to / "tile", ignore_errors=True)
            return None
        assert tile.status_code == 200, path
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        (to / path).write_bytes(tile.content)
    return size


def tiles(size: int) -> list[str]:
    """The files of a tree of `size` records (fewer than 65,536)."""
    paths = []
    for level, count in (("0", size), ("entries", size), ("1", size // 256)):
        paths += [f"tile/{level}/{number:03}" for number in range(count // 256)]
        if count % 256:
            paths.append(f"tile/{level}/{count // 256:03}.p/{count % 256}")
    return paths


@pytest.fixture(scope="module")
def audited(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    tmp_path = tmp_path_factory.mktemp("audited")
    secret = tmp_path / "auditor"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    lines = (
        f'listen = "unix:{tmp_path}/audit.sock"\nauditor = "file:{secret}"\n'
        "public_checkpoints = true\n"
    )
    with serve(
        tmp_path, lines + "[class.default]\nrpm = 100000\nburst = 1000\n" + fake_model(upstream.url)
    ) as own:
        with httpx2.Client(
            base_url=own.url, headers={"authorization": f"Bearer {own.token}"}, trust_env=False
        ) as client:
            for _ in range(300):
                last = client.post(
                    CHAT,
                    json={"model": "echo", "messages": [{"role": "user", "content": "audited"}]},
                )
                assert last.status_code == 200
            receipt = "/receipts/" + last.headers["audit-record"].replace("#", "/")
            wait_until(
                lambda: client.get(receipt).status_code == 200,
                10,
                "a checkpoint covers the last admission",
            )
        yield own


def test_auditors_fetch_and_verify_the_tree(audited: Served, tmp_path: Path) -> None:
    socket = audited.data.parent / "audit.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o660
    bearer = {"authorization": f"Bearer {SECRET}"}
    for name, client in {
        "socket": httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(socket)), base_url="http://auditors"
        ),
        "credential": httpx2.Client(base_url=audited.url, headers=bearer, trust_env=False),
    }.items():
        with client:
            folder, vkeys = tmp_path / name, tmp_path / f"{name}.vkeys"
            size = fetch(client, folder, vkeys)
            assert size >= 512, "admissions and outcomes"
            (found,) = audit_verifier.verify(folder, vkeys.read_text())
            assert found.size == size
            assert binary("audit", "verify", str(folder), "--log-keys", str(vkeys)).code == 4, (
                "no head was fetched"
            )
            for path in (
                "/audit/gw/e000001/journal/00000000000000000000",
                "/audit/gw/e000001/lock",
                "/audit/gw/e000009/checkpoint",
                "/audit/x",
            ):
                assert client.get(path).status_code == 404, path
    with httpx2.Client(
        transport=httpx2.HTTPTransport(uds=str(socket)), base_url="http://auditors"
    ) as client:
        assert client.post("/audit/log.vkeys").status_code == 405


def test_others_get_checkpoints_alone(audited: Served) -> None:
    with httpx2.Client(base_url=audited.url, trust_env=False) as anybody:
        assert anybody.get("/audit/gw/e000001/checkpoint").text.startswith("gw/e000001\n")
        assert anybody.get("/audit/log.vkeys").status_code == 200
        for headers in (
            {},
            {"authorization": f"Bearer {SECRET}x"},
            {"authorization": f"Bearer {audited.token}"},
            {"x-api-key": SECRET},
        ):
            for path in (
                "/audit/gw/e000001/tile/0/000",
                "/audit/gw/e000001/tile/entries/000",
                "/audit/nothing",
            ):
                assert code(anybody.get(path, headers=headers)) == (401, "auditor-unknown"), (
                    headers,
                    path,
                )
        bearer = {"authorization": f"Bearer {SECRET}"}
        assert anybody.get("/v1/models", headers=bearer).status_code == 401, (
            "an auditor is no agent"
        )
    assert SECRET not in audited.logged()


def test_what_everybody_may_have_is_rationed(audited: Served) -> None:
    with httpx2.Client(base_url=audited.url, trust_env=False) as anybody:
        codes = [anybody.get("/audit/gw/e000001/checkpoint").status_code for _ in range(600)]
        assert set(codes) == {200, 429}, "a stranger's network has its rate"
        bearer = {"authorization": f"Bearer {SECRET}"}
        assert anybody.get("/audit/gw/e000001/checkpoint", headers=bearer).status_code == 200, (
            "an auditor has none"
        )


def test_without_auditors_there_is_no_tree(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        bearer = {"authorization": f"Bearer {own.token}"}
        answer = httpx2.get(
            own.url + "/audit/gw/e000001/checkpoint", headers=bearer, trust_env=False
        )
        assert code(answer) == (404, "route-unknown")


def test_what_is_exported_is_read_without_the_operators_keys(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        request = ask(own, "for the regulator").headers["token-shield-request"]
        own.command("agent", "suspend", "tests/main", "--reason", "a test")
        assert code(ask(own, "x")) == (403, "agent-suspended")
        live = binary("audit", "replay", str(own.data / "audit"), "--json")
        told = json.loads(live.out)
        assert live.code == 0 and (
            told["admissions"],
            told["outcomes"],
            told["refusals"],
            told["disagreement_count"],
        ) == (1, 1, 1, 0)
        books = binary("audit", "replay", str(own.data / "audit"), "--state").out
        assert {"agent": "tests/main", "principal": "team:tests", "status": "suspended"} in map(
            json.loads, books.splitlines()
        ), books
    binary("audit", "begin", "--reason", "for the regulator", "--config", str(own.config))
    out = tmp_path / "out"
    done = binary("audit", "export", str(out), "--dir", str(own.data / "audit"))
    assert done.code == 0 and "e000001: " in done.out, done.err
    (found,) = audit_verifier.verify(out / "audit", (out / "log.vkeys").read_text())
    keys = {
        row["record"]: base64.urlsafe_b64decode(row["key"] + "=")
        for row in map(json.loads, (out / "keys.jsonl").read_text().splitlines())
    }
    assert len(keys) == found.size, "each record was sealed, and has its key"
    rows = [
        json.loads(line)
        for line in binary(
            "audit", "query", str(out / "audit"), "--request", request
        ).out.splitlines()
    ]
    assert [row["kind"] for row in rows] == ["admission", "outcome"], (
        "keys.jsonl is found beside the log"
    )
    assert len(query(own, "--request", request)) == 2
