"""Verifies an audit log from docs/AUDIT.md alone, sharing no code with the gateway:

    python audit_verifier.py DATA/audit --vkeys DATA/log.vkeys [--head DATA/secret/head] [--live] [--json]
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import reduce
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

ALGORITHMS = ((b"\xfftoken-shield ML-DSA-65", 1952, MLDSA65PublicKey), (b"\x01", 32, Ed25519PublicKey))
SECTOR, MAGIC, TORN = 512, b"TSBATCH1", 256 * 1024
NUMBER, HASH = "(0|[1-9][0-9]{0,15})", rb"([A-Za-z0-9+/]{43}=)"
TIME = rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}\.[0-9]{3}Z"
SEALED = re.compile(rb'\{"at":"(%s)",("box":"([\w-]+)",)"key":"([\w-]{22})","kind":"([a-z-]+)","v":1\}' % TIME)
TILE = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")
SIGNATURE = r"— ([^\s+\x00-\x1f]+) ([A-Za-z0-9+/]{7,}=*)\n"
CHECKPOINT = re.compile(rf"(([^\x00-\x1f]+)\n{NUMBER}\n{HASH.decode()}\n)\n((?:{SIGNATURE})+)")
HEAD = re.compile(rb"(token-shield head 1\n([^\n]+)\n%b\n%b\n(?P<number>[0-9]+)\n)(?P<sum>%b)\n*" % (NUMBER.encode(), HASH, HASH))
NOTE = re.compile(rb"token-shield note 1\n(?P<number>[0-9]+)\n(?P<sum>%b)\n([^\0]+)\0*" % HASH)
PROOF = re.compile(rf"c2sp\.org/tlog-proof@v1\n(?:extra ([^\n]*)\n)?index {NUMBER}\n((?:[^\n]+\n)*)\n(.*)", re.DOTALL)

_Note = NamedTuple("_Note", [("origin", str), ("size", int), ("root", str)])  # the root in base64, as it is written
_Batch = NamedTuple("_Batch", [("first", int), ("records", list[bytes]), ("after", int), ("root", bytes), ("end", int)])
_Keys = dict[tuple[str, bytes], tuple[int, MLDSA65PublicKey | Ed25519PublicKey]]  # by name and id: place in ALGORITHMS, key


class Fault(Exception):
    """The log is not what it should be. `index` is the first bad record in its epoch, where one can be named."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


@dataclass
class Epoch:
    """What was found in one epoch. Roots are in base64."""

    origin: str                # empty if neither a checkpoint nor a verifier key tells it
    size: int                  # records in all
    signed: int                # records under the checkpoint
    root: str                  # over all of them
    signed_root: str | None    # the checkpoint's, if there is one
    first: str | None          # time of the first record
    last: str | None           # time of the last
    torn: int = 0              # bytes of a torn batch behind the last whole one
    unfinished: bool = False   # the head holds a note that is newer than the checkpoint


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unbase64(text: str, what: str, url: bool = False) -> bytes:
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4) if url else text
    try:
        data = base64.b64decode(padded, validate=True)
    except ValueError:
        data = b""
    if _base64(data) != padded:
        raise Fault(f"{what} is not base64 as it should be written")
    return data


def _integer(digits: str) -> int:
    if abs(int(digits)) >= 1 << 53:
        raise ValueError("a number is too large")
    return int(digits)


JSON = json.JSONDecoder(
    object_pairs_hook=lambda pairs: dict(sorted(pairs, key=lambda pair: pair[0].encode("utf-16-be"))),
    parse_int=_integer, parse_float=_integer, parse_constant=_integer,
)


def _object(data: bytes) -> dict[str, Any]:
    """Reads an object in canonical JSON: what is read, written again, has to be the same bytes. Raises ValueErrors as well."""
    value = JSON.decode(data.decode())
    if not isinstance(value, dict) or json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() != data:
        raise Fault("is not an object in canonical JSON")
    return value


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), bit by bit: it is asked for 24 bytes at a time."""
    rest = 0xFFFFFFFF
    for at in range(8 * len(data)):
        rest ^= data[at // 8] >> at % 8 & 1
        rest = rest >> 1 ^ (0x82F63B78 if rest & 1 else 0)
    return rest ^ 0xFFFFFFFF


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class _Tree:
    """A tree that grows: its perfect subtrees, the largest first."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size, self.peaks = 0, []
        for leaf in leaves:
            self.push(leaf)

    def push(self, leaf: bytes) -> None:
        self.size = at = self.size + 1
        while not at & 1:
            leaf, at = _node(self.peaks.pop(), leaf), at >> 1
        self.peaks.append(leaf)

    def root(self) -> bytes:
        return reduce(lambda right, left: _node(left, right), reversed(self.peaks)) if self.peaks else sha256().digest()


def _level_above(row: list[bytes]) -> list[bytes]:
    """The hashes of the next level: one for every 256, leaving out a rest."""
    return [_Tree(row[at : at + 256]).root() for at in range(0, len(row) - 255, 256)]


def _tile(level: int | str, index: int, width: int) -> str:
    """A tile's path in its epoch; `level` is a number or `entries`."""
    path = f"{index % 1000:03}"
    while index := index // 1000:
        path = f"x{index % 1000:03}/{path}"
    return f"tile/{level}/{path}" + ("" if width == 256 else f".p/{width}")


def _frames(data: bytes, count: int, first: int) -> list[bytes]:
    """Takes apart exactly `count` records, each with its length before it."""
    records, at = [], 0
    for index in range(first, first + count):
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        if at > len(data):
            raise Fault("is cut off", index)
        records.append(data[start:at])
    if at != len(data):
        raise Fault(f"{len(data) - at} bytes too many behind record {first + count - 1}")
    return records


def _batch(data: bytes, at: int) -> _Batch | None:
    """The batch that begins at `at`, or nothing if there is no whole one."""
    if data[at : at + 8] != MAGIC or len(data) < at + 28:
        return None
    first, count, length, check = struct.unpack_from(">QIII", data, at + 8)
    hashed = at + 28 + length + 40
    end = hashed + 32 + -(hashed + 32) % SECTOR
    if crc32c(data[at : at + 24]) != check or end > len(data) or sha256(data[at:hashed]).digest() != data[hashed : hashed + 32]:
        return None
    if not count or data[hashed + 32 : end].strip(b"\0"):
        raise Fault("an empty batch, or one whose padding is not zero", first)
    after, root = struct.unpack_from(">Q32s", data, hashed - 40)
    return _Batch(first, _frames(data[at + 28 : hashed - 40], count, first), after, root, end)


def _batches(data: bytes) -> Iterator[_Batch]:
    at = 0
    while batch := _batch(data, at):
        yield batch
        at = batch.end


def _keys(vkeys: str) -> _Keys:
    found: _Keys = {}
    for line in filter(None, vkeys.split("\n")):
        name, written, key = [*line.split("+", 2), "", ""][:3]
        data = _unbase64(key, "a verifier key")
        identity = sha256(name.encode() + b"\n" + data).digest()[:4]
        if written != identity.hex():
            raise Fault(f"a verifier key's id is wrong: {line[:80]}")
        for place, (identifier, length, kind) in enumerate(ALGORITHMS):
            if data.startswith(identifier) and len(data) == len(identifier) + length:
                found[name, identity] = place, kind.from_public_bytes(data[len(identifier) :])
    return found


def _verified(note: str, keys: _Keys) -> _Note:
    """Reads a checkpoint and verifies both signatures, the first two in their order; those of others are passed over."""
    if not (parsed := CHECKPOINT.fullmatch(note)):
        raise Fault("checkpoint: not a signed note of three lines")
    places = []
    for name, text in re.findall(SIGNATURE, parsed[5]):
        signature = _unbase64(text, "checkpoint: a signature")
        place, key = keys.get((name, signature[:4]), (None, None))
        places.append(place if name == parsed[2] else None)
        try:
            if key:
                key.verify(signature[4:], parsed[1].encode())
        except (InvalidSignature, ValueError) as error:
            raise Fault(f"checkpoint: a signature does not verify ({('ML-DSA-65', 'Ed25519')[place]})") from error
    if places[:2] != [0, 1]:
        raise Fault("checkpoint: the first two signatures are not known ones by ML-DSA-65 and Ed25519")
    return _Note(parsed[2], int(parsed[3]), parsed[4])


def _newer(data: bytes, form: re.Pattern[bytes], *hashed: int) -> list[str] | None:
    """What is in the newer of two slots, if it is whole and in its place; the sum is over the groups `hashed`, by lines."""
    middle, slots = len(data) // 2, {}
    for place, slot in enumerate((form.fullmatch(data, 0, middle), form.fullmatch(data, middle))):
        if not slot or int(slot["number"]) % 2 != place:
            continue
        if sha256(b"\n".join(slot[group] for group in hashed)).digest() == base64.b64decode(slot["sum"]):
            slots[int(slot["number"])] = slot
    return [group.decode(errors="replace") for group in slots[max(slots)].groups()] if slots else None


def _head(data: bytes) -> tuple[_Note, str | None]:
    """What was acknowledged, and the newest note if there is one."""
    head, note = _newer(data[:1024], HEAD, 1), _newer(data[1024:], NOTE, 1, 4)
    if not head or len(data) != 2 * (512 + 8192):
        raise Fault("head: no slot is whole, or its length is wrong")
    return _Note(head[1], int(head[2]), head[3]), note[3] if note else None


def _shape(record: bytes) -> tuple[str, str, dict[str, Any] | None]:
    """Time, kind and, if it is not sealed, inside of a record in its one form."""
    if sealed := SEALED.fullmatch(record):
        box, key = (_unbase64(part.decode(), "box or key", url=True) for part in sealed.group(3, 4))
        if len(box) < 16 + len("{}") + 16 or len(key) != 16:
            raise Fault("box or key is too short")
        at, kind, plain = sealed[1].decode(), sealed[5].decode(), None
    else:
        value = _object(record)
        at, kind, plain = (value.get(name) for name in ("at", "kind", "plain"))
        right = value.keys() == {"at", "kind", "plain", "v"} and value["v"] is not True and value["v"] == 1
        if not right or not isinstance(plain, dict) or not re.fullmatch("[a-z-]+", str(kind)):
            raise Fault("has not the members of a record")
    if not re.fullmatch(TIME.decode(), str(at)) or not datetime.fromisoformat(at):
        raise Fault("at is no time as it should be written")
    return at, kind, plain


def _sealed(record: bytes) -> tuple[bytes, bytes]:
    """A sealed record's box, and the rest of it."""
    if not (sealed := SEALED.fullmatch(record)):
        raise Fault("is not a sealed record")
    return _unbase64(sealed[3].decode(), "box", url=True), record[: sealed.start(2)] + record[sealed.end(2) :]


def open_with(record: bytes, own_key: bytes) -> dict[str, Any]:
    """Opens a sealed record with its own key of 32 bytes, as `audit disclose` gives it."""
    box, rest = _sealed(record)
    try:
        return _object(AESGCM(own_key).decrypt(bytes(12), box[16:], rest))
    except (InvalidTag, ValueError) as error:
        raise Fault(f"does not open with this key, or to no canonical JSON: {error}") from error


def open_record(record: bytes, record_key: bytes) -> dict[str, Any]:
    """Opens a sealed record with the record key of its principal."""
    return open_with(record, HKDF(SHA256(), 32, _sealed(record)[0][:16], b"token-shield record 1").derive(record_key))


def record_at(folder: Path, epoch: str, index: int) -> bytes:
    """A record's bytes from the tiles or else the journal of an epoch (`e000001`), not verified."""
    for width in (256, *range(index % 256 + 1, 256)):
        if (path := folder / epoch / _tile("entries", index // 256, width)).is_file():
            return _frames(path.read_bytes(), width, index // 256 * 256)[index % 256]
    segments = sorted((folder / epoch / "journal").glob("*"))
    for batch in (batch for segment in segments for batch in _batches(segment.read_bytes())):
        if batch.first <= index < batch.first + len(batch.records):
            return batch.records[index - batch.first]
    raise Fault("is not in the log", index)


class _Walk:
    """Verifies one epoch from its first tile to the end of its journal."""

    def __init__(self, folder: Path, keys: _Keys, before: _Walk | None, closed: bool, live: bool) -> None:
        self.folder, self.before, self.closed = folder, before, closed
        self.at, self.first, self.torn = before.at if before else "", None, 0
        self.leaves: list[bytes] = []
        known = {name for name, _ in keys if name.endswith(f"/{folder.name}")}
        self.note, self.origin = None, min(known) if len(known) == 1 else ""
        if closed or (folder / "checkpoint").exists():
            self.note = _verified((folder / "checkpoint").read_bytes().decode(), keys)
            self.origin = self.note.origin
        if self.origin and self.origin.rpartition("/")[2] != folder.name:
            raise Fault(f"checkpoint: of another epoch, {self.origin}")
        self.signed = self.note.size if self.note else 0
        there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
        files = there.keys() - {"checkpoint", *self._tiles()} - {name for name, path in there.items() if path.is_dir()}
        segments = sorted(name for name in files if re.fullmatch("journal/[0-9]{20}", name))
        self._journal(segments)
        if before and not self.leaves and self.note:
            raise Fault("the first record, of kind epoch, is missing", 0)
        for name, path in sorted(there.items()):
            known = path.is_dir() or name not in files or name in segments or name == "lock" and not path.stat().st_size
            if path.is_symlink() or path.is_dir() and name.split("/")[0] not in ("tile", "journal") or \
                    not known and not (live and not closed and self._passing(name)):
                raise Fault(f"{name} does not belong here")
        roots = _base64(_Tree(self.leaves).root()), self.note.root if self.note else None
        self.epoch = Epoch(self.origin, len(self.leaves), self.signed, *roots, self.first, self.first and self.at, self.torn)

    def _take(self, record: bytes) -> None:
        index = len(self.leaves)
        try:
            at, kind, plain = _shape(record)
            if at < self.at:
                raise Fault(f"its time is before that of the record before, {self.at}")
            if (kind == "epoch") != (self.before is not None and index == 0):
                raise Fault("the first record of an epoch after the first, and no other, is of kind epoch")
            link = (plain or {}).get("previous") if kind == "epoch" else None
            if kind == "epoch" and not (isinstance(link, dict) and self.before.note._asdict().items() <= link.items()):
                raise Fault("previous is not the checkpoint of the epoch before")
        except (Fault, ValueError, RecursionError) as error:
            raise Fault(str(error), index) from error
        self.at, self.first = at, self.first or at
        self.leaves.append(sha256(b"\x00" + record).digest())

    def _tiles(self) -> list[str]:
        """Verifies all that the checkpoint calls for, and returns the names of these files."""
        names = []

        def files(level: int | str, count: int) -> Iterator[tuple[int, int, bytes]]:
            for index in range(0, count, 256):
                names.append(_tile(level, index // 256, min(256, count - index)))
                yield index, min(256, count - index), (self.folder / names[-1]).read_bytes()

        for index, width, data in files("entries", self.signed):
            for record in _frames(data, width, index):
                self._take(record)
        level, row = 0, self.leaves
        while row:
            for index, width, data in files(level, len(row)):
                if data != b"".join(row[index : index + width]):
                    bad = [at for at in range(index, index + width) if data[(at - index) * 32 :][:32] != row[at]]
                    raise Fault(f"{names[-1]} has not the hashes of the records", bad[0] if bad and not level else None)
            level, row = level + 1, _level_above(row)
        if self.note and _base64(_Tree(self.leaves).root()) != self.note.root:
            raise Fault("checkpoint: its root is not that of the records")
        return names

    def _journal(self, names: list[str]) -> None:
        """Walks the segments batch by batch to the end of the log."""
        if names and self.closed:
            raise Fault("the epoch is closed, but its journal is not empty")
        tree = _Tree(self.leaves[: int(names[0][-20:])]) if names else _Tree(self.leaves)
        for name in names:
            if int(name[-20:]) != tree.size:
                raise Fault(f"{name} does not follow what is before it", tree.size)
            data, end = (self.folder / name).read_bytes(), 0
            for batch in _batches(data):
                self._append(batch, tree)
                end = batch.end
            rest = data[end:].rstrip(b"\0")
            whole = any(rest[at : at + 8] == MAGIC and _batch(data, end + at) for at in range(SECTOR, len(rest), SECTOR))
            if rest and name != names[-1] or len(rest) > TORN or whole:
                raise Fault(f"{name}: what lies behind the last whole batch is no torn one", tree.size)
            self.torn = len(rest)
        if tree.size < self.signed:
            raise Fault("the journal ends before the checkpoint", tree.size)

    def _append(self, batch: _Batch, tree: _Tree) -> None:
        if batch.first != tree.size:
            raise Fault(f"a batch begins with record {batch.first} in its place", tree.size)
        for index, record in enumerate(batch.records, batch.first):
            if index == len(self.leaves):
                self._take(record)
            elif sha256(b"\x00" + record).digest() != self.leaves[index]:
                raise Fault("is not the same in the journal as in the tiles", index)
            tree.push(self.leaves[index])
        if batch.after != tree.size or batch.root != tree.root():
            raise Fault(f"the root in the batch of records {batch.first} to {tree.size - 1} is wrong", batch.first)

    def _passing(self, name: str) -> bool:
        """Whether a file is a tile of a checkpoint to come or gone, and what the records call for."""
        if not (tile := TILE.fullmatch(name)):
            return False
        level, first, width, row = tile[1], int(re.sub("[x/]", "", tile[2])) * 256, int(tile[3] or 256), self.leaves
        for _ in range(0 if level == "entries" else int(level)):
            row = _level_above(row)
        if _tile(level, first // 256, width) != name or len(row) < first + width:
            return False
        data = (self.folder / name).read_bytes()
        if level == "entries":
            data = b"".join(sha256(b"\x00" + record).digest() for record in _frames(data, width, first))
        return data == b"".join(row[first : first + width])


def _walks(folder: Path, keys: _Keys, live: bool, looks: int = 3) -> list[_Walk]:
    """Verifies the epochs one after the other, after a look at what else is there; what is live is looked at again."""
    epochs, walks = [], []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and path.name == f"e{len(epochs) + 1:06}":
            epochs.append(path)
        elif path.name != "tmp" and (path.name != "reserve" or not path.is_file() or path.read_bytes().strip(b"\0")):
            raise Fault(f"{path.name} does not belong here, follows a gap, or is not zeros")
    for path in epochs:
        try:
            walks.append(_Walk(path, keys, walks[-1] if walks else None, path != epochs[-1], live))
        except (Fault, OSError, UnicodeDecodeError) as error:
            if live and looks > 1:
                time.sleep(0.1)
                return _walks(folder, keys, live, looks - 1)
            index = getattr(error, "index", None)
            raise Fault(f"{path.name}{'' if index is None else f', record {index}'}: {error}", index) from error
    if not walks:
        raise Fault("there is no epoch")
    return walks


def _contains(walks: list[_Walk], note: _Note, what: str) -> _Walk:
    """The epoch that `note` is about, if its first records have that root."""
    walk = next((walk for walk in walks if f"/{walk.folder.name}" == note.origin[-8:] and walk.origin in ("", note.origin)), None)
    if walk is None or note.size > len(walk.leaves):
        raise Fault(f"{what}: says {note.size} records of {note.origin}, the log has fewer", len(walk.leaves) if walk else None)
    if _base64(_Tree(walk.leaves[: note.size]).root()) != note.root:
        raise Fault(f"{what}: the first {note.size} records of {note.origin} have another root")
    return walk


def verify(folder: Path, vkeys: str, head: Path | None = None, live: bool = False) -> list[Epoch]:
    """Verifies the log under `folder` (DATA/audit) with the verifier keys `vkeys`, and against the file `head` if there is one.

    With `live`, a gateway may be writing or have crashed: tiles of a checkpoint to come or gone are tolerated in the last
    epoch if they are what the records call for. A fault then has to be there on a third look as well.
    """
    keys = _keys(vkeys)
    said, newest = _head(head.read_bytes() if head.is_file() else b"") if head else (None, None)
    walks = _walks(folder, keys, live)
    if said:
        _contains(walks, said, "head")
    if newest:
        walk = _contains(walks, note := _verified(newest, keys), "the head's note")
        walk.epoch.unfinished = walk.note is None or note.size > walk.signed
    elif head and walks[0].note:
        raise Fault("head: no note in it is whole, but the log has a checkpoint")
    return [walk.epoch for walk in walks]


def since(folder: Path, vkeys: str, old_note: str) -> None:
    """Proves that the log, live or not, still contains the tree of an old checkpoint."""
    keys = _keys(vkeys)
    _contains(_walks(folder, keys, live=True), _verified(old_note, keys), "the old checkpoint")


def _root_by(path: list[bytes], leaf: bytes, index: int, size: int) -> bytes:
    """The root of a tree of `size` leaves, by an inclusion proof of one of them (RFC 6962, 2.1.1)."""
    if not 0 <= index < size or (size == 1) != (not path):
        raise Fault("proof: the number of hashes does not fit", index)
    if size == 1:
        return leaf
    left = 1 << (size - 1).bit_length() - 1
    if index < left:
        return _node(_root_by(path[:-1], leaf, index, left), path[-1])
    return _node(path[-1], _root_by(path[:-1], leaf, index - left, size - left))


def verify_proof(proof: str, record: bytes, vkeys: str) -> None:
    """Verifies by a C2SP tlog-proof that a record is in the tree of the checkpoint which the proof holds."""
    if not (lines := PROOF.fullmatch(proof)):
        raise Fault("proof: not a tlog-proof")
    _unbase64(lines[1] or "", "proof: extra")
    path, signed = [_unbase64(line, "proof: a hash") for line in lines[3].split("\n")[:-1]], _verified(lines[4], _keys(vkeys))
    if _base64(_root_by(path, sha256(b"\x00" + record).digest(), int(lines[2]), signed.size)) != signed.root:
        raise Fault("proof: the record is not in the tree", int(lines[2]))


def main() -> int:
    """Verifies a log from the command line; returns 0 if nothing is wrong with it."""
    parser = argparse.ArgumentParser(description="Verifies an audit log.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="DATA/audit")
    parser.add_argument("--vkeys", metavar="FILE", type=Path, required=True, help="the verifier keys, as in DATA/log.vkeys")
    parser.add_argument("--head", metavar="FILE", type=Path, help="DATA/secret/head")
    parser.add_argument("--live", action="store_true", help="a gateway is writing, or has crashed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    try:
        found = verify(asked.folder, asked.vkeys.read_text(), asked.head, asked.live)
    except (Fault, OSError, UnicodeDecodeError) as fault:
        print(json.dumps({"fault": str(fault), "index": getattr(fault, "index", None)}) if asked.json else f"FAULT: {fault}")
        return 1
    print(json.dumps({"epochs": [asdict(epoch) for epoch in found]}) if asked.json else "\n".join(map(str, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
