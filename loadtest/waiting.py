#!/usr/bin/env python3
"""Measures the memory that a waiting HTTP/2 stream costs, for each way to wait.

    loadtest/waiting.py target/release/token-shield [--streams 10000]

The result is the difference of the gateway's resident bytes with and without the streams. `body`
streams have sent their head but not their body. `answer` streams have sent everything, and wait for
the server's answer. Everything runs on 127.0.0.1 and ends with this script. See README.md next to
this file.
"""

import argparse
import pathlib
import resource
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

MODEL = "load"
# SETTINGS_MAX_CONCURRENT_STREAMS of the gateway (RFC 9113 section 6.5.2).
STREAMS_OF_ONE = 128
BODY = b'{"model":"load","messages":[{"role":"user","content":"' + b"x" * 900 + b'"}]}'
HEADERS, DATA, SETTINGS, WINDOW_UPDATE = 1, 0, 4, 8
END_HEADERS, END_STREAM, ACK = 4, 1, 1
FRAME_MAX = 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value: bytes) -> bytes:
    """A string literal without Huffman coding (RFC 7541 section 5.2)."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    out, rest = bytearray([127]), len(value) - 127
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    out.append(rest)
    return bytes(out) + value


def head(port: int, token: str) -> bytes:
    """A header block of literals that are not indexed (section 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/v1/chat/completions",
        ":authority": f"127.0.0.1:{port}",
        "authorization": f"Bearer {token}",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
    }
    return b"".join(
        b"\0" + text(name.encode()) + text(value.encode()) for name, value in fields.items()
    )


class Caller:
    """One connection. It answers incoming frames where the protocol requires it, and drops them."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0)
        )
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        try:
            while self.socket.recv(65_536):
                pass
        except OSError:
            pass

    def ask(self, count: int, block: bytes, with_body: bool) -> None:
        assert len(block) <= FRAME_MAX, "the head does not fit into one frame"
        for number in range(count):
            stream = 2 * number + 1
            self.socket.sendall(frame(HEADERS, END_HEADERS, stream, block))
            if with_body:
                self.socket.sendall(frame(DATA, END_STREAM, stream, BODY))


class Mute:
    """A server that accepts connections and requests, and never answers."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        held = selectors.DefaultSelector()
        held.register(self._listener, selectors.EVENT_READ)
        while True:
            for key, _ in held.select():
                if key.fileobj is self._listener:
                    held.register(self._listener.accept()[0], selectors.EVENT_READ)
                elif not key.fileobj.recv(65_536):
                    held.unregister(key.fileobj)
                    key.fileobj.close()


class Gateway:
    """The program, with a temporary data folder."""

    def __init__(
        self, program: pathlib.Path, home: pathlib.Path, upstream: int, streams: int
    ) -> None:
        self._program, self._home = program, home
        home.chmod(0o700)
        (home / "keys").mkdir(mode=0o700)
        self._command("keys", "generate", "--out", home / "keys" / "operator.jwk")
        (home / "token-shield.toml").write_text(f"""name = "waiting"
data = "{home}"
[listen]
api = "127.0.0.1:0"
metrics = "127.0.0.1:0"
[limits]
connections = 500
[timeouts]
body_idle = "10m"
first_byte = "10m"
[audit]
reserve = "1MiB"
[[issuer]]
iss = "https://operator.example"
aud = "https://gw.example"
jwks = "{home}/keys/operator.jwk.pub"
namespaces = ["*"]
ttl_max = "1d"
[[upstream]]
name = "mute"
url = "http://127.0.0.1:{upstream}"
in_flight = {2 * streams}
[[model]]
name = "{MODEL}"
route = ["mute"]
[class.default]
rpm = {100 * streams}
burst = {2 * streams}
in_flight = {2 * streams}
output_tokens = 100
""")
        self._log = open(home / "log", "wb")
        self.process = subprocess.Popen(
            [program, "serve", "--config", home / "token-shield.toml"],
            stdin=subprocess.DEVNULL,
            stderr=self._log,
        )
        self.api, self._metrics = self._ports()
        issued = (
            "token",
            "issue",
            "--data",
            home,
            "--agent",
            "load/main",
            "--principal",
            "team:load",
            "--model",
            MODEL,
            "--ttl",
            "1h",
        )
        self.token = self._command(*issued).strip()

    def _command(self, *words: object) -> str:
        done = subprocess.run(
            [self._program, *map(str, words)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{words[0]} {words[1]}: {done.stderr}")
        return done.stdout

    def _ports(self) -> tuple[int, str]:
        import json

        def serving() -> dict | None:
            lines = (self._home / "log").read_text().splitlines()
            return next(
                (line for line in map(json.loads, lines) if line["message"] == "serving"), None
            )

        line = wait(serving, "the gateway serves")
        return int(line["api"].rsplit(":", 1)[1]), line["metrics"]

    def in_flight(self) -> int:
        url = self._metrics if "://" in self._metrics else f"http://{self._metrics}/metrics"
        with urllib.request.urlopen(url) as page:
            rows = page.read().decode().splitlines()
        return int(
            next(row.split()[1] for row in rows if row.startswith("token_shield_in_flight "))
        )

    def resident(self) -> int:
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(
            next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
        )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def wait(condition, what: str, within: float = 600):
    until = time.monotonic() + within
    while not (found := condition()):
        if time.monotonic() > until:
            sys.exit(f"not within {within:g} s: {what}")
        time.sleep(0.1)
    return found


def measure(program: pathlib.Path, streams: int, with_body: bool) -> float:
    """Resident bytes per stream."""
    mute = Mute()
    with tempfile.TemporaryDirectory() as home:
        gateway = Gateway(program, pathlib.Path(home), mute.port, streams)
        try:
            block, warm = head(gateway.api, gateway.token), 512
            callers = []

            def more(count: int) -> None:
                while count > 0:
                    callers.append(Caller(gateway.api))
                    callers[-1].ask(min(count, STREAMS_OF_ONE), block, with_body)
                    count -= STREAMS_OF_ONE

            # The first streams also allocate what is kept afterwards: stacks, caches, the
            # allocator's arenas.
            more(warm)
            wait(lambda: gateway.in_flight() == warm, "the first streams wait")
            before = gateway.resident()
            more(streams)
            wait(lambda: gateway.in_flight() == warm + streams, "all streams wait")
            return (gateway.resident() - before) / streams
        finally:
            gateway.stop()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", type=pathlib.Path, help="the token-shield to measure")
    parser.add_argument(
        "--streams", type=int, default=10_000, help="how many wait at once (default 10000)"
    )
    given = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for name, with_body in (("body", False), ("answer", True)):
        print(
            f"{name}: {measure(given.program.resolve(), given.streams, with_body) / 1000:.1f} kB "
            f"each, {given.streams} streams",
            flush=True,
        )


if __name__ == "__main__":
    main()
