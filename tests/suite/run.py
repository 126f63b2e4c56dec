"""Runs the tests: `./test.sh [--quick | --full CAMPAIGN]`.

Steps that do not wait for each other run at the same time. The output of a step appears when the
step has ended. A step whose predecessor has failed fails too: every test runs, or the run fails.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import results
import steps as plan
from campaigns import CAMPAIGNS, Campaign, named
from results import ROOT
from steps import Step

# Lines of a passed step that are shown.
TAIL = 3


@dataclass
class Outcome:
    """How a step has ended."""

    step: Step
    passed: bool
    seconds: float
    output: str


class Run:
    """A run of steps. Each step has a thread, which waits for the steps before it."""

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps
        self._ended = {step.name: threading.Event() for step in steps}
        self._outcomes: dict[str, Outcome] = {}
        self._processes: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def wait(self) -> list[Outcome]:
        """Runs all steps; returns their outcomes in the order of the list."""
        threads = [threading.Thread(target=self._step, args=(step,)) for step in self._steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [self._outcomes[step.name] for step in self._steps]

    def stop(self) -> None:
        """Ends what this run has started."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                os.killpg(process.pid, signal.SIGTERM)

    def _step(self, step: Step) -> None:
        for name in step.after:
            self._ended[name].wait()
        failed = [name for name in step.needs if not self._outcomes[name].passed]
        began = time.monotonic()
        if failed:
            outcome = Outcome(step, False, 0.0, f"not run: {', '.join(failed)} failed\n")
        else:
            passed, output = self._commands(step)
            outcome = Outcome(step, passed, time.monotonic() - began, output)
        with self._lock:
            self._outcomes[step.name] = outcome
            show(outcome)
        self._ended[step.name].set()

    def _commands(self, step: Step) -> tuple[bool, str]:
        output = ""
        for command in step.commands:
            with self._lock:
                if self._stopped:
                    return False, output + "stopped\n"
                process = start(command, step.environment)
                self._processes.add(process)
            said, _ = process.communicate()
            with self._lock:
                self._processes.discard(process)
            output += said
            if process.returncode != 0:
                return False, f"{output}exit {process.returncode}: {' '.join(command)}\n"
        return True, output


def start(command: tuple[str, ...], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Starts a command in a process group of its own."""
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def show(outcome: Outcome) -> None:
    """Prints the output of a step: all of it if the step has failed."""
    verdict = "ok" if outcome.passed else "FAILED"
    print(f"\n== {outcome.step.name}: {verdict}, {outcome.seconds:.0f} s", flush=True)
    lines = outcome.output.splitlines()
    for line in lines[-TAIL:] if outcome.passed else lines:
        print(line)
    sys.stdout.flush()


def summary(outcomes: list[Outcome], seconds: float) -> bool:
    """Prints a line for each step; true if all have passed."""
    print()
    failed = 0
    for outcome in outcomes:
        failed += 0 if outcome.passed else 1
        verdict = "ok    " if outcome.passed else "FAILED"
        print(f"  {verdict}  {outcome.seconds:5.0f} s  {outcome.step.name}")
    print(f"{len(outcomes) - failed} passed, {failed} failed, {seconds / 60:.1f} minutes")
    return failed == 0


def execute(steps: list[Step]) -> tuple[list[Outcome], bool, float]:
    """Runs steps to their ends."""
    run = Run(steps)

    def interrupted(*_: object) -> None:
        run.stop()

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    began = time.monotonic()
    outcomes = run.wait()
    seconds = time.monotonic() - began
    return outcomes, summary(outcomes, seconds), seconds


def full(campaign: Campaign) -> bool:
    """Runs a campaign at full size, and records its result."""
    os.environ["TOKEN_SHIELD_FULL"] = "1"
    outcomes, passed, seconds = execute(plan.full(campaign))
    said: list[str] = []
    for outcome in outcomes:
        if outcome.step.name in ("tests in Rust", "clients", *campaign.program):
            lines = [line.strip() for line in outcome.output.splitlines() if line.strip()]
            said.extend(lines[-TAIL:])
    print(f"added to {results.add(campaign, passed, seconds, said).relative_to(ROOT)}")
    return passed


def campaigns() -> str:
    """A line for each campaign."""
    return "\n".join(f"  {campaign.name:12} {campaign.shows}" for campaign in CAMPAIGNS)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="./test.sh",
        description="Installs what the tests need, then runs every test.",
        epilog=f"campaigns:\n{campaigns()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="daily work: at most four minutes")
    parser.add_argument(
        "--full", metavar="CAMPAIGN", help="one campaign at full size; adds to tests/results/"
    )
    asked = parser.parse_args()
    if asked.full is not None:
        campaign = named(asked.full)
        if campaign is None:
            print(f"no campaign is named {asked.full}; there are:\n{campaigns()}")
            return 2
        return 0 if full(campaign) else 1
    if asked.quick:
        return 0 if execute(plan.quick())[1] else 1
    lines, left_out = plan.on_change()
    for line in lines:
        print(line)
    return 0 if execute(plan.ordinary(left_out))[1] else 1


if __name__ == "__main__":
    sys.exit(main())
