"""The table "Commands" of docs/OPERATIONS.md: every writing command in each situation.

The test reads rows and cells from the page. A cell "done" needs a new record. A cell "no effect"
needs an error, empty standard output, and an unchanged log, keys and folders.
"""

from __future__ import annotations

import datetime
import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import ISSUER, ROOT, Done, Served, binary
from test_brake_table import AGENT, ECHO, REASON, Caller, listing, theirs

COLUMNS = (
    "up",
    "down",
    "another user's",
    "third user",
    "another folder",
    "no folder",
    "stale socket",
    "config elsewhere",
)
# Each writing command once, ordered so that each finds the state that it needs.
COMMANDS: dict[str, tuple[str, ...]] = {
    "agent register": ("brake/other", "--principal", "team:tests"),
    "agent suspend": (AGENT, *REASON),
    "agent resume": (AGENT, *REASON),
    "agent quarantine": (AGENT, *REASON),
    "agent release": (AGENT, *REASON),
    "principal suspend": ("team:tests", *REASON),
    "principal release": ("team:tests", *REASON),
    "token issue": ("--agent", "brake/new", "--principal", "team:tests", "--signing-key", "KEY"),
    "token renew": ("HANDLE", "--signing-key", "KEY"),
    "token adopt": ("--from", "CSV", "--until", "UNTIL", "--signing-key", "KEY"),
    "token revoke": ("TOKEN", *REASON),
    "keys import": ("IMPORTED", "--issuer", ISSUER),
    "keys retire": ("IMPORTED-KID", *REASON),
    "keys rotate": ("--signing-key", "KEY"),
    "keys revoke": ("KID", *REASON, "--yes"),
    "model accept": ("echo", *REASON),
    "clock accept": (),
    "agent revoke": (AGENT, *REASON),
    "audit forget": ("user:ada", "--revoke", "--yes", *REASON),
    "audit begin": REASON,
    "audit prune": ("--keep", "400d", "--yes"),
    "backup": ("COPY",),
    "restore": ("BACKUP",),
}
# These run a gateway; other tests cover their situations.
RUN = {"serve", "dev", "upgrade"}
# These change no gateway's log or books: they read, or write files that the command line names.
READ = {
    "keys generate",
    "keys list",
    "keys export",
    "token verify-vectors",
    "token delegate",
    "token inspect",
    "token verify",
    "agent list",
    "agent show",
    "principal list",
    "egress check",
    "model list",
    "why",
    "config check",
    "completions",
    "man",
    "version",
    *(
        f"audit {verb}"
        for verb in (
            "verify",
            "show",
            "tail",
            "query",
            "usage",
            "prove",
            "verify-receipt",
            "disclose",
        )
    ),
    *(f"audit {verb}" for verb in ("verify-disclosure", "export", "replay", "bench")),
}


def page() -> dict[str, dict[str, tuple[str, int]]]:
    """The page's table: the effect and exit code of each command, in each column."""
    text = (ROOT / "docs/OPERATIONS.md").read_text()
    lines = text[text.index("| command | up |") :].split("\n\n")[0].splitlines()
    assert [name.strip() for name in lines[0].strip("|").split("|")] == ["command", *COLUMNS]
    rows = {}
    for line in lines[2:]:
        names, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        said = [re.fullmatch(r"(.+) \((\d)\)", cell) for cell in cells]
        assert all(said) and len(said) == len(COLUMNS), line
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in rows, name
            rows[name] = {
                column: (cell[1], int(cell[2]))
                for column, cell in zip(COLUMNS, said, strict=True)
                if cell
            }
    return rows


def test_every_command_that_writes_is_a_row() -> None:
    headings = set(
        re.findall(r"^## `token-shield ([^`]+)`$", (ROOT / "docs/CLI.md").read_text(), re.M)
    )
    assert headings - RUN - READ == COMMANDS.keys(), (
        "a new command: give it a row, or say here that it writes nothing"
    )
    assert page().keys() == COMMANDS.keys()


class Table:
    """A gateway, the files that the commands need, and the state before each command."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.gateway = Served(folder / "data", ECHO)
        operator = self.gateway.data / "keys/operator.jwk"
        self.key = folder / "operator.jwk"
        operator.rename(self.key)
        shutil.copy(operator.with_suffix(".jwk.pub"), folder / "operator.jwk.pub")
        generated = binary("keys", "generate", "--out", str(folder / "other.jwk"))
        assert generated.code == 0, generated.err
        (folder / "keys.csv").write_text("key,agent\nsk-Zm9vYmFyYmF6cXV4,brake/adopted\n")
        signed = ("--signing-key", str(self.key))
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=20)
        self.names = {
            "TOKEN": self.gateway.issue(AGENT, *signed),
            "HANDLE": self.gateway.issue("brake/handle", *signed, "--handle"),
            "KEY": str(self.key),
            "KID": self.kid("operator"),
            "IMPORTED": str(folder / "other.jwk.pub"),
            "IMPORTED-KID": self.kid("other"),
            "CSV": str(folder / "keys.csv"),
            "UNTIL": until.strftime("%Y-%m-%d"),
            "BACKUP": str(folder / "backup"),
        }
        self.gateway.issue("brake/adas", *signed, principal="user:ada")
        self.gateway.command("backup", self.names["BACKUP"])

    def kid(self, name: str) -> str:
        return json.loads((self.folder / f"{name}.jwk.pub").read_text())["keys"][0]["kid"]

    def words(self, command: str) -> list[str]:
        self.count += 1
        names = self.names | {"COPY": str(self.folder / f"copy-{self.count}")}
        return [*command.split(), *(names.get(word, word) for word in COMMANDS[command])]

    def records(self) -> int:
        return len(
            binary("audit", "query", "--dir", str(self.gateway.data / "audit")).out.splitlines()
        )

    def run(self, column: str, command: str, caller: Caller, *place: str) -> Done:
        """Runs the command and compares with the page, for a folder with a log."""
        verdict, code = page()[command][column]
        before, key, around = (
            self.records(),
            self.key.read_bytes(),
            {path.name for path in self.folder.iterdir()},
        )
        done = caller.run(*self.words(command), *place)
        where = f"{column}: {command}: exit {done.code}\n{done.out}{done.err}"
        assert done.code == code, where
        added = {path.name for path in self.folder.iterdir()} - around
        if verdict == "done" and command == "audit prune":
            assert "no epoch was pruned" in done.err, where
        elif verdict == "done":
            assert self.records() > before, where
        else:
            assert done.err and self.records() == before and self.key.read_bytes() == key, where
            assert (added != set()) == (verdict == "a copy, not recorded"), where
            assert not done.out or verdict == "a copy, not recorded", where
            assert verdict == "no effect" or "not recorded" in done.err, where
        return done


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    made = Table(tmp_path)
    with made.gateway:
        yield made


def test_up(table: Table) -> None:
    for command in COMMANDS:
        table.run("up", command, Caller(table.folder), "--data", str(table.gateway.data))


def test_down(table: Table) -> None:
    table.gateway.stop()
    for command in COMMANDS:
        table.run("down", command, Caller(table.folder), "--data", str(table.gateway.data))
    table.gateway._start("serve", "--config", str(table.gateway.config))


def test_another_users(table: Table) -> None:
    """Root runs the command: no file there belongs to root afterwards.

    Before that a third user runs it, with the gateway up and down.
    """
    data = str(table.gateway.data)
    theirs(table.gateway)
    third = Caller(table.folder, uid=12345)
    for command in COMMANDS:
        table.run("third user", command, third, "--data", data)
    table.gateway.stop()
    theirs(table.gateway)
    for command in COMMANDS:
        table.run("third user", command, third, "--data", data)
    for command in COMMANDS:
        table.run("another user's", command, Caller(table.folder), "--data", data)
        assert len({owner for owner, _, _ in listing(table.gateway.data).values()}) == 1, command


def test_another_folder_and_none(table: Table) -> None:
    """The config's data folder has no log; and the folder or config does not exist."""
    ours = table.records()
    for command in COMMANDS:
        empty = table.folder / f"elsewhere-{command.replace(' ', '-')}"
        empty.mkdir()
        shutil.copytree(table.gateway.data / "keys", empty / "keys")
        (empty / "copy.toml").write_text(
            table.gateway.config.read_text().replace('data = "."', 'data = "state"')
        )
        verdict, code = page()[command]["no folder"]
        if verdict == "no effect":
            nowhere(
                table,
                command,
                empty,
                ["--data", "/nowhere/at/all"],
                ["--config", "missing/missing.toml"],
                [],
            )
        else:
            nowhere(table, command, empty, [])
            begun(table, command, empty, code, "--data", "new")
        verdict, code = page()[command]["another folder"]
        if verdict == "no effect":
            nowhere(table, command, empty, ["--config", "copy.toml"])
        else:
            begun(table, command, empty, code, "--config", "copy.toml")
        assert table.records() == ours, "the gateway's log is as it was"


def nowhere(table: Table, command: str, folder: Path, *places: list[str]) -> None:
    """The command has no effect and makes no file."""
    before = listing(folder)
    for place in places:
        done = Caller(folder).run(*table.words(command), *place)
        assert done.code == 1 and done.err and not done.out, (command, place, done.out, done.err)
        assert listing(folder) == before, f"{command} {place}: something was made"


def begun(table: Table, command: str, folder: Path, code: int, *place: str) -> None:
    """A new log exists, and is valid."""
    done = Caller(folder).run(*table.words(command), *place)
    assert done.code == code, (command, place, done.err)
    audited = binary(
        "audit", "verify", "--data", str(folder / ("new" if "new" in place else "state"))
    )
    assert audited.code == 0, audited.err


def test_stale_socket(table: Table) -> None:
    path, kept = table.gateway.data / "admin.sock", table.gateway.data / "kept.sock"
    path.rename(kept)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    for command in COMMANDS:
        table.run("stale socket", command, Caller(table.folder), "--data", str(table.gateway.data))
    path.unlink()
    kept.rename(path)


def test_config_elsewhere(table: Table) -> None:
    elsewhere = table.folder / "etc"
    elsewhere.mkdir()
    text = table.gateway.config.read_text().replace('data = "."', f'data = "{table.gateway.data}"')
    (elsewhere / "gateway.toml").write_text(
        text.replace('jwks = "', f'jwks = "{table.gateway.data}/')
    )
    for command in COMMANDS:
        done = table.run("config elsewhere", command, Caller(elsewhere), "--config", "gateway.toml")
        if command.startswith(("agent", "principal")):
            assert f"pid {table.gateway.process.pid}" in done.err, done.err
