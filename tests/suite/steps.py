"""The steps of a run: what each one starts, and which steps it waits for."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from campaigns import CAMPAIGNS, Campaign
from results import ROOT, reason_to_run

PYTHON = str(ROOT / "target/venv/bin/python")
PROGRAM = str(ROOT / "target/debug/token-shield")
# Programs and tests are built with one set of features, so that each crate is built once.
FEATURES = ("--features", "failpoints")
TARGETS = ("--lib", "--bins", "--tests")
NODE_PACKAGES = (
    "commonmark@0.31.2",
    "commonmark-spec@0.31.2",
    "markdown-it@14.1.0",
    "marked@15.0.12",
    "ollama@0.6.4",
    "@openai/codex@0.171.0",  # the agent of the Responses dialect
)

# Tests that need most of a core, or the disk alone. They run in steps of their own.
TAMPERING = ("tests/clients/test_tamper.py",)
CRASHES = ("tests/clients/test_power.py", "tests/clients/test_audit.py::test_kill_9_under_load")
# Clients that take long, or that look up names: a campaign runs them.
FULL_ONLY = ("tests/clients/test_agents_full.py",)
# Files of client tests that `--quick` runs: each starts one or two gateways.
QUICK_CLIENTS = (
    "tests/clients/test_data_plane.py",
    "tests/clients/test_sdks.py",
    "tests/clients/test_streams.py",
)
# Tests in Rust that `--quick` leaves out: campaigns, and tests that verify whole logs many times.
LEFT_OUT_OF_QUICK = ("tamper::", "kill::", "faults::", "token::mutants", "token::narrow", "turn::")
QUICK_RUST = f"not ({' | '.join(f'test({name})' for name in LEFT_OUT_OF_QUICK)})"
QUICK_PROFILE = ("--cargo-profile", "quick")


@dataclass(frozen=True)
class Step:
    """A step: commands that run one after the other, and fail the step if one of them fails."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    # Names of steps that must end first.
    after: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        """The steps before it that must pass: without them it cannot run."""
        return tuple(name for name in self.after if name in PREREQUISITES)


def as_root(*command: str) -> tuple[str, ...]:
    """A command that runs as root."""
    return command if os.geteuid() == 0 else ("sudo", "-n", *command)


def cargo(*arguments: str) -> tuple[str, ...]:
    return ("cargo", *arguments)


def pytest(*arguments: str) -> tuple[str, ...]:
    return (PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)


def python_packages() -> Step:
    """A virtual environment with the packages of the client tests."""
    wanted = ROOT / "tests/clients/requirements.txt"
    installed = ROOT / "target/venv/installed"
    commands: list[tuple[str, ...]] = []
    if not Path(PYTHON).exists():
        commands.append(("python3", "-m", "venv", "target/venv"))
    if not installed.exists() or installed.read_bytes() != wanted.read_bytes():
        quiet = ("-q", "--disable-pip-version-check")
        commands.append(("target/venv/bin/pip", "install", *quiet, "-r", str(wanted)))
        commands.append(("cp", str(wanted), str(installed)))
    return Step("install Python packages", tuple(commands))


def node_packages() -> Step:
    """Renderers of Markdown that the client tests compare with, and Ollama's client."""
    installed = ROOT / "target/node/installed"
    if installed.exists() and installed.read_text(encoding="utf-8").split() == list(NODE_PACKAGES):
        return Step("install Node.js packages", ())
    options = ("--silent", "--no-fund", "--no-audit", "--ignore-scripts", "--prefix", "target/node")
    return Step(
        "install Node.js packages",
        (
            ("mkdir", "-p", "target/node"),
            ("npm", "install", *options, *NODE_PACKAGES),
            ("sh", "-c", f"echo {' '.join(NODE_PACKAGES)} >target/node/installed"),
        ),
    )


def client_packages(*options: str) -> Step:
    """The clients that are tested unmodified, each in its pinned version."""
    script = "tests/clients/agents/install.py"
    return Step("install clients", (("python3", script, *options),))


BUILD = Step(
    "build the program and the tests",
    (cargo("nextest", "run", "--no-run", "--cargo-quiet", *FEATURES, *TARGETS),),
)
INSTALL = ("install Python packages", "install Node.js packages")
PREREQUISITES = (BUILD.name, *INSTALL, "install clients")
CLIENTS_AFTER = (BUILD.name, *INSTALL)
WITH_PROGRAM = {"TOKEN_SHIELD_BIN": PROGRAM}


def rust_tests(filter_expression: str | None = None, after: tuple[str, ...] = ()) -> Step:
    only = () if filter_expression is None else ("-E", filter_expression)
    run = ("nextest", "run", "--no-fail-fast", "--cargo-quiet", "--status-level", "slow")
    return Step("tests in Rust", (cargo(*run, *FEATURES, *TARGETS, *only),), (BUILD.name, *after))


def loopback_only(*arguments: str) -> tuple[str, ...]:
    """Client tests in a network namespace that has loopback alone."""
    script = str(ROOT / "tests/clients/loopback_only.py")
    passed_on = [f"TOKEN_SHIELD_BIN={PROGRAM}"]
    if "TOKEN_SHIELD_FULL" in os.environ:
        passed_on.append("TOKEN_SHIELD_FULL=1")
    return as_root("env", *passed_on, PYTHON, script, "-q", *arguments)


def client_tests(left_out: tuple[str, ...]) -> Step:
    """All client tests that have no step of their own."""
    skipped = [argument for path in left_out for argument in ("--deselect", path)]
    return Step(
        "unmodified clients, where loopback is the only network",
        (loopback_only("-n", "3", "--dist", "loadfile", *skipped),),
        (*CLIENTS_AFTER, "install clients", "tests in Rust"),
    )


def lints() -> list[Step]:
    """Checks of the sources that compile them in other ways."""
    clippy = cargo("clippy", "-q", "--all-targets", *FEATURES, "--", "-D", "warnings")
    doc = cargo("doc", "-q", "--no-deps", "--document-private-items", *FEATURES)
    alone = cargo("check", "-q", "--lib", "--no-default-features")
    offline = cargo("check", "-q", "--no-default-features", "--features", "offline")
    examples = cargo("test", "-q", "--doc", *FEATURES)
    after = (BUILD.name,)
    strict = {"RUSTDOCFLAGS": "-D warnings"}
    # One after the other: Cargo builds one thing at a time.
    return [
        Step("lints", (clippy,), after),
        Step("documentation", (doc,), ("lints",), strict),
        Step("floors 0 and 1 alone", (alone,), ("documentation",)),
        Step("the offline commands alone", (offline,), ("floors 0 and 1 alone",)),
        Step(
            "examples in the documentation",
            (examples,),
            ("the offline commands alone",),
        ),
    ]


def on_change() -> tuple[list[str], tuple[str, ...]]:
    """Lines that say which tests run on change and why, and the tests that do not run now."""
    lines: list[str] = []
    left_out: tuple[str, ...] = ()
    for campaign in CAMPAIGNS:
        if not campaign.on_change:
            continue
        reason = reason_to_run(campaign)
        if reason is None:
            left_out += campaign.clients
            lines.append(f"{campaign.name}: not run, its files have not changed")
        else:
            lines.append(f"{campaign.name}: run, {reason}")
    for path in FULL_ONLY:
        lines.append(f"{path}: run by ./test.sh --full agents")
    return lines, (*left_out, *FULL_ONLY)


def ordinary(left_out: tuple[str, ...]) -> list[Step]:
    """Every test, campaigns at a share of their size with fixed seeds.

    What compiles, and what fills a core, runs one step after the other: client tests have time
    limits. The tamperings run beside them, on one core.
    """
    clients = client_tests((*left_out, *TAMPERING, *CRASHES))
    tampering = "tamperings, by both verifiers"
    return [
        python_packages(),
        node_packages(),
        client_packages(),
        Step("format", (cargo("fmt", "--check"),)),
        Step("seeded faults apply", (("python3", "tests/mutants/run.py", "--check"),)),
        BUILD,
        *lints(),
        rust_tests(after=("examples in the documentation",)),
        clients,
        Step(tampering, (pytest(*TAMPERING),), clients.after, WITH_PROGRAM),
        Step(
            "crashes and power cuts",
            (pytest(*CRASHES),),
            (clients.name, tampering),
            WITH_PROGRAM,
        ),
        Step(
            "seeded faults are noticed",
            (("python3", "tests/mutants/run.py"),),
            # Beside the crashes: these wait for the disk and for other processes.
            (BUILD.name, clients.name, tampering),
        ),
    ]


def quick() -> list[Step]:
    """What daily work needs, within four minutes after a small change."""
    options = ("--cargo-quiet", *QUICK_PROFILE, *FEATURES, *TARGETS)
    build = Step(BUILD.name, (cargo("nextest", "run", "--no-run", *options),))
    run = ("nextest", "run", "--no-fail-fast", "--status-level", "slow", "-E", QUICK_RUST)
    program = {"TOKEN_SHIELD_BIN": str(ROOT / "target/quick/token-shield")}
    return [
        python_packages(),
        node_packages(),
        Step("format", (cargo("fmt", "--check"),)),
        Step("seeded faults apply", (("python3", "tests/mutants/run.py", "--check"),)),
        build,
        Step("tests in Rust", (cargo(*run, *options),), (build.name,)),
        Step(
            "clients",
            (pytest("-n", "3", *QUICK_CLIENTS),),
            (*CLIENTS_AFTER, "tests in Rust"),
            program,
        ),
    ]


def full(campaign: Campaign) -> list[Step]:
    """One campaign at full size, one test at a time: it takes the whole machine."""
    steps = [python_packages(), node_packages(), BUILD]
    ready = CLIENTS_AFTER
    if campaign.name == "agents":
        steps.append(client_packages("--all"))
        ready += ("install clients",)
    if campaign.rust is not None:
        steps.append(rust_tests(campaign.rust))
    if campaign.clients:
        name = "clients"
        after = ready if campaign.rust is None else (*ready, "tests in Rust")
        steps.append(Step(name, (pytest(*campaign.clients),), after, WITH_PROGRAM))
    if campaign.program:
        steps.append(Step(campaign.program[0], (("python3", *campaign.program),), (BUILD.name,)))
    return steps
