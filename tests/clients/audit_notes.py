"""The signed notes of an audit log (docs/AUDIT.md): verifier keys, checkpoints, and the head."""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey

ALGORITHMS = (
    (b"\xfftoken-shield ML-DSA-65", 1952, MLDSA65PublicKey),
    (b"\x01", 32, Ed25519PublicKey),
)
NUMBER, HASH = "(0|[1-9][0-9]{0,15})", rb"([A-Za-z0-9+/]{43}=)"
SIGNATURE = r"— ([^\s+\x00-\x1f]+) ([A-Za-z0-9+/]{7,}=*)\n"
CHECKPOINT = re.compile(rf"(([^\x00-\x1f]+)\n{NUMBER}\n{HASH.decode()}\n)\n((?:{SIGNATURE})+)")
HEAD = re.compile(
    rb"(token-shield head 1\n([^\n]+)\n%b\n%b\n(?P<number>0|[1-9][0-9]*)\n)(?P<sum>%b)\n*"
    % (NUMBER.encode(), HASH, HASH)
)
NOTE = re.compile(
    rb"token-shield note 1\n(?P<number>0|[1-9][0-9]*)\n(?P<sum>%b)\n([^\0]+)\0*" % HASH
)

Note = NamedTuple(
    "Note", [("origin", str), ("size", int), ("root", str)]
)  # the root in base64, as written
Keys = dict[
    tuple[str, bytes], tuple[int, MLDSA65PublicKey | Ed25519PublicKey]
]  # by name and id: index in ALGORITHMS, key


class Fault(Exception):
    """An error in the log. `index` is the first bad record in its epoch, if one can be named."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def unbase64(text: str, what: str, url: bool = False) -> bytes:
    padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4) if url else text
    try:
        data = base64.b64decode(padded, validate=True)
    except ValueError:
        data = b""
    if base64_of(data) != padded:
        raise Fault(f"{what} is not base64 as it should be written")
    return data


def verifier_keys(vkeys: str) -> Keys:
    found: Keys = {}
    for line in filter(None, vkeys.split("\n")):
        name, written, key = [*line.split("+", 2), "", ""][:3]
        data = unbase64(key, "a verifier key")
        identity = sha256(name.encode() + b"\n" + data).digest()[:4]
        if written != identity.hex():
            raise Fault(f"a verifier key's id is wrong: {line[:80]}")
        for place, (identifier, length, kind) in enumerate(ALGORITHMS):
            if data.startswith(identifier) and len(data) == len(identifier) + length:
                found[name, identity] = place, kind.from_public_bytes(data[len(identifier) :])
    return found


def verified(note: str, keys: Keys) -> Note:
    """Reads a checkpoint and verifies the first two signatures in order; others are ignored."""
    if not (parsed := CHECKPOINT.fullmatch(note)):
        raise Fault("checkpoint: not a signed note of three lines")
    signatures = [
        (name, unbase64(text, "checkpoint: a signature"))
        for name, text in re.findall(SIGNATURE, parsed[5])
    ]
    for wanted, (name, signature) in enumerate(signatures[:2]):
        place, key = keys.get((name, signature[:4]), (None, None))
        if name != parsed[2] or place != wanted:
            break
        try:
            key.verify(signature[4:], parsed[1].encode())
        except (InvalidSignature, ValueError) as error:
            raise Fault(
                f"checkpoint: a signature does not verify ({('ML-DSA-65', 'Ed25519')[place]})"
            ) from error
    else:
        if len(signatures) > 1:
            return Note(parsed[2], int(parsed[3]), parsed[4])
    raise Fault("checkpoint: the first two signatures are not known ones by ML-DSA-65 and Ed25519")


def _newer(data: bytes, form: re.Pattern[bytes], *hashed: int) -> list[str] | None:
    """The newer of two slots' contents that is complete and in its slot.

    The checksum covers `hashed`, by lines.
    """
    middle, slots = len(data) // 2, {}
    for place, slot in enumerate((form.fullmatch(data, 0, middle), form.fullmatch(data, middle))):
        if not slot or int(slot["number"]) % 2 != place:
            continue
        if (
            base64_of(sha256(b"\n".join(slot[group] for group in hashed)).digest()).encode()
            == slot["sum"]
        ):
            slots[int(slot["number"])] = slot
    return (
        [group.decode(errors="replace") for group in slots[max(slots)].groups()] if slots else None
    )


def head_and_note(data: bytes) -> tuple[Note, str | None]:
    """The acknowledged state, and the newest note if there is one."""
    head, note = _newer(data[:1024], HEAD, 1), _newer(data[1024:], NOTE, 1, 4)
    if not head or len(data) != 2 * (512 + 8192):
        raise Fault("head: no slot is whole, or its length is wrong")
    return Note(head[1], int(head[2]), head[3]), note[3] if note else None
