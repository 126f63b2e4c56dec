"""The campaigns of `./test.sh --full CAMPAIGN`, and the tests that run on change."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Campaign:
    """One campaign: what it shows, and the tests that it consists of."""

    name: str
    shows: str
    # A filter expression of cargo-nextest; None without tests in Rust.
    rust: str | None = None
    # Arguments for pytest, relative to the root of the sources.
    clients: tuple[str, ...] = ()
    # A program with its arguments.
    program: tuple[str, ...] = ()
    # An ordinary run includes these client tests only if a file under these paths has changed.
    on_change: tuple[str, ...] = field(default=())


CAMPAIGNS = (
    Campaign(
        "tokens",
        "1,000,000 random chains, and 1,000,000 mutants of tokens and chains",
        rust="test(token::mutants) | test(token::narrow)",
    ),
    Campaign(
        "tampering",
        "100,000 changes of a log, read by the Rust verifier and by the one in Python",
        rust="test(tamper) | test(audit::)",
        clients=("tests/clients/test_tamper.py",),
    ),
    Campaign(
        "disk",
        "faults of the disk and power cuts at each call of a scripted run",
        rust="test(faults) | test(journal)",
    ),
    Campaign(
        "crashes",
        "kill -9 under load",
        rust="test(kill)",
        clients=("tests/clients/test_audit.py",),
    ),
    Campaign(
        "power",
        "power cuts of a file system in a loop device",
        clients=("tests/clients/test_power.py",),
    ),
    Campaign(
        "answers",
        "10,000 harmful and 10,000 harmless answers, and secrets at each cut of a stream",
        clients=("tests/clients/test_answers.py", "tests/clients/test_answers_secrets.py"),
    ),
    Campaign("tools", "2,000 answers with tool calls", clients=("tests/clients/test_tools.py",)),
    Campaign(
        "readers",
        "200,000 URLs, read by other parsers",
        clients=("tests/clients/test_readers.py",),
    ),
    Campaign(
        "content",
        "2,000 requests with content from elsewhere",
        clients=("tests/clients/test_inline.py",),
    ),
    Campaign(
        "takeover",
        "100 take-overs under load",
        clients=(
            "tests/clients/test_takeover.py",
            "tests/clients/test_takeover_manager.py",
        ),
    ),
    Campaign(
        "failover",
        "failing upstreams under load",
        clients=("tests/clients/test_routes_failover.py",),
    ),
    Campaign(
        "credentials",
        "handles and tokens at full size",
        clients=("tests/clients/test_tokens_door.py",),
    ),
    Campaign(
        "descriptors",
        "as many connections as descriptors allow",
        clients=("tests/clients/test_conn_descriptors.py",),
    ),
    Campaign(
        "agents",
        "all unmodified clients, also those that take long or look up names",
        clients=(
            "tests/clients/test_agents.py",
            "tests/clients/test_agents_coding.py",
            "tests/clients/test_agents_full.py",
            "tests/clients/test_clients_table.py",
        ),
    ),
    Campaign(
        "faults",
        "each seeded fault alone, and the test that notices it",
        program=("tests/mutants/run.py", "--full"),
    ),
    Campaign(
        "mutation",
        "80 random mutants of cargo-mutants in each of three areas; needs cargo-mutants",
        program=("tests/mutants/sample.py",),
    ),
    Campaign(
        "tutorials",
        "the commands of the README and the runbook, as a reader types them",
        clients=("tests/clients/test_cli_newcomer.py", "tests/clients/test_cli_runbook.py"),
        on_change=(
            "README.md",
            "docs/RUNBOOK.md",
            "config",
            "src/cli",
            "tests/clients/test_cli_newcomer.py",
            "tests/clients/test_cli_runbook.py",
        ),
    ),
    Campaign(
        "fronts",
        "nginx and haproxy in front of the gateway",
        clients=("tests/clients/test_fronts.py",),
        on_change=("src/proxy", "src/config", "docs/OPERATIONS.md", "tests/clients/test_fronts.py"),
    ),
)


def named(name: str) -> Campaign | None:
    """The campaign of that name."""
    for campaign in CAMPAIGNS:
        if campaign.name == name:
            return campaign
    return None
