"""Irreversible commands ask on a terminal; without a terminal they need `--yes`."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import BINARY, Done, Served, binary, environment
from test_brake_table import ECHO, filled, refusal

ASKED = "[y/N]"
WITHIN_S = 60
COMMANDS: dict[str, tuple[str, ...]] = {
    "keys revoke": ("keys", "revoke", "KID", "--reason", "a test"),
    "keys revoke --holder": ("keys", "revoke", "--holder", "A" * 43, "--reason", "a test"),
    "audit forget": ("audit", "forget", "team:tests", "--revoke", "--reason", "a test"),
    "audit prune": ("audit", "prune", "--keep", "1s", "--reason", "a test"),
}


def on_a_terminal(*words: str, answer: bytes) -> Done:
    """Runs a command with a terminal as input and standard error; types `answer` when asked.

    Control-D is an end of input.
    """
    own, theirs = pty.openpty()
    with subprocess.Popen(
        [str(BINARY), *words],
        env=environment(),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        said, typed = b"", False
        while True:
            assert select.select([own], [], [], WITHIN_S)[0], f"it says nothing more: {said!r}"
            try:
                more = os.read(own, 4096)
            except OSError:
                break
            said += more
            if not more:
                break
            if ASKED.encode() in said and not typed:
                os.write(own, answer)
                typed = True
        os.close(own)
        out = process.stdout.read().decode() if process.stdout else ""
        return Done(process.wait(WITHIN_S), out, said.decode())


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path / "data", ECHO) as running:
        running.token = running.issue("brake/runner")
        yield running


def records(gateway: Served) -> int:
    return len(binary("audit", "query", "--data", str(gateway.data)).out.splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_it_asks_and_no_is_no(gateway: Served, name: str) -> None:
    if name == "audit prune":
        gateway.stop()
    words = (*filled(COMMANDS[name], gateway), "--data", str(gateway.data))
    before = records(gateway)
    for answer in (b"n\n", b"\n", b"yess\n", b"\x04"):
        done = on_a_terminal(*words, answer=answer)
        assert done.code == 1 and ASKED in done.err and "no change was made" in done.err, (
            answer,
            done,
        )
    # Without a terminal there is no question, whether input or standard error is elsewhere.
    alone = binary(*words, "--json")
    assert (
        alone.code == 2
        and "--yes" in alone.err
        and '"code":"usage"' in alone.err
        and ASKED not in alone.err
    ), alone.err
    assert records(gateway) == before, "nothing is recorded"
    if name != "audit prune":
        assert refusal(gateway, gateway.token) is None


@pytest.mark.parametrize("name", COMMANDS)
def test_yes_is_yes(gateway: Served, name: str) -> None:
    if name == "audit prune":
        gateway.stop()
    done = on_a_terminal(
        *filled(COMMANDS[name], gateway), "--data", str(gateway.data), answer=b"y\n"
    )
    assert done.code == 0 and ASKED in done.err, done


def test_a_pipe_is_no_answer(gateway: Served) -> None:
    words = filled(COMMANDS["audit forget"], gateway)
    ended = subprocess.run(
        [str(BINARY), *words, "--data", str(gateway.data)],
        env=environment(),
        input=b"y\n",
        capture_output=True,
        timeout=WITHIN_S,
    )
    assert ended.returncode == 2, ended.stderr


def test_the_same_with_yes(gateway: Served) -> None:
    for name in ("audit forget", "keys revoke --holder", "keys revoke"):
        done = binary(*filled(COMMANDS[name], gateway), "--yes", "--data", str(gateway.data))
        assert done.code == 0 and ASKED not in done.err, done.err
    assert refusal(gateway, gateway.token) is not None
