"""Runs the real binary as a child process; every run must end after SIGTERM with exit code 0."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

import audit_verifier
from waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("TOKEN_SHIELD_BIN", ROOT / "target/debug/token-shield")).resolve()

# A gateway that starts or stops more slowly than this is broken, even on two busy cores.
START_S = 30
STOP_S = 40


@dataclass(frozen=True)
class Done:
    """The output of a command of the binary, and its exit code."""

    code: int
    out: str
    err: str


def environment() -> dict[str, str]:
    """Our environment without variables that could change the binary's behaviour."""
    kept = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    for name in [
        name
        for name in kept
        if name.startswith(("RUST_LOG", "TOKEN_SHIELD_", "OPENAI_", "ANTHROPIC_"))
    ]:
        del kept[name]
    return kept


def binary(*words: str, cwd: Path | None = None, within: float = 60) -> Done:
    """Runs one command of the binary and waits for its end."""
    ended = subprocess.run(
        [str(BINARY), *words],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within,
    )
    return Done(ended.returncode, ended.stdout, ended.stderr)


class Gateway:
    """`token-shield dev --json` with its data folder.

    `url` has no `/v1`. `token` is the development token. `metrics` is the metrics listener's
    address.
    """

    _issuer: str | None = None

    def __init__(
        self,
        data: Path,
        *,
        upstream: str | None = None,
        profile: str = "llama.cpp",
        tls: bool = False,
    ) -> None:
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        words = ["dev", "--json", "--listen", "127.0.0.1:0", "--data", str(data)]
        if upstream is not None:
            words += ["--upstream", upstream, "--upstream-profile", profile]
        if tls:
            words.append("--tls")
        self._start(*words)
        self._tokens = [self.token]

    def _start(self, *words: str) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(BINARY), *words],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self._hello()
        except BaseException:
            self.process.kill()
            self.process.wait(STOP_S)
            raise

    def _hello(self) -> None:
        line = _first_line(self.process, START_S)
        try:
            hello = json.loads(line)
        except ValueError:
            raise AssertionError(
                f"the first line of `dev --json` is not JSON: {line!r}\n{self.logged()[-4000:]}"
            ) from None
        assert set(hello) >= {"url", "token", "metrics", "data"}, hello
        self.url: str = hello["url"].rstrip("/")
        self.token: str = hello["token"]
        self.metrics: str = _metrics_url(hello["metrics"])
        assert not self.url.endswith("/v1"), "url comes without /v1"

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Stops the gateway in any case; checks how it ended only if the block raised no error."""
        if kind is not None:
            self.process.kill()
            self.process.wait(STOP_S)
        elif self.process.poll() is None:
            self.stop()

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port, self.url
        return port

    @property
    def ca(self) -> Path:
        """The certificate that signed the certificate of `dev --tls`."""
        return self.data / "tls" / "ca.pem"

    def logged(self) -> str:
        return self.log.read_text(errors="replace")

    def issue(
        self,
        agent: str,
        *flags: str,
        principal: str = "team:tests",
        models: tuple[str, ...] = ("echo",),
        ttl: str = "1h",
    ) -> str:
        """Issues a token with the command line, which prints only the token on standard output."""
        words = [
            "token",
            "issue",
            "--data",
            str(self.data),
            "--agent",
            agent,
            "--principal",
            principal,
        ]
        for model in models:
            words += ["--model", model]
        if self._issuer and "--issuer" not in flags:
            words += ["--issuer", self._issuer]
        done = binary(*words, "--ttl", ttl, *flags)
        assert done.code == 0, done.err
        token = done.out.removesuffix("\n")
        form = (
            r"ts_[A-Za-z0-9_-]{43}"
            if "--handle" in flags
            else r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"
        )
        assert re.fullmatch(form, token), "standard output is not the token alone"
        assert token not in done.err
        self._tokens.append(token)
        return token

    def command(self, *words: str) -> Done:
        """Sends an operator's command to the running gateway and confirms it; it must succeed."""
        sure = (
            ["--yes"]
            if words[:2] in {("keys", "revoke"), ("audit", "forget"), ("audit", "prune")}
            else []
        )
        done = binary(*words, *sure, "--data", str(self.data))
        assert done.code == 0, f"{' '.join(words)}: exit {done.code}\n{done.err}"
        return done

    def scrape(self) -> str:
        """The text of the metrics page."""
        answer = httpx2.get(self.metrics, timeout=10, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of one metric over all rows with these labels; 0 without such a row."""
        total = 0.0
        for line in self.scrape().splitlines():
            row = re.fullmatch(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)", line)
            if row and all(f'{key}="{value}"' in (row[1] or "") for key, value in labels.items()):
                total += float(row[2])
        return total

    def idle(self) -> None:
        """Waits until no request is in flight."""
        assert re.search(r"^token_shield_in_flight(\{| )", self.scrape(), re.M), (
            "no metric token_shield_in_flight"
        )
        wait_until(lambda: self.metric("token_shield_in_flight") == 0, 10, "nothing in flight")

    def resident_bytes(self) -> int:
        """The resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.M)
        assert found, status
        return int(found[1]) * 1024

    def terminate(self) -> None:
        """Sends SIGTERM, without waiting."""
        self.process.send_signal(signal.SIGTERM)

    def ended(self, within: float = STOP_S) -> int:
        """Waits for the exit code."""
        code = self.process.wait(within)
        if self.process.stdout:
            self.process.stdout.close()
        return code

    def stop(self) -> None:
        """Stops the gateway with SIGTERM.

        The exit code must be 0, the audit log valid, and decisions reproducible from it. The log
        lines must contain no token.
        """
        try:
            self.terminate()
            code = self.ended()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_S)
            raise AssertionError(
                f"still running {STOP_S} s after SIGTERM\n{self.logged()[-4000:]}"
            ) from None
        log = self.logged()
        assert code == 0, f"exit code {code} after SIGTERM\n{log[-4000:]}"
        audit_verifier.verify(
            self.data / "audit", (self.data / "log.vkeys").read_text(), self.data / "secret/head"
        )
        replayed = binary(
            "audit",
            "replay",
            str(self.data / "audit"),
            within=600 if "TOKEN_SHIELD_FULL" in os.environ else 60,
        )
        assert replayed.code == 0, replayed.out + replayed.err
        for token in self._tokens:
            # The signature is the secret part. The start of the payload would show a truncated
            # token. A handle has one part.
            assert not any(part in log for part in token.split(".")[-2:]), (
                "a token stands in the log"
            )


ISSUER = "https://operator.example"
SERVED = """name = "gw"
data = "."
[[issuer]]
iss = "https://operator.example"
aud = "https://gw.example"
jwks = "keys/operator.jwk.pub"
namespaces = ["*"]
ttl_max = "30d"
"""


class Served(Gateway):
    """`token-shield serve` as an operator sets it up: a key, a config and an issued token.

    The config is SERVED, `listen` and `config`. The system chooses the loopback ports. `listen`
    goes into the section `[listen]`, and `first` into the first issuer. `issuer` selects the issuer
    of the tokens if the config has several. `principals` are the principals of the first issuer.
    """

    def __init__(
        self,
        data: Path,
        config: str,
        listen: str = "",
        *,
        tls: bool = False,
        first: str = "",
        issuer: str | None = None,
        principals: str = '["*"]',
    ) -> None:
        self._first, self._issuer = f"principals = {principals}\n{first}", issuer
        self.data = data
        self.log = data.parent / f"{data.name}.log"
        self.config = data / "token-shield.toml"
        self._tls, self._listen = (
            tls,
            (
                f'[listen]\napi = "127.0.0.1:0"\nmetrics = "127.0.0.1:0"\n{listen}\n[audit]\n'
                'reserve = "1MiB"\n'
            ),
        )
        self._tokens: list[str] = []
        data.mkdir(mode=0o700)
        (data / "keys").mkdir(mode=0o700)
        self.write(config)
        made = binary("keys", "generate", "--out", str(data / "keys" / "operator.jwk"))
        assert made.code == 0, made.err
        self._start("serve", "--config", str(self.config))
        self.token = self.issue("tests/main")

    def write(self, config: str) -> None:
        """Writes the config; a running gateway reads it on `reload`."""
        self.config.write_text(SERVED + self._first + self._listen + config)

    def restart(self) -> None:
        """Stops and starts the gateway; its addresses change."""
        self.stop()
        self._start("serve", "--config", str(self.config))

    def reload(self) -> None:
        """Sends SIGHUP and waits until the config is applied, or refused completely."""
        before = self.metric("token_shield_config_reload_total")
        self.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: self.metric("token_shield_config_reload_total") == before + 1,
            10,
            "the config is read again",
        )

    def line(self, message: str, **fields: str) -> dict[str, Any] | None:
        """The first log line with this message and these fields."""
        lines = (
            json.loads(line)
            for line in self.logged().splitlines()
            if line.startswith("{") and line.endswith("}")
        )
        asked = {"message": message, **fields}.items()
        return next((line for line in lines if asked <= line.items()), None)

    def _hello(self) -> None:
        def serving() -> dict[str, Any] | None:
            assert self.process.poll() is None, self.logged()
            return self.line("serving")

        line = wait_until(serving, START_S, "the gateway serves")
        self.url = f"{'https' if self._tls else 'http'}://{line['api']}"
        self.metrics = _metrics_url(line["metrics"])


def _first_line(process: subprocess.Popen[str], within: float) -> str:
    """The first line on standard output; empty if the process ended or stayed silent."""
    assert process.stdout is not None
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(process.stdout.readline()), daemon=True)
    reader.start()
    reader.join(within)
    return found[0] if found else ""


def _metrics_url(given: str) -> str:
    """The URL of the metrics page, from a URL or an address."""
    url = given if "://" in given else f"http://{given}"
    return url if url.rstrip("/").endswith("/metrics") else url.rstrip("/") + "/metrics"
