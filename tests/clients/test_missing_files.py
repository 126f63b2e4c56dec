"""Files of the log, or its lock's holder, are removed while the gateway runs.

The gateway notices and reports it, and the documented recovery works.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from gateway import STOP_S, Gateway, Served, binary
from test_serve import serve
from waiting import wait_until

ECHO = '[[upstream]]\nname = "echo"\nurl = "echo:"\n[[model]]\nname = "echo"\nroute = ["echo"]\n'
OFTEN = "[class.default]\nrpm = 60000\nburst = 60000\n"


def chat(gateway: Gateway) -> httpx2.Response:
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"authorization": f"Bearer {gateway.token}"}
    return httpx2.post(
        f"{gateway.url}/v1/chat/completions",
        json=body,
        headers=headers,
        timeout=20,
        trust_env=False,
    )


def covered(gateway: Gateway, record: str) -> bool:
    """Whether a checkpoint covers that record; this call requests one."""
    headers = {"authorization": f"Bearer {gateway.token}"}
    path = f"{gateway.url}/receipts/{record.replace('#', '/')}"
    return httpx2.get(path, headers=headers, timeout=20, trust_env=False).status_code == 200


@contextmanager
def running(folder: Path) -> Iterator[Served]:
    """A gateway with records under a checkpoint. The fixture kills it if it has not ended."""
    gateway = serve(folder, OFTEN + ECHO)
    try:
        record = chat(gateway).headers["audit-record"]
        wait_until(lambda: covered(gateway, record), 10, "a checkpoint")
        yield gateway
    finally:
        gateway.process.kill()
        gateway.process.wait(STOP_S)


def unready(gateway: Gateway) -> list[dict[str, str]]:
    answer = httpx2.get(gateway.metrics.replace("/metrics", "/readyz"), timeout=10, trust_env=False)
    return answer.json().get("reasons", []) if answer.status_code == 503 else []


@pytest.mark.parametrize(
    "gone",
    ["audit/e000001/tile", "audit/e000001/tile/entries", "audit/e000001", "secret/record-keys"],
)
def test_what_is_taken_away_is_noticed_and_has_a_way_out(tmp_path: Path, gone: str) -> None:
    with running(tmp_path) as gateway:
        checkpoint = gateway.data / "audit/e000001/checkpoint"
        before = checkpoint.read_bytes()
        path = gateway.data / gone
        kept = path.read_bytes() if path.is_file() else None
        path.rename(tmp_path / "taken")
        reasons = wait_until(lambda: unready(gateway), 10, "it is noticed")
        assert (
            reasons[0]["code"] == "audit-unavailable"
            and str(gateway.data / "") in reasons[0]["detail"]
        ), reasons
        refused = chat(gateway)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "audit-unavailable")
        if checkpoint.exists():
            assert checkpoint.read_bytes() == before, "nothing is signed over what is gone"
        gateway.terminate()
        assert gateway.ended() == 1, "it says that not everything is recorded"
        again = binary("serve", "--config", str(gateway.config))
        assert again.code == 1
        if kept is None:
            assert "audit begin --after-loss" in again.err, again.err
            begun = binary(
                "audit",
                "begin",
                "--after-loss",
                "--reason",
                "a test",
                "--config",
                str(gateway.config),
            )
            assert begun.code == 0, begun.err
        else:
            assert "record-keys is missing" in again.err and "backup" in again.err, again.err
            path.write_bytes(kept)
            path.chmod(0o600)
        gateway._start("serve", "--config", str(gateway.config))
        assert chat(gateway).status_code == 200
        gateway.terminate()
        assert gateway.ended() == 0


def test_who_holds_the_lock_is_named(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        second = binary("serve", "--config", str(gateway.config))
        assert second.code == 1
        assert f"is locked by process {gateway.process.pid}" in second.err, second.err
