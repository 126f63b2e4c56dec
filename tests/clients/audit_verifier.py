"""Verifies an audit log from docs/AUDIT.md alone, and shares no code with the gateway.

python audit_verifier.py DATA/audit --vkeys DATA/log.vkeys
                         [--head DATA/secret/head] [--live] [--json]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audit_notes import (
    NUMBER,
    Fault,
    Keys,
    Note,
    base64_of,
    head_and_note,
    unbase64,
    verified,
    verifier_keys,
)
from audit_records import (
    MAGIC,
    SECTOR,
    Batch,
    Tree,
    batch_at,
    batches,
    bundle,
    crc32c,
    frames,
    leaf_hash,
    level_above,
    node,
    open_record,
    open_with,
    perfect,
    root_of,
    shape,
    tile_path,
)

__all__ = [
    "Epoch",
    "Fault",
    "crc32c",
    "open_record",
    "open_with",
    "record_at",
    "since",
    "verify",
    "verify_disclosure",
    "verify_proof",
    "verify_receipt",
]

TORN, LOSS, LOOKS = 256 * 1024, "after-loss: ", 3
EPOCH = re.compile("e(?!000000)([0-9]{6})")
TILE = re.compile(
    r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?"
)
PROOF = re.compile(
    rf"c2sp\.org/tlog-proof@v1\n(?:extra ([^\n]*)\n)?index {NUMBER}\n((?:[^\n]+\n)*)\n(.*)",
    re.DOTALL,
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


class _Walk:
    """Verifies one epoch from its first tile to the end of its journal.

    A pruned epoch has hashes only, without leaves.
    """

    def __init__(
        self, folder: Path, keys: Keys, before: _Walk | None, after: Path | None, live: bool
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


def _is_bare(path: Path, epoch: Path) -> bool:
    """Whether an epoch that has only such files and folders has not begun."""
    name = path.relative_to(epoch).as_posix()
    if path.is_symlink() or not path.is_dir():
        return name == "lock" and not path.is_symlink() and not path.stat().st_size
    return name in ("journal", "tile") or name.startswith("tile/")


def _walks(
    folder: Path, keys: Keys, live: bool, whole: bool = False, said: Note | None = None
) -> list[_Walk]:
    """Verifies the epochs in order, after a check for other files.

    `whole` epochs start at the first.
    """
    epochs, walks = [], []
    for path in sorted(folder.iterdir()):
        number = EPOCH.fullmatch(path.name)
        if number and path.is_dir() and not path.is_symlink():
            epochs.append(path)
            if int(number[1]) != int(epochs[0].name[1:]) + len(epochs) - 1:
                raise Fault(f"{path.name} follows a gap")
        elif path.name != "tmp" and (
            path.name != "reserve"
            or path.is_symlink()
            or not path.is_file()
            or path.read_bytes().strip(b"\0")
        ):
            raise Fault(f"{path.name} does not belong here, or is not zeros")
    if not epochs or whole and epochs[0].name != "e000001":
        raise Fault(
            f"the log begins with {epochs[0].name}: epochs are missing"
            if epochs
            else "there is no epoch"
        )
    if len(epochs) > 1 and all(_is_bare(path, epochs[-1]) for path in epochs[-1].rglob("*")):
        epochs.pop()  # the epoch has not begun
    for path, after in zip(epochs, [*epochs[1:], None], strict=True):
        try:
            walks.append(_Walk(path, keys, walks[-1] if walks else None, after, live))
        except (Fault, OSError, UnicodeDecodeError) as error:
            index = getattr(error, "index", None)
            raise Fault(
                f"{path.name}{'' if index is None else f', record {index}'}: {error}", index
            ) from error
    for place, walk in enumerate(walks):
        if walk.pruned and not any(
            later.permits(walk.number, said) for later in walks[place + 1 :]
        ):
            raise Fault(
                f"{walk.folder.name}: its records are missing, and no later epoch says that they "
                "were pruned"
            )
    return walks


def _looked(
    folder: Path, keys: Keys, live: bool, whole: bool = False, said: Note | None = None
) -> list[_Walk]:
    """Verifies the epochs; a live log is read again if there is a fault."""
    for _ in range(LOOKS - 1 if live else 0):
        try:
            return _walks(folder, keys, live, whole, said)
        except (Fault, OSError):
            time.sleep(0.1)
    return _walks(folder, keys, live, whole, said)


def _contains(walks: list[_Walk], note: Note, what: str) -> _Walk:
    """The epoch of `note`, if its first records have that root."""
    walk = next(
        (
            walk
            for walk in walks
            if f"/{walk.folder.name}" == note.origin[-8:] and walk.origin in ("", note.origin)
        ),
        None,
    )
    if walk is None or note.size > walk.epoch.size:
        raise Fault(
            f"{what}: says {note.size} records of {note.origin}, the log has fewer",
            walk.epoch.size if walk else None,
        )
    if walk.pruned and note.size != walk.epoch.size:
        raise Fault(
            f"{what}: is from within {note.origin}, whose records were moved away: verify it "
            "against those"
        )
    if (
        walk.epoch.root if walk.pruned else base64_of(Tree(walk.leaves[: note.size]).root())
    ) != note.root:
        raise Fault(f"{what}: the first {note.size} records of {note.origin} have another root")
    if not walk.whole(note.size):
        raise Fault(f"{what}: is of a part of a batch")
    return walk


def verify(folder: Path, vkeys: str, head: Path | None = None, live: bool = False) -> list[Epoch]:
    """Verifies the log in `folder` (DATA/audit) with the keys `vkeys`, and against `head`.

    `head` may be absent. With `live`, a gateway may be writing or have crashed. Tiles of an
    upcoming or former checkpoint are then allowed in the last epoch if the records require their
    content. A fault counts only if it is still there on a third read. The head is read again too,
    because the gateway may write it during the read of the folder.
    """
    for _ in range(LOOKS - 1 if live and head else 0):
        try:
            return _verified(folder, vkeys, head, live)
        except (Fault, OSError):
            time.sleep(0.1)
    return _verified(folder, vkeys, head, live)


def _verified(folder: Path, vkeys: str, head: Path | None, live: bool) -> list[Epoch]:
    """One pass of `verify`."""
    keys = verifier_keys(vkeys)
    said, newest = (
        head_and_note(head.read_bytes() if head.is_file() else b"") if head else (None, None)
    )
    walks = _looked(folder, keys, live, head is not None, said)
    coming = said and not said.size and said.origin[-8:] == f"/e{walks[-1].number + 1:06}"
    current = _contains(walks, said, "head") if said and not coming else walks[-1]
    if newest:
        walk = _contains(walks, note := verified(newest, keys), "the head's note")
        walk.epoch.unfinished = walk.note is None or note.size > walk.signed
    elif head and current.note and not coming:
        raise Fault("head: no note in it is whole, but the log has a checkpoint")
    return [walk.epoch for walk in walks]


def since(folder: Path, vkeys: str, old_note: str) -> None:
    """Proves that the log, live or not, still contains the tree of an old checkpoint."""
    keys = verifier_keys(vkeys)
    _contains(_looked(folder, keys, live=True), verified(old_note, keys), "the old checkpoint")


def _root_by(path: list[bytes], leaf: bytes, index: int, size: int) -> bytes:
    """The root of a tree of `size` leaves, by an inclusion proof of one leaf (RFC 6962, 2.1.1)."""
    if not 0 <= index < size or (size == 1) != (not path):
        raise Fault("proof: the number of hashes does not fit", index)
    if size == 1:
        return leaf
    left = 1 << (size - 1).bit_length() - 1
    if index < left:
        return node(_root_by(path[:-1], leaf, index, left), path[-1])
    return node(path[-1], _root_by(path[:-1], leaf, index - left, size - left))


def verify_proof(proof: str, record: bytes, vkeys: str) -> None:
    """Verifies with a C2SP tlog-proof that a record is in the tree of the proof's checkpoint."""
    if not (lines := PROOF.fullmatch(proof)):
        raise Fault("proof: not a tlog-proof")
    unbase64(lines[1] or "", "proof: extra")
    path, signed = (
        [unbase64(line, "proof: a hash") for line in lines[3].split("\n")[:-1]],
        verified(lines[4], verifier_keys(vkeys)),
    )
    if base64_of(_root_by(path, leaf_hash(record), int(lines[2]), signed.size)) != signed.root:
        raise Fault("proof: the record is not in the tree", int(lines[2]))


def verify_receipt(receipt: str, vkeys: str) -> bytes:
    """Verifies a receipt, which is a tlog-proof with its record; returns the record."""
    if not (lines := PROOF.fullmatch(receipt)) or lines[1] is None:
        raise Fault("receipt: not a tlog-proof that carries a record")
    record = unbase64(lines[1], "receipt: the record")
    verify_proof(receipt, record, vkeys)
    return record


def verify_disclosure(line: str, vkeys: str) -> dict[str, Any]:
    """Verifies a line that `audit disclose` printed; returns the record's payload."""
    row = json.loads(line)
    if (
        not isinstance(row, dict)
        or row.keys() != {"bytes", "key", "proof", "record"}
        or not all(isinstance(row[name], str) for name in row)
    ):
        raise Fault("disclosure: not a line of audit disclose, or without a proof")
    record, key = (
        unbase64(row["bytes"], "disclosure: the record"),
        unbase64(row["key"], "disclosure: the key", url=True),
    )
    verify_proof(row["proof"], record, vkeys)
    lines = PROOF.fullmatch(row["proof"])
    if row["record"] != f"{lines[4].split(chr(10))[0].rpartition('/')[2]}#{lines[2]}":
        raise Fault("disclosure: the proof is of another record")
    if len(key) != 32:
        raise Fault("disclosure: not a key of 32 bytes")
    return open_with(record, key)


def main() -> int:
    """Verifies a log from the command line.

    Returns 0 if the log is valid, and 4 if no evidence shows where it ends.
    """
    parser = argparse.ArgumentParser(description="Verifies an audit log.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="DATA/audit")
    parser.add_argument(
        "--vkeys",
        metavar="FILE",
        type=Path,
        required=True,
        help="the verifier keys, as in DATA/log.vkeys",
    )
    parser.add_argument("--head", metavar="FILE", type=Path, help="DATA/secret/head")
    parser.add_argument("--live", action="store_true", help="a gateway is writing, or has crashed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    try:
        found = verify(asked.folder, asked.vkeys.read_text(), asked.head, asked.live)
    except (Fault, OSError, UnicodeDecodeError) as fault:
        print(
            json.dumps({"fault": str(fault), "index": getattr(fault, "index", None)})
            if asked.json
            else f"FAULT: {fault}"
        )
        return 1
    print(
        json.dumps({"epochs": [asdict(epoch) for epoch in found]})
        if asked.json
        else "\n".join(map(str, found))
    )
    if not asked.head:
        print("VALID PREFIX, END UNPROVEN: no head says where the log ends", file=sys.stderr)
    return 0 if asked.head else 4


if __name__ == "__main__":
    sys.exit(main())
