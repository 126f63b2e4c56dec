"""The table of docs/CLIENTS.md has exactly the clients that the tests run."""

from __future__ import annotations

from pathlib import Path

import pytest

import test_agents
import test_agents_coding
import test_agents_full
from clients_table import HEAD, RULE, Row, keep, rows, write, writing

ROW = Row("one", "1.0", "chat", "as the model said it", "class `default`")


def clients_tested() -> set[str]:
    """The clients that the tests run."""
    return {
        *(client.name for client in test_agents.CLIENTS),
        *(client.name for client in test_agents_full.CLIENTS),
        *test_agents_coding.AGENTS,
        *test_agents_full.AGENTS,
    }


def page(folder: Path, *lines: str) -> Path:
    """A page with a table of these rows, and a text before and after it."""
    path = folder / "page.md"
    path.write_text("\n".join(["before", "", HEAD, RULE, *lines, "", "after", ""]))
    return path


def test_the_table_has_exactly_the_clients_that_are_tested() -> None:
    if writing():
        write({}, only=clients_tested())
    assert set(rows()) == clients_tested()


def test_a_row_is_added_and_another_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_SHIELD_WRITE_DOCS", "1")
    path = page(tmp_path, "| old | 1.0 | chat | fails | none |")
    keep(ROW, path)
    assert list(rows(path)) == ["old", "one"]
    write({}, path, {"one"})
    assert path.read_text() == page(tmp_path, ROW.line()).read_text()


def test_a_row_that_differs_or_is_not_there_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOKEN_SHIELD_WRITE_DOCS", raising=False)
    keep(ROW, page(tmp_path, ROW.line()))
    for lines in ((), (ROW.line().replace("1.0", "1.1"),), (ROW.line().replace("chat", "tools"),)):
        with pytest.raises(AssertionError, match="differs from this run"):
            keep(ROW, page(tmp_path, *lines))
