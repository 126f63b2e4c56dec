"""Unmodified clients that take long or look up names: `./test.sh --full agents` runs them.

They are not run where loopback is the only network.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent_runs import PLACES, Client, pin, run, surroundings
from clients_table import Row, keep
from coding_files import PROGRAMS
from gateway import Served
from test_agents import bytecode, check, model, served  # noqa: F401
from turns import MODEL, Call, Turn, TurnServer

CLIENTS = (
    Client("crewai", "crewai", "python/crewai_crew.py", "`base_url`, `api_key`"),
    Client("google-adk", "google-adk", "python/google_adk.py", "`api_base`, `api_key` of litellm"),
)
# The coding agents of this file, by their names in docs/CLIENTS.md.
AGENTS = ("opencode", "Qwen Code")
PROGRAM = PROGRAMS["fetch.py"]
IMAGE = "![x](https://images.example/x.png)"


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_gets_what_the_model_said(
    client: Client,
    served: Served,  # noqa: F811
    bytecode: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    check(client, served, bytecode, tmp_path / "home")


def loop(write: Call, shell: Call) -> tuple[Turn, ...]:
    """A file is written and counted, and the count comes back in the answer."""
    return Turn(f"I write it. {IMAGE}", (write,)), Turn("", (shell,)), Turn(f"{IMAGE} {{result}}")


def works(name: str, package: str, said: str, work: Path, settings: str) -> None:
    """Checks the file and the answer of a coding agent, and keeps its row."""
    assert (work / "fetch.py").read_bytes() == PROGRAM.encode()
    assert IMAGE in said and str(len(PROGRAM)) in said, said
    keep(
        Row(
            name,
            pin("coding", package),
            "a file written, a command run",
            "the file is byte-identical, the answer as the model said it",
            f"class `coding`; {settings}",
        )
    )


def test_opencode_writes_what_the_model_said(
    served: Served,  # noqa: F811
    model: TurnServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    token = served.issue("coders/opencode", "--class", "coding", models=(MODEL,))
    work = tmp_path / "work"
    work.mkdir()
    options = {"baseURL": f"{served.url}/v1", "apiKey": token}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "gateway",
        "options": options,
        "models": {MODEL: {"name": MODEL}},
    }
    config = {
        "autoupdate": False,
        "share": "disabled",
        "permission": "allow",
        "model": f"gateway/{MODEL}",
        "small_model": f"gateway/{MODEL}",
        "provider": {"gateway": provider},
    }
    (work / "opencode.json").write_text(json.dumps(config))
    write = Call("write", {"filePath": str(work / "fetch.py"), "content": PROGRAM})
    count = Call("bash", {"command": "wc -c < fetch.py", "description": "Count"})
    model.script.play("opencode", *loop(write, count))
    quiet = {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    env = surroundings(tmp_path / "home", served.url, token, **quiet)
    program = str(PLACES / "coding/node_modules/.bin/opencode")
    said = run([program, "run", "scenario opencode. Go."], env, work)
    works("opencode", "opencode-ai", said, work, "`opencode.json`: `baseURL`, `apiKey`")


def test_qwen_code_writes_what_the_model_said(
    served: Served,  # noqa: F811
    model: TurnServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    token = served.issue("coders/qwen", "--class", "coding", models=(MODEL,))
    work = tmp_path / "work"
    work.mkdir()
    write = Call("write_file", {"file_path": str(work / "fetch.py"), "content": PROGRAM})
    command = {"command": "wc -c < fetch.py", "description": "Count", "is_background": False}
    model.script.play("qwen", *loop(write, Call("run_shell_command", command)))
    own = {
        "OPENAI_BASE_URL": f"{served.url}/v1",
        "OPENAI_API_KEY": token,
        "OPENAI_MODEL": MODEL,
    }
    env = surroundings(tmp_path / "home", served.url, token, **own)
    program = str(PLACES / "coding/node_modules/.bin/qwen")
    words = [program, "--auth-type", "openai", "-y", "-p", "scenario qwen. Go."]
    said = run(words, env, work)
    works("Qwen Code", "@qwen-code/qwen-code", said, work, "`OPENAI_BASE_URL`, `OPENAI_API_KEY`")
