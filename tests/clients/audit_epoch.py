"""Verifies one epoch of an audit log (docs/AUDIT.md), from its tiles to its journal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audit_notes import (
    Fault,
    Keys,
    Note,
    base64_of,
    verified,
)
from audit_records import (
    MAGIC,
    SECTOR,
    Batch,
    Tree,
    batch_at,
    batches,
    bundle,
    frames,
    leaf_hash,
    level_above,
    perfect,
    root_of,
    shape,
    tile_path,
)

TORN, LOSS = 256 * 1024, "after-loss: "
EPOCH = re.compile("e(?!000000)([0-9]{6})")
TILE = re.compile(
    r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?"
)


@dataclass
class Epoch:
    """The result for one epoch. Roots are in base64."""

    origin: str  # empty if no checkpoint or verifier key gives it
    size: int  # number of records
    signed: int  # number of records under the checkpoint
    root: str  # root over all records
    signed_root: str | None  # root of the checkpoint, if there is one
    first: str | None  # time of the first record
    last: str | None  # time of the last record
    torn: int = 0  # bytes of a torn batch after the last complete one
    unfinished: bool = False  # the head holds a note that is newer than the checkpoint
    pruned: bool = False  # a later epoch records that its records were removed
    lost: str | None = None  # what the next epoch records of a loss after this checkpoint


def record_at(folder: Path, epoch: str, index: int) -> bytes:
    """The bytes of a record from the tiles or the journal of an epoch (`e000001`), not verified."""
    for width in (256, *range(index % 256 + 1, 256)):
        if (path := folder / epoch / tile_path("entries", index // 256, width)).is_file():
            return list(frames(path.read_bytes(), width, index // 256 * 256))[index % 256]
    segments = sorted((folder / epoch / "journal").glob("*"))
    for batch in (batch for segment in segments for batch in batches(segment.read_bytes())):
        if batch.first <= index < batch.first + len(batch.records):
            return batch.records[index - batch.first]
    raise Fault("is not in the log", index)


def _loss(epoch: Path | None) -> tuple[str | None, Any]:
    """What the first record of `epoch`, not verified, states about a loss in the epoch before it.

    Also returns what that record states about the remaining records.
    """
    try:
        _, kind, plain = shape(record_at(epoch.parent, epoch.name, 0)) if epoch else ("", "", None)
    except (Fault, OSError, ValueError, RecursionError):
        return None, False
    reason = str((plain or {}).get("reason"))
    lost = kind == "epoch" and reason.startswith(LOSS)
    return (reason.removeprefix(LOSS), (plain or {}).get("left", False)) if lost else (None, False)


class Walk:
    """Verifies one epoch from its first tile to the end of its journal.

    A pruned epoch has hashes only, without leaves.
    """

    def __init__(
        self, folder: Path, keys: Keys, before: Walk | None, after: Path | None, live: bool
    ) -> None:
        self.folder, self.before, closed, self.number = (
            folder,
            before,
            after is not None,
            int(folder.name[1:]),
        )
        lost, left = _loss(after)
        self.at, self.first, self.torn = before.at if before else "", None, 0
        self.throughs: list[
            tuple[int, int]
        ] = []  # indexes of records of kind pruned, and the epochs that they name
        self.leaves: list[bytes] = []
        self.recent: dict[int, bytes] = {}  # records from the checkpoint's last bundle on
        self.ends: set[int] = set()  # number of records after each batch of the journal
        known = {name for name, _ in keys if name.endswith(f"/{folder.name}")}
        self.note, self.origin = None, min(known) if len(known) == 1 else ""
        if closed and lost is None or (folder / "checkpoint").exists():
            self.note = verified((folder / "checkpoint").read_bytes().decode(), keys)
            self.origin = self.note.origin
        if self.origin and self.origin.rpartition("/")[2] != folder.name:
            raise Fault(f"checkpoint: of another epoch, {self.origin}")
        self.newest = self.note or Note(self.origin, 0, base64_of(Tree().root()))
        self.signed = self.newest.size
        there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
        files = (
            there.keys() - {"checkpoint"} - {name for name, path in there.items() if path.is_dir()}
        )
        self.pruned = (
            closed
            and lost is None
            and self.signed > 0
            and not any(name.startswith("tile/entries/") for name in files)
        )
        files -= {*(self._remains(files) if self.pruned else self._tiles())}
        segments = sorted(name for name in files if re.fullmatch("journal/[0-9]{20}", name))
        if segments and closed and lost is None:
            raise Fault("the epoch is closed, but its journal is not empty")
        if not self.pruned:
            self._journal(segments)
        self.left = left is not False
        if self.left and (
            left != {"root": base64_of(Tree(self.leaves).root()), "size": len(self.leaves)}
            or left["size"] is True
        ):
            raise Fault(
                f"the loss has left {left}, and here are {len(self.leaves)} records",
                len(self.leaves),
            )
        if self.number > 1 and self.note and not self.leaves and not self.pruned:
            raise Fault("the first record, of kind epoch, is missing", 0)
        for name, path in sorted(there.items()):
            known = (
                path.is_dir()
                or name not in files
                or name in segments
                or name == "lock"
                and not path.stat().st_size
            )
            folder_belongs = path.is_dir() and (name == "journal" or name.split("/")[0] == "tile")
            if (
                path.is_symlink()
                or not path.is_file()
                and not folder_belongs
                or not known
                and not ((live and not closed or lost is not None) and self._passing(name))
            ):
                raise Fault(f"{name} does not belong here")
        roots = (
            (self.note.root if self.pruned else base64_of(Tree(self.leaves).root())),
            self.note.root if self.note else None,
        )
        size, last = self.signed if self.pruned else len(self.leaves), self.first and self.at
        self.epoch = Epoch(
            self.origin,
            size,
            self.signed,
            *roots,
            self.first,
            last,
            self.torn,
            False,
            self.pruned,
            lost,
        )

    def _take(self, record: bytes, leaf: bytes) -> None:
        index = len(self.leaves)
        try:
            at, kind, plain = shape(record)
            if at < self.at:
                raise Fault(f"its time is before that of the record before, {self.at}")
            if (kind == "epoch") != (self.number > 1 and index == 0):
                raise Fault(
                    "the first record of an epoch after the first, and no other, is of kind epoch"
                )
            if kind == "epoch" and not self._follows((plain or {}).get("previous")):
                raise Fault("previous is not the checkpoint of the epoch before")
            if kind == "pruned":
                if not (through := EPOCH.fullmatch(str((plain or {}).get("through")))):
                    raise Fault("through is no epoch")
                self.throughs.append((index, int(through[1])))
        except (Fault, ValueError, RecursionError) as error:
            raise Fault(str(error), index) from error
        self.at, self.first = at, self.first or at
        self.leaves.append(leaf)
        if index >= self.signed // 256 * 256:
            self.recent[index] = record

    def permits(self, number: int, said: Note | None) -> bool:
        """Whether a record under `said` permits that the records of epoch `number` are missing."""
        sure = max(
            self.signed,
            said.size if said and said.origin == self.origin else 0,
            len(self.leaves) if self.left else 0,
        )
        return any(index < sure and through >= number for index, through in self.throughs)

    def _follows(self, link: Any) -> bool:
        """Whether `link` is the previous epoch's checkpoint, or could be if that one is missing."""
        if (
            self.before
            and isinstance(link, dict)
            and self.before.epoch.lost is not None
            and link.get("origin") == self.before.origin
        ):
            # The head may have had a newer checkpoint of the lost records.
            size = link.get("size")
            return (
                self.before.newest._asdict().items() <= link.items()
                or isinstance(size, int)
                and size > self.before.signed
            )
        if self.before:
            return isinstance(link, dict) and self.before.newest._asdict().items() <= link.items()
        return (
            isinstance(link, dict)
            and {*Note._fields} <= link.keys()
            and str(link["origin"]).endswith(f"/e{self.number - 1:06}")
        )

    def _tiles(self) -> list[str]:
        """Verifies all files that the checkpoint requires, and returns their names."""
        names = []

        def file(level: int | str, index: int, width: int) -> bytes:
            names.append(tile_path(level, index // 256, width))
            return (self.folder / names[-1]).read_bytes()

        def whole(hashes: bytes, row: list[bytes]) -> None:
            if hashes != b"".join(row):
                raise Fault(f"{names[-1]} has not the hashes of the records")

        for index in range(0, self.signed, 256):
            width = min(256, self.signed - index)
            data, hashes = file("entries", index, width), file(0, index, width)
            found, wrong = bundle(data, hashes, width, index)
            for record, leaf in found:
                self._take(record, leaf)
            if wrong:
                raise wrong
            whole(hashes, self.leaves[index:])
        level, row = 1, level_above(self.leaves)
        while row:
            for index in range(0, len(row), 256):
                width = min(256, len(row) - index)
                whole(file(level, index, width), row[index : index + width])
            level, row = level + 1, level_above(row)
        self._signed_root(Tree(self.leaves).peaks)
        return names

    def _remains(self, files: set[str]) -> list[str]:
        """Verifies a pruned epoch: partial tiles, and full tiles as far as others prove them."""
        names, peaks, level, count = [], [], 0, self.signed
        known: dict[
            int, bytes
        ] = {}  # the hashes of a level by their index, computed from the tiles below
        while count:
            for index in range(0, count, 256):
                width, name = (
                    min(256, count - index),
                    tile_path(level, index // 256, min(256, count - index)),
                )
                if width == 256 and name not in files:
                    continue
                names.append(name)
                data = (self.folder / name).read_bytes()
                row = [data[at : at + 32] for at in range(0, len(data), 32)]
                if len(data) != 32 * width or any(
                    known.setdefault(at, one) != one for at, one in enumerate(row, index)
                ):
                    raise Fault(f"{name} has not the hashes of the tiles below it")
                peaks[:0] = Tree(row).peaks if width < 256 else []
            whole = [
                first
                for first in known
                if first % 256 == 0 and all(at in known for at in range(first, first + 256))
            ]
            known = {
                first // 256: perfect(tuple(known[at] for at in range(first, first + 256)))
                for first in whole
            }
            level, count = level + 1, count // 256
        self._signed_root(peaks)
        return names

    def _signed_root(self, peaks: list[bytes]) -> None:
        if self.note and base64_of(root_of(peaks)) != self.note.root:
            raise Fault(
                f"checkpoint: its root is not that of the {'tiles' if self.pruned else 'records'}"
            )

    def _journal(self, names: list[str]) -> None:
        """Reads the segments batch by batch to the end of the log."""
        tree = Tree(self.leaves[: int(names[0][-20:])]) if names else Tree(self.leaves)
        self.ends.add(tree.size)
        for name in names:
            if int(name[-20:]) != tree.size:
                raise Fault(f"{name} does not follow what is before it", tree.size)
            data, end = (self.folder / name).read_bytes(), 0
            for batch in batches(data):
                self._append(batch, tree)
                end = batch.end
                self.ends.add(tree.size)
            rest = data[end:].rstrip(b"\0")
            whole = any(
                rest[at : at + 8] == MAGIC and batch_at(data, end + at)
                for at in range(SECTOR, len(rest), SECTOR)
            )
            if rest and name != names[-1] or len(rest) > TORN or whole:
                raise Fault(
                    f"{name}: what lies behind the last whole batch is no torn one", tree.size
                )
            self.torn = len(rest)
        if tree.size < self.signed:
            raise Fault("the journal ends before the checkpoint", tree.size)
        if not self.whole(self.signed):
            raise Fault("the checkpoint is of a part of a batch")

    def whole(self, size: int) -> bool:
        """Whether no batch crosses `size`, as far back as the journal reaches."""
        return self.pruned or size in self.ends or size < min(self.ends)

    def _append(self, batch: Batch, tree: Tree) -> None:
        if batch.first != tree.size:
            raise Fault(f"a batch begins with record {batch.first} in its place", tree.size)
        for index, record in enumerate(batch.records, batch.first):
            leaf = leaf_hash(record)
            if index == len(self.leaves):
                self._take(record, leaf)
            elif leaf != self.leaves[index]:
                raise Fault("is not the same in the journal as in the tiles", index)
            tree.push(self.leaves[index])
        if batch.after != tree.size or batch.root != tree.root():
            raise Fault(
                f"the root in the batch of records {batch.first} to {tree.size - 1} is wrong",
                batch.first,
            )

    def _passing(self, name: str) -> bool:
        """Whether a file is a tile of an upcoming or former checkpoint, with correct content."""
        if not (tile := TILE.fullmatch(name)):
            return False
        level, first, width, row = (
            tile[1],
            int(re.sub("[x/]", "", tile[2])) * 256,
            int(tile[3] or 256),
            self.leaves,
        )
        for _ in range(0 if level == "entries" else int(level)):
            row = level_above(row)
        if tile_path(level, first // 256, width) != name or len(row) < first + width:
            return False
        data = (self.folder / name).read_bytes()
        return (
            b"".join(row[first : first + width]).startswith(data)
            if level != "entries"
            else self._begin(data, first, width)
        )

    def _begin(self, data: bytes, first: int, width: int) -> bool:
        """Whether a file holds `width` records from `first` on, or ends inside one of them."""
        at = 0
        try:
            for index, record in enumerate(frames(data, width, first), first):
                at += 2 + len(record)
                if leaf_hash(record) != self.leaves[index]:
                    return False
        except Fault as cut:
            if cut.index is None:
                raise
            record = self.recent.get(cut.index)
            return record is not None and (len(record).to_bytes(2, "big") + record).startswith(
                data[at:]
            )
        return True
