"""Temporary shortages of descriptors and disk space.

New work is refused meanwhile, acknowledged data is not lost, and service returns without help.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from gateway import BINARY, SERVED, Gateway, binary, environment
from test_power import run
from test_serve import fake_model, serve
from waiting import wait_until

OFTEN = "[class.default]\nrpm = 60000\nburst = 60000\n"
ECHO = (
    OFTEN
    + '[[upstream]]\nname = "echo"\nurl = "echo:"\n[[model]]\nname = "echo"\nroute = ["echo"]\n'
)
CHAT = "/v1/chat/completions"
PASSES = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


class Kept:
    """A connection for requests, and one for probes, both opened before the shortage."""

    def __init__(self, gateway: Gateway, token: str | None = None) -> None:
        self._url, self._probes = gateway.url, gateway.metrics.removesuffix("/metrics")
        one = httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=600)
        self._client = httpx2.Client(
            trust_env=False,
            timeout=20,
            limits=one,
            headers={"authorization": f"Bearer {token or gateway.token}"},
        )
        self._prober = httpx2.Client(trust_env=False, timeout=20, limits=one)
        assert self.chat().status_code == 200
        assert self.ready() == {"ready": True}

    def chat(self) -> httpx2.Response:
        return self._client.post(self._url + CHAT, json=PASSES)

    def receipt(self, record: str) -> int:
        return self._client.get(f"{self._url}/receipts/{record.replace('#', '/')}").status_code

    def ready(self) -> dict[str, object]:
        answer = self._prober.get(self._probes + "/readyz")
        assert answer.headers["content-type"] == "application/json"
        assert (answer.status_code == 200) == answer.json()["ready"], answer.text
        return answer.json()

    def reasons(self) -> list[str]:
        return [reason["code"] for reason in self.ready().get("reasons", [])]

    def alive(self) -> bool:
        return self._prober.get(self._probes + "/healthz").status_code == 200

    def metric(self, row: str) -> float:
        text = self._prober.get(self._probes + "/metrics").text
        found = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(row)]
        assert len(found) == 1, (row, found)
        return float(found[0])

    def close(self) -> None:
        self._client.close()
        self._prober.close()


def recorded(gateway: Gateway, record: str) -> bool:
    """Whether the log has that record."""
    return binary("audit", "show", record, "--dir", str(gateway.data / "audit")).code == 0


def without_descriptors(kept: Kept, pid: int, records: list[str]) -> None:
    """Sends requests until the log is short of descriptors, then restores the limit.

    The last request was refused, or was admitted before the shortage. In the second case it is
    answered when its outcome is durable.
    """
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # From here on it cannot open a tile, a segment or a connection. Open files stay open.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, hard))
    with ThreadPoolExecutor(1) as caller:
        try:
            # A checkpoint is due after a thousand records at the latest, and finds no descriptor.
            while True:
                asked = caller.submit(kept.chat)
                wait_until(
                    lambda asked=asked: asked.done() or kept.reasons() == ["audit-resources"],
                    15,
                    "an answer or a shortage",
                )
                if not asked.done() or asked.result().status_code != 200:
                    break
                records.append(asked.result().headers["audit-record"])
                assert len(records) < 5000, "no shortage was noticed"
            assert kept.reasons() == ["audit-resources"]
            assert kept.alive()
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        last = asked.result()
    if last.status_code == 200:
        records.append(last.headers["audit-record"])
        return
    assert (last.status_code, last.json()["error"]["code"]) == (503, "audit-resources"), last.text
    assert int(last.headers["retry-after"]) >= 1


def test_without_descriptors_the_log_waits_and_goes_on(tmp_path: Path) -> None:
    with serve(tmp_path, ECHO) as gateway:
        kept, pid = Kept(gateway), gateway.process.pid
        records = [kept.chat().headers["audit-record"] for _ in range(5)]
        for _ in range(3):
            without_descriptors(kept, pid, records)
            wait_until(lambda: kept.ready() == {"ready": True}, 10, "it goes on by itself")
            answer = kept.chat()
            assert answer.status_code == 200, answer.text
            records.append(answer.headers["audit-record"])
        wait_until(lambda: kept.receipt(records[-1]) == 200, 10, "a checkpoint over all of it")
        kept.close()
    told = binary("audit", "query", str(gateway.data / "audit"), "--kind", "admission")
    found = {json.loads(line)["record"] for line in told.out.splitlines()}
    assert found >= {record.removeprefix("gw/") for record in records}, (
        "nothing acknowledged is lost"
    )


def test_an_epoch_begins_or_does_not_wherever_descriptors_run_out(tmp_path: Path) -> None:
    """Each step of `audit begin` lacks a descriptor once.

    The log continues in the old epoch or in the next one, and is never lost.
    """
    with serve(tmp_path, ECHO) as gateway:
        kept, pid = Kept(gateway), gateway.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        open_now = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        begun, refused = 0, 0
        for left in range(1, 16):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_now + left, hard))
            with ThreadPoolExecutor(1) as operator:
                try:
                    asked = operator.submit(
                        binary, "audit", "begin", "--reason", "a test", "--data", str(gateway.data)
                    )
                    # The command is done, or waits for a descriptor or for its connection to be
                    # accepted.
                    wait_until(
                        lambda asked=asked: asked.done() or kept.reasons() != [] or left < 3,
                        15,
                        "an answer or a shortage",
                    )
                finally:
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
                done = asked.result()
            begun, refused = begun + (done.code == 0), refused + (done.code != 0)
            wait_until(lambda: kept.ready() == {"ready": True}, 10, "it goes on by itself")
            assert kept.chat().status_code == 200, left
        assert begun >= 3 and refused >= 1, (begun, refused)
        kept.close()


def config(data: Path, reserve: str) -> Path:
    """The config of a gateway on `data`, with a key."""
    (data / "keys").mkdir(mode=0o700)
    made = binary("keys", "generate", "--out", str(data / "keys" / "operator.jwk"))
    assert made.code == 0, made.err
    path = data / "token-shield.toml"
    listen = (
        f'[listen]\napi = "127.0.0.1:0"\nmetrics = "127.0.0.1:0"\n[audit]\nreserve = "{reserve}"\n'
    )
    path.write_text(SERVED + listen + ECHO)
    return path


@contextmanager
def small_disk(at: Path, size: str) -> Iterator[Path]:
    """A tmpfs of that size, for this user alone."""
    at.mkdir()
    owner = f"size={size},mode=700,uid={os.getuid()},gid={os.getgid()}"
    run("mount", "-t", "tmpfs", "-o", owner, "none", str(at), root=True)
    try:
        yield at
    finally:
        run("umount", "-l", str(at), root=True)


def test_a_full_disk_is_said_counted_once_and_waited_out(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        with serve(disk, ECHO) as gateway:
            kept = Kept(gateway)
            before = kept.chat().headers["audit-record"]
            assert kept.metric("token_shield_audit_reserve_bytes") == 1 << 20
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(b"x" * (1 << 16))
            # Records are written until a segment finds no space: then the log notices.
            wait_until(lambda: kept.chat().status_code == 503, 60, "the disk is noticed to be full")
            assert kept.reasons() == ["audit-full"]
            count = kept.metric('token_shield_refusals_total{code="audit-full"')
            for number in range(1, 13):
                refused = kept.chat()
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "audit-full")
                assert (
                    kept.metric('token_shield_refusals_total{code="audit-full"') == count + number
                )
            assert kept.alive()
            assert kept.metric('token_shield_unready{reason="audit-full"}') == 1
            wait_until(
                lambda: kept.metric("token_shield_audit_disk_free_bytes") < 2 << 20,
                10,
                "the disk is measured again",
            )
            filler.unlink()
            wait_until(lambda: kept.ready() == {"ready": True}, 10, "it goes on by itself")
            after = kept.chat().headers["audit-record"]
            total = kept.metric('token_shield_refusals_total{code="audit-full"')
            kept.close()
        assert recorded(gateway, before) and recorded(gateway, after)
        # Refusals that could not be recorded one by one are in the summaries.
        told = binary("audit", "query", str(gateway.data / "audit"), "--kind", "refusals")
        rows = [
            row for line in told.out.splitlines() for row in json.loads(line)["payload"]["rows"]
        ]
        counted = sum(row["count"] for row in rows if row["code"] == "audit-full")
        assert counted == total, told.out


def test_a_reserve_that_can_never_be_whole_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "24m") as data:
        path = config(data, "256MiB")
        done = binary("serve", "--config", str(path))
        assert done.code == 1
        assert "reserve" in done.err and "smaller" in done.err and str(data) in done.err, done.err


def test_a_start_on_a_full_disk_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        with serve(disk, ECHO) as gateway:
            pass
        (gateway.data / "audit" / "reserve").unlink()
        with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(b"x" * (1 << 16))
        (disk / "filler").open("r+b").truncate((disk / "filler").stat().st_size - (600 << 10))
        words = [str(BINARY), "serve", "--config", str(gateway.config)]
        log = tmp_path / "second.log"
        with log.open("wb") as err:
            process = subprocess.Popen(
                words, env=environment(), stdin=subprocess.DEVNULL, stderr=err
            )
        try:
            wait_until(
                lambda: '"message":"serving"' in log.read_text(),
                30,
                "it serves commands and probes",
            )
            line = next(
                json.loads(line)
                for line in log.read_text().splitlines()
                if '"message":"serving"' in line
            )
            answer = httpx2.get(f"http://{line['metrics']}/readyz", trust_env=False, timeout=10)
            assert (answer.status_code, answer.json()["reasons"][0]["code"]) == (
                503,
                "audit-full",
            ), answer.text
            assert "its reserve is not whole" in log.read_text()
            (disk / "filler").unlink()
            wait_until(
                lambda: (
                    httpx2.get(
                        f"http://{line['metrics']}/readyz", trust_env=False, timeout=10
                    ).status_code
                    == 200
                ),
                10,
                "ready",
            )
            process.terminate()
            assert process.wait(40) == 0
        finally:
            process.kill()
            process.wait(40)


def test_no_upstream_is_said(tmp_path: Path) -> None:
    only = OFTEN + fake_model("http://127.0.0.1:9").split('[[upstream]]\nname = "echo"')[0]
    with serve(tmp_path, only) as gateway:
        probe = gateway.metrics.replace("/metrics", "/readyz")
        answer = wait_until(
            lambda: next(
                (
                    a
                    for a in [httpx2.get(probe, trust_env=False, timeout=10)]
                    if a.status_code == 503
                ),
                None,
            ),
            30,
            "unready",
        )
        assert [reason["code"] for reason in answer.json()["reasons"]] == ["upstreams-down"]
        assert (
            httpx2.get(
                gateway.metrics.replace("/metrics", "/healthz"), trust_env=False, timeout=10
            ).status_code
            == 200
        )
