"""An audit log that a test changes and restores, and the verifiers that check it."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import audit_verifier
from audit_records import frames
from gateway import BINARY, environment

State = dict[str, bytes]  # the files of a log by their paths below audit/


@dataclass(frozen=True)
class Tampering:
    """Changed or removed (None) files. If one record changes, its epoch and index."""

    what: str
    changes: dict[str, bytes | None] = field(repr=False)
    record: tuple[str, int] | None = None


@dataclass
class Asked:
    """A verifier process."""

    process: subprocess.Popen[str]

    def result(self) -> dict[str, object]:
        out, _ = self.process.communicate(timeout=60)
        found = json.loads(out)
        # A head of an earlier epoch is distinct from a log that is invalid.
        assert found["valid"] == (self.process.returncode in (0, 4)), found
        return found


@dataclass
class Log:
    """A log, its former states, and the changes made to it."""

    folder: Path
    data: Path
    state: State = field(repr=False)
    older: list[State] = field(repr=False)
    done: Counter[str] = field(default_factory=Counter)

    def records(self, epoch: str) -> list[bytes]:
        """The records in the tiles."""
        names = sorted(name for name in self.state if name.startswith(f"{epoch}/tile/entries/"))
        return [record for name in names for record in frames(self.state[name], width(name), 0)]

    def segments(self) -> list[str]:
        return sorted(name for name in self.state if "/journal/" in name)

    def put(self, changes: dict[str, bytes | None]) -> None:
        """Writes or removes files, and removes empty folders."""
        for name, data in changes.items():
            path = self.folder / name
            if data is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                continue
            path.unlink(missing_ok=True)
            while path.parent != self.folder and not any(path.parent.iterdir()):
                path = path.parent
                path.rmdir()

    def ours(self) -> audit_verifier.Fault | None:
        try:
            audit_verifier.verify(
                self.folder,
                (self.data / "log.vkeys").read_text(),
                self.data / "secret/head",
                live=True,
            )
        except audit_verifier.Fault as fault:
            return fault
        return None

    def theirs(self) -> dict[str, object]:
        return self.begun().result()

    def begun(self) -> Asked:
        """Starts the gateway's verifier."""
        keys, head = self.data / "log.vkeys", self.data / "secret/head"
        words = [
            str(BINARY),
            "audit",
            "verify",
            str(self.folder),
            "--key",
            str(keys),
            "--head",
            str(head),
            "--json",
        ]
        return Asked(
            subprocess.Popen(
                words,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
        )


def width(name: str) -> int:
    return int(name.rpartition("/")[2]) if ".p/" in name else 256
