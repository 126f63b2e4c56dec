"""Take-overs under a service manager: notifications, and sockets that it has bound."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from fake_upstream import FakeUpstream
from gateway import BINARY, START_S, STOP_S, environment
from takeover import (
    Relayed,
    config,
)
from waiting import wait_until


class Manager:
    """A service manager that records notifications."""

    def __init__(self, name: str | Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name[1:]}" if isinstance(name, str) else str(name))
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def says(self, line: str) -> bool:
        try:
            while True:
                self.heard += self._socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return line in self.heard


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told(abstract: bool, upstream: FakeUpstream, folder: Path) -> None:
    name = f"@token-shield-tests-{os.getpid()}" if abstract else folder / "notify.sock"
    manager = Manager(name)
    more = {"NOTIFY_SOCKET": str(name), "WATCHDOG_USEC": "400000"}
    with Relayed(folder, config(upstream.url), **more) as gateway:
        wait_until(lambda: manager.says("READY=1"), 10, "READY=1")
        assert f"MAINPID={gateway.process.pid}" in manager.heard
        wait_until(lambda: manager.says("WATCHDOG=1"), 10, "WATCHDOG=1")
        gateway.reload()
        wait_until(lambda: manager.says("RELOADING=1"), 10, "RELOADING=1")
        before = gateway.process
        gateway.take_over()
        wait_until(
            lambda: manager.says(f"MAINPID={gateway.process.pid}"), 10, "the successor's MAINPID"
        )
        assert before.wait(30) == 0
        assert gateway.ask().status_code == 200
        os.kill(gateway.process.pid, signal.SIGTERM)
        assert gateway.process.wait(STOP_S) == 0


def test_sockets_that_a_service_manager_has_bound_are_taken(
    upstream: FakeUpstream, folder: Path
) -> None:
    """`LISTEN_FDS`: three descriptors from 3 on, in any order; the gateway binds no socket.

    The admin socket's file stays.
    """
    api, metrics = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    with Relayed(folder, config(upstream.url)) as gateway:
        gateway.stop()
        admin = socket.socket(socket.AF_UNIX)
        path = gateway.data / "admin.sock"
        admin.bind(str(path))
        admin.listen()
        text = gateway.config.read_text()
        text = text.replace('api = "127.0.0.1:0"', f'api = "127.0.0.1:{api.getsockname()[1]}"')
        gateway.config.write_text(
            text.replace(
                'metrics = "127.0.0.1:0"', f'metrics = "127.0.0.1:{metrics.getsockname()[1]}"'
            )
        )
        passed = [metrics, admin, api]
        # The shell puts them at 3, 4 and 5 and then becomes the gateway, so that LISTEN_PID is
        # right.
        puts = " ".join(f"{place}<&{one.fileno()}" for place, one in enumerate(passed, 3))
        script = f'exec {puts}; LISTEN_PID=$$ LISTEN_FDS=3 exec "$0" "$@"'
        with gateway.log.open("ab") as log:
            gateway.process = subprocess.Popen(
                ["bash", "-c", script, str(BINARY), "serve", "--config", str(gateway.config)],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stderr=log,
                text=True,
                pass_fds=[one.fileno() for one in passed],
            )
        wait_until(lambda: gateway.serves(gateway.process), START_S, "it serves")
        gateway.follow(gateway.process)
        assert gateway.url.endswith(f":{api.getsockname()[1]}")
        assert gateway.ask().status_code == 200
        gateway.command("agent", "list")
        gateway.stop()
        assert path.exists(), "a socket that it did not bind is not its to remove"
