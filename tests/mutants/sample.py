#!/usr/bin/env python3
"""Measures how many random mutants the tests notice, with the mutants of cargo-mutants.

    sample.py [AREA...]    runs the sample of each area (token, guard, audit-format)
    sample.py --report     adds up what tests/results/mutation-sample.jsonl has

`cargo mutants --list` gives the mutants of an area. The sample has 80 of them, chosen with a fixed
seed. They are put into one build (switch.py), and each is then chosen by its number. Those that
have no such form are built alone. A run continues where an earlier run stopped: a result counts as
long as the mutant's file is unchanged.

Tests run from the nearest to the furthest, until one fails: the unit tests of the area, all unit
tests, tests/it. A mutant is `caught` if a test fails or does not end, else `missed`. A mutant that
does not compile alone is `unviable` and does not count.

Needs cargo-mutants and cargo-nextest.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import run
import switch
from run import BUILD, ROOT, TREE, Failure

RESULTS = ROOT / "tests/results/mutation-sample.jsonl"
SEED = 18
SIZE = 80
# Unit tests and tests of an ordinary run take less than a minute together.
SECONDS_MAX = 240
TESTS = ("--features", "failpoints", "--lib", "--bins", "--test", "it")
# Campaigns, and tests that compile or read the sources: they say nothing of one mutant.
LEFT_OUT = ("tamper::", "kill::", "faults::", "turn::", "compile_fail::", "corpus::")
# Long tests that say nothing of the other areas.
OF_TOKENS = ("token::narrow::", "token::mutants::")
OF_LOGS = ("prune::", "live::", "journal::", "replay::", "audit::")


@dataclass(frozen=True)
class Area:
    """A part of the sources that a sample is taken of."""

    name: str
    files: str
    # Files that are no part of it.
    without: tuple[str, ...]
    # The tests that are nearest to it.
    tests: str
    # Tests that say nothing of it.
    left_out: tuple[str, ...]


AREAS = {
    area.name: area
    for area in (
        Area("token", "src/token/**", (), "token::", OF_LOGS),
        # The response filter is measured by its own campaigns.
        Area(
            "guard",
            "src/guard/**",
            ("src/guard/egress/text/**", "src/guard/egress/rendered/**"),
            "guard::",
            (*OF_TOKENS, *OF_LOGS),
        ),
        Area("audit-format", "src/audit/format/**", (), "audit::", OF_TOKENS),
    )
}


@dataclass(frozen=True)
class Mutant:
    """One mutant of cargo-mutants, and the text of its file."""

    number: int
    name: str
    file: str
    # The name of its function, without its type; empty outside of functions.
    function: str
    text: str


@dataclass(frozen=True)
class Built:
    """Where nextest finds the test programs."""

    cargo: Path
    binaries: Path


def position(text: str, place: dict[str, int]) -> int:
    """The index in a text of a line and a column, both from 1."""
    lines = text.split("\n")[: place["line"] - 1]
    return sum(len(line) + 1 for line in lines) + place["column"] - 1


def rank(name: str) -> bytes:
    """The place of a mutant in the order of the sample."""
    return hashlib.sha256(f"{SEED} {name}".encode()).digest()


def content(file: str) -> str:
    """A hash of a file's content."""
    return hashlib.sha256((ROOT / file).read_bytes()).hexdigest()[:16]


def sample(area: Area) -> list[Mutant]:
    """The mutants of an area's sample."""
    command = ["cargo", "mutants", "--list", "--json", "--file", area.files]
    for files in area.without:
        command += ["--exclude", files]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        raise Failure(f"`cargo install cargo-mutants` is needed:\n{listed.stderr}")
    # Each mutant has its own place in the order. So a change of one file leaves the others in.
    chosen = sorted(json.loads(listed.stdout), key=lambda mutant: rank(mutant["name"]))[:SIZE]
    mutants = []
    for number, mutant in enumerate(chosen, 1):
        text = (ROOT / mutant["file"]).read_text()
        start, end = (position(text, mutant["span"][side]) for side in ("start", "end"))
        new = text[:start] + mutant["replacement"] + text[end:]
        function = (mutant["function"] or {"function_name": ""})["function_name"].split("::")[-1]
        mutants.append(Mutant(number, mutant["name"], mutant["file"], function, new))
    return mutants


def cargo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs cargo in the copy."""
    command = ["cargo", *arguments]
    environment = run.environment()
    return subprocess.run(
        command, cwd=TREE, env=environment, capture_output=True, text=True, check=False
    )


@dataclass(frozen=True)
class CompileError:
    """What a compiler says of a line of the copy."""

    file: str
    line: int
    message: str

    def concerns(self, mutant: Mutant, files: dict[str, switch.Switched]) -> bool:
        """Whether a mutant among these files explains it."""
        # A constant function with a switch is not constant any more, which its callers need.
        called = re.search(r"cannot call non-const .*`.*?(\w+)`", self.message)
        if called is not None:
            return mutant.function == called.group(1)
        return self.is_in(mutant, files)

    def is_in(self, mutant: Mutant, files: dict[str, switch.Switched]) -> bool:
        """Whether it is in a body of a mutant."""
        if mutant.file != self.file:
            return False
        return any(self.line in lines for lines in files[self.file].lines[mutant.number])

    def is_own(self, mutant: Mutant, files: dict[str, switch.Switched]) -> bool:
        """Whether a mutant has it also when it is built alone."""
        # Bodies of one function may have different types if the function's type is `impl Trait`.
        return self.is_in(mutant, files) and "incompatible types" not in self.message

    def function(
        self, mutants: list[Mutant], files: dict[str, switch.Switched]
    ) -> tuple[str, str] | None:
        """The file and the function of the last mutant before it.

        The original is behind the mutants. It has the error if its type differs from theirs.
        """
        before = []
        for mutant in mutants:
            if mutant.file == self.file:
                for lines in files[self.file].lines[mutant.number]:
                    if lines.stop <= self.line:
                        before.append((lines.stop, mutant.function))
        return (self.file, max(before)[1]) if before else None


def errors() -> list[CompileError]:
    """What does not compile in the copy."""
    # `cargo check` would check all dependencies, which are built already.
    checked = cargo("test", "--no-run", *TESTS, "--message-format=json")
    found = []
    for line in checked.stdout.splitlines():
        message = json.loads(line).get("message")
        if message is None or message["level"] != "error":
            continue
        for span in message["spans"]:
            if span["is_primary"]:
                error = CompileError(span["file_name"], span["line_start"], message["message"])
                found.append(error)
    if checked.returncode != 0 and not found:
        raise Failure(checked.stderr)
    return found


@dataclass
class Sorted:
    """The mutants of a sample, by how they are built."""

    # In one build.
    together: list[Mutant] = field(default_factory=list)
    alone: list[Mutant] = field(default_factory=list)
    # They do not compile.
    unviable: list[Mutant] = field(default_factory=list)


def together(mutants: list[Mutant]) -> Sorted:
    """Writes the copy with as many of the mutants as compile in one build."""
    found = Sorted()
    chosen = found.together
    for mutant in mutants:
        try:
            switch.changes((ROOT / mutant.file).read_text(), mutant.text)
            chosen.append(mutant)
        except switch.OutsideOfFunctions:
            found.alone.append(mutant)
    while True:
        files = run.write_switched({one.number: {one.file: one.text} for one in chosen})
        wrong = errors()
        if not wrong:
            return found
        left = [one for one in chosen if not any(error.concerns(one, files) for error in wrong)]
        if len(left) == len(chosen):
            functions = [error.function(chosen, files) for error in wrong]
            left = [one for one in chosen if (one.file, one.function) not in functions]
        if len(left) == len(chosen):
            raise Failure(f"no mutant explains these errors: {wrong}")
        for mutant in chosen:
            if mutant in left:
                continue
            own = any(error.is_own(mutant, files) for error in wrong)
            (found.unviable if own else found.alone).append(mutant)
        print(f"{len(chosen) - len(left)} do not compile with the others", flush=True)
        chosen = found.together = left


def build() -> Built:
    """Builds the tests of the copy."""
    listed = cargo(
        "nextest", "list", *TESTS, "--list-type", "binaries-only", "--message-format", "json"
    )
    if listed.returncode != 0:
        raise Failure(f"does not compile:\n{listed.stderr}")
    built = Built(BUILD / "cargo.json", BUILD / "binaries.json")
    built.binaries.write_text(listed.stdout)
    built.cargo.write_text(cargo("metadata", "--format-version", "1").stdout)
    return built


def rounds(area: Area) -> list[str]:
    """The tests, from the nearest to the furthest, as expressions of nextest."""
    # Unit tests of the log are short, and have the names of modules too.
    long = f"(kind(test) & {named(area.left_out)})"
    slow = f"(kind(test) & {named(OF_TOKENS)} - {named(area.left_out)})"
    near = f"({named((area.tests,))} - {named(LEFT_OUT)} - {long} - {slow})"
    others = f"(all() - {near} - {named(LEFT_OUT)} - {long} - {slow})"
    return [
        f"kind(lib) & {near}",
        f"kind(lib) & {others}",
        f"kind(test) & {near}",
        f"kind(test) & {others}",
        slow,
    ]


def named(names: tuple[str, ...]) -> str:
    """The tests with names that begin so, as an expression of nextest."""
    return "(" + " | ".join(f"test(/^{name}/)" for name in names) + ")"


def first_failure(built: Built, area: Area, number: int) -> str | None:
    """The first test that notices a mutant; 0 is the original."""
    environment = run.environment() | {switch.VARIABLE: str(number)}
    for expression in rounds(area):
        command = ["cargo", "nextest", "run", "--cargo-metadata", str(built.cargo)]
        command += ["--binaries-metadata", str(built.binaries), "-E", expression]
        command += ["--status-level", "fail", "--final-status-level", "none"]
        process = subprocess.Popen(
            [*command, "--no-tests", "pass", "--color", "never"],
            cwd=TREE,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return f"no end after {SECONDS_MAX} s: {expression}"
        if process.returncode != 0:
            named = re.search(
                r"(?:FAIL|SIGABRT|SIGSEGV|TIMEOUT) \[[^]]*\] (?:\([^)]*\) )?(.+)", said
            )
            if named is None:
                raise Failure(said)
            return named.group(1).strip()
    return None


def known(area: Area) -> dict[str, dict[str, str]]:
    """The lines of the results that count for this area, by the names of the mutants."""
    if not RESULTS.exists():
        return {}
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    hashes = {line["file"]: "" for line in lines}
    for file in hashes:
        hashes[file] = content(file) if (ROOT / file).exists() else ""
    counting = [line for line in lines if hashes[line["file"]] == line["content"]]
    return {line["mutant"]: line for line in counting if line["area"] == area.name}


def record(area: Area, commit: str, mutant: Mutant, result: str, by: str | None) -> None:
    """Adds a line to the results, and prints it."""
    line = {
        "area": area.name,
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seed": SEED,
        "file": mutant.file,
        "content": content(mutant.file),
        "mutant": mutant.name,
        "result": result,
        "by": by,
    }
    with RESULTS.open("a") as results:
        results.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(f"{result:9} {mutant.name}  {by or ''}", flush=True)


def alone(area: Area, mutant: Mutant) -> tuple[str, str | None]:
    """The result of a mutant that is built alone."""
    run.copy_tree()
    (TREE / mutant.file).write_text(mutant.text)
    if errors():
        return "unviable", None
    by = first_failure(build(), area, 0)
    return ("missed" if by is None else "caught"), by


def measure(area: Area, commit: str) -> None:
    """Runs the sample of an area."""
    before = known(area)
    left = [mutant for mutant in sample(area) if mutant.name not in before]
    if not left:
        return
    begun = time.monotonic()
    found = together(left)
    for mutant in found.unviable:
        record(area, commit, mutant, "unviable", None)
    built = build()
    print(
        f"{area.name}: {len(found.together)} of {len(left)} in one build, "
        f"{time.monotonic() - begun:.0f} s",
        flush=True,
    )
    by = first_failure(built, area, 0)
    if by is not None:
        raise Failure(f"without a mutant, a test fails: {by}")
    for mutant in found.together:
        by = first_failure(built, area, mutant.number)
        record(area, commit, mutant, "missed" if by is None else "caught", by)
    for mutant in found.alone:
        record(area, commit, mutant, *alone(area, mutant))


def interval(caught: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z = 1.959964
    share = caught / count
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - half) / (1 + z * z / count), (middle + half) / (1 + z * z / count)


def report(areas: list[Area]) -> None:
    """Prints the shares of the areas' samples, and the mutants missed."""
    for area in areas:
        results = known(area)
        names = [mutant.name for mutant in sample(area)]
        own = [results[name] for name in names if name in results]
        counted = [line for line in own if line["result"] != "unviable"]
        if not counted:
            print(f"{area.name}: no results")
            continue
        caught = sum(line["result"] == "caught" for line in counted)
        low, high = interval(caught, len(counted))
        print(
            f"{area.name}: {caught} of {len(counted)} caught, {caught / len(counted):.1%} "
            f"(95 %: {low:.1%} to {high:.1%}), {len(own) - len(counted)} unviable, "
            f"{len(names) - len(own)} without a result"
        )
        for line in counted:
            if line["result"] == "missed":
                print(f"    missed: {line['mutant']}")


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(description="Runs a sample (see the head of this file).")
    parser.add_argument("--report", action="store_true", help="add up the results")
    parser.add_argument("areas", nargs="*", metavar="AREA", help=" ".join(AREAS))
    asked = parser.parse_args()
    unknown = [name for name in asked.areas if name not in AREAS]
    if unknown:
        raise Failure(f"no area {', '.join(unknown)}; there are: {' '.join(AREAS)}")
    if not asked.report:
        commit = run.git("rev-parse", "--short=12", "HEAD").stdout.strip()
        run.copy_dependencies()
        for name in asked.areas or AREAS:
            measure(AREAS[name], commit)
    report([AREAS[name] for name in asked.areas or AREAS])


if __name__ == "__main__":
    try:
        main()
    except Failure as fault:
        sys.exit(str(fault))
