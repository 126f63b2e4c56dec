"""Checks of the audit verifier on written logs, shared by its test files."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_verifier import (
    Epoch,
    Fault,
    verify,
)
from audit_writer import (
    ONE,
    VKEYS,
    put,
    records,
    write_epoch,
    write_head,
)


def sample_log(folder: Path) -> Path:
    """700 records, 600 of them under the checkpoint, and a journal from record 500 on."""
    write_epoch(folder / "audit", ONE, records(700), 600, 500)
    write_head(folder / "head", records(700), [ONE.note(records(600))])
    put(folder / "audit/reserve", bytes(1000))
    put(folder / "audit/tmp/half", b"whatever")
    return folder / "audit"


def check(log: Path, *, head: bool = True, live: bool = False) -> list[Epoch]:
    return verify(log, VKEYS, log.parent / "head" if head else None, live)


def fault(
    log: Path, says: str, index: int | None = None, *, head: bool = False, live: bool = False
) -> None:
    with pytest.raises(Fault, match=says) as raised:
        check(log, head=head, live=live)
    assert raised.value.index == index, raised.value


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
