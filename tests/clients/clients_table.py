"""The table of docs/CLIENTS.md: each test of a client keeps its own row.

With TOKEN_SHIELD_WRITE_DOCS=1 the rows are written. Without it, a row that differs fails the test.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from gateway import ROOT

PAGE = ROOT / "docs/CLIENTS.md"
HEAD = "| client | version | what was run | result | class and settings |"
RULE = "| --- | --- | --- | --- | --- |"
WRITE = "TOKEN_SHIELD_WRITE_DOCS"


@dataclass(frozen=True)
class Row:
    """What a test has shown of a client."""

    client: str
    version: str
    ran: str
    result: str
    settings: str

    def line(self) -> str:
        """The row in Markdown."""
        cells = (self.client, self.version, self.ran, self.result, self.settings)
        return f"| {' | '.join(cells)} |"


def rows(page: Path = PAGE) -> dict[str, str]:
    """The rows of the table, by client."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = lines.index(HEAD) + 2
    found: dict[str, str] = {}
    for line in lines[start:]:
        if not line.startswith("| "):
            break
        found[line.split(" | ")[0].removeprefix("| ")] = line
    return found


def writing() -> bool:
    """Whether this run writes the table."""
    return os.environ.get(WRITE) == "1"


def keep(row: Row, page: Path = PAGE) -> None:
    """Writes a row, or compares it with the table's."""
    if writing():
        write({row.client: row.line()}, page)
    assert rows(page).get(row.client) == row.line(), (
        f"docs/CLIENTS.md differs from this run; {WRITE}=1 writes: {row.line()}"
    )


def write(new: dict[str, str], page: Path = PAGE, only: set[str] | None = None) -> None:
    """Adds or replaces rows, and removes rows of clients that are not in `only`."""
    with page.open("r+", encoding="utf-8") as file:
        # Several tests may write at once.
        fcntl.flock(file, fcntl.LOCK_EX)
        found = {**rows(page), **new}
        kept = [found[name] for name in sorted(found, key=str.lower) if not only or name in only]
        before, _, after = file.read().partition(f"{HEAD}\n{RULE}\n")
        rest = after.splitlines(keepends=True)
        while rest and rest[0].startswith("| "):
            rest.pop(0)
        table = "".join(f"{line}\n" for line in (HEAD, RULE, *kept))
        file.seek(0)
        file.write(before + table + "".join(rest))
        file.truncate()
