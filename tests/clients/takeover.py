"""A gateway whose process is replaced by take-overs, and the callers that load it."""

from __future__ import annotations

import asyncio
import json
import select
import subprocess
import threading
import time
from datetime import datetime, timezone
from pathlib import Path

import httpx2

from clock_upstream import TICKS
from fake_upstream import MODEL
from gateway import BINARY, START_S, STOP_S, Served, binary, environment
from waiting import wait_until

CHAT = "/v1/chat/completions"
# How long a client keeps an idle connection.
IDLE_S = 5


def config(url: str, more: str = "") -> str:
    return (
        # All callers come from one address.
        f'{more}\n[limits]\npeer_connections = 10000\n[[upstream]]\nname = "fake"\nurl = "{url}"\n'
        f'in_flight = 100000\n[[model]]\nname = "{MODEL}"\nroute = ["fake"]\n'
        "[class.default]\nrpm = 1000000\nburst = 100000\nin_flight = 100000\n"
    )


class Relayed(Served):
    """A gateway whose process is replaced by take-overs, repeatedly."""

    def __init__(self, folder: Path, config: str, issuer: str | None = None, **more: str) -> None:
        self.env = environment() | more
        self.former: list[subprocess.Popen[str]] = []
        # The serving process, if it is not a child of this one.
        self.newest = 0
        super().__init__(folder / "data", config, issuer=issuer)
        self.token = self.issue("tests/main", models=(MODEL,))

    def _start(self, *words: str) -> None:
        self.process = self._spawn(self.env, *words)
        try:
            self._hello()
        except BaseException:
            self.process.kill()
            self.process.wait(STOP_S)
            raise

    def _spawn(self, env: dict[str, str], *words: str) -> subprocess.Popen[str]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [str(BINARY), *words], env=env, stdin=subprocess.DEVNULL, stderr=log, text=True
            )

    def successor(self, **env: str) -> subprocess.Popen[str]:
        """A process that asks to take over."""
        return self._spawn(
            environment() | env, "serve", "--config", str(self.config), "--take-over"
        )

    def serves(self, process: subprocess.Popen[str]) -> bool:
        return self.line("serving", pid=process.pid) is not None

    def take_over(self) -> None:
        """Another process takes over, and the former one drains."""
        process = self.successor()
        wait_until(
            lambda: self.serves(process) or process.poll() is not None,
            START_S,
            "the successor serves",
        )
        assert process.poll() is None, self.logged()[-4000:]
        self.former.append(self.process)
        self.process = process

    def drained(self, within: float = 60) -> None:
        """Checks that every former process has ended with exit code 0."""
        for process in self.former:
            assert process.wait(within) == 0, self.logged()[-4000:]

    def follow(self, process: subprocess.Popen[str]) -> None:
        """Makes that process the current gateway, at its new addresses."""
        line = self.line("serving", pid=process.pid)
        assert line, self.logged()[-4000:]
        self.url, self.metrics = f"http://{line['api']}", f"http://{line['metrics']}/metrics"
        self.process = process

    def ask(self, text: str = "hello") -> httpx2.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx2.post(self.url + CHAT, json=body, headers=headers, timeout=30, trust_env=False)

    def kinds(self) -> dict[str, int]:
        """The number of records of each kind in the log."""
        found: dict[str, int] = {}
        for line in binary(
            "audit", "query", str(self.data / "audit"), within=1800
        ).out.splitlines():
            kind = json.loads(line)["kind"]
            found[kind] = found.get(kind, 0) + 1
        return found


def _has_ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the server has closed an idle connection.

    It asks the system, as HTTP libraries do, because the event loop may not have noticed yet.
    """
    poll = select.poll()
    poll.register(writer.get_extra_info("socket"), select.POLLIN)
    return reader.at_eof() or bool(poll.poll(0))


class Load:
    """A client like an SDK's, with retries off.

    It has a pool of kept connections, and uses the last one first. It does not reuse a connection
    that the server has closed, or that was idle for 5 s (the default of httpx and of the SDKs).
    """

    def __init__(self, gateway: Relayed) -> None:
        self.host, port = gateway.url.removeprefix("http://").split(":")
        self.port, self.token = int(port), gateway.token
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = []
        self.asked = self.done = 0
        self.long: float | None = None
        self.failed: list[str] = []

    async def ask(self, seconds: float) -> None:
        self.asked += 1
        try:
            await asyncio.wait_for(self._ask(seconds), 60 + seconds)
            self.done += 1
        except (OSError, asyncio.IncompleteReadError, TimeoutError, AssertionError) as error:
            self.failed.append(
                f"{seconds} s, at {datetime.now(timezone.utc):%H:%M:%S.%f}: {error!r}"
            )

    async def _ask(self, seconds: float) -> None:
        body = json.dumps(
            {
                "model": MODEL,
                "stream": True,
                "messages": [{"role": "user", "content": str(seconds)}],
            }
        ).encode()
        while self.idle:
            reader, writer, since = self.idle.pop()
            if time.monotonic() - since < IDLE_S and not _has_ended(reader, writer):
                break
            writer.close()
        else:
            reader, writer = await asyncio.open_connection(self.host, self.port)
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {self.token}\r\n"
            "Content-Type: application/json\r\n"
        )
        writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        head_of_answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head_of_answer.startswith("http/1.1 200"), head_of_answer
        text = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            text += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        assert text.endswith(b"data: [DONE]\n\n") and text.count(b"tick") == int(seconds * TICKS), (
            text[-300:]
        )
        if "connection: close" in head_of_answer:
            writer.close()
        else:
            self.idle.append((reader, writer, time.monotonic()))

    async def run(self, rate: float, over: asyncio.Event) -> None:
        """Sends `rate` requests a second until `over`, then waits for all.

        Streams last 2 s; with `long`, one in fifty lasts that long.
        """
        asked, loop = [], asyncio.get_running_loop()
        began = loop.time()
        while not over.is_set():
            seconds = self.long if self.long and len(asked) % 50 == 49 else 2.0
            asked.append(asyncio.create_task(self.ask(seconds)))
            await asyncio.sleep(max(0.0, began + len(asked) / rate - loop.time()))
        await asyncio.gather(*asked)
        for _, writer, _ in self.idle:
            writer.close()


def stream(gateway: Relayed, text: str, seen: list[str]) -> threading.Thread:
    """Reads a stream's events in a thread, from a separate connection."""

    def read() -> None:
        body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": text}]}
        headers = {"authorization": f"Bearer {gateway.token}"}
        with httpx2.stream(
            "POST", gateway.url + CHAT, json=body, headers=headers, timeout=60, trust_env=False
        ) as answer:
            seen.extend(line for line in answer.iter_lines() if line.startswith("data: "))

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: seen, 10, "the first event")
    return reader
