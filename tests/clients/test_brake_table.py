"""Every stop command in each situation: its message and exit code against what really happened.

A command that reports success must have stopped an agent. A running gateway refuses that agent. If
no gateway runs, the next start refuses it. A command that fails must report that, and leave no
trace: it makes no log, and no file of root's in another user's folder.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway import BINARY, START_S, Done, Served, binary, environment
from waiting import wait_until

ECHO = """[[upstream]]
name = "echo"
url = "echo:"
profile = "generic"
controlled = true
[[model]]
name = "echo"
route = ["echo"]
[class.default]
"""
NOBODY = 65534
AGENT = "brake/runner"
REASON = ("--reason", "a test")
# Each stop command, and the code of the agent's refusals after it.
BRAKES = {
    ("agent", "suspend", AGENT, *REASON): "agent-suspended",
    ("agent", "quarantine", AGENT, *REASON): "agent-quarantined",
    ("agent", "revoke", AGENT, *REASON): "agent-revoked",
    ("agent", "suspend", "brake/*", *REASON): "agent-suspended",
    ("principal", "suspend", "team:tests", *REASON): "principal-suspended",
    ("token", "revoke", "TOKEN", *REASON): "token-revoked",
    ("keys", "revoke", "KID", *REASON, "--yes"): "key-revoked",
}
# The other commands that address a gateway or change its log. All must fail without a gateway or
# log.
OTHERS = [
    ("agent", "register", "brake/other"),
    ("agent", "list"),
    ("agent", "show", AGENT),
    ("principal", "list"),
    (
        "token",
        "issue",
        "--agent",
        "brake/new",
        "--principal",
        "team:tests",
        "--signing-key",
        "keys/operator.jwk",
    ),
    ("keys", "list"),
    ("keys", "export"),
    ("keys", "retire", "KID", *REASON),
    ("model", "list"),
    ("egress", "check", "https://a.example/", "--agent", AGENT),
    ("why", "rq_01M7ZCSCBP0W7RN1HB4TR71MDN"),
    ("clock", "accept"),
]
NAMES = [" ".join(words[:3]).replace("brake/", "") for words in BRAKES]


@dataclass(frozen=True)
class Caller:
    """The user and folder from which a command runs."""

    folder: Path
    uid: int | None = None

    def run(self, *words: str) -> Done:
        """Runs one command of the binary as that user, in that folder."""
        ended = subprocess.run(
            [str(BINARY), *words],
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            user=self.uid,
            group=self.uid,
            extra_groups=None if self.uid is None else [],
        )
        return Done(ended.returncode, ended.stdout, ended.stderr)


def listing(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file below a folder: owner, mode and bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        inside = path.read_bytes() if stat.S_ISREG(about.st_mode) else b""
        found[str(path.relative_to(folder))] = (about.st_uid, about.st_mode, inside)
    return found


def filled(words: tuple[str, ...], gateway: Served) -> list[str]:
    """The words with the gateway's names filled in."""
    kid = json.loads((gateway.data / "keys/operator.jwk.pub").read_text())["keys"][0]["kid"]
    names = {"TOKEN": gateway.token, "KID": kid}
    return [names.get(word, word) for word in words]


def refusal(gateway: Served, token: str) -> str | None:
    """The code with which the running gateway refuses the token."""
    told = binary("token", "verify", token, "--data", str(gateway.data), "--json")
    if told.code == 0:
        return None
    message = json.loads(told.err.splitlines()[-1])["error"]["message"]
    return message.removeprefix("the gateway refuses the token: ").split(":")[0]


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path / "data", ECHO) as running:
        running.token = running.issue(AGENT)
        yield running


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir(mode=0o755)
    return folder


@pytest.mark.parametrize("words", BRAKES, ids=NAMES)
def test_it_runs(gateway: Served, words: tuple[str, ...]) -> None:
    """Gateway up: exit 0, the message names this gateway, and the agent is stopped."""
    done = binary(*filled(words, gateway), "--data", str(gateway.data), "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert said["gateway"] == {
        "name": "gw",
        "data": str(gateway.data),
        "pid": gateway.process.pid,
    }, said
    assert said["sealed"], said
    assert refusal(gateway, gateway.token) == BRAKES[words]
    again = binary(*filled(words, gateway), "--data", str(gateway.data))
    assert again.code == (0 if words[0] == "token" else 3), (
        f"refused by the running gateway: {again.err}"
    )


@pytest.mark.parametrize("words", BRAKES, ids=NAMES)
def test_it_does_not_run(gateway: Served, words: tuple[str, ...]) -> None:
    """Gateway down, named: exit 0, a message that no gateway runs, and the next start obeys.

    Found, not named: exit 1.
    """
    words_of = filled(words, gateway)
    gateway.stop()
    config = gateway.data.parent / "token-shield.toml"
    config.write_text(
        gateway.config.read_text()
        .replace('data = "."', 'data = "data"')
        .replace("keys/operator", "data/keys/operator")
    )
    here, before = Caller(gateway.data.parent), listing(gateway.data)
    found = here.run(*words_of)
    assert found.code == 1 and "--offline" in found.err, found.err
    assert listing(gateway.data) == before, "nothing was done"
    named = binary(*words_of, "--data", str(gateway.data))
    assert named.code == 0 and "no gateway runs" in named.err, named.err
    gateway._start("serve", "--config", str(gateway.config))
    assert refusal(gateway, gateway.token) == BRAKES[words]


@pytest.mark.parametrize(
    "words", [*BRAKES, *OTHERS], ids=[*NAMES, *(" ".join(words[:2]) for words in OTHERS)]
)
def test_elsewhere(gateway: Served, empty: Path, words: tuple[str, ...]) -> None:
    """Another folder, no folder, no config, and a copy of the config: exit 1 and no effect."""
    words_of = filled(words, gateway)
    shutil.copytree(gateway.data / "keys", empty / "keys")
    (empty / "copy.toml").write_text(
        gateway.config.read_text().replace('data = "."', 'data = "state"')
    )
    before = listing(empty)
    for place in (
        ["--config", "copy.toml"],
        ["--data", "state"],
        ["--data", "/nowhere/at/all"],
        ["--config", "missing.toml"],
        [],
    ):
        done = Caller(empty).run(*words_of, *place)
        assert done.code == 1, (place, done.out, done.err)
        assert done.out == "", "nothing is said to be done"
        assert listing(empty) == before, f"{place}: something was made"
    (empty / "state/audit").mkdir(parents=True)
    before = listing(empty)
    done = Caller(empty).run(*words_of, "--config", "copy.toml")
    assert done.code == 1 and "there is no log" in done.err, done.err
    assert listing(empty) == before, "an empty folder stays empty"
    assert refusal(gateway, gateway.token) is None


@pytest.mark.parametrize("words", BRAKES, ids=NAMES)
def test_the_config_is_elsewhere_or_broken(
    gateway: Served, empty: Path, words: tuple[str, ...]
) -> None:
    """A config elsewhere reaches its gateway, and so does a config that has errors by now."""
    text = gateway.config.read_text().replace('data = "."', f'data = "{gateway.data}"')
    (empty / "gateway.toml").write_text(text + "nonsense = 1\n")
    done = Caller(empty).run(*filled(words, gateway), "--config", "gateway.toml", "--json")
    assert done.code == 0 and json.loads(done.out)["gateway"]["pid"] == gateway.process.pid, (
        done.err
    )
    assert refusal(gateway, gateway.token) == BRAKES[words]


@pytest.mark.parametrize("words", BRAKES, ids=NAMES)
def test_the_socket_is_stale(gateway: Served, words: tuple[str, ...]) -> None:
    """A socket without a listener while the gateway holds the lock: exit 1.

    The message names the lock's holder.
    """
    path = gateway.data / "admin.sock"
    kept = gateway.data / "kept.sock"
    path.rename(kept)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    done = binary(*filled(words, gateway), "--data", str(gateway.data))
    assert done.code == 1 and f"locked by process {gateway.process.pid}" in done.err, done.err
    path.unlink()
    kept.rename(path)
    assert refusal(gateway, gateway.token) is None


def given(data: Path) -> bool:
    """Gives a folder to another user. False if a file was renamed meanwhile."""
    try:
        for path in [data, *data.rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def theirs(gateway: Served) -> None:
    """Gives the data folder, and the path to it, to another user."""
    assert os.geteuid() == 0, (
        "the table has a column for another user's gateway: run these tests as root"
    )
    # The gateway renames files of its log while it runs: such a file has another name next time.
    wait_until(lambda: given(gateway.data), START_S, "all files are the other user's")
    for folder in gateway.data.parents:
        if folder.stat().st_mode & 0o001 == 0:
            folder.chmod(folder.stat().st_mode | 0o011)


@pytest.mark.parametrize("words", BRAKES, ids=NAMES)
def test_another_user_has_it(gateway: Served, words: tuple[str, ...]) -> None:
    """Root, gateway down: the command runs as the folder's owner, whose gateway starts again.

    A third user: refused, and the message has the command to type.
    """
    words_of = filled(words, gateway)
    gateway.stop()
    theirs(gateway)
    before = listing(gateway.data)
    third = Caller(gateway.data.parent, uid=12345).run(*words_of, "--data", str(gateway.data))
    assert (
        third.code == 1
        and "sudo -u nobody token-shield" in third.err
        and gateway.token not in third.err
    ), third.err
    assert listing(gateway.data) == before
    done = binary(*words_of, "--data", str(gateway.data), "--json")
    assert done.code == 0 and json.loads(done.out)["gateway"]["pid"] is None, done.err
    assert {owner for owner, _, _ in listing(gateway.data).values()} == {NOBODY}, (
        "root left files of its own"
    )
    record = json.loads(binary("audit", "tail", "-n", "1", "--data", str(gateway.data)).out)
    assert record["payload"]["by"] == "uid:0", "who asked stands in the record"
    # The gateway starts as the owner, and applies root's command.
    log = gateway.log.open("wb")
    gateway.process = subprocess.Popen(
        [str(BINARY), "serve", "--config", str(gateway.config)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )
    log.close()
    gateway._hello()
    assert refusal(gateway, gateway.token) == BRAKES[words]
    running = Caller(gateway.data.parent, uid=12345).run(*words_of, "--data", str(gateway.data))
    assert running.code == 1 and "sudo -u nobody" in running.err, (
        "a running gateway of another user's, too"
    )


def test_root_begins_and_prunes_as_the_owner(gateway: Served) -> None:
    """Commands that take the log's lock leave no file of root's; and root's `serve` is refused."""
    gateway.stop()
    theirs(gateway)
    for words in (["audit", "begin", *REASON], ["audit", "prune", "--keep", "400d", "--yes"]):
        done = binary(*words, "--config", str(gateway.config))
        assert done.code == 0, done.err
        assert {owner for owner, _, _ in listing(gateway.data).values()} == {NOBODY}, words
    served = binary("serve", "--config", str(gateway.config))
    assert served.code == 1 and "belongs to uid" in served.err, served.err


def test_names_that_nobody_registered_are_errors(gateway: Served) -> None:
    """Unknown agents, namespaces and principals: exit 3 with similar names, and no record.

    `--unregistered` permits them.
    """
    for words, near in [
        (("agent", "suspend", "brake/runnr"), AGENT),
        (("agent", "suspend", "runner"), AGENT),
        (("agent", "suspend", "brak/*"), "brake/*"),
        (("principal", "suspend", "team:test"), "team:tests"),
    ]:
        told = binary(*words, *REASON, "--data", str(gateway.data), "--json")
        error = json.loads(told.err.splitlines()[-1])["error"]
        assert told.code == 3 and error["code"] == "not-registered" and near in error["message"], (
            told.err
        )
        meant = binary(*words, *REASON, "--unregistered", "--data", str(gateway.data))
        assert meant.code == 0, meant.err
    told = binary("agent", "show", "brake/none", "--data", str(gateway.data))
    assert told.code == 3 and "not registered" in told.err


def test_a_name_that_may_be_a_namespace_is_ambiguous(gateway: Served) -> None:
    """`agent suspend brake` with an existing namespace `brake`: an error that names both."""
    told = binary("agent", "suspend", "brake", *REASON, "--data", str(gateway.data))
    assert told.code == 3 and "default/brake" in told.err and "brake/*" in told.err, told.err
    assert refusal(gateway, gateway.token) is None
    gateway.issue("default/alone")
    gateway.command("agent", "suspend", "alone", *REASON)


def test_a_namespace_is_stopped_with_whoever_comes_later(gateway: Served) -> None:
    """A stopped namespace includes agents that register later.

    This holds over a restart, until it is resumed. The replay at the gateway's end agrees.
    """
    gateway.command("agent", "suspend", "brake/*", *REASON)
    later, other = gateway.issue("brake/later"), gateway.issue("other/agent")
    assert [refusal(gateway, token) for token in (gateway.token, later, other)] == [
        "agent-suspended",
        "agent-suspended",
        None,
    ]
    rows = [json.loads(line) for line in gateway.command("agent", "list").out.splitlines()]
    assert {"namespace": "brake", "status": "suspended", "reason": "a test"}.items() <= rows[
        -1
    ].items()
    gateway.restart()
    assert refusal(gateway, later) == "agent-suspended"
    gateway.command("agent", "resume", "brake/*", *REASON)
    assert refusal(gateway, later) is None


def test_a_principal_is_stopped_and_released(gateway: Served) -> None:
    gateway.command("principal", "suspend", "team:tests", *REASON)
    assert refusal(gateway, gateway.token) == "principal-suspended"
    [row] = [json.loads(line) for line in gateway.command("principal", "list").out.splitlines()]
    assert (row["principal"], row["status"]) == ("team:tests", "suspended")
    gateway.restart()
    assert refusal(gateway, gateway.token) == "principal-suspended"
    gateway.command("principal", "release", "team:tests", *REASON)
    assert refusal(gateway, gateway.token) is None


def test_several_candidates_are_an_error(gateway: Served, empty: Path) -> None:
    """Found, not named: two gateways are listed, exit 2; a world-writable folder is refused.

    The environment can name one.
    """
    (empty / "token-shield.toml").write_text('data = "one"\n')
    (empty / "data").mkdir()
    (empty / "data/token-shield.toml").write_text('data = "."\n')
    done = Caller(empty).run("agent", "list")
    assert done.code == 2 and "./token-shield.toml" in done.err and "./data" in done.err, done.err
    shutil.rmtree(empty / "data")
    empty.chmod(0o777)
    done = Caller(empty).run("agent", "list")
    assert done.code == 1 and "everybody may write" in done.err, done.err
    by_environment = subprocess.run(
        [str(BINARY), "agent", "list"],
        cwd=empty,
        env=environment() | {"TOKEN_SHIELD_DATA": str(gateway.data)},
        capture_output=True,
        text=True,
    )
    assert by_environment.returncode == 0 and AGENT in by_environment.stdout, by_environment.stderr
