"""docs/RUNBOOK.md has a row for each text that refuses a start or a take-over, and no others."""

from __future__ import annotations

import re

import pytest

from gateway import ROOT

PAGE = (ROOT / "docs/RUNBOOK.md").read_text()
# Where errors of a start come from; errors passed on unchanged (`transparent`) are in another file.
ERRORS = [
    "src/app/fault.rs",
    "src/audit/store/log/fault.rs",
    "src/secret.rs",
    "src/proxy/descriptors.rs",
    "src/guard/table.rs",
    "src/audit/store/vault.rs",
    "src/audit/read/tiles.rs",
    "src/durable.rs",
    "src/durable/identity.rs",
]
# A start never prints these: they answer commands, or are part of another error's text.
ELSEWHERE = {
    "process … has taken over the audit log: ask again, and it is asked",
    "…; the keys that are in use are in memory alone",
}
COMMANDS = "there is no record key for this principal"
LETTERS_MIN = 6


def literals(text: str) -> list[str]:
    """Rust's string literals, with continued lines joined and `…` for placeholders."""
    found = []
    for literal in re.findall(r'"((?:[^"\\]|\\.)*)"', text, re.S):
        whole = re.sub(r"\\\n\s*", "", literal).replace('\\"', '"')
        found.append(re.sub(r"\{[^{}]*\}", "…", whole))
    return found


def said(path: str) -> list[str]:
    """The texts of errors in a file, from #[error("…")]."""
    source = (ROOT / path).read_text()
    return [
        literals(found)[0]
        for found in re.findall(r"#\[error\(\s*(\"(?:[^\"\\]|\\.)*\")", source, re.S)
    ]


def refusals() -> list[str]:
    """The reasons why a running gateway does not hand over, or a successor does not take over."""
    texts = []
    for path in ("src/app/handover/give.rs", "src/app/handover/take.rs"):
        source = (ROOT / path).read_text()
        pattern = (
            r"(?:Err\(|format!\(\s*|ok_or\(|fault\(|map_err\(\|\w+\| format!\(\s*|let why "
            r"=\s*)(\"(?:[^\"\\]|\\.)*\")"
        )
        texts += [literals(found)[0] for found in re.findall(pattern, source, re.S)]
    return texts


def rows(*sections: str) -> list[str]:
    """The texts in the first columns."""
    parts = [PAGE.split(f"## {section}\n")[1].split("\n## ")[0] for section in sections]
    cells = [
        line.split(" | ")[0]
        for part in parts
        for line in part.splitlines()
        if line.startswith("| ")
    ]
    return [key for cell in cells for key in re.findall(r"`([^`]+)`", cell)]


def matches(key: str, text: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in re.split("…", key))
    return (
        len(re.sub(r"[^a-zA-Z]", "", key)) >= LETTERS_MIN
        and re.search(pattern, text, re.S) is not None
    )


STARTS = [
    text
    for path in ERRORS
    for text in said(path)
    if text not in ELSEWHERE and not text.startswith(COMMANDS)
]
NAMED = [text for text in STARTS if len(re.sub(r"[^a-zA-Z]", "", text)) >= LETTERS_MIN]


def test_the_texts_are_found() -> None:
    assert len(NAMED) > 40 and len(refusals()) > 10, (len(NAMED), len(refusals()))


@pytest.mark.parametrize("text", NAMED)
def test_a_refusal_to_start_has_a_row(text: str) -> None:
    assert any(matches(key, text) for key in rows("It does not start")), text


@pytest.mark.parametrize(
    "text", [text for text in refusals() if len(re.sub(r"[^a-zA-Z]", "", text)) >= LETTERS_MIN]
)
def test_a_refusal_to_hand_over_has_a_row(text: str) -> None:
    assert any(matches(key, text) for key in rows("It does not hand over")), text


def test_no_row_speaks_of_what_is_never_said() -> None:
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.rs")))
    known = [*STARTS, *refusals(), *literals(sources)]
    for key in rows("It does not start", "It does not hand over"):
        if key.isupper() or key.startswith(("FILE", "handover.sock", "--data", "dev")):
            continue
        assert any(matches(key, text) for text in known), key
