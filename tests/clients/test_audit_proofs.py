"""The audit verifier: sealed records, old checkpoints, proofs and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from audit_checks import flip, sample_log
from audit_verifier import (
    Fault,
    open_record,
    open_with,
    since,
    verify_proof,
)
from audit_writer import (
    ONE,
    OTHER,
    OWN_KEY,
    RECORD_KEY,
    TWO,
    VKEYS,
    b64,
    inclusion,
    leaves,
    plain,
    records,
    sealed,
)


@pytest.fixture
def log(folder: Path) -> Path:
    return sample_log(folder)


def test_sealed_records_open_with_the_right_key_only() -> None:
    record = sealed(3, request="a", tokens=7)
    assert (
        open_record(record, RECORD_KEY)
        == open_with(record, OWN_KEY)
        == {"request": "a", "tokens": 7}
    )
    other = record.replace(b"admission", b"outcome")
    for opened, right, wrong in (
        (open_record, RECORD_KEY, OWN_KEY),
        (open_with, OWN_KEY, RECORD_KEY),
    ):
        for bad, key in ((record, wrong), (other, right), (plain(3), right), (record, b"short")):
            with pytest.raises(Fault):
                opened(bad, key)


def test_the_log_still_contains_an_old_checkpoint(log: Path) -> None:
    for size in (0, 1, 255, 600, 660, 700):
        since(log, VKEYS, ONE.note(records(size)))
    for note, says in (
        (ONE.note(records(701)), "701"),
        (ONE.note(records(5)[1:]), "another root"),
        (OTHER.note(records(5)), "first two"),
        (TWO.note(records(5)), "e000002"),
    ):
        with pytest.raises(Fault, match=says):
            since(log, VKEYS, note)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 21])
def test_proofs_of_inclusion(size: int) -> None:
    some = records(size)
    for index in range(size):
        path = "".join(b64(one) + "\n" for one in inclusion(index, leaves(some)))
        proof = f"c2sp.org/tlog-proof@v1\nindex {index}\n{path}\n{ONE.note(some)}"
        verify_proof(proof, some[index], VKEYS)
        verify_proof(proof.replace("index", "extra YWJj\nindex", 1), some[index], VKEYS)
        bad = [
            proof.replace(f"index {index}", f"index {at}")
            for at in (index + 1, f"0{index}", size, "")
        ]
        bad += [
            proof.replace(path, more, 1)
            for more in (path + b64(bytes(32)) + "\n", path + "YWJj\n", path[45:] or "x\n")
        ]
        bad += [
            proof.replace("@v1", "@v2"),
            proof[:-1],
            proof.replace("i", "extra YWJ\ni", 1),
            proof.rpartition("\n— ")[0],
        ]
        for one, record in [*((one, some[index]) for one in bad), (proof, plain(77))]:
            with pytest.raises(Fault):
                verify_proof(one, record, VKEYS)


def test_the_command(log: Path) -> None:
    (log.parent / "vkeys").write_text(VKEYS)
    script = [
        sys.executable,
        str(Path(__file__).with_name("audit_verifier.py")),
        str(log),
        "--vkeys",
        str(log.parent / "vkeys"),
    ]
    done = subprocess.run(
        [*script, "--head", str(log.parent / "head"), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["epochs"][0]["size"] == 700
    bare = subprocess.run(script, capture_output=True, text=True, check=False)
    assert bare.returncode == 4 and "size=700" in bare.stdout and "END UNPROVEN" in bare.stderr
    flip(log / "e000001/tile/0/001", 32 * 9)
    failed = subprocess.run(
        [*script, "--live", "--json"], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1 and json.loads(failed.stdout)["index"] == 256 + 9
