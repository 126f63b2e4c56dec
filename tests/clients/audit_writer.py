"""Writes valid and invalid audit logs from docs/AUDIT.md alone, to test the verifiers."""

from __future__ import annotations

import base64
import json
import struct
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from audit_verifier import crc32c

NAME, RECORD_KEY, SALT = "gateway.example", bytes(range(32)), b"sixteen of salt."
OWN_KEY = HKDF(SHA256(), 32, SALT, b"token-shield record 1").derive(RECORD_KEY)
IDENTIFIERS = (b"\xfftoken-shield ML-DSA-65", b"\x01")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Signer:
    """Both keys of an epoch."""

    def __init__(self, origin: str) -> None:
        self.origin, self.keys = (
            origin,
            (MLDSA65PrivateKey.generate(), Ed25519PrivateKey.generate()),
        )
        self.publics = [
            i + key.public_key().public_bytes_raw()
            for i, key in zip(IDENTIFIERS, self.keys, strict=True)
        ]
        self.ids = [
            sha256(origin.encode() + b"\n" + public).digest()[:4] for public in self.publics
        ]
        self.vkeys = "".join(
            f"{origin}+{i.hex()}+{b64(public)}\n"
            for i, public in zip(self.ids, self.publics, strict=True)
        )

    def lines(self, text: str) -> list[str]:
        return [
            f"— {self.origin} {b64(self.ids[at] + self.keys[at].sign(text.encode()))}\n"
            for at in (0, 1)
        ]

    def note(self, records: list[bytes], size: str | None = None, root: str | None = None) -> str:
        text = f"{self.origin}\n{size or len(records)}\n{root or b64(mth(leaves(records)))}\n"
        return text + "\n" + "".join(self.lines(text))


ONE, TWO, THREE, OTHER = (
    Signer(f"{NAME}/{epoch}") for epoch in ("e000001", "e000002", "e000003", "e000001")
)
VKEYS = ONE.vkeys + TWO.vkeys + THREE.vkeys


def leaves(records: list[bytes]) -> list[bytes]:
    return [sha256(b"\0" + record).digest() for record in records]


def mth(hashes: list[bytes]) -> bytes:
    """RFC 6962, 2.1, literally."""
    if len(hashes) < 2:
        return hashes[0] if hashes else sha256(b"").digest()
    k = 1 << (len(hashes) - 1).bit_length() - 1
    return sha256(b"\1" + mth(hashes[:k]) + mth(hashes[k:])).digest()


def inclusion(index: int, hashes: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1, literally."""
    if len(hashes) < 2:
        return []
    k = 1 << (len(hashes) - 1).bit_length() - 1
    if index < k:
        return [*inclusion(index, hashes[:k]), mth(hashes[k:])]
    return [*inclusion(index - k, hashes[k:]), mth(hashes[:k])]


def moment(number: int) -> str:
    return (datetime(2026, 11, 21, 8, 15, 30) + timedelta(milliseconds=number * 250)).isoformat(
        timespec="milliseconds"
    ) + "Z"


def compact(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def plain(number: int, kind: str = "start", **inside: object) -> bytes:
    return compact({"at": moment(number), "kind": kind, "payload": inside, "v": 1})


def sealed(number: int, **inside: object) -> bytes:
    rest = f'{{"at":"{moment(number)}",%s"key":"{"A" * 22}","kind":"admission","v":1}}'
    ciphertext = SALT + AESGCM(OWN_KEY).encrypt(bytes(12), compact(inside), (rest % "").encode())
    text = base64.urlsafe_b64encode(ciphertext).decode().rstrip("=")
    return (rest % f'"ciphertext":"{text}",').encode()


def records(count: int) -> list[bytes]:
    return [
        sealed(at // 3, request=at) if at % 3 else plain(at // 3, version="ä😀\n", place=at)
        for at in range(count)
    ]


def tile(index: int, width: int) -> str:
    digits = str(index).zfill(-(-len(str(index)) // 3) * 3)
    above = "".join(f"x{digits[at : at + 3]}/" for at in range(0, len(digits) - 3, 3))
    return above + digits[-3:] + (f".p/{width}" if width < 256 else "")


def framed(some: list[bytes]) -> bytes:
    return b"".join(len(record).to_bytes(2, "big") + record for record in some)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def tiles(some: list[bytes]) -> dict[str, bytes]:
    """All tiles of a checkpoint over these records, by their paths in the epoch."""
    found = {
        f"tile/entries/{tile(at // 256, len(some[at : at + 256]))}": framed(some[at : at + 256])
        for at in range(0, len(some), 256)
    }
    level, row = 0, leaves(some)
    while row:
        for at in range(0, len(row), 256):
            found[f"tile/{level}/{tile(at // 256, len(row[at : at + 256]))}"] = b"".join(
                row[at : at + 256]
            )
        level, row = level + 1, [mth(row[at : at + 256]) for at in range(0, len(row) - 255, 256)]
    return found


def write_tiles(epoch: Path, some: list[bytes]) -> None:
    for name, data in tiles(some).items():
        put(epoch / name, data)


def batch(before: list[bytes], some: list[bytes], root: bytes | None = None) -> bytes:
    header = struct.pack(">8sQII", b"TSBATCH1", len(before), len(some), len(framed(some)))
    data = header + crc32c(header).to_bytes(4, "big") + framed(some)
    data += struct.pack(">Q32s", len(before) + len(some), root or mth(leaves(before + some)))
    data += sha256(data).digest()
    return data + bytes(-len(data) % 512)


def write_journal(
    epoch: Path,
    some: list[bytes],
    first: int = 0,
    each: int = 40,
    segment: int = 160,
    signed: int = 0,
) -> None:
    """Writes a journal from record `first` on: batches of `each` records in segments of `segment`.

    One batch ends at the checkpoint's size.
    """
    for start in range(first, len(some) + 1, segment):
        stop = min(start + segment, len(some))
        ends = sorted({*range(start, stop, each), stop, *({signed} & {*range(start, stop)})})
        data = b"".join(
            batch(some[:at], some[at:end]) for at, end in zip(ends, ends[1:], strict=False)
        )
        put(epoch / f"journal/{start:020}", data + bytes(4096))


def write_epoch(
    folder: Path, signer: Signer, some: list[bytes], signed: int | None, first: int | None = 0
) -> Path:
    """Writes an epoch whose checkpoint covers `signed` records.

    Its journal, if it has one, begins with record `first`.
    """
    epoch = folder / signer.origin.rpartition("/")[2]
    put(epoch / "lock", b"")
    if signed is not None:
        put(epoch / "checkpoint", signer.note(some[:signed]).encode())
        write_tiles(epoch, some[:signed])
    if first is not None:
        write_journal(epoch, some, first, signed=signed or 0)
    return epoch


def opening(before: list[bytes], number: int = 1000, **other: object) -> bytes:
    previous = {
        "origin": ONE.origin,
        "size": len(before),
        "root": b64(mth(leaves(before))),
        **other,
    }
    return plain(number, "epoch", previous=previous, reason="asked for")


def head_slot(size: int, root: bytes, number: int, origin: str = ONE.origin) -> bytes:
    text = f"token-shield head 1\n{origin}\n{size}\n{b64(root)}\n{number}\n".encode()
    return (text + b64(sha256(text).digest()).encode()).ljust(512, b"\n")


def write_head(path: Path, some: list[bytes], notes: list[str], origin: str = ONE.origin) -> None:
    """Writes a head that acknowledges all of `some`; the last of `notes` is the newest."""
    slots = [
        bytes(512),
        head_slot(len(some), mth(leaves(some)), 7, origin),
        bytes(8192),
        bytes(8192),
    ]
    for number, note in enumerate(notes):
        total = b64(sha256(b"%d\n" % number + note.encode()).digest())
        text = f"token-shield note 1\n{number}\n{total}\n{note}"
        slots[2 + number % 2] = text.encode().ljust(8192, b"\0")
    path.write_bytes(b"".join(slots))
