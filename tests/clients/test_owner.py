"""Root's commands on the data folder of another user, whose gateway may be compromised.

The owner of a process can read its environment and memory, and use its terminal and descriptors.
The owner can also put a link where root expects a folder. Root's command must not leak any resource
of root's to the owner, nor write elsewhere.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import subprocess
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway import BINARY, Served, binary, environment
from test_brake_table import AGENT, ECHO, NOBODY, REASON, Caller, listing, theirs

SUSPEND = ("agent", "suspend", AGENT, *REASON)
BEGIN = ("audit", "begin", *REASON)
PRUNE = ("audit", "prune", "--keep", "400d", "--yes")
# The variables that the owner's process may have in its environment.
KEPT = {
    "PATH",
    "LANG",
    "LANGUAGE",
    "TERM",
    "TZ",
    "TOKEN_SHIELD_CONFIG",
    "TOKEN_SHIELD_DATA",
    "TOKEN_SHIELD_SUDO_UID",
    "CREDENTIALS_DIRECTORY",
}


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Served]:
    """A stopped gateway that belongs to another user."""
    with Served(tmp_path / "data", ECHO) as gateway:
        gateway.issue(AGENT)
    theirs(gateway)
    yield gateway


@dataclass
class Spied:
    """The resources of the owner's process, which its user can see."""

    environ: dict[str, str] = field(default_factory=dict)
    descriptors: dict[str, str] = field(default_factory=dict)
    terminal: int = 0
    session: int = 0
    groups: list[str] = field(default_factory=list)


def spy(config: Path) -> Spied | None:
    """The owner's process that was started with this config, if there is one."""
    for folder in Path("/proc").iterdir():
        try:
            status = (folder / "status").read_text() if folder.name.isdigit() else ""
            if (
                f"\nUid:\t{NOBODY}\t" not in status
                or str(config).encode() not in (folder / "cmdline").read_bytes()
            ):
                continue
            words = (folder / "environ").read_bytes().decode().split("\0")
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            found = Spied(terminal=int(stat[4]), session=int(stat[3]))
            found.environ = dict(word.split("=", 1) for word in words if word)
            found.descriptors = {link.name: os.readlink(link) for link in (folder / "fd").iterdir()}
            found.groups = [
                line for line in status.splitlines() if line.startswith(("Gid:", "Groups:"))
            ]
        except FileNotFoundError:
            continue
        else:
            return found
    return None


class Watched:
    """A config that is a FIFO: each process that reads it waits until the test has inspected it."""

    def __init__(self, gateway: Served) -> None:
        self.path = gateway.data.parent / "watched.toml"
        self.seen: list[Spied] = []
        text = gateway.config.read_text().replace('data = "."', f'data = "{gateway.data}"')
        self._text = text.replace('jwks = "', f'jwks = "{gateway.data}/')
        self._done = False
        self._fifo()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _fifo(self) -> None:
        os.mkfifo(self.path)
        self.path.chmod(0o644)

    def _serve(self) -> None:
        while True:
            with self.path.open("w") as reader:
                # The next reader gets a new FIFO.
                self.path.unlink()
                self._fifo()
                if self._done:
                    return
                if (found := spy(self.path)) is not None:
                    self.seen.append(found)
                reader.write(self._text)

    def end(self) -> Spied:
        self._done = True
        self.path.read_text()
        self._thread.join(10)
        assert self.seen, "no process of the owner's has read the config"
        return self.seen[0]


@pytest.mark.parametrize("words", [SUSPEND, BEGIN, PRUNE], ids=["suspend", "begin", "prune"])
def test_nothing_of_roots_goes_to_the_owner(
    stopped: Served, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Root's environment, terminal, groups and descriptors stay with root."""
    watched, secret = Watched(stopped), tmp_path / "roots.txt"
    secret.write_text("root's")
    secret.chmod(0o600)
    master, terminal = pty.openpty()

    def own_terminal() -> None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    with secret.open() as kept:
        roots = environment() | {
            "ROOTS_SECRET": "x",
            "LD_LIBRARY_PATH": "/root/lib",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }
        command = subprocess.Popen(
            [str(BINARY), *words, "--config", str(watched.path)],
            env=roots,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            pass_fds=[kept.fileno()],
            start_new_session=True,
            preexec_fn=own_terminal,
        )
        os.close(terminal)
        printed = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the last process with this terminal has ended
                break
            if not piece:
                break
            printed += piece
        assert command.wait(60) == 0, printed
    os.close(master)
    found = watched.end()
    other = {name for name in found.environ if name not in KEPT and not name.startswith("LC_")}
    assert not other, f"of root's environment: {other}"
    assert found.environ["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert (found.environ["LC_ALL"], found.environ["TZ"]) == ("C.UTF-8", "UTC")
    assert found.terminal == 0 and found.session != command.pid, (
        "it is in the session of root's terminal"
    )
    assert {"0", "1", "2"} <= found.descriptors.keys()
    for number, what in found.descriptors.items():
        assert what.startswith(("pipe:", "anon_inode:", "socket:", str(watched.path))) or (
            number,
            what,
        ) == ("0", "/dev/null"), found
    assert found.groups == [f"Gid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}", "Groups:\t "], (
        found.groups
    )


def test_a_folder_of_roots_group_gives_the_owner_no_group(stopped: Served) -> None:
    """`chown USER` keeps root's group on the folder: the owner's process has its user's groups."""
    for path in [stopped.data, *stopped.data.rglob("*")]:
        os.chown(path, NOBODY, 0, follow_symlinks=False)
    watched = Watched(stopped)
    assert binary(*SUSPEND, "--config", str(watched.path)).code == 0
    assert watched.end().groups[0] == f"Gid:\t{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}"


@pytest.mark.parametrize("name", ["audit", "secret"])
@pytest.mark.parametrize(
    "words", [SUSPEND, ("agent", "list"), BEGIN, PRUNE], ids=["suspend", "list", "begin", "prune"]
)
def test_a_link_in_the_data_folder_is_refused(
    stopped: Served, tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    """A link to an empty folder of root's: no file there changes.

    The message names the link and what to do.
    """
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    shutil.rmtree(stopped.data / name)
    (stopped.data / name).symlink_to(victim)
    os.lchown(stopped.data / name, NOBODY, NOBODY)
    before = listing(stopped.data)
    done = binary(*words, "--config", str(stopped.config))
    assert (
        done.code == 1 and f"{name} is a symbolic link" in done.err and 'data = "DIR"' in done.err
    ), done.err
    assert done.out == ""
    assert victim.stat().st_mode & 0o777 == 0o755 and not list(victim.iterdir()), (
        "root wrote where the link leads"
    )
    assert listing(stopped.data) == before
    if words == SUSPEND:
        told = binary(*words, "--config", str(stopped.config), "--json")
        assert json.loads(told.err.splitlines()[-1])["error"]["code"] == "not-trusted"
        served = Caller(stopped.data, uid=NOBODY).run("serve", "--config", str(stopped.config))
        assert served.code == 1 and f"{name} is a symbolic link" in served.err, (
            "nor does a gateway go on there"
        )


@pytest.mark.parametrize("name", ["audit", "secret"])
def test_a_folder_with_two_owners_is_refused(stopped: Served, name: str) -> None:
    """A folder of root's in another user's data folder: it is not treated as root's."""
    os.chown(stopped.data / name, 0, 0)
    before = listing(stopped.data)
    for words in (SUSPEND, BEGIN, PRUNE, ("serve",)):
        done = binary(*words, "--config", str(stopped.config))
        assert (
            done.code == 1
            and f"{name} belongs to uid 0, and" in done.err
            and "chown -R" in done.err
        ), (words, done.err)
        assert listing(stopped.data) == before, words


def test_the_data_folder_itself_may_be_a_link(stopped: Served, tmp_path: Path) -> None:
    """A link to another disk: the target folder is checked, and the command runs as its owner."""
    disk = tmp_path / "disk"
    stopped.data.rename(disk)
    stopped.data.symlink_to(disk)
    for words in (SUSPEND, BEGIN):
        done = binary(*words, "--data", str(stopped.data))
        assert done.code == 0, done.err
        assert {owner for owner, _, _ in listing(disk).values()} == {NOBODY}


def recorded(gateway: Served, kind: str) -> str:
    """The user who asked for the newest record of a kind."""
    lines = binary("audit", "query", "--data", str(gateway.data)).out.splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == kind]
    return records[-1].get("by") or records[-1]["payload"]["by"]


def test_the_record_names_who_asked(stopped: Served) -> None:
    """The record names root, or the user who used sudo.

    This also holds if the owner's process or the running gateway ran the command.
    """
    by_sudo = environment() | {"SUDO_UID": "4242", "TOKEN_SHIELD_SUDO_UID": "7"}

    def sudo(*words: str) -> None:
        done = subprocess.run(
            [str(BINARY), *words, "--data", str(stopped.data)],
            env=by_sudo,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr

    for words in (SUSPEND, BEGIN):
        assert binary(*words, "--data", str(stopped.data)).code == 0
    assert (recorded(stopped, "agent-status"), recorded(stopped, "epoch")) == ("uid:0", "uid:0")
    sudo("agent", "resume", AGENT, *REASON)
    sudo(*BEGIN)
    assert (recorded(stopped, "agent-status"), recorded(stopped, "epoch")) == (
        "uid:4242",
        "uid:4242",
    )
    # A process that the owner started counts as the owner's, whatever its environment claims.
    claims = f"{BINARY} agent suspend {AGENT} --reason r --data {stopped.data} || exit 1; true"
    ended = subprocess.run(
        ["/bin/sh", "-c", claims],
        env=by_sudo,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert recorded(stopped, "agent-status") == f"uid:{NOBODY}"
    for path in [stopped.data, *stopped.data.rglob("*")]:
        os.chown(path, 0, 0, follow_symlinks=False)
    stopped._start("serve", "--config", str(stopped.config))
    with stopped:
        sudo("agent", "resume", AGENT, *REASON)
        assert recorded(stopped, "agent-status") == "uid:4242"
        stopped.command(*SUSPEND)
        assert recorded(stopped, "agent-status") == "uid:0"


def test_dev_writes_nothing_into_a_folder_of_another_user(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    done = binary("dev", "--json", "--listen", "127.0.0.1:0", "--data", str(folder))
    assert done.code == 1 and str(folder) in done.err, done.err
    assert not listing(folder), "root's files are in it"


def test_dev_writes_over_no_config_that_it_cannot_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "token-shield.toml").write_bytes(b"# \xff\n")
    done = binary("dev", "--json", "--listen", "127.0.0.1:0", "--data", str(folder))
    assert done.code == 1 and "token-shield.toml" in done.err and "--data" in done.err, done.err
    assert (folder / "token-shield.toml").read_bytes() == b"# \xff\n"
