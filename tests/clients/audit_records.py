"""The records of an audit log (docs/AUDIT.md): form, decryption, tree, tiles and batches."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import reduce
from hashlib import sha256
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from audit_notes import Fault, unbase64

SECTOR, MAGIC, DEPTH = 512, b"TSBATCH1", 5
TIME = rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}\.[0-9]{3}Z"
SEALED = re.compile(
    rb'\{"at":"(%s)",("ciphertext":"([\w-]+)",)'
    rb'"key":"([\w-]{22})","kind":"([a-z-]+)","v":1\}' % TIME
)

Batch = NamedTuple(
    "Batch",
    [("first", int), ("records", list[bytes]), ("after", int), ("root", bytes), ("end", int)],
)


def _integer(digits: str) -> int:
    if not 0 <= int(digits) < 1 << 53:
        raise ValueError("a number is negative or too large")
    return int(digits)


JSON = json.JSONDecoder(
    object_pairs_hook=lambda pairs: dict(sorted(pairs)),
    parse_int=_integer,
    parse_float=_integer,
    parse_constant=_integer,
)


def _plain_names(value: Any, room: int = DEPTH) -> bool:
    """Whether all names in `value` are ASCII, and its nesting is at most `room` deep."""
    if not isinstance(value, dict | list):
        return True
    names, inside = (value.keys(), value.values()) if isinstance(value, dict) else ((), value)
    return (
        room > 0
        and all(map(str.isascii, names))
        and all(_plain_names(one, room - 1) for one in inside)
    )


def _object(data: bytes) -> dict[str, Any]:
    """Reads an object in canonical JSON: writing it again must give the same bytes.

    Also raises ValueError.
    """
    value = JSON.decode(data.decode())
    if (
        not isinstance(value, dict)
        or json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() != data
    ):
        raise Fault("is not an object in canonical JSON")
    if not _plain_names(value):
        raise Fault("has names that are not ASCII, or is nested too deeply")
    return value


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), bit by bit; the input is only 24 bytes at a time."""
    rest = 0xFFFFFFFF
    for at in range(8 * len(data)):
        rest ^= data[at // 8] >> at % 8 & 1
        rest = rest >> 1 ^ (0x82F63B78 if rest & 1 else 0)
    return rest ^ 0xFFFFFFFF


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def root_of(peaks: list[bytes]) -> bytes:
    """The root over perfect subtrees, largest first."""
    return (
        reduce(lambda right, left: node(left, right), reversed(peaks))
        if peaks
        else sha256().digest()
    )


def perfect(row: tuple[bytes, ...]) -> bytes:
    """The root over 256 hashes."""
    while len(row) > 1:
        row = tuple(map(node, row[::2], row[1::2]))
    return row[0]


class Tree:
    """A tree that grows, stored as its perfect subtrees, largest first."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.size, self.peaks, row = 0, [], tuple(leaves)
        whole = len(row) // 256 * 256
        for at in range(0, whole, 256):
            self._push(perfect(row[at : at + 256]), 256)
        for leaf in row[whole:]:
            self.push(leaf)

    def push(self, leaf: bytes) -> None:
        self._push(leaf, 1)

    def _push(self, root: bytes, width: int) -> None:
        self.size += width
        at = self.size // width
        while not at & 1:
            root, at = node(self.peaks.pop(), root), at >> 1
        self.peaks.append(root)

    def root(self) -> bytes:
        return root_of(self.peaks)


def level_above(row: list[bytes]) -> list[bytes]:
    """The hashes of the next level: one for every 256 hashes; an incomplete group is left out."""
    return [perfect(tuple(row[at : at + 256])) for at in range(0, len(row) - 255, 256)]


def tile_path(level: int | str, index: int, width: int) -> str:
    """A tile's path in its epoch; `level` is a number or `entries`."""
    path = f"{index % 1000:03}"
    while index := index // 1000:
        path = f"x{index % 1000:03}/{path}"
    return f"tile/{level}/{path}" + ("" if width == 256 else f".p/{width}")


def frames(data: bytes, count: int, first: int) -> Iterator[bytes]:
    """Splits data into exactly `count` records, each after its length."""
    at = 0
    for index in range(first, first + count):
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        if at > len(data):
            raise Fault("is cut off", index)
        yield data[start:at]
    if at != len(data):
        raise Fault(f"{len(data) - at} bytes too many behind record {first + count - 1}")


def leaf_hash(record: bytes) -> bytes:
    return sha256(b"\x00" + record).digest()


def bundle(
    data: bytes, hashes: bytes, count: int, first: int
) -> tuple[list[tuple[bytes, bytes]], Fault | None]:
    """The records of an entry tile that match `hashes`, and the error in the next record."""
    found: list[tuple[bytes, bytes]] = []
    try:
        for place, record in enumerate(frames(data, count, first)):
            if (leaf := leaf_hash(record)) != hashes[32 * place : 32 * place + 32]:
                return found, Fault(
                    f"{tile_path(0, first // 256, count)} has not the hashes of the records",
                    first + place,
                )
            found.append((record, leaf))
    except Fault as fault:
        return found, fault
    return found, None


def batch_at(data: bytes, at: int) -> Batch | None:
    """The batch that begins at `at`, or None if it is incomplete."""
    if data[at : at + 8] != MAGIC or len(data) < at + 28:
        return None
    first, count, length, check = struct.unpack_from(">QIII", data, at + 8)
    hashed = at + 28 + length + 40
    end = hashed + 32 + -(hashed + 32) % SECTOR
    if (
        crc32c(data[at : at + 24]) != check
        or end > len(data)
        or sha256(data[at:hashed]).digest() != data[hashed : hashed + 32]
    ):
        return None
    if not count or data[hashed + 32 : end].strip(b"\0"):
        raise Fault("an empty batch, or one whose padding is not zero", first)
    after, root = struct.unpack_from(">Q32s", data, hashed - 40)
    return Batch(first, list(frames(data[at + 28 : hashed - 40], count, first)), after, root, end)


def batches(data: bytes) -> Iterator[Batch]:
    at = 0
    while batch := batch_at(data, at):
        yield batch
        at = batch.end


def shape(record: bytes) -> tuple[str, str, dict[str, Any] | None]:
    """Time, kind and, if the record is not sealed, payload of a record in canonical form."""
    if sealed := SEALED.fullmatch(record):
        ciphertext, key = (
            unbase64(part.decode(), "ciphertext or key", url=True) for part in sealed.group(3, 4)
        )
        if len(ciphertext) < 16 + len("{}") + 16 or len(key) != 16:
            raise Fault("ciphertext or key is too short")
        at, kind, plain = sealed[1].decode(), sealed[5].decode(), None
    else:
        value = _object(record)
        at, kind, plain = (value.get(name) for name in ("at", "kind", "payload"))
        right = (
            value.keys() == {"at", "kind", "payload", "v"}
            and value["v"] is not True
            and value["v"] == 1
        )
        if not right or not isinstance(plain, dict) or not re.fullmatch("[a-z-]+", str(kind)):
            raise Fault("has not the members of a record")
    if not re.fullmatch(TIME.decode(), str(at)) or not datetime.fromisoformat(at):
        raise Fault("at is no time as it should be written")
    return at, kind, plain


def _sealed(record: bytes) -> tuple[bytes, bytes]:
    """The ciphertext of a sealed record, and the other members."""
    if not (sealed := SEALED.fullmatch(record)):
        raise Fault("is not a sealed record")
    return unbase64(sealed[3].decode(), "ciphertext", url=True), record[: sealed.start(2)] + record[
        sealed.end(2) :
    ]


def open_with(record: bytes, own_key: bytes) -> dict[str, Any]:
    """Opens a sealed record with its 32-byte key, as `audit disclose` prints it."""
    ciphertext, rest = _sealed(record)
    try:
        return _object(AESGCM(own_key).decrypt(bytes(12), ciphertext[16:], rest))
    except (InvalidTag, ValueError) as error:
        raise Fault(f"does not open with this key, or to no canonical JSON: {error}") from error


def open_record(record: bytes, record_key: bytes) -> dict[str, Any]:
    """Opens a sealed record with the record key of its principal."""
    return open_with(
        record,
        HKDF(SHA256(), 32, _sealed(record)[0][:16], b"token-shield record 1").derive(record_key),
    )
