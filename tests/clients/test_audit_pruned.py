"""Pruned epochs, in logs written from docs/AUDIT.md: files that may be missing, or must not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from audit_verifier import Epoch, Fault, record_at, since, verify
from audit_writer import (
    ONE,
    THREE,
    TWO,
    VKEYS,
    Signer,
    b64,
    framed,
    leaves,
    moment,
    mth,
    opening,
    plain,
    put,
    records,
    sealed,
    write_epoch,
    write_head,
)

FIRST = records(600)
SECOND = [opening(FIRST), *(plain(1000 + at) for at in range(299))]
LINK = opening(SECOND, 2000, origin=TWO.origin)


def pruned(through: object, number: int = 2000) -> bytes:
    return plain(number, "pruned", through=through)


def prune(epoch: Path, *, full: bool = True) -> None:
    """Removes the records, and with `full` all tiles of hashes that the root does not need."""
    shutil.rmtree(epoch / "tile/entries")
    for path in [
        path
        for path in epoch.glob("tile/**/*")
        if full and path.is_file() and ".p/" not in path.as_posix()
    ]:
        path.unlink()


def write(
    folder: Path,
    *says: bytes,
    gone: Iterable[str] = ("e000001",),
    second: list[bytes] = SECOND,
    link: bytes = LINK,
) -> Path:
    """Writes three epochs and a head; `says` are records of the last one, `gone` are pruned."""
    third = [link, *says, plain(3000), plain(3001)]
    for signer, some, signed in ((ONE, FIRST, 600), (TWO, second, len(second))):
        write_epoch(folder / "audit", signer, some, signed, None)
    write_epoch(folder / "audit", THREE, third, len(third) - 1)
    write_head(folder / "head", third, [THREE.note(third[:-1])], THREE.origin)
    for epoch in gone:
        prune(folder / "audit" / epoch)
    return folder / "audit"


def check(log: Path, *, head: bool = True) -> list[Epoch]:
    return verify(log, VKEYS, log.parent / "head" if head else None)


def fault(log: Path, says: str, index: int | None = None, *, head: bool = True) -> None:
    with pytest.raises(Fault, match=says) as raised:
        check(log, head=head)
    assert raised.value.index == index, raised.value


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_pruned_log_passes(folder: Path) -> None:
    log = write(folder, pruned("e000001"))
    first, second, third = check(log)
    root = b64(mth(leaves(FIRST)))
    assert first == Epoch(ONE.origin, 600, 600, root, root, None, None, pruned=True)
    assert (second.size, second.pruned, second.first) == (
        300,
        False,
        moment(1000),
    ) and not third.pruned
    assert check(log, head=False) == [first, second, third]
    with pytest.raises(Fault, match="not in the log"):
        record_at(log, "e000001", 5)
    (folder / "vkeys").write_text(VKEYS)
    script = [
        sys.executable,
        str(Path(__file__).with_name("audit_verifier.py")),
        str(log),
        "--vkeys",
        str(folder / "vkeys"),
        "--json",
    ]
    done = subprocess.run(
        [*script, "--head", str(folder / "head")], capture_output=True, text=True, check=True
    )
    assert [epoch["pruned"] for epoch in json.loads(done.stdout)["epochs"]] == [True, False, False]


BOTH, SAID_IN_SECOND = ("e000001", "e000002"), [SECOND[0], pruned("e000001", 1000), *SECOND[1:]]


@pytest.mark.parametrize(
    ("says", "gone", "second"),
    [
        ([], [], SECOND),
        ([pruned("e000002")], [], SECOND),  # they may be missing, but need not be
        ([pruned("e000002")], ["e000001"], SECOND),
        ([pruned("e000002")], ["e000002"], SECOND),
        ([pruned("e000002")], BOTH, SECOND),
        ([pruned("e000001"), pruned("e000002")], BOTH, SECOND),
        ([pruned("e000002"), pruned("e000001")], BOTH, SECOND),
        ([pruned("e000009")], BOTH, SECOND),
        ([], ["e000001"], SAID_IN_SECOND),
        ([pruned("e000002")], BOTH, SAID_IN_SECOND),
    ],
)
def test_a_record_of_a_later_epoch_says_so(
    folder: Path, says: list[bytes], gone: list[str], second: list[bytes]
) -> None:
    link = opening(second, 2000, origin=TWO.origin)
    found = check(write(folder, *says, gone=gone, second=second, link=link))
    assert [epoch.origin[-7:] for epoch in found if epoch.pruned] == list(gone)


@pytest.mark.parametrize(
    ("says", "gone", "second", "missing"),
    [
        ([], ["e000001"], SECOND, "e000001"),
        ([], ["e000002"], SECOND, "e000002"),
        ([pruned("e000001")], ["e000002"], SECOND, "e000002"),
        ([pruned("e000001")], BOTH, SECOND, "e000002"),
        ([], BOTH, SAID_IN_SECOND, "e000001"),  # the record that permits it is missing too
        ([], ["e000002"], [SECOND[0], pruned("e000002", 1000)], "e000002"),
        ([plain(2000, "start", through="e000002")], ["e000001"], SECOND, "e000001"),
    ],
)
def test_without_it_missing_records_are_a_fault(
    folder: Path, says: list[bytes], gone: list[str], second: list[bytes], missing: str
) -> None:
    link = opening(second, 2000, origin=TWO.origin)
    fault(
        write(folder, *says, gone=gone, second=second, link=link),
        f"{missing}: its records are missing",
    )


@pytest.mark.parametrize(
    "bad",
    [
        *(
            pruned(through)
            for through in (
                "e1",
                "1",
                "e000000",
                "E000001",
                "e0000001",
                " e000001",
                1,
                None,
                ["e000001"],
            )
        ),
        plain(2000, "pruned"),
        sealed(2000).replace(b"admission", b"pruned"),
    ],
)
def test_the_record_has_one_form(folder: Path, bad: bytes) -> None:
    fault(write(folder, bad, pruned("e000001")), "e000003, record 1: through is no epoch", 1)


def test_the_partial_tiles_give_the_root(folder: Path) -> None:
    log = write(folder, pruned("e000001"))
    kept = sorted(
        path.relative_to(log).as_posix() for path in log.glob("e000001/tile/**/*") if path.is_file()
    )
    assert kept == ["e000001/tile/0/002.p/88", "e000001/tile/1/000.p/2"]
    for path in map(log.joinpath, kept):
        data = path.read_bytes()
        flip(path, 40)
        fault(log, "e000001: checkpoint: its root is not that of the tiles")
        for bad in (data[:-1], data + data[:32], b""):
            path.write_bytes(bad)
            fault(log, "has not the hashes")
        path.unlink()
        fault(log, "e000001: .*No such file")
        path.write_bytes(data)
    for name in (
        "tile/0/002.p/87",
        "tile/0/003",
        "tile/1/000",
        "tile/2/000.p/1",
        "tile/entries.p/1",
        "x",
    ):
        put(log / "e000001" / name, b"")
        fault(log, "does not belong here")
        (log / "e000001" / name).unlink()
    put(log / f"e000001/journal/{600:020}", bytes(512))
    fault(log, "its journal is not empty")


def test_full_tiles_that_remain_are_what_the_others_say(folder: Path) -> None:
    log = write(folder, pruned("e000001"), gone=())
    prune(log / "e000001", full=False)
    for name in ("001", "000", None):
        assert check(log)[0].pruned
        for path in (log / "e000001/tile/0").glob("00[01]"):
            data = path.read_bytes()
            flip(path, 999)
            fault(log, "tile/1/000.p/2 has not")
            path.write_bytes(data[:-32])
            fault(log, f"tile/0/{path.name} has not")
            path.write_bytes(data)
        if name:
            (log / "e000001/tile/0" / name).unlink()


def test_full_tiles_of_two_levels(folder: Path) -> None:
    """More than 65,536 records: tiles above and, if complete, tiles below verify a tile."""
    many, signer = [plain(1)] * (65536 + 256 + 3), Signer("gateway.example/e000001")
    epoch = write_epoch(folder, signer, many, len(many), None)
    link = {"origin": signer.origin, "size": len(many), "root": b64(mth(leaves(many)))}
    second = [plain(2, "epoch", previous=link, reason=""), pruned("e000001", 2)]
    write_epoch(folder, TWO, second, 2, None)
    prune(epoch, full=False)
    tiles = {path: path.read_bytes() for path in epoch.glob("tile/*/*") if path.is_file()}
    assert len(tiles) == 256 + 1 + 1

    def passes() -> bool:
        try:
            return verify(folder, signer.vkeys + TWO.vkeys)[0].pruned
        except Fault as found:
            assert "has not the hashes of the tiles below it" in str(found)
            return False

    bottom, above = epoch / "tile/0/003", epoch / "tile/1/000"
    assert passes()
    above.unlink()
    assert passes(), "the tiles below give it"
    flip(bottom, 5)
    assert not passes()
    (epoch / "tile/0/004").unlink()
    assert passes(), "what is above it and beside it is gone: nothing tells what it was"
    above.write_bytes(tiles[above])
    assert not passes()
    bottom.write_bytes(tiles[bottom])
    assert passes()
    flip(above, 32 * 4)
    assert not passes()
    for path in tiles:
        path.unlink(missing_ok=True)
    assert passes()


def test_records_go_as_a_whole_and_from_closed_epochs_only(folder: Path) -> None:
    log = write(folder, pruned("e000009"), gone=())
    for name in ("e000001/tile/entries/001", "e000001/tile/0/001", "e000002/tile/entries/001.p/44"):
        data = (log / name).read_bytes()
        (log / name).unlink()
        fault(log, f"{name[:7]}: .*No such file")
        (log / name).write_bytes(data)
    prune(log / "e000003")
    fault(log, "e000003: .*No such file")


def test_the_chain_goes_over_pruned_epochs(folder: Path) -> None:
    says, gone = pruned("e000002"), ("e000002",)
    for place, link in enumerate(
        [
            opening(SECOND[:-1], 2000, origin=TWO.origin),
            opening(SECOND, 2000),
            opening(FIRST, 2000),
            LINK.replace(b":300", b":301"),
        ]
    ):
        fault(
            write(folder / f"link{place}", says, gone=gone, link=link),
            "e000003, record 0: previous is not",
            0,
        )
    early = opening(SECOND, 100, origin=TWO.origin)
    fault(
        write(folder / "early", says, gone=gone, link=early),
        "e000003, record 0: its time is before",
        0,
    )
    assert check(write(folder / "unknown", says, gone=BOTH, link=early)), (
        "the times that were before it are gone"
    )
    log = write(folder / "other", says, gone=gone)
    (log / "e000002/checkpoint").write_text(TWO.note(SECOND[:-1]))
    fault(log, "e000002: .*No such file|e000002: checkpoint")


def test_first_epochs_may_be_missing_where_no_head_is_verified(folder: Path) -> None:
    whole = write(folder, pruned("e000001"))
    shutil.rmtree(whole / "e000001")
    fault(whole, "begins with e000002")
    assert [epoch.origin for epoch in check(whole, head=False)] == [TWO.origin, THREE.origin]
    prune(whole / "e000002")
    fault(whole, "e000002: its records are missing", head=False)
    shutil.rmtree(whole / "e000002")
    assert [epoch.origin for epoch in check(whole, head=False)] == [THREE.origin]
    for place, bad in enumerate(
        [plain(5), plain(5, "epoch"), opening(FIRST), LINK.replace(b"root", b"Root")]
    ):
        write_epoch(folder / str(place), THREE, [bad, plain(4000)], 2, None)
        with pytest.raises(Fault, match="e000003, record 0"):
            verify(folder / str(place), VKEYS)


def test_what_was_moved_away_is_a_log_of_its_own(folder: Path) -> None:
    log = write(folder, pruned("e000002"), gone=())
    shutil.copytree(log / "e000002", folder / "moved/e000002")
    assert check(folder / "moved", head=False)[0].size == 300
    shutil.copytree(log / "e000001", folder / "moved/e000001")
    assert [epoch.size for epoch in check(folder / "moved", head=False)] == [600, 300]
    for epoch in BOTH:
        prune(log / epoch)
    assert [epoch.pruned for epoch in check(log)] == [True, True, False]
    put(log / "e000001/tile/entries/000", framed(FIRST[:256]))
    fault(log, "e000001: .*No such file")


def test_old_checkpoints_and_heads_of_pruned_epochs(folder: Path) -> None:
    log = write(folder, pruned("e000001"))
    since(log, VKEYS, ONE.note(FIRST))
    since(log, VKEYS, TWO.note(SECOND[:7]))
    for note, says in (
        (ONE.note(FIRST[:256]), "records were moved away"),
        (ONE.note([*FIRST, plain(5)]), "601"),
        (ONE.note(FIRST[::-1]), "another root"),
    ):
        with pytest.raises(Fault, match=says):
            since(log, VKEYS, note)
    write_head(folder / "head", FIRST, [ONE.note(FIRST)])
    assert check(log)
    write_head(folder / "head", FIRST[::-1], [ONE.note(FIRST)])
    fault(log, "head: the first 600 records of .* have another root")


def test_an_epoch_begins_with_its_folder(folder: Path) -> None:
    log = write(folder, gone=())
    for name in ("journal", ""):
        (log / "e000004" / name).mkdir(parents=True, exist_ok=True)
        assert [epoch.origin for epoch in check(log)] == [ONE.origin, TWO.origin, THREE.origin]
    (log / "e000004/lock").touch()
    assert len(check(log)) == 3
    put(log / "e000004/journal/x", b"")
    fault(log, "e00000[34]")
