"""The audit verifier: links between epochs, losses, and logs that are being written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from audit_checks import check, fault, flip, sample_log
from audit_writer import (
    ONE,
    TWO,
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
    write_journal,
    write_tiles,
)


@pytest.fixture
def log(folder: Path) -> Path:
    return sample_log(folder)


def two_epochs(
    folder: Path, first: bytes, *, signed: int | None = 10, journal: bool = False
) -> Path:
    write_epoch(folder, ONE, records(300), 300, 0 if journal else None)
    write_epoch(folder, TWO, [first, *(plain(1000 + at) for at in range(20))], signed)
    return folder


def test_epochs_are_linked(folder: Path) -> None:
    good = opening(records(300))
    assert [epoch.size for epoch in check(two_epochs(folder / "good", good), head=False)] == [
        300,
        21,
    ]
    assert check(two_epochs(folder / "new", good, signed=None), head=False)[1].signed_root is None
    write_head(folder / "head", records(300), [ONE.note(records(300))])
    assert check(folder / "good")
    for place, (bad, says) in enumerate(
        [
            (opening(records(299)), "previous is not"),
            (opening(records(300), root=b64(bytes(32))), "previous is not"),
            (opening(records(300), origin=TWO.origin), "previous is not"),
            (opening(records(300), 5), "time is before"),
            (plain(1000, "epoch"), "previous is not"),
            (plain(1000), "of kind epoch"),
            (sealed(1000).replace(b"admission", b"epoch"), "previous"),
        ]
    ):
        fault(two_epochs(folder / str(place), bad), f"e000002.*{says}", 0)
    shutil.rmtree(folder / "2/e000001")
    fault(folder / "2", "previous is not", 0)
    fault(two_epochs(folder / "open", good, journal=True), "its journal is not empty")
    (folder / "good/e000001/checkpoint").unlink()
    fault(folder / "good", "checkpoint")
    shutil.rmtree(folder / "good/e000001")
    assert [epoch.origin for epoch in check(folder / "good", head=False)] == [TWO.origin], (
        "a part that was moved elsewhere"
    )
    fault(folder / "good", "begins with e000002", head=True)
    shutil.rmtree(folder / "good/e000002")
    fault(folder / "good", "no epoch")


def test_an_epoch_that_lost_something_stays_as_it_is(folder: Path) -> None:
    """700 records, 660 under the checkpoint; the next epoch states whether records were lost."""
    some, says = records(700), opening(records(660)).replace(b"asked for", b"after-loss: a disk")
    write_epoch(folder, ONE, some, 660, 500)
    write_epoch(folder, TWO, [says, plain(1001)], 1)
    assert [(epoch.size, epoch.signed, epoch.lost) for epoch in check(folder, head=False)] == [
        (700, 660, "a disk"),
        (2, 1, None),
    ]
    write_tiles(folder / "e000001", some)
    segment = folder / f"e000001/journal/{660:020}"
    segment.write_bytes(segment.read_bytes()[:-4096] + b"torn")
    assert check(folder, head=False)[0].torn == 4
    flip(segment, 100)
    fault(folder, "e000001: tile/0/002.p/188 does not belong")
    shutil.rmtree(segment.parent)
    shutil.rmtree(folder / "e000001/tile")
    write_tiles(folder / "e000001", some[:660])
    assert check(folder, head=False)[0].size == 660
    flip(folder / "e000001/tile/entries/000", 100)
    fault(folder, "tile/0/000 has not the hashes", 1)
    flip(folder / "e000001/tile/entries/000", 100)
    write_journal(folder / "e000001", some, 500, signed=660)
    for other in (
        opening(some[:660]),
        opening(some[:660], reason="after-loss: "),
        says.replace(b"after-loss: ", b"after-loss:"),
    ):
        write_epoch(folder, TWO, [other], 1)
        fault(folder, "its journal is not empty")
    for count, bad in ((700, False), (699, True), (701, True)):
        left = (
            f'"left":{{"root":"{b64(mth(leaves((some + some)[:count])))}",'
            f'"size":{count}}},"previous"'
        )
        write_epoch(folder, TWO, [says.replace(b'"previous"', left.encode())], 1)
        if bad:
            fault(folder, "the loss has left", 700)
        assert bad or check(folder, head=False)[0].size == 700
    newer = opening(records(690)).replace(b"asked for", b"after-loss: a disk")
    write_epoch(folder, TWO, [newer], 1)
    assert check(folder, head=False)[0].signed == 660, "the head knew of a newer checkpoint"
    never = write_epoch(folder / "never", ONE, some[:7], None)
    write_epoch(folder / "never", TWO, [opening([]).replace(b"asked for", b"after-loss: ")], 1)
    assert [(epoch.size, epoch.signed) for epoch in check(folder / "never", head=False)] == [
        (7, 0),
        (1, 1),
    ]
    put(never / "checkpoint", ONE.note(some[:7]).encode())
    write_tiles(never, some[:7])
    fault(folder / "never", "e000002, record 0: previous is not", 0)


def test_a_live_log_may_have_tiles_of_other_checkpoints(log: Path) -> None:
    for size in (590, 699, 700):
        write_tiles(log / "e000001", records(size))
    fault(log, "does not belong")
    assert check(log, live=True)[0].signed == 600
    path = log / "e000001/tile/entries/002.p/187"
    data = path.read_bytes()
    for cut in (0, 1, 500, len(data) - 1):
        path.write_bytes(data[:cut])
        assert check(log, live=True), "a crash left the beginning of it"
    for bad in (data[:-1] + b"x", data + b"x", data[:500] + b"x", data[:2] + b"xx"):
        path.write_bytes(bad)
        fault(log, "does not belong|too many", live=True)
    path.write_bytes(data)
    for name in (
        "tile/0/002.p/189",
        "tile/0/002",
        "tile/2/000.p/1",
        "tile/0/x000/002.p/180",
        "tile/other",
    ):
        put(log / "e000001" / name, b"")
        fault(log, "does not belong", live=True)
        (log / "e000001" / name).unlink()
