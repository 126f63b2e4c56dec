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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audit_epoch import EPOCH, Epoch, Walk, record_at
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
    Tree,
    crc32c,
    leaf_hash,
    node,
    open_record,
    open_with,
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

LOOKS = 3
PROOF = re.compile(
    rf"c2sp\.org/tlog-proof@v1\n(?:extra ([^\n]*)\n)?index {NUMBER}\n((?:[^\n]+\n)*)\n(.*)",
    re.DOTALL,
)


def _is_bare(path: Path, epoch: Path) -> bool:
    """Whether an epoch that has only such files and folders has not begun."""
    name = path.relative_to(epoch).as_posix()
    if path.is_symlink() or not path.is_dir():
        return name == "lock" and not path.is_symlink() and not path.stat().st_size
    return name in ("journal", "tile") or name.startswith("tile/")


def _walks(
    folder: Path, keys: Keys, live: bool, whole: bool = False, said: Note | None = None
) -> list[Walk]:
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
            walks.append(Walk(path, keys, walks[-1] if walks else None, after, live))
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
) -> list[Walk]:
    """Verifies the epochs; a live log is read again if there is a fault."""
    for _ in range(LOOKS - 1 if live else 0):
        try:
            return _walks(folder, keys, live, whole, said)
        except (Fault, OSError):
            time.sleep(0.1)
    return _walks(folder, keys, live, whole, said)


def _contains(walks: list[Walk], note: Note, what: str) -> Walk:
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
