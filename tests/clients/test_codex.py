"""Codex, unmodified: an agent of the Responses dialect that runs a command of the model's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_upstream import _read
from gateway import Served
from renderers import NODE
from responses_server import call, message, streamed
from scripted import whole
from test_serve import serve

CODEX = NODE / "@openai/codex/bin/codex.js"
MODEL = "says"
# The first turn must begin so soon after the first connection, also where a WebSocket is refused.
BEGIN_S = 1.0


class Model:
    """A model server that wants one command run, and then ends the turn."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.posts: list[tuple[dict[str, Any], bytes]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            request = _read(reader)
            if request is None:
                return
            if request.method == "GET":
                connection.sendall(whole({}, 404))
                return
            asked = json.loads(request.body)
            self.posts.append((asked, request.raw_head + request.body))
            outputs = [one for one in asked["input"] if one["type"] == "function_call_output"]
            item = message("all done") if outputs else call("exec_command", {"cmd": "echo s3en"})
            connection.sendall(streamed(item))
            connection.shutdown(socket.SHUT_WR)
            reader.read()


class Watch:
    """Passes bytes to a port, and notes when the first connection and the first POST come."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[tuple[float, str]] = []
        self.first: float | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.first = self.first or time.monotonic()
            inner = socket.create_connection(("127.0.0.1", self._to))
            for pair in [(connection, inner, True), (inner, connection, False)]:
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, notes: bool) -> None:
        try:
            while data := source.recv(65_536):
                line = data.split(b"\r\n")[0]
                if notes and line.endswith(b"HTTP/1.1"):
                    self.requests.append((time.monotonic(), line.decode()))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    yield made
    made.stop()


@pytest.fixture
def gateway(model: Model, folder: Path) -> Iterator[Served]:
    config = f"""
[[upstream]]
name = "says"
url = "{model.url}"
[[model]]
name = "{MODEL}"
route = ["says"]
[[upstream]]
name = "echo"
url = "echo:"
[[model]]
name = "echo"
route = ["echo"]
"""
    with serve(folder, config) as served:
        served.token = served.issue("codex/one", models=(MODEL,))
        yield served


def codex(folder: Path, port: int, token: str, more: str = "") -> subprocess.CompletedProcess[str]:
    """Runs one task, in an empty folder, as docs/CLIENTS.md describes it."""
    home, work = folder / "codex", folder / "work"
    home.mkdir()
    work.mkdir()
    (home / "config.toml").write_text(f"""
model = "{MODEL}"
model_provider = "shield"
[model_providers.shield]
name = "token-shield"
base_url = "http://127.0.0.1:{port}/v1"
wire_api = "responses"
env_key = "SHIELD_TOKEN"
{more}
""")
    running = subprocess.Popen(
        ["node", str(CODEX), "exec", "--json", "--skip-git-repo-check", "-s", "read-only", "go"],
        cwd=work,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "CODEX_HOME": str(home),
            "SHIELD_TOKEN": token,
            # Nothing but the gateway can be reached.
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = running.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        os.killpg(running.pid, signal.SIGKILL)
        raise AssertionError("Codex did not end") from None
    return subprocess.CompletedProcess(running.args, running.returncode, out, err)


@pytest.mark.parametrize("sockets", [False, True])
def test_codex_runs_a_command_and_ends(
    gateway: Served, model: Model, folder: Path, sockets: bool
) -> None:
    watch = Watch(gateway.port)
    done = codex(folder, watch.port, gateway.token, "supports_websockets = true" if sockets else "")
    watch.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    items = [one["item"] for one in said if one["type"] == "item.completed"]
    commands = [one for one in items if one["type"] == "command_execution"]
    assert len(commands) == 1 and commands[0]["exit_code"] == 0, done.stdout
    assert items[-1]["type"] == "agent_message" and items[-1]["text"] == "all done"
    assert len(model.posts) == 2, "each turn is one request"
    # The output of the command came back to the model.
    [output] = [one for one in model.posts[1][0]["input"] if one["type"] == "function_call_output"]
    assert "s3en" in output["output"]
    for asked, raw in model.posts:
        assert asked["store"] is False and b"turn-metadata" not in raw
        assert "web_search" not in [tool["type"] for tool in asked["tools"]]
        assert "namespace" in [tool["type"] for tool in asked["tools"]]
    upgrades = [line for _, line in watch.requests if line.startswith("GET /v1/responses")]
    assert bool(upgrades) == sockets, watch.requests
    posted = next(at for at, line in watch.requests if line.startswith("POST /v1/responses"))
    assert watch.first and posted - watch.first < BEGIN_S, watch.requests
