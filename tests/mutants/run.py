#!/usr/bin/env python3
"""Runs mutants: faults that are patched into a copy of the sources, which a test must notice.

    run.py            five mutants of different areas, all in one build (what ./test.sh runs)
    run.py --full     each mutant alone; writes tests/results/mutants.jsonl
    run.py NAME...    these mutants, each alone
    run.py --check    builds nothing: each patch applies, and its test exists

A mutant is a file NAME.patch: a diff in git's format, below two header lines.

    What: one sentence that says what the faulty code does
    Noticed-by: token-shield::it MODULE::TEST

The test is named as nextest names it: `token-shield::it` for tests/it, `token-shield` for a unit
test of src. A mutant fails if its patch does not apply, if the patched sources do not compile, or
if the test passes. A test that fails without a patch is a failure too. The exit status is then 1.

The copy is target/mutants/tree. Only changed files are written to it, so cargo builds it
incrementally. Its dependencies come from target/debug. The tests without a patch run in the sources
themselves: there the ordinary tests have built them already.
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
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATCHES = ROOT / "tests/mutants"
RESULTS = ROOT / "tests/results/mutants.jsonl"
WORK = ROOT / "target/mutants"
TREE = WORK / "tree"
BUILD = WORK / "build"

# They are in different files, and no test below reaches the code of another mutant.
CI = (
    "calls-let-go",
    "clock-goes-back",
    "former-checkpoint-unchecked",
    "media-type-unchecked",
    "suffix-without-dot",
)
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
    """Checks all patches, and that those of CI are independent."""
    found = [fault for mutant in mutants.values() for fault in faults(mutant)]
    chosen = [mutants[name] for name in CI]
    files = [file for mutant in chosen for file in mutant.files]
    if len(set(files)) < len(files) or len({mutant.test for mutant in chosen}) < len(chosen):
        found.append("two mutants of CI have a file or a test in common")
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


def apply(mutant: Mutant) -> None:
    """Patches the copy."""
    folder = str(TREE.relative_to(ROOT))
    applied = git("apply", f"--directory={folder}", str(mutant.patch))
    if applied.returncode != 0:
        raise Failure(f"{mutant.name} does not apply: {applied.stderr.strip()}")


def environment(folder: Path) -> dict[str, str]:
    """The environment of cargo and of the tests: campaigns have their small size."""
    own = dict(os.environ)
    own.pop("TOKEN_SHIELD_FULL", None)
    if folder == TREE:
        own["CARGO_TARGET_DIR"] = str(BUILD)
    return own


def build(tests: set[Test], folder: Path) -> dict[str, str]:
    """Builds the test programs that have these tests; gives their paths by target."""
    kinds = {("--lib",) if test.target == "token_shield" else ("--test", "it") for test in tests}
    flags = [flag for kind in sorted(kinds) for flag in kind]
    command = [*CARGO, "--message-format=json-render-diagnostics", *flags]
    environ = environment(folder)
    ran = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        raise Failure(f"does not compile:\n{ran.stderr}")
    messages = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    return {
        message["target"]["name"]: message["executable"]
        for message in messages
        if message.get("executable") and message["profile"]["test"]
    }


def run(test: Test, programs: dict[str, str], folder: Path) -> str:
    """Runs one test: `passed`, `failed`, `hung`, or `absent`."""
    command = [programs[test.target], "--exact", test.path]
    try:
        ran = subprocess.run(
            command,
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TEST_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "hung"
    if "running 0 tests" in ran.stdout:
        return "absent"
    return "passed" if ran.returncode == 0 else "failed"


def check_clean(tests: set[Test]) -> None:
    """Runs the tests on the sources as they are. All must pass."""
    begun = time.monotonic()
    programs = build(tests, ROOT)
    results = {str(test): run(test, programs, ROOT) for test in sorted(tests, key=str)}
    wrong = [f"{test}: {result}" for test, result in results.items() if result != "passed"]
    if wrong:
        raise Failure("without a mutant:\n" + "\n".join(wrong))
    seconds = time.monotonic() - begun
    print(f"without a mutant: {len(results)} tests passed, {seconds:.0f} s", flush=True)


def verdict(result: str) -> str:
    """What the result of a test says of its mutant."""
    return "noticed" if result == "failed" else f"MISSED ({result})"


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
        result = verdict(run(mutant.test, build({mutant.test}, TREE), TREE))
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


def run_together(mutants: list[Mutant]) -> list[Outcome]:
    """Applies all the mutants, builds once, and runs the test of each."""
    copy_tree()
    for mutant in mutants:
        apply(mutant)
    begun = time.monotonic()
    programs = build({mutant.test for mutant in mutants}, TREE)
    print(f"with the mutants: built in {time.monotonic() - begun:.0f} s", flush=True)
    outcomes = []
    for mutant in mutants:
        begun = time.monotonic()
        result = verdict(run(mutant.test, programs, TREE))
        outcomes.append(Outcome(mutant, result, time.monotonic() - begun))
        show(outcomes[-1])
    return outcomes


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
    unknown = [name for name in (*asked.names, *CI) if name not in mutants]
    if unknown:
        raise Failure(f"no such mutant: {', '.join(unknown)}")
    if asked.check:
        return check(mutants)
    together = not asked.full and not asked.names
    names = CI if together else asked.names or mutants
    chosen = [mutants[name] for name in names]
    check_clean({mutant.test for mutant in chosen})
    copy_dependencies()
    outcomes = run_together(chosen) if together else run_each(chosen, asked.full)
    missed = [outcome for outcome in outcomes if outcome.result != "noticed"]
    print(f"{len(outcomes)} mutants, {len(missed)} not noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as fault:
        sys.exit(str(fault))
