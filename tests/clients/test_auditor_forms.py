"""Canonical forms: both verifiers refuse the same logs, which are written from docs/AUDIT.md.

Base64 has one form, and an epoch has one beginning.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import audit_verifier
from audit_writer import (
    ONE,
    TWO,
    VKEYS,
    b64,
    leaves,
    mth,
    opening,
    plain,
    put,
    records,
    sealed,
    write_epoch,
    write_head,
)
from gateway import binary

STANDARD = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
URL = STANDARD[:-2] + "-_"
FIRST = records(20)


def stray(text: str) -> str:
    """The same bytes for a lenient reader: a bit is set after the last byte."""
    body = text.rstrip("=")
    assert len(body) % 4 in (2, 3), "there are bits to spare"
    alphabet = URL if "-" in body or "_" in body or body == text else STANDARD
    return body[:-1] + alphabet[alphabet.index(body[-1]) + 1] + text[len(body) :]


class Log:
    def __init__(
        self, folder: Path, first: list[bytes] = FIRST, second: list[bytes] | None = None
    ) -> None:
        self.data, self.audit = folder, folder / "audit"
        self.second = second or [opening(FIRST), plain(1001), sealed(1002, request=1)]
        write_epoch(self.audit, ONE, first, len(first), None)
        write_epoch(self.audit, TWO, self.second, len(self.second))
        write_head(folder / "head", self.second, [TWO.note(self.second)], TWO.origin)
        (folder / "vkeys").write_text(VKEYS)

    def edit(self, path: Path, change: Callable[[str], str]) -> None:
        before = path.read_bytes().decode(errors="surrogateescape")
        after = change(before)
        assert after != before
        path.write_bytes(after.encode(errors="surrogateescape"))

    def judged(self) -> tuple[bool, bool]:
        """Whether the gateway's verifier and the Python verifier accept the log."""
        theirs = binary(
            "audit",
            "verify",
            str(self.audit),
            "--log-keys",
            str(self.data / "vkeys"),
            "--head",
            str(self.data / "head"),
        )
        assert theirs.code in (0, 1), theirs.err
        try:
            audit_verifier.verify(self.audit, (self.data / "vkeys").read_text(), self.data / "head")
        except audit_verifier.Fault:
            return theirs.code == 0, False
        return theirs.code == 0, True


def last(pattern: str) -> Callable[[str], str]:
    """Changes the last text that the pattern's group matches."""

    def change(text: str) -> str:
        found = list(re.finditer(pattern, text))[-1]
        return text[: found.start(1)] + stray(found[1]) + text[found.end(1) :]

    return change


def test_an_honest_log_is_taken(folder: Path) -> None:
    assert Log(folder).judged() == (True, True)


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("audit/e000001/checkpoint", r"\n20\n(\S+)\n"),
        ("audit/e000001/checkpoint", r"— \S+ (\S{3000,})\n"),
        ("audit/e000001/checkpoint", r"— \S+ (\S{80,99})\n"),
        ("vkeys", r"e000001\+\w+\+(\S{2000,})\n"),
        ("head", r"\n3\n(\S+)\n7\n"),
        ("head", r"\n7\n(\S{43}=)\n"),
    ],
)
def test_base64_with_stray_bits_is_refused(folder: Path, file: str, pattern: str) -> None:
    log = Log(folder)
    log.edit(folder / file, last(pattern))
    assert log.judged() == (False, False)


@pytest.mark.parametrize("member", ["ciphertext", "key"])
def test_a_record_with_stray_bits_is_refused(folder: Path, member: str) -> None:
    for length in range(3):
        record = sealed(1003, request="x" * length).decode()
        text = re.search(rf'"{member}":"([^"]+)"', record)[1]
        if len(text) % 4 == 0:
            continue
        changed = record.replace(text, stray(text)).encode()
        log = Log(folder / str(length), second=[opening(FIRST), changed])
        assert log.judged() == (False, False)


def test_what_an_epoch_follows_is_written_in_one_way(folder: Path) -> None:
    root = stray(b64(mth(leaves(FIRST))))
    assert Log(folder, second=[opening(FIRST, root=root), plain(1001)]).judged() == (False, False)


def test_a_notes_sum_with_stray_bits_is_no_whole_slot(folder: Path) -> None:
    log = Log(folder)
    log.edit(folder / "head", last(r"note 1\n0\n(\S+)\n"))
    assert log.judged() == (False, False), "the only note in the head is not whole"


def test_empty_folders_of_a_last_epoch_do_not_count(folder: Path) -> None:
    log = Log(folder)
    for name in ("journal", "tile/0/x001", "tile/entries"):
        (log.audit / "e000003" / name).mkdir(parents=True)
        assert log.judged() == (True, True), name
    put(log.audit / "e000003/lock", b"")
    assert log.judged() == (True, True)
    for name in ("other", "journal/00000000000000000000"):
        (log.audit / "e000003" / name).mkdir()
        assert log.judged() == (False, False), name
        (log.audit / "e000003" / name).rmdir()
    put(log.audit / "e000003/tile/entries/000", b"")
    assert log.judged() == (False, False), "a file is a beginning"
