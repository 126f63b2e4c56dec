"""Unmodified coding agents: what they write and run is what the model said.

aider and smolagents take programs out of the text of an answer, so that a rewritten answer would
be a broken program. Claude Code takes them from the arguments of tool calls. Each is compared with
a run against the same model server without the gateway.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent_runs import PLACES, Client, pin, results, run, surroundings
from clients_table import Row, keep
from coding_files import DOCUMENTS, NESTED, PROGRAMS, diff, whole
from gateway import Served
from test_serve import fake_model
from turns import MODEL, Call, Turn, TurnServer

IMAGE = "![x](https://images.example/x.png)"
PROGRAM = PROGRAMS["fetch.py"]
RUN = (
    f"markdown = '{IMAGE}'\n"
    "html = '<img src=https://images.example/a.png>'\n"
    "page = 'https://api.example/v1?a=1&b=2'\n"
    "final_answer(page + ' ' + markdown + ' ' + html)"
)
RAN = f"https://api.example/v1?a=1&b=2 {IMAGE} <img src=https://images.example/a.png>"
CLAUDE = PLACES / "claude-code/node_modules/.bin/claude"
# Claude Code's own switch, and where it writes nothing but what the test looks at.
CLAUDE_QUIET = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1"}
# The clients of this file, by their names in docs/CLIENTS.md.
AGENTS = ("aider", "smolagents", "Claude Code")
CODING = "class `coding`"
DEFAULT = "class `default`"


@dataclass(frozen=True)
class Target:
    """Where a client is pointed at: the gateway with a token of a class, or the model server."""

    name: str
    url: str
    token: str


@dataclass(frozen=True)
class Targets:
    """The ways to the model server."""

    direct: Target
    default: Target
    coding: Target


@pytest.fixture(scope="module")
def model() -> Iterator[TurnServer]:
    server = TurnServer()
    code = {name: text for name, text in {**PROGRAMS, **DOCUMENTS}.items()}
    server.script.play("whole", Turn(whole(code)))
    server.script.play("diff", Turn(diff({**code, **NESTED})))
    server.script.play("tags", Turn(f"Thought: see {IMAGE}\n<code>\n{RUN}\n</code>"))
    server.script.play("fences", Turn(f"Thought: see {IMAGE}\n```python\n{RUN}\n```"))
    server.script.play("child", Turn(f"The child says {IMAGE}"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def served(model: TurnServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("coding") / "data", fake_model(model.url)) as running:
        yield running


@pytest.fixture(scope="module")
def targets(model: TurnServer, served: Served) -> Targets:
    coder = served.issue("coders/coding", "--class", "coding", models=(MODEL,))
    plain = served.issue("coders/default", models=(MODEL,))
    return Targets(
        Target("direct", model.url, "none"),
        Target("default", served.url, plain),
        Target("coding", served.url, coder),
    )


@pytest.fixture(scope="module")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where clients keep compiled modules."""
    return tmp_path_factory.mktemp("bytecode")


def written(folder: Path) -> dict[str, str]:
    """The files below a folder, without those of the agent itself."""
    return {
        str(path.relative_to(folder)): path.read_bytes().decode()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


# ---- aider ---------------------------------------------------------------------------------------


def aider(target: Target, form: str, folder: Path, bytecode: Path) -> dict[str, str]:
    """Lets aider write what the scenario of that name says; returns the files."""
    home, work = folder / f"home-{form}-{target.name}", folder / f"{form}-{target.name}"
    work.mkdir()
    # Without a table of prices, aider fetches one.
    prices = home / ".aider/caches/model_prices_and_context_window.json"
    prices.parent.mkdir(parents=True)
    prices.write_text('{"none": {}}')
    words = [
        str(PLACES / "aider/bin/aider"),
        *("--model", f"openai/{MODEL}", "--openai-api-base", f"{target.url}/v1"),
        *("--openai-api-key", target.token, "--edit-format", form),
        *("--no-git", "--yes-always", "--no-auto-lint", "--no-check-update", "--no-pretty"),
        *("--no-show-model-warnings", "--no-show-release-notes", "--no-analytics"),
        *("--no-fancy-input", "--no-detect-urls", "--no-suggest-shell-commands"),
        "--no-stream" if form == "whole" else "--stream",
        *("--map-tokens", "0", "--message", f"scenario {form}. Go."),
    ]
    run(
        words, surroundings(home, target.url, target.token, PYTHONPYCACHEPREFIX=str(bytecode)), work
    )
    return written(work)


def test_aider_writes_what_the_model_said(targets: Targets, bytecode: Path, tmp_path: Path) -> None:
    said = {"whole": {**PROGRAMS, **DOCUMENTS}, "diff": {**PROGRAMS, **DOCUMENTS, **NESTED}}
    changed: list[str] = []
    for form, files in said.items():
        direct = aider(targets.direct, form, tmp_path, bytecode)
        assert direct == files, "aider does not write what the model said"
        assert aider(targets.coding, form, tmp_path, bytecode) == direct
        plain = aider(targets.default, form, tmp_path, bytecode)
        assert plain.keys() == direct.keys()
        changed += [name for name in direct if plain[name] != direct[name]]
    # The comparison notices a rewritten answer, and only these documents are rewritten.
    assert changed and set(changed) < set(NESTED)
    files = len(PROGRAMS) + len(DOCUMENTS)
    nested = ", ".join(f"`{Path(name).name}`" for name in sorted(changed))
    keep(
        Row(
            "aider",
            pin("aider", "aider-chat"),
            f"formats whole and diff: {files} programs and documents, {len(NESTED)} documents "
            "with nested equal fences",
            f"{CODING}: every file byte-identical. {DEFAULT}: all but {len(changed)} of the "
            f"{len(NESTED)} nested ({nested})",
            f"{CODING}; `--openai-api-base`, `--openai-api-key`",
        )
    )


# ---- smolagents ----------------------------------------------------------------------------------

SMOLAGENTS = Client(
    "smolagents", "python", "python/smolagents_code.py", f"{CODING}; `api_base`, `api_key`"
)


def test_smolagents_runs_what_the_model_said(
    targets: Targets, bytecode: Path, tmp_path: Path
) -> None:
    got: dict[str, dict[str, object]] = {}
    for target in (targets.direct, targets.default, targets.coding):
        home = tmp_path / target.name
        env = surroundings(home, target.url, target.token, PYTHONPYCACHEPREFIX=str(bytecode))
        got[target.name] = results(SMOLAGENTS, home, env)
    said = {"ran": [RUN], "answer": RAN}
    assert got["direct"] == {"tags": said, "fences": said}
    assert got["coding"] == got["direct"]
    assert got["default"]["fences"] == said
    # Its own tags are no code for a renderer of Markdown. So the comparison notices a change.
    assert got["default"]["tags"] != said
    keep(
        Row(
            "smolagents",
            SMOLAGENTS.version,
            "CodeAgent, with its own tags and with fences",
            f"{CODING}: the code that it runs is byte-identical. {DEFAULT}: with fences",
            SMOLAGENTS.settings,
        )
    )


# ---- Claude Code ---------------------------------------------------------------------------------


def picture() -> bytes:
    """A PNG of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\xff\0\0")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def claude(target: Target, prompt: str, folder: Path) -> str:
    """Runs `claude -p` in a folder; returns its answer."""
    own = {"ANTHROPIC_BASE_URL": target.url, "ANTHROPIC_AUTH_TOKEN": target.token, **CLAUDE_QUIET}
    words = [str(CLAUDE), "-p", prompt, "--model", MODEL]
    words += ["--allowedTools", "Write,Read,Bash,Agent", "--output-format", "json"]
    folder.mkdir(exist_ok=True)
    said = json.loads(
        run(words, surroundings(folder / ".home", target.url, target.token, **own), folder)
    )
    assert said["subtype"] == "success" and not said["is_error"], said
    return str(said["result"])


def refused(served: Served) -> list[dict[str, object]]:
    """The requests that the gateway did not answer with success."""
    lines = [json.loads(line) for line in served.logged().splitlines() if '"request"' in line]
    return [line for line in lines if line.get("status", 200) >= 400]


def test_claude_code_works_with_the_default_config(
    targets: Targets, model: TurnServer, served: Served, tmp_path: Path
) -> None:
    answers: dict[str, str] = {}
    for target in (targets.default, targets.coding):
        work = tmp_path / target.name
        (work / "folder").mkdir(parents=True)
        (work / "picture.png").write_bytes(picture())
        calls = (
            Call("Write", {"file_path": str(work / "fetch.py"), "content": PROGRAM}),
            Call("Bash", {"command": "wc -c < fetch.py", "description": "Count"}),
            Call("Read", {"file_path": str(work / "picture.png")}),
            Call(
                "Agent",
                {
                    "description": "Ask",
                    "prompt": "scenario child. Go.",
                    "subagent_type": "general-purpose",
                },
            ),
        )
        turns = [Turn(f"Step {place}.", (call,)) for place, call in enumerate(calls)]
        model.script.play("loop", *turns, Turn(f"Done. {IMAGE}\n\n```\n{PROGRAM}```"))
        model.taken()
        answers[target.name] = claude(target, "scenario loop. Go.", work)
        assert (work / "fetch.py").read_bytes() == PROGRAM.encode()
        bodies = json.dumps([asked.body["messages"] for asked in model.taken()])
        assert f'"{len(PROGRAM)}"' in bodies, "the result of Bash has not arrived"
        assert '"image/png"' in bodies, "the picture has not arrived"
        assert "The child says" in bodies, "the subagent's answer has not arrived"
    assert answers["coding"] == f"Done. {IMAGE}\n\n```\n{PROGRAM}```"
    assert answers["default"].endswith(f"```\n{PROGRAM}```")
    assert IMAGE not in answers["default"], "the default class changes images in prose"
    assert not refused(served), json.dumps(refused(served))
    # It counts the tokens of each part of its context at once, in more requests than the default
    # class allows, and asks again for those that are refused.
    shown = claude(targets.default, "/context", tmp_path / "context")
    assert "tokens" in shown.lower(), shown
    assert {line["code"] for line in refused(served)} <= {"in-flight-exceeded"}
    keep(
        Row(
            "Claude Code",
            pin("claude-code", "@anthropic-ai/claude-code"),
            "`claude -p`: Write, Bash, a picture by Read, a subagent; `/context`",
            f"{DEFAULT} and {CODING}: works, the file is byte-identical",
            f"{DEFAULT} or {CODING}; `ANTHROPIC_BASE_URL`, `ANTHROPIC_AUTH_TOKEN`",
        )
    )
