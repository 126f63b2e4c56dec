"""The audit verifier, on logs written from docs/AUDIT.md: it detects every violation."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from audit_checks import (
    check,
    fault,
    flip,
    sample_log,
)
from audit_verifier import (
    Epoch,
    Fault,
    crc32c,
    record_at,
    verify,
)
from audit_writer import (
    ONE,
    OTHER,
    TWO,
    VKEYS,
    b64,
    batch,
    framed,
    head_slot,
    leaves,
    moment,
    mth,
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


@pytest.mark.parametrize("tail", [0, 1, 300])
@pytest.mark.parametrize("signed", [None, 0, 1, 255, 256, 257, 700])
def test_a_good_log_passes(folder: Path, signed: int | None, tail: int) -> None:
    some = records((signed or 0) + tail)
    write_epoch(folder, ONE, some, signed, (signed or 0) // 2)
    root, signed_root = (
        b64(mth(leaves(some))),
        None if signed is None else b64(mth(leaves(some[:signed]))),
    )
    first, last = (moment(0), moment((len(some) - 1) // 3)) if some else (None, None)
    assert verify(folder, VKEYS) == [
        Epoch(ONE.origin, len(some), signed or 0, root, signed_root, first, last)
    ]
    assert [record_at(folder, "e000001", index) for index in range(len(some))] == some
    with pytest.raises(Fault):
        record_at(folder, "e000001", len(some))


def test_indexes_of_more_than_three_digits(folder: Path) -> None:
    some = [plain(1)] * (1000 * 256 + 3)
    write_epoch(folder, ONE, some, len(some), None)
    assert (folder / "e000001/tile/0/x001/000.p/3").exists() and (
        folder / "e000001/tile/2/000.p/3"
    ).exists()
    assert verify(folder, VKEYS)[0].signed == len(some)


def test_the_head_and_what_is_around_the_epochs(log: Path) -> None:
    [epoch] = check(log)
    assert (epoch.size, epoch.signed, epoch.torn, epoch.unfinished) == (700, 600, 0, False)
    write_head(log.parent / "head", records(660), [ONE.note(records(500)), ONE.note(records(660))])
    assert check(log)[0].unfinished, (
        "the note is newer than the checkpoint, and not newer than the records"
    )
    write_head(log.parent / "head", records(650), [ONE.note(records(600))])
    fault(log, "head: is of a part of a batch", head=True)


def test_a_slot_of_the_head_that_is_not_whole_counts_as_empty(log: Path) -> None:
    write_head(
        path := log.parent / "head", records(700), [ONE.note(records(600)), ONE.note(records(700))]
    )
    data = path.read_bytes()
    path.write_bytes(head_slot(660, mth(leaves(records(660))), 6) + data[512:])
    flip(path, 512 + 30)
    flip(path, 1024 + 8192 + 500)
    assert not check(log)[0].unfinished
    flip(path, 30)
    fault(log, "no slot is whole", head=True)
    path.write_bytes(data[512:1024] + data[:512] + data[1024:])
    fault(log, "no slot is whole", head=True)
    path.write_bytes(data[:1024] + bytes(2 * 8192))
    fault(log, "no note in it is whole", head=True)


def test_the_log_is_never_shorter_than_the_head_or_another(log: Path) -> None:
    write_head(path := log.parent / "head", records(701), [ONE.note(records(600))])
    fault(log, "says 701 records", 700, head=True)
    write_head(path, records(699) + [plain(500)], [ONE.note(records(600))])
    fault(log, "another root", head=True)
    write_head(path, records(700), [ONE.note(records(701))])
    fault(log, "says 701 records", 700, head=True)
    write_head(path, records(700), [OTHER.note(records(600))])
    fault(log, "signatures are not", head=True)
    path.write_bytes(path.read_bytes().replace(b"e000001", b"e000003"))
    fault(log, "no slot is whole", head=True)


def test_every_byte_counts(log: Path) -> None:
    """Flips one byte in each file: at its beginning, in its middle and at its end."""
    whole = shutil.copytree(log.parent, log.parent.parent / "whole")
    files = [
        path
        for path in log.rglob("*")
        if path.is_file() and path.stat().st_size and path.name != "half"
    ]
    for path in files:
        size = path.stat().st_size - 4096 * (
            path.parent.name == "journal"
        )  # the rest of the last segment may be torn
        for at in (0, size // 2, size - 1):
            flip(path, at)
            with pytest.raises(Fault):
                check(log)
            shutil.copyfile(whole / path.relative_to(log.parent), path)
    assert check(log)


def test_no_file_can_go_or_come(log: Path) -> None:
    for path in [
        path
        for path in log.rglob("*")
        if path.is_file() and path.name not in ("reserve", "half", "lock")
    ]:
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(Fault):
            check(log)
        path.write_bytes(data)
    lock = log / "e000001/lock"
    lock.write_bytes(b"1")
    fault(log, "lock does not belong")
    lock.unlink()
    for name in (
        "e000001/tile/0/003",
        "e000001/tile/entries/002.p/89",
        "e000001/notes",
        "x",
        "e000001/tile/0/000.p/255",
        "e000000/lock",
        "e000001/journal/1",
        "e000001/tile/2/000.p/1",
        "e000001/checkpoint.old",
        "e000003/checkpoint",
        "e000001/x/y",
    ):
        put(log / name, b"")
        fault(log, "does not belong here|gap")
        (log / name).unlink()
        if not any((log / name).parent.iterdir()):
            (log / name).parent.rmdir()
        assert check(log)
    lock.write_bytes(b"")
    for name in ("e000001/lock", "e000001/checkpoint", "e000001/tile/0/000", "reserve", "e000001"):
        (log / name).rename(elsewhere := log.parent / "elsewhere")
        (log / name).symlink_to(elsewhere)
        fault(log, "does not belong here")
        (log / name).unlink()
        elsewhere.rename(log / name)
    assert check(log)


def test_records_cannot_be_swapped_or_put_in_anothers_place(folder: Path) -> None:
    some, swapped = records(300), records(300)
    swapped[7], swapped[8] = swapped[8], swapped[7]
    epoch = write_epoch(folder, ONE, some, 300, None)
    put(epoch / "tile/entries/000", framed(swapped[:256]))
    fault(folder, "tile/0/000 has not", 7)
    put(
        epoch / "tile/entries/000",
        framed([*some[:7], some[7].replace(b":30.", b":59."), *some[8:256]]),
    )
    fault(folder, "tile/0/000 has not", 7)  # not the next one, which would be earlier
    put(epoch / "tile/entries/000", framed(some[:256]))
    flip(epoch / "tile/entries/000", len(framed(some[:7])) + 1)
    fault(folder, "tile/0/000 has not", 7)  # not a record that the changed length moves
    write_tiles(epoch, swapped)
    fault(folder, "root is not that")
    write_tiles(epoch, some)
    write_journal(epoch, swapped)
    fault(folder, "not the same in the journal", 7)


def test_both_signatures_of_the_right_keys_are_needed(folder: Path) -> None:
    some = records(3)
    path = write_epoch(folder, ONE, some, 3) / "checkpoint"
    text, mldsa, ed25519 = (
        ONE.note(some).partition("\n\n")[0] + "\n",
        *ONE.note(some).splitlines(keepends=True)[-2:],
    )
    witness = f"— witness.example {b64(b'1234' + bytes(64))}\n"
    body, stale, root = text + "\n", ONE.lines(text + "x"), text.split("\n")[2]
    both = body + mldsa + ed25519
    bad: dict[str, list[str]] = {
        "not a signed note": [
            "",
            text,
            body,
            text + mldsa + ed25519,
            text + "extension\n\n" + mldsa + ed25519,
            both + "\n",
            both[:-1],
            both + "witness\n",
            body + mldsa + ed25519.replace("— ", "- "),
            ONE.note(some, root=root[:-1]),
            *(ONE.note(some, size=size) for size in ("03", "+3", "3 ", "-3")),
            ONE.note(some, root=root + "\r"),
        ],
        "first two signatures": [
            OTHER.note(some),
            body + mldsa,
            body + ed25519,
            body + ed25519 + mldsa,
            body + mldsa + mldsa,
            body + mldsa + witness,
            body + mldsa + OTHER.lines(text)[1],
            body + OTHER.lines(text)[0] + ed25519,
            body + witness + mldsa + ed25519,
        ],
        "does not verify": [
            body + stale[0] + ed25519,
            body + mldsa + stale[1],
            body + stale[0] + mldsa + ed25519,
            both.replace("\n3\n", "\n4\n"),
        ],
        "not base64": [body + mldsa + ed25519[:-3] + chr(ord(ed25519[-3]) + 1) + "=\n"],
        "root is not that": [
            ONE.note(some, root=b64(bytes(32))),
            ONE.note(some, root="A" * 42 + "B="),
        ],
        "of another epoch": [TWO.note(some)],
    }
    for says, notes in bad.items():
        for note in notes:
            path.write_text(note)
            fault(folder, says)
    for behind in (witness, stale[1], ed25519, OTHER.lines(text)[0]):
        path.write_text(both + behind)
        assert check(folder, head=False)
    with pytest.raises(Fault, match="id is wrong"):
        verify(folder, VKEYS.replace(ONE.ids[0].hex(), ONE.ids[1].hex()))
    with pytest.raises(Fault, match="first two signatures"):
        verify(folder, OTHER.vkeys)


def spoilt(old: bytes, new: bytes, record: bytes = plain(0, place=5, text="ä\n")) -> bytes:
    assert old in record
    return record.replace(old, new, 1)


@pytest.mark.parametrize(
    "bad",
    [
        *(
            spoilt(b":5", b":" + bad)
            for bad in (
                b" 5",
                b"5.0",
                b"05",
                b"-0",
                b"5e0",
                b"9007199254740992",
                b"NaN",
                b'5,"place":5',
            )
        ),
        *(spoilt("ä".encode(), bad) for bad in (b"\\u00e4", b"\xe4", b"\\ud800")),
        spoilt(b"\\n", b"\\u000a"),
        *(spoilt(b'"v":1', bad) for bad in (b'"v":2', b'"v":true', b'"v":1,"w":1', b'"v":1 ')),
        spoilt(b'"kind":"start",', b""),
        spoilt(b'"start"', b"1"),
        spoilt(b'{"place":5,"text"', b'{"text":"","place"'),
        *(spoilt(b".000Z", bad) for bad in (b"Z", b".000+00:00", b".000z")),
        spoilt(b"-21T", b"-31T"),
        spoilt(b"T08", b" 08"),
        spoilt(b":30.", b":60."),
        *(
            spoilt(old, new, sealed(0))
            for old, new in (
                (b'"v":1', b'"v":2'),
                (b'"key":"A', b'"key":"AA'),
                (b'AA","kind', b'AB","kind'),
                (b'"ciphertext"', b'"Ciphertext"'),
                (b"T08", b"T24"),
                (b'"kind"', b'"payload":{},"kind"'),
                (b'","key', b'=","key'),
                (b"-21T", b"-31T"),
            )
        ),
        sealed(0).replace(sealed(0).split(b'"')[7], b"AAAA"),
        spoilt(b"}", b"]", plain(0)).replace(b":{", b":["),
        b"",
        b"[]",
        b"{}",
        b"\xef\xbb\xbf" + plain(0),
        b"[" * 60000,
        plain(0, **{"ä": 1}),
        plain(0, a=-1),
        plain(0, a=[[[[]]]]),
        plain(0, "epoch", previous={}),
        sealed(0).replace(b"admission", b"epoch"),
    ],
)
def test_a_record_has_one_form(folder: Path, bad: bytes) -> None:
    some = [plain(0, a=[[{"B b": 2**53 - 1}]], b="\x7f\u2028😀"), sealed(0), bad, plain(0)]
    write_epoch(folder / "tiles", ONE, some, 4, None)
    fault(folder / "tiles", "e000001, record 2", 2)
    write_epoch(folder / "journal", ONE, some, 1)
    fault(folder / "journal", "e000001, record 2", 2)


@pytest.mark.parametrize("signed", [0, 9, 10, 20])
def test_time_never_goes_back(folder: Path, signed: int) -> None:
    write_epoch(
        folder,
        ONE,
        [*(plain(5 + at // 2) for at in range(10)), sealed(8), *(plain(20) for _ in range(9))],
        signed,
    )
    fault(folder, "time is before", 10)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data, at: data.replace(b"TSBATCH1", b"TSBATCH2", 1),
        lambda data, at: data[:at] + data[at + 512 :],
        lambda data, at: data[:at] + data[:512] + data[at:],
        lambda data, at: data[: at - 1] + b"x" + data[at:],
        lambda data, at: batch(records(16), records(24)[16:], bytes(32)) + data[at:],
        lambda data, at: batch(records(15), records(24)[15:]) + data[at:],
        lambda data, at: batch(records(16), []) + data,
    ],
)
def test_the_journal_is_walked_batch_by_batch(
    folder: Path, spoil: Callable[[bytes, int], bytes]
) -> None:
    assert crc32c(b"123456789") == 0xE3069283
    some = records(50)
    epoch = write_epoch(folder, ONE, some, 24, None)
    write_journal(epoch, some, first=16, each=8, segment=16)
    path = epoch / f"journal/{16:020}"
    assert check(folder, head=False)
    path.write_bytes(spoil(path.read_bytes(), len(batch(some[:16], some[16:24]))))
    with pytest.raises(Fault, match="batch"):
        check(folder, head=False)


def test_segments_follow_each_other_and_the_checkpoint(folder: Path) -> None:
    some = records(50)
    epoch = write_epoch(folder, ONE, some, 20, None)
    write_journal(epoch, some, first=21)
    fault(folder, "does not follow", 20)
    shutil.rmtree(epoch / "journal")
    put(epoch / f"journal/{0:020}", batch([], some[:10]) + bytes(512))
    fault(folder, "ends before the checkpoint", 10)
    put(epoch / f"journal/{0:020}", batch([], some[:30]))
    fault(folder, "of a part of a batch")


def test_one_torn_batch_may_lie_at_the_end(log: Path) -> None:
    path, next_one = log / f"e000001/journal/{660:020}", batch(records(700), records(740)[700:])
    whole = path.read_bytes()[:-4096]
    path.write_bytes(whole + next_one[:-512] + bytes(9999))
    assert check(log)[0].torn == len((next_one[:-512]).rstrip(b"\0"))
    path.write_bytes(whole + bytes(1024) + b"x" + bytes(9999))
    assert check(log)[0].torn == 1025
    path.write_bytes(whole + bytes(256 * 1024) + b"x" + bytes(9999))
    fault(log, "is no torn one", 700)
    path.write_bytes(whole + bytes(512) + next_one)
    fault(log, "is no torn one", 700)
    path.write_bytes(whole + bytes(512))
    before = log / f"e000001/journal/{500:020}"
    before.write_bytes(before.read_bytes() + b"x")
    fault(log, "is no torn one", 660)
