#!/usr/bin/env python3
"""Runs mutants: faults that are patched into a copy of the sources, which a test must notice.

    run.py            all mutants, in one build (what ./test.sh runs)
    run.py --full     each mutant in a build of its own; writes tests/results/mutants.jsonl
    run.py NAME...    these mutants, each alone
    run.py --check    builds nothing: each patch applies, and its test exists

A mutant is a file NAME.patch: a diff in git's format, below two header lines.

    What: one sentence that says what the faulty code does
    Noticed-by: token-shield::it MODULE::TEST

The test is named as nextest names it: `token-shield::it` for tests/it, `token-shield` for a unit
test of src. A mutant fails if its patch does not apply, if the patched sources do not compile, or
if the test passes. A test that fails without a mutant is a failure too. The exit status is then 1.

In the one build, each patched function has both bodies, and an environment variable chooses
(switch.py). A patch that changes other places is built alone.

The copy is target/mutants/tree. Only changed files are written to it, so cargo builds it
incrementally. Its dependencies come from target/debug. The crate is built without optimization:
that takes a third of the time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import switch

ROOT = Path(__file__).resolve().parents[2]
PATCHES = ROOT / "tests/mutants"
RESULTS = ROOT / "tests/results/mutants.jsonl"
WORK = ROOT / "target/mutants"
TREE = WORK / "tree"
BUILD = WORK / "build"

# The same features as the ordinary test build: dependencies are then built in the same way.
CARGO = ("cargo", "test", "--no-run", "--features", "failpoints")
TEST_SECONDS_MAX = 300


@dataclass(frozen=True)
class Test:
    """A test, as nextest names it."""

    binary: str
    path: str

    def __str__(self) -> str:
        """The name as it is in a patch."""
        return f"{self.binary} {self.path}"

    @property
    def target(self) -> str:
        """The name of the cargo target that has the test."""
        return self.binary.split("::")[-1].replace("-", "_")


@dataclass(frozen=True)
class Mutant:
    """A patch and its header."""

    name: str
    what: str
    test: Test
    files: tuple[str, ...]

    @property
    def patch(self) -> Path:
        """The file with the diff."""
        return PATCHES / f"{self.name}.patch"


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant."""

    mutant: Mutant
    result: str
    seconds: float


class Failure(Exception):
    """Something that ends the run."""


def read(path: Path) -> Mutant:
    """Reads the header of a patch."""
    head, _, diff = path.read_text().partition("diff --git ")
    fields = dict(re.findall(r"^([A-Z][a-z-]+): (.+)$", head, re.MULTILINE))
    test = re.fullmatch(r"(token-shield(?:::it)?) ([\w:]+)", fields.get("Noticed-by", ""))
    files = tuple(re.findall(r"^\+\+\+ b/(.+)$", diff, re.MULTILINE))
    if "What" not in fields or test is None or not files:
        raise Failure(f"{path.name}: needs the lines `What:` and `Noticed-by:`, and a diff")
    return Mutant(path.stem, fields["What"], Test(*test.groups()), files)


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs git in the sources."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def has_test(test: Test) -> bool:
    """Whether a file of the sources has a test of that name."""
    *modules, name = test.path.split("::")
    base = ROOT / ("tests/it" if test.target == "it" else "src")
    pattern = re.compile(rf"#\[test\]\n(?:.*\n)?.*fn {name}\(")
    for depth in range(len(modules), 0, -1):
        stem = base.joinpath(*modules[:depth])
        for path in (stem.with_suffix(".rs"), stem / "mod.rs"):
            if path.is_file() and pattern.search(path.read_text()):
                return True
    return False


def faults(mutant: Mutant) -> list[str]:
    """What is wrong with a patch, found without a build."""
    found = []
    applied = git("apply", "--check", str(mutant.patch))
    if applied.returncode != 0:
        found.append(f"{mutant.name}: does not apply: {applied.stderr.strip()}")
    if not has_test(mutant.test):
        found.append(f"{mutant.name}: no test {mutant.test}")
    return found


def check(mutants: dict[str, Mutant]) -> int:
    """Checks all patches."""
    found = [fault for mutant in mutants.values() for fault in faults(mutant)]
    print("\n".join(found) or f"{len(mutants)} mutants apply, and their tests exist")
    return 1 if found else 0


def sources() -> set[str]:
    """The files of the sources: tracked ones, and others that are not ignored."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).is_file()}


def copy_tree() -> None:
    """Makes the copy equal to the sources. Files that are equal keep their time of change."""
    names = sources()
    for path in [path for path in TREE.rglob("*") if path.is_file()]:
        if str(path.relative_to(TREE)) not in names:
            path.unlink()
    for name in names:
        source, target = ROOT / name, TREE / name
        if target.is_file() and target.read_bytes() == source.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def copy_dependencies() -> None:
    """Begins the build folder with the dependencies that the ordinary test build has built."""
    if BUILD.exists():
        return
    own = shutil.ignore_patterns("*token?shield*", "it-*", "architecture-*")
    for name in ("deps", ".fingerprint", "build"):
        built = ROOT / "target/debug" / name
        if built.is_dir():
            shutil.copytree(built, BUILD / "debug" / name, symlinks=True, ignore=own)


def apply(mutant: Mutant, folder: Path = TREE) -> None:
    """Patches a copy."""
    applied = git("apply", f"--directory={folder.relative_to(ROOT)}", str(mutant.patch))
    if applied.returncode != 0:
        raise Failure(f"{mutant.name} does not apply: {applied.stderr.strip()}")


def environment() -> dict[str, str]:
    """The environment of cargo and of the tests: campaigns have their small size."""
    own = dict(os.environ)
    own.pop("TOKEN_SHIELD_FULL", None)
    return own | {"CARGO_TARGET_DIR": str(BUILD), "CARGO_PROFILE_DEV_OPT_LEVEL": "0"}


def build(tests: set[Test]) -> dict[str, str]:
    """Builds the test programs of the copy that have these tests; gives their paths by target."""
    kinds = {("--lib",) if test.target == "token_shield" else ("--test", "it") for test in tests}
    flags = [flag for kind in sorted(kinds) for flag in kind]
    command = [*CARGO, "--message-format=json-render-diagnostics", *flags]
    ran = subprocess.run(
        command, cwd=TREE, env=environment(), capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        raise Failure(f"does not compile:\n{ran.stderr}")
    messages = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    return {
        message["target"]["name"]: message["executable"]
        for message in messages
        if message.get("executable") and message["profile"]["test"]
    }


@dataclass(frozen=True)
class Ran:
    """How a test has ended: `passed`, `failed`, `hung`, or `absent`."""

    result: str
    output: str = ""


def run(test: Test, programs: dict[str, str], number: int = 0) -> Ran:
    """Runs one test with a mutant, 0 for none."""
    try:
        ran = subprocess.run(
            [programs[test.target], "--exact", test.path],
            cwd=TREE,
            env=environment() | {switch.VARIABLE: str(number)},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TEST_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ran("hung")
    if "running 0 tests" in ran.stdout:
        return Ran("absent")
    return Ran("passed" if ran.returncode == 0 else "failed", ran.stdout + ran.stderr)


def check_clean(tests: set[Test], programs: dict[str, str]) -> None:
    """Runs the tests without a mutant. All must pass."""
    begun = time.monotonic()
    results = {str(test): run(test, programs) for test in sorted(tests, key=str)}
    wrong = [
        f"{test}: {ran.result}\n{ran.output[-3000:]}"
        for test, ran in results.items()
        if ran.result != "passed"
    ]
    if wrong:
        raise Failure("without a mutant:\n" + "\n".join(wrong))
    seconds = time.monotonic() - begun
    print(f"without a mutant: {len(results)} tests passed, {seconds:.0f} s", flush=True)


def verdict(ran: Ran) -> str:
    """What the result of a test says of its mutant."""
    return "noticed" if ran.result == "failed" else f"MISSED ({ran.result})"


def show(outcome: Outcome) -> None:
    """Prints one row of the table."""
    name, test = outcome.mutant.name, outcome.mutant.test
    print(f"{name:34} {test!s:78} {outcome.result:16} {outcome.seconds:5.0f} s", flush=True)


def run_alone(mutant: Mutant) -> Outcome:
    """Builds one mutant and runs its test."""
    begun = time.monotonic()
    try:
        copy_tree()
        apply(mutant)
        result = verdict(run(mutant.test, build({mutant.test})))
    except Failure as failure:
        print(failure)
        result = "FAILED"
    return Outcome(mutant, result, time.monotonic() - begun)


def run_each(mutants: list[Mutant], record: bool) -> list[Outcome]:
    """Runs the mutants one after the other; writes each result down if that is wanted."""
    commit = git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*").stdout.strip()
    if record:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("")
    outcomes = []
    for mutant in mutants:
        outcome = run_alone(mutant)
        show(outcome)
        outcomes.append(outcome)
        if record:
            with RESULTS.open("a") as results:
                results.write(json.dumps(line_of(outcome, commit)) + "\n")
    return outcomes


def line_of(outcome: Outcome, commit: str) -> dict[str, object]:
    """One line of the results."""
    return {
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "mutant": outcome.mutant.name,
        "test": str(outcome.mutant.test),
        "noticed": outcome.result == "noticed",
        "seconds": round(outcome.seconds, 1),
    }


def patched(mutant: Mutant) -> dict[str, str]:
    """The texts of the files that a mutant changes."""
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        for name in mutant.files:
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
        apply(mutant, Path(folder))
        return {name: Path(folder, name).read_text() for name in mutant.files}


def has_switch(texts: dict[str, str]) -> bool:
    """Whether these texts differ from the sources in the bodies of functions alone."""
    try:
        for name, text in texts.items():
            switch.changes((ROOT / name).read_text(), text)
    except switch.OutsideOfFunctions:
        return False
    return True


def write_switched(mutants: dict[int, dict[str, str]]) -> dict[str, switch.Switched]:
    """Writes the copy with all these mutants, texts by file; gives the changed files."""
    copy_tree()
    files = {}
    for name in sorted({name for texts in mutants.values() for name in texts}):
        texts = {number: new[name] for number, new in mutants.items() if name in new}
        files[name] = switch.switched((ROOT / name).read_text(), texts)
        (TREE / name).write_text(files[name].text)
    root = TREE / "src/lib.rs"
    root.write_text(root.read_text() + switch.MODULE)
    return files


def run_together(mutants: list[Mutant]) -> list[Outcome]:
    """Runs all the mutants: in one build, but for those that need one of their own."""
    texts = {number: patched(mutant) for number, mutant in enumerate(mutants, 1)}
    switched = {number: new for number, new in texts.items() if has_switch(new)}
    write_switched(switched)
    begun = time.monotonic()
    programs = build({mutant.test for mutant in mutants})
    print(f"{len(switched)} mutants in one build, {time.monotonic() - begun:.0f} s", flush=True)
    check_clean({mutant.test for mutant in mutants}, programs)
    outcomes = []
    for number in switched:
        mutant = mutants[number - 1]
        begun = time.monotonic()
        result = verdict(run(mutant.test, programs, number))
        outcomes.append(Outcome(mutant, result, time.monotonic() - begun))
        show(outcomes[-1])
    left = [mutant for number, mutant in enumerate(mutants, 1) if number not in switched]
    return outcomes + run_each(left, record=False)


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Runs the mutants (see the head of this file).")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--check", action="store_true", help="build nothing, check the patches")
    modes.add_argument("--full", action="store_true", help="run each mutant alone")
    modes.add_argument("names", nargs="*", default=[], metavar="NAME", help="a mutant to run")
    return parser.parse_args()


def main() -> int:
    """Does what the command line says; gives the exit status."""
    asked = arguments()
    mutants = {path.stem: read(path) for path in sorted(PATCHES.glob("*.patch"))}
    unknown = [name for name in asked.names if name not in mutants]
    if unknown:
        raise Failure(f"no such mutant: {', '.join(unknown)}")
    if asked.check:
        return check(mutants)
    chosen = [mutants[name] for name in asked.names or mutants]
    copy_dependencies()
    WORK.mkdir(parents=True, exist_ok=True)
    if asked.full or asked.names:
        copy_tree()
        tests = {mutant.test for mutant in chosen}
        check_clean(tests, build(tests))
        outcomes = run_each(chosen, asked.full)
    else:
        outcomes = run_together(chosen)
    missed = [outcome for outcome in outcomes if outcome.result != "noticed"]
    print(f"{len(outcomes)} mutants, {len(missed)} not noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as fault:
        sys.exit(str(fault))
