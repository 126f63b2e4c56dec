"""Both verifiers detect any change below audit/, and name a changed record.

The head is kept elsewhere.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import httpx2
import pytest

import audit_epoch
import audit_records
import audit_verifier
from audit_records import Tree, batches, frames, leaf_hash
from audit_writer import batch, tiles
from clients import user
from gateway import Served
from tampering import (
    Log,
    State,
    Tampering,
    width,
)
from waiting import wait_until

SEED = 11
TAMPERINGS, RECORDS = (100_000, 10_000) if os.environ.get("TOKEN_SHIELD_FULL") else (6_000, 2_000)
TORN = 256 * 1024
ECHO = '[[upstream]]\nname = "echo"\nurl = "echo:"\n[[model]]\nname = "echo"\nroute = ["echo"]\n'
BUSY = "[class.busy]\nrpm = 1000000\nburst = 100000\nin_flight = 64\n"
KINDS = {
    "checkpoint": r"e\d+/checkpoint",
    "full entries": r"e\d+/tile/entries/\d+",
    "partial entries": r"e\d+/tile/entries/.*\.p/.*",
    "full hashes": r"e\d+/tile/\d+/\d+",
    "partial hashes": r"e\d+/tile/\d+/.*\.p/.*",
    "journal": r"e\d+/journal/.*",
    "lock": r"e\d+/lock",
    "reserve": "reserve",
    "tmp": "tmp/.*",
}


def _read(folder: Path) -> State:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# ---- the log -------------------------------------------------------------------------------------


def _load(own: Served, token: str, count: int) -> None:
    """Sends requests in four threads, until the gateway ends."""

    def ask() -> None:
        with httpx2.Client(trust_env=False, timeout=30) as client:
            for _ in range(count // 4):
                body = {"model": "echo", "messages": user("x")}
                try:
                    answer = client.post(
                        own.url + "/v1/chat/completions",
                        json=body,
                        headers={"authorization": f"Bearer {token}"},
                    )
                except httpx2.HTTPError:
                    return
                assert answer.status_code == 200, answer.text

    threads = [threading.Thread(target=ask) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


def _killed(own: Served, token: str, journal: Path) -> None:
    """Kills the gateway under load, after a new journal segment begins.

    The checkpoint that makes the former segment unnecessary does not exist yet.
    """

    def two_segments() -> bool:
        paths = sorted(journal.iterdir())
        with paths[-1].open("rb") as last:
            return len(paths) > 1 and last.read(8) == b"TSBATCH1"

    loading = threading.Thread(target=_load, args=(own, token, 100_000))
    loading.start()
    wait_until(two_segments, 60, "a second segment")
    own.process.send_signal(signal.SIGKILL)
    own.ended()
    loading.join()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """Two epochs of a killed gateway.

    Both have several full tiles. There are two segments, and records that no checkpoint covers.
    """
    folder, older = tmp_path_factory.mktemp("tamper"), []
    with Served(folder / "data", ECHO + BUSY) as own:
        token = own.issue("tests/busy", "--class", "busy")
        audit = own.data / "audit"
        for count in (RECORDS // 11, RECORDS // 5):
            _load(own, token, count)
            own.stop()
            older.append(_read(audit))
            own._start("serve", "--config", str(own.config))
        own.stop()
        own.command("audit", "begin", "--reason", "a test")
        older.append(_read(audit))
        own._start("serve", "--config", str(own.config))
        _load(own, token, RECORDS // 4)
        own.stop()
        older.append(_read(audit))
        for _ in range(20):
            own._start("serve", "--config", str(own.config))
            _killed(own, token, audit / "e000002/journal")
            (audit / "tmp/left").write_bytes(b"of a checkpoint")
            made = Log(folder / "copy", own.data, _read(audit), older)
            made.put(made.state)
            whole = made.theirs()
            last, written = (
                whole["epochs"][-1],
                [name for name in made.segments() if made.state[name].startswith(b"TSBATCH1")],
            )
            if (
                last["acknowledged"] == last["records"]
                and not last["unfinished_files"] + last["unfinished_bytes"]
                and len(written) > 1
            ):
                break
        assert made.ours() is None and whole["valid"] and len(written) > 1
        assert (
            sum(epoch["records"] for epoch in whole["epochs"]) >= RECORDS
            and len(made.records("e000001")) > 1024
        )
        for kind, form in KINDS.items():
            assert [name for name in made.state if re.fullmatch(form, name)], (
                f"there is no file of the kind {kind}"
            )
        return made


# ---- changes -------------------------------------------------------------------------------------


def _some_file(log: Log, chance: random.Random, *kinds: str, least: int = 0) -> str:
    """A file of a random kind, so that rare kinds are chosen as often as others."""
    while True:
        form = KINDS[chance.choice(kinds or [*KINDS])]
        if found := [
            name for name in log.state if re.fullmatch(form, name) and len(log.state[name]) >= least
        ]:
            return chance.choice(found)


def _place(log: Log, chance: random.Random, name: str) -> int:
    """A position in a file, mostly one with content."""
    data = log.state[name]
    return chance.randrange(max(1, len(data.rstrip(b"\0")) if chance.random() < 0.8 else len(data)))


def flip(log: Log, chance: random.Random) -> Tampering:
    name = _some_file(log, chance, least=1)
    data, at = bytearray(log.state[name]), _place(log, chance, name)
    data[at] ^= 1 << chance.randrange(8)
    epoch, _, rest = name.partition("/")
    record = None
    if rest.startswith("tile/0/"):
        record = epoch, _first(rest) + at // 32
    if rest.startswith("tile/entries/"):
        ends, end = [], 0
        for one in frames(log.state[name], width(name), 0):
            ends.append(end := end + 2 + len(one))
        record = epoch, _first(rest) + sum(end <= at for end in ends)
    return Tampering(
        f"flip {name} at {at} from {log.state[name][at]:#x} to {data[at]:#x}",
        {name: bytes(data)},
        record,
    )


def _first(tile: str) -> int:
    """The index of a tile's first record; this log has fewer than 1,000 records."""
    return 256 * int(
        tile.rpartition("/")[2] if ".p/" not in tile else tile.rpartition("/")[0][-5:-2]
    )


def delete(log: Log, chance: random.Random) -> Tampering:
    name = _some_file(log, chance)
    return Tampering(f"delete {name}", {name: None})


def delete_folder(log: Log, chance: random.Random) -> Tampering:
    epoch = chance.choice(["e000001", "e000002"])
    folder = chance.choice(
        [f"{epoch}/{part}" for part in ("", "tile/", "tile/0/", "tile/1/", "tile/entries/")]
        + ["e000002/journal/"]
    )
    return Tampering(
        f"delete {folder}", {name: None for name in log.state if name.startswith(folder)}
    )


def add(log: Log, chance: random.Random) -> Tampering:
    """Adds an unexpected file, whose name is valid or almost valid."""
    name = chance.choice(
        [
            "e000001/notes",
            "e000001/tile/0/x",
            "e000001/tile/0/x000/000",
            "e000002/tile/0/000.p/7",
            "e000002/checkpoint.old",
            "notes",
            "e1/lock",
            "e000003/lock",
            "e000002/journal/7",
            "e000001/tile/entries/000.p/255",
            "e000002/tile/1/000.p/1",
            "e000001/tile/0/900",
            "e000002/tile/7/000",
            "e000002/tile/entries/900.p/7",
            f"e000001/journal/{len(log.records('e000001')):020}",
            f"e000001/journal/{0:020}",
        ]
    )
    return Tampering(f"add {name}", {name: chance.randbytes(chance.choice([16, 32, 500]))})


def swap(log: Log, chance: random.Random) -> Tampering:
    one = _some_file(log, chance, *(set(KINDS) - {"lock", "reserve", "tmp"}))
    form = next(form for form in KINDS.values() if re.fullmatch(form, one))
    other = chance.choice([name for name in log.state if re.fullmatch(form, name)])
    return Tampering(f"swap {one} and {other}", {one: log.state[other], other: log.state[one]})


def insert(log: Log, chance: random.Random) -> Tampering:
    name = _some_file(log, chance)
    at, more = _place(log, chance, name), chance.randbytes(chance.choice([1, 2, 32, 512]))
    return Tampering(
        f"insert {more.hex()} into {name} at {at}",
        {name: log.state[name][:at] + more + log.state[name][at:]},
    )


def append(log: Log, chance: random.Random) -> Tampering:
    name = _some_file(log, chance)
    more = chance.choice([bytes, chance.randbytes])(chance.choice([1, 32, 512]))
    return Tampering(f"append {more.hex()} to {name}", {name: log.state[name] + more})


def truncate(log: Log, chance: random.Random) -> Tampering:
    name = _some_file(log, chance, least=1)
    at = chance.choice([0, len(log.state[name]) - 1, _place(log, chance, name)])
    return Tampering(f"truncate {name} to {at}", {name: log.state[name][:at]})


def an_older_file(log: Log, chance: random.Random) -> Tampering:
    """Replaces a file by an older version, or restores a removed one."""
    age = chance.randrange(len(log.older))
    name = chance.choice(
        [name for name, data in log.older[age].items() if log.state.get(name) != data]
    )
    return Tampering(f"put back {name} of state {age}", {name: log.older[age][name]})


def an_older_state(log: Log, chance: random.Random) -> Tampering:
    """Restores an older state of all files, or of one epoch."""
    age, folder = chance.randrange(len(log.older)), chance.choice(["", "e000001/", "e000002/"])
    states = [
        {name: data for name, data in state.items() if name.startswith(folder)}
        for state in (log.state, log.older[age])
    ]
    changes = {
        name: states[1].get(name)
        for name in {**states[0], **states[1]}
        if states[0].get(name) != states[1].get(name)
    }
    return Tampering(f"put back {folder or 'all'} of state {age}", changes)


def remove_segment(log: Log, chance: random.Random) -> Tampering:
    name = chance.choice(log.segments())
    return Tampering(f"remove {name}", {name: None})


def exchange(log: Log, chance: random.Random) -> Tampering:
    """Exchanges two records of a bundle, and corrects all hashes over them."""
    epoch = chance.choice(["e000001", "e000002"])
    some = log.records(epoch)
    one = chance.randrange(len(some))
    other = chance.randrange(one // 256 * 256, min(len(some), one // 256 * 256 + 256))
    some[one], some[other] = some[other], some[one]
    changes = {f"{epoch}/{name}": data for name, data in tiles(some).items()}
    return Tampering(f"exchange records {one} and {other} of {epoch}, with their hashes", changes)


def forge(log: Log, chance: random.Random) -> Tampering:
    """Changes one letter of a record, in its tile only or with corrected hashes."""
    epoch = chance.choice(["e000001", "e000002"])
    some = log.records(epoch)
    index = chance.randrange(len(some))
    some[index], rehashed = _forged(some[index], chance), chance.random() < 0.5
    changes = {
        f"{epoch}/{name}": data
        for name, data in tiles(some).items()
        if rehashed or "entries" in name
    }
    hashes = "its hashes" if rehashed else "no hash"
    return Tampering(
        f"forge record {index} of {epoch} and {hashes}: {some[index]!r}",
        changes,
        None if rehashed else (epoch, index),
    )


def _forged(record: bytes, chance: random.Random) -> bytes:
    """A record of valid form, with another digit in its time or another letter elsewhere."""
    places = [*range(7, 29)] * 8 + [*range(29, len(record))]
    while True:
        at = chance.choice(places)
        if chr(record[at]).isalnum():
            new = chance.choice(b"0123456789" if chr(record[at]).isdigit() else b"abcdefXYZ")
            return record[:at] + bytes([new]) + record[at + 1 :]


def rewrite_journal(log: Log, chance: random.Random) -> Tampering:
    """Forges a journal record, exchanges two or drops the last, with corrected checksums."""
    names, covered = log.segments(), log.records("e000002")
    first = int(names[0][-20:])
    whole = {name: list(batches(log.state[name])) for name in names}
    some = [
        *covered[:first],
        *(record for name in names for one in whole[name] for record in one.records),
    ]
    index, other, cut = (
        chance.randrange(first, len(some)),
        chance.randrange(first, len(some)),
        len(some),
    )
    how = chance.choice(["forge", "exchange", "leave out"])
    if how == "forge":
        some[index] = _forged(some[index], chance)
    elif how == "exchange":
        some[index], some[other] = some[other], some[index]
    else:
        cut = max(index, len(covered))
    tree, changes = Tree(map(leaf_hash, some[:first])), {}
    for name in names:
        data = b""
        for one in whole[name]:
            records = some[tree.size : min(cut, tree.size + len(one.records))]
            before = some[: tree.size]
            [tree.push(leaf_hash(record)) for record in records]
            data += batch(before, records, tree.root()) if records else b""
        changes[name] = data.ljust(len(log.state[name]), b"\0")
    return Tampering(f"rewrite the journal: {how} {index} {other} {cut} of {len(some)}", changes)


WAYS: dict[Callable[[Log, random.Random], Tampering], int] = {
    flip: 40,
    delete: 6,
    delete_folder: 4,
    add: 4,
    swap: 6,
    insert: 7,
    append: 5,
    truncate: 7,
    an_older_file: 5,
    an_older_state: 4,
    remove_segment: 4,
    exchange: 4,
    forge: 6,
    rewrite_journal: 4,
}


# ---- changes that the specification permits ------------------------------------------------------


def _permitted(log: Log, changes: dict[str, bytes | None]) -> bool:
    """Whether docs/AUDIT.md permits the change, because it loses no data."""
    return all(
        data == log.state.get(name) or _says_nothing(log, name, data)
        for name, data in changes.items()
    )


def _says_nothing(log: Log, name: str, data: bytes | None) -> bool:
    old, segments = log.state.get(name), log.segments()
    if name.startswith("tmp/"):
        return True  # these files are never read
    if name.endswith("/lock"):
        return data is None
    if name == "reserve":
        return data is None or not any(data)  # of any length
    if name == "e000002/checkpoint":
        return (
            data is None and int(segments[0][-20:]) == 0
        )  # as during the first write: the head has it
    if name.startswith("e000002/tile/") and old is None:
        return any(
            state.get(name) == data for state in log.older
        )  # partial tiles of the former checkpoint
    if name not in segments:
        return False
    if data is None:
        return name == segments[0] and int(segments[1][-20:]) <= len(
            log.records("e000002")
        )  # the tiles have all of it
    end = [one.end for one in batches(old)][-1]
    rest = data[end:].rstrip(b"\0")
    return data[:end] == old[:end] and (
        not rest or name == segments[-1] and len(rest) <= TORN
    )  # a torn write


# ---- the campaign --------------------------------------------------------------------------------


def _missed(log: Log, tampering: Tampering) -> list[str]:
    """The errors in the verifiers' results for a change; the log is restored afterwards."""
    log.put(tampering.changes)
    asked = log.begun()
    ours, theirs = log.ours(), asked.result()
    log.put({name: log.state.get(name) for name in tampering.changes})
    wrong, permitted = [], _permitted(log, tampering.changes)
    if (ours is None) != permitted:
        wrong.append(f"ours says {ours}")
    if theirs["valid"] != permitted:
        wrong.append(f"the gateway's says {theirs.get('fault')}")
    if wrong or permitted or not tampering.record:
        return wrong
    epoch, index = tampering.record
    if ours.index != index or not str(ours).startswith(f"{epoch}, record {index}:"):
        wrong.append(f"ours does not name {epoch}#{index}: {ours}")
    if theirs and (theirs["epoch"], theirs["index"]) != tampering.record:
        wrong.append(f"the gateway's does not name {epoch}#{index}: {theirs}")
    return wrong


def test_every_tampering_is_found_out(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_verifier, "LOOKS", 1)
    # Most records and batches are unchanged from one test to the next, so that results for bytes
    # are cached.
    remembered = {
        (audit_epoch, "bundle"): 200,
        (audit_records, "perfect"): 200,
        (audit_records, "crc32c"): 50_000,
        (audit_epoch, "leaf_hash"): 50_000,
        (audit_epoch, "shape"): 50_000,
    }
    for (module, name), most in remembered.items():
        monkeypatch.setattr(module, name, lru_cache(most)(getattr(module, name)))
    chance, misses = random.Random(SEED), []
    while log.done.total() < TAMPERINGS:
        way = chance.choices([*WAYS], [*WAYS.values()])[0]
        tampering = way(log, chance)
        if all(data == log.state.get(name) for name, data in tampering.changes.items()):
            continue
        log.done[way.__name__] += 1
        if wrong := _missed(log, tampering):
            misses.append(f"{tampering.what}: {'; '.join(wrong)}")
    assert log.ours() is None and log.theirs()["valid"], "it is whole again"
    assert set(log.done) == {way.__name__ for way in WAYS}, "nothing is left out"
    assert not misses, f"{len(misses)} of {TAMPERINGS}, of the log in {log.folder}:\n" + "\n".join(
        misses[:50]
    )
