"""Log lines without a reader: a blocked or closed collector stops neither requests nor shutdown."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

import audit_verifier
from gateway import BINARY, STOP_S, Gateway, environment
from waiting import wait_until

# A refused request that writes a WARN line.
REFUSED = {
    "model": "echo",
    "messages": [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "https://evil.example/x.png"}}],
        }
    ],
}
PASSES = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


class Piped(Gateway):
    """`dev` with a pipe as standard error; `end` is the end to read from."""

    def __init__(self, data: Path, *, full: bool) -> None:
        self.end, self._stderr = os.pipe()
        if full:
            _fill(self._stderr)
        super().__init__(data)

    def _start(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [str(BINARY), *words],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        os.close(self._stderr)
        self._hello()

    def logged(self) -> str:
        return ""

    def chat(self, body: object) -> int:
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx2.post(
            f"{self.url}/v1/chat/completions",
            json=body,
            headers=headers,
            timeout=10,
            trust_env=False,
        ).status_code

    def healthy(self) -> bool:
        return (
            httpx2.get(
                self.metrics.replace("/metrics", "/healthz"), timeout=5, trust_env=False
            ).status_code
            == 200
        )


def _fill(pipe: int) -> None:
    flags = fcntl.fcntl(pipe, fcntl.F_GETFL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        while True:
            os.write(pipe, b"\n" * 4096)
    except BlockingIOError:
        fcntl.fcntl(pipe, fcntl.F_SETFL, flags)


@contextmanager
def piped(folder: Path, *, full: bool) -> Iterator[Piped]:
    gateway = Piped(folder / "data", full=full)
    try:
        yield gateway
    finally:
        gateway.process.kill()
        gateway.process.wait(STOP_S)


def test_a_pipe_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    with piped(tmp_path, full=True) as gateway:
        for _ in range(40):
            assert gateway.chat(REFUSED) == 403
        assert gateway.chat(PASSES) == 200
        assert gateway.healthy()
        assert gateway.metric("token_shield_log_lines_dropped_total") == 0, (
            "what waits is not dropped yet"
        )
        gateway.process.send_signal(signal.SIGTERM)
        # One second for the last lines, and the normal time of a stop on a busy machine.
        assert gateway.process.wait(10) == 0
        audit_verifier.verify(
            gateway.data / "audit",
            (gateway.data / "log.vkeys").read_text(),
            gateway.data / "secret/head",
        )
        os.close(gateway.end)


def test_lines_come_when_somebody_reads_again(tmp_path: Path) -> None:
    with piped(tmp_path, full=True) as gateway:
        assert gateway.chat(REFUSED) == 403
        read = b""

        def line() -> bool:
            nonlocal read
            read += os.read(gateway.end, 1 << 16)
            return b"evil.example" in read

        wait_until(line, 10, "the lines that waited")
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(10) == 0
        os.close(gateway.end)


def test_a_pipe_that_is_closed_stops_nothing(tmp_path: Path) -> None:
    with piped(tmp_path, full=False) as gateway:
        os.close(gateway.end)
        for _ in range(10):
            assert gateway.chat(REFUSED) == 403
        assert gateway.chat(PASSES) == 200
        wait_until(
            lambda: gateway.metric("token_shield_log_lines_dropped_total") >= 10,
            10,
            "lost lines are counted",
        )
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(10) == 0


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_start_that_is_refused_ends_though_nobody_reads_why(tmp_path: Path, form: str) -> None:
    end, stderr = os.pipe()
    _fill(stderr)
    words = [str(BINARY), "serve", "--config", str(tmp_path / "none.toml"), "--log", form]
    process = subprocess.Popen(words, env=environment(), stdin=subprocess.DEVNULL, stderr=stderr)
    os.close(stderr)
    try:
        assert process.wait(10) == 1
    finally:
        process.kill()
        os.close(end)
