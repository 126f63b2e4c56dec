"""Which config `serve` and which folder `dev` choose: named, from the environment, or found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from gateway import BINARY, SERVED, START_S, STOP_S, binary, environment
from waiting import wait_until

ECHO = '[[upstream]]\nname = "echo"\nurl = "echo:"\n[[model]]\nname = "echo"\nroute = ["echo"]\n'
PORTS = '[listen]\napi = "127.0.0.1:0"\nmetrics = "127.0.0.1:0"\n[audit]\nreserve = "1MiB"\n'
MARK = "# Written by `token-shield dev` at each start."


def gateway_of(folder: Path, data: str = ".", name: str = "gw") -> Path:
    """Writes a config in `folder` with its data in `folder/data`, and a key; returns the config."""
    folder.mkdir(mode=0o755, exist_ok=True)
    whole = folder / data
    (whole / "keys").mkdir(mode=0o700, parents=True, exist_ok=True)
    whole.chmod(0o700)
    made = binary("keys", "generate", "--out", str(whole / "keys/operator.jwk"))
    assert made.code == 0, made.err
    config = folder / "token-shield.toml"
    text = SERVED.replace('name = "gw"', f'name = "{name}"').replace(
        'data = "."', f'data = "{data}"'
    )
    config.write_text(
        text.replace("keys/operator", str(whole / "keys/operator"))
        + 'principals = ["*"]\n'
        + PORTS
        + ECHO
    )
    return config


class Started:
    """A gateway process, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log

    def serving(self) -> dict[str, Any]:
        """Its log line `serving`; fails if the process has ended."""

        def line() -> dict[str, Any] | None:
            assert self.process.poll() is None, self.log.read_text()
            lines = [
                json.loads(text)
                for text in self.log.read_text().splitlines()
                if text.startswith("{") and text.endswith("}")
            ]
            return next((row for row in lines if row.get("message") == "serving"), None)

        found: dict[str, Any] = wait_until(line, START_S, "it serves")
        return found


@contextmanager
def started(
    log: Path,
    *words: str,
    cwd: Path,
    more: dict[str, str] | None = None,
    out: int | IO[bytes] | None = None,
) -> Iterator[Started]:
    with log.open("wb") as lines:
        process = subprocess.Popen(
            [str(BINARY), *words],
            cwd=cwd,
            env=environment() | (more or {}),
            stdin=subprocess.DEVNULL,
            stdout=out or subprocess.DEVNULL,
            stderr=lines,
        )
    try:
        yield Started(process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0, log.read_text()


def refused(
    *words: str, cwd: Path, more: dict[str, str] | None = None
) -> tuple[int, dict[str, str]]:
    """The exit code and error of a start that must fail."""
    ended = subprocess.run(
        [str(BINARY), *words, "--json"],
        cwd=cwd,
        env=environment() | (more or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_S,
    )
    error: dict[str, str] = json.loads(ended.stderr.splitlines()[-1])["error"]
    return ended.returncode, error


# ---- serve ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", ["found", "found in ./data", "TOKEN_SHIELD_CONFIG", "TOKEN_SHIELD_DATA", "--data"]
)
def test_serve_starts_on_the_gateway_that_is_meant(tmp_path: Path, way: str) -> None:
    folder, elsewhere = tmp_path / "gateway", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if way == "found":
        config, cwd = gateway_of(folder), folder
    elif way == "found in ./data":
        config, cwd = gateway_of(elsewhere / "data"), elsewhere
    else:
        config, cwd = gateway_of(folder), elsewhere
    words = ["--data", str(folder)] if way == "--data" else []
    more = {
        "TOKEN_SHIELD_CONFIG": {"TOKEN_SHIELD_CONFIG": str(config)},
        "TOKEN_SHIELD_DATA": {"TOKEN_SHIELD_DATA": str(folder)},
    }.get(way)
    with started(tmp_path / "log", "serve", *words, cwd=cwd, more=more) as gateway:
        line = gateway.serving()
        assert (cwd / line["config"]).resolve() == config.resolve()


def test_serve_without_a_config_and_with_two_says_so(tmp_path: Path) -> None:
    code, error = refused("serve", cwd=tmp_path)
    assert (
        (code, error["code"]) == (1, "no-gateway")
        and "./token-shield.toml" in error["message"]
        and "./data" in error["message"]
    )
    assert list(tmp_path.iterdir()) == [], "nothing is made"
    gateway_of(tmp_path, "own")
    gateway_of(tmp_path / "data", name="other")
    code, error = refused("serve", cwd=tmp_path)
    assert (
        (code, error["code"]) == (2, "usage")
        and "./token-shield.toml" in error["message"]
        and "./data" in error["message"]
    )
    assert not (tmp_path / "own/audit").exists() and not (tmp_path / "data/audit").exists()


def test_serve_does_not_start_on_what_anybody_could_have_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    config = gateway_of(folder, "own")
    folder.chmod(0o777)
    code, error = refused("serve", cwd=folder)
    assert (code, error["code"]) == (1, "not-trusted") and "everybody may write" in error["message"]
    folder.chmod(0o755)
    os.chown(config, 12_345, -1)
    code, error = refused("serve", cwd=folder)
    assert (code, error["code"]) == (1, "not-trusted") and "12345" in error["message"]
    os.chown(config, os.geteuid(), -1)
    with started(tmp_path / "log", "serve", cwd=folder) as gateway:
        gateway.serving()


def test_a_gateway_that_was_found_is_named_to_its_successor(tmp_path: Path) -> None:
    gateway_of(tmp_path, "own")
    with started(tmp_path / "log", "serve", cwd=tmp_path) as gateway:
        gateway.serving()
        done = binary("upgrade", "--config", str(tmp_path / "token-shield.toml"), "--json")
        assert done.code == 0, done.err
        successor = json.loads(done.out)["pid"]
        try:
            words = Path(f"/proc/{successor}/cmdline").read_bytes().decode().split("\0")
            assert words[words.index("--config") + 1] == str(tmp_path / "token-shield.toml"), words
        finally:
            os.kill(successor, signal.SIGTERM)
        wait_until(
            lambda: (
                not Path(f"/proc/{successor}/cmdline").exists()
                or not Path(f"/proc/{successor}/cmdline").read_bytes()
            ),
            STOP_S,
            "it has ended",
        )


# ---- dev -----------------------------------------------------------------------------------------

DEV = (
    "dev",
    "--listen",
    "127.0.0.1:0",
    "--upstream",
    "http://127.0.0.1:9",
    "--upstream-model",
    "none",
)


@contextmanager
def dev(
    tmp_path: Path, *words: str, cwd: Path, more: dict[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """The JSON object that `dev --json` prints."""
    read, write = os.pipe()
    with (
        os.fdopen(read) as said,
        os.fdopen(write, "wb") as out,
        started(tmp_path / "log", *DEV, "--json", *words, cwd=cwd, more=more, out=out),
    ):
        out.close()
        yield json.loads(said.readline())


def test_dev_takes_no_config_that_it_did_not_write(tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    config = gateway_of(folder, "own")
    before = config.read_text()
    with dev(tmp_path, cwd=folder, more={"TOKEN_SHIELD_CONFIG": str(config)}) as about:
        assert about["data"] == str(folder / "data")
    assert config.read_text() == before and (
        folder / "data/token-shield.toml"
    ).read_text().startswith(MARK)
    with dev(tmp_path, cwd=folder) as about:
        assert about["data"] == str(folder / "data"), "once more on what it wrote"
    named = tmp_path / "named"
    with dev(tmp_path, cwd=folder, more={"TOKEN_SHIELD_DATA": str(named)}) as about:
        assert about["data"] == str(named)


def test_dev_writes_over_no_other_gateways_config(tmp_path: Path) -> None:
    config = gateway_of(tmp_path / "data")
    before = config.read_text()
    code, error = refused(*DEV, cwd=tmp_path)
    assert code == 1 and "was not written by dev" in error["message"], error
    assert config.read_text() == before and not (tmp_path / "data/audit").exists()


def test_dev_takes_no_folder_that_anybody_could_have_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o1777)
    code, error = refused(*DEV, cwd=folder)
    assert (code, error["code"]) == (1, "not-trusted") and not (folder / "data").exists(), error
    (folder / "data").mkdir(mode=0o700)
    code, error = refused(*DEV, cwd=folder)
    assert (code, error["code"]) == (1, "not-trusted"), error
    with dev(tmp_path, "--data", "data", cwd=folder) as about:
        assert about["data"] == str(folder / "data")
