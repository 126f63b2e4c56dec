#!/usr/bin/env python3
"""Measures floods of HTTP/2 control frames, one kind after another.

    cargo build --release --bins --example flood
    loadtest/floods.py [--seconds 10] [--kinds ping,rst] [--once] [--apart]
                       [--programs target/release]

Each kind is measured without TLS and with it. The script prints:

- the latency of a well-behaved caller alone, then next to 4 flooding connections, in one run;
- the longest life of a flooding connection;
- how long SIGTERM takes during the flood.

Attackers open the next connection at once. With `--once` they do not reconnect, but four new ones
connect every second. With `--apart` they run on the last core alone, as if on another machine. The
script needs only Python's standard library, and everything listens on loopback.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

KINDS = [
    "ping",
    "settings",
    "priority",
    "window-update",
    "unknown",
    "rst",
    "empty-data",
    "continuation",
]
LAST_CORE = max(os.sched_getaffinity(0))
RATE = 100  # requests a second of the well-behaved caller, over one kept connection


class Gateway:
    """`token-shield serve` with the keys, token and certificate of `dev`, but no rate limit."""

    def __init__(self, program: Path, folder: Path, tls: bool) -> None:
        words = [
            str(program),
            "dev",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--metrics",
            "127.0.0.1:0",
            "--data",
            str(folder),
        ]
        first = self._started(words + ["--tls"] * tls)
        self.address = json.loads(first)["url"].split("//")[-1]
        self.stop()
        config = folder / "token-shield.toml"
        text = config.read_text().replace("rpm = 600", "rpm = 1000000")
        config.write_text(re.sub('api = "127.0.0.1:[0-9]+"', f'api = "{self.address}"', text))
        self._started([str(program), "serve", "--config", str(config)], until='"serving"')
        self.token = (folder / "dev.token").read_text().strip()
        self.ca = folder / "tls/ca.pem" if tls else None

    def _started(self, words: list[str], until: str = "{") -> str:
        """Starts a process and returns its first line, which reports that it serves."""
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{") and until in line:
                # Later output is read and dropped, so that the process cannot block on a full pipe.
                threading.Thread(
                    target=lambda rest=self.process.stdout: [None for _ in rest], daemon=True
                ).start()
                return line
        raise SystemExit(f"{words} ended")

    def stop(self) -> float:
        """Stops the process and returns how many seconds that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return time.monotonic() - began


def latencies(gateway: Gateway, seconds: float) -> list[float]:
    """Request latencies in milliseconds at a steady rate, each measured from its due time."""
    host, port = gateway.address.split(":")
    context = ssl.create_default_context(cafile=str(gateway.ca)) if gateway.ca else None
    if context:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, int(port), timeout=30, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
    body = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "hello"}]})
    headers = {"Authorization": f"Bearer {gateway.token}", "Content-Type": "application/json"}
    taken, began = [], time.monotonic()
    for number in range(int(seconds * RATE)):
        due = began + number / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        taken.append((time.monotonic() - due) * 1000)
    connection.close()
    return sorted(taken)


@dataclass(frozen=True)
class Attackers:
    """How attackers behave."""

    program: Path
    once: bool
    apart: bool


def flooding(
    attackers: Attackers, gateway: Gateway, kind: str, seconds: float
) -> subprocess.Popen[str]:
    pinned = ["taskset", "--cpu-list", str(LAST_CORE)] if attackers.apart else []
    words = [
        *pinned,
        str(attackers.program),
        "--target",
        gateway.address,
        "--kind",
        kind,
        "--seconds",
        str(int(seconds)),
    ]
    if gateway.ca:
        words += ["--ca", str(gateway.ca)]
    if attackers.once:
        words.append("--once")
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def beside_floods(
    attackers: Attackers, gateway: Gateway, kind: str, seconds: float
) -> tuple[list[float], int, int]:
    """The caller's latencies in a flood, an attacker's longest life in ms, and their number."""
    taken, longest, connections = [], 0, 0
    for _ in range(int(seconds) if attackers.once else 1):
        flood = flooding(attackers, gateway, kind, seconds + 1)
        taken += latencies(gateway, 1 if attackers.once else seconds)
        said = json.loads(flood.communicate(timeout=60)[0])
        longest, connections = max(longest, said["longest_ms"]), connections + said["connections"]
    return sorted(taken), longest, connections


def campaign(programs: Path, attackers: Attackers, kind: str, tls: bool, seconds: float) -> str:
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(programs / "token-shield", Path(folder) / "data", tls)
        try:
            latencies(gateway, 1)
            alone = latencies(gateway, seconds)
            beside, longest, connections = beside_floods(attackers, gateway, kind, seconds)
            flood = flooding(replace(attackers, once=False), gateway, kind, 5)
            threading.Event().wait(1)
        finally:
            stop = gateway.stop()
        flood.kill()
        flood.wait()
    p99 = [one[int(len(one) * 0.99)] for one in (alone, beside)]
    return (
        f"| {kind} | {'TLS' if tls else 'clear'} | {p99[0]:.1f} | {p99[1]:.1f} | "
        f"{p99[1] / p99[0]:.2f} | {longest} "
        f"| {connections} | {stop * 1000:.0f} |"
    )


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--seconds", type=float, default=10)
    words.add_argument("--kinds", default=",".join(KINDS))
    words.add_argument("--once", action="store_true")
    words.add_argument("--apart", action="store_true")
    words.add_argument("--programs", type=Path, default=Path("target/release"))
    said = words.parse_args()
    attackers = Attackers(said.programs / "examples/flood", said.once, said.apart)
    if said.apart:
        # Gateway and caller inherit this, and so share the other cores.
        os.sched_setaffinity(0, os.sched_getaffinity(0) - {LAST_CORE})
    print(
        "| kind | | p99 alone, ms | p99 beside, ms | ratio | longest life, ms | connections | "
        "SIGTERM, ms |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for kind in said.kinds.split(","):
        for tls in (False, True):
            print(campaign(said.programs, attackers, kind, tls, said.seconds), flush=True)


if __name__ == "__main__":
    main()
