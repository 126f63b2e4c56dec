"""`--json` on every command: objects of a real gateway match docs/CLI.md, errors included."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import ROOT, STOP_S, Gateway, Served, binary
from test_serve import ask
from waiting import wait_until

PAGE = (ROOT / "docs/CLI.md").read_text()
LISTED = re.findall(r"^## `token-shield ([a-z -]+)`$", PAGE, re.M)
TYPES = {
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
    dict: "object",
    list: "array",
}
CONFIG = """[[upstream]]
name = "echo"
url = "echo:"
profile = "generic"
controlled = true
[[model]]
name = "echo"
route = ["echo"]
[[upstream]]
name = "local"
url = "http://127.0.0.1:9"
profile = "generic"
[[model]]
name = "pinned"
route = ["local"]
weights = ["WEIGHTS-FILE"]
pin = "sha256:PINNED"
[class.default]
[egress]
"""

Member = tuple[str, bool]
Shape = dict[str, Member]


def documented() -> dict[str, list[Shape]]:
    """The forms of each command's objects: the type of each member, and whether it may be null."""
    table = PAGE.split("<!-- members -->\n")[1].split("<!-- end of members -->")[0]
    found: dict[str, list[Shape]] = defaultdict(list)
    for line in table.splitlines():
        if not line.startswith("| `"):
            continue
        name, members = (cell.strip() for cell in line.strip("|").split(" | ", 1))
        shape = {
            member: (kind, maybe == "?")
            for member, kind, maybe in re.findall(r"`(\w+)` (\w+)(\??)", members)
        }
        found[name.strip("`")].append(shape)
    return found


def fits(row: dict[str, Any], shape: Shape) -> bool:
    """Whether an object has exactly these members, of these types."""

    def member(name: str, value: object) -> bool:
        kind, may_be_null = shape[name]
        return may_be_null if value is None else TYPES[type(value)] == kind

    return row.keys() == shape.keys() and all(member(name, value) for name, value in row.items())


def seen_as(row: dict[str, Any]) -> str:
    """An object's members and their types, without values, which may be secret."""
    return " ".join(
        f"`{name}` {'null' if value is None else TYPES[type(value)]}" for name, value in row.items()
    )


class Runs:
    """The objects that each command printed, by the command's name."""

    def __init__(self, gateway: Served) -> None:
        self.gateway, self.rows = gateway, defaultdict[str, list[dict[str, Any]]](list)

    def take(self, name: str, text: str) -> list[dict[str, Any]]:
        rows = [json.loads(line) for line in text.splitlines()]
        assert all(isinstance(row, dict) for row in rows), text
        self.rows[name] += rows
        return rows

    def run(
        self, name: str, *words: str, at: str = "--data", code: int = 0
    ) -> list[dict[str, Any]]:
        """Runs a command with --json; it must succeed, and print one object per line."""
        assert name in LISTED, name
        place = [at, str(self.gateway.data)] if at else []
        done = binary(*name.split(), *words, *place, "--json")
        assert done.code == code, f"{name} {words}: exit {done.code}: {done.err}{done.out}"
        assert done.out.strip(), f"{name}: nothing is printed"
        return self.take(name, done.out)


def keys_and_tokens(runs: Runs, folder: Path) -> None:
    run, data = runs.run, runs.gateway.data
    run("keys generate", "--out", str(folder / "spare.jwk"), at="")
    run("keys generate", "--holder", "--out", str(folder / "holder.jwk"), at="")
    run("keys import", str(folder / "spare.jwk.pub"))
    run("keys list")
    run("keys export")
    issue = ("--principal", "team:tests")
    [issued] = run("token issue", "--agent", "tests/one", "--class", "default", *issue)
    run("token issue", "--agent", "tests/one", "--offline", *issue)
    [handle] = run("token issue", "--agent", "tests/two", "--handle", *issue)
    [parent] = run(
        "token issue",
        "--agent",
        "tests/top",
        "--holder-key",
        str(folder / "holder.jwk.pub"),
        "--bearer-children",
        *issue,
    )
    (folder / "parent.token").write_text(parent["token"])
    run(
        "token delegate",
        "--parent",
        str(folder / "parent.token"),
        "--holder-key",
        str(folder / "holder.jwk"),
        "--name",
        "child",
        at="",
    )
    run("token inspect", issued["token"])
    run("token inspect", parent["token"])
    run("token verify", issued["token"])
    run("token verify", issued["token"], "--offline")
    run("token renew", handle["id"])
    keys = json.loads((data / "keys/operator.jwk.pub").read_text())
    vector = {
        "id": "one",
        "token": issued["token"],
        "jwks": keys,
        "iss": "https://operator.example",
        "aud": "https://gw.example",
        "now": 0,
    }
    (folder / "vectors.jsonl").write_text(
        json.dumps(vector) + "\n" + json.dumps(vector | {"token": "x"}) + "\n"
    )
    run("token verify-vectors", str(folder / "vectors.jsonl"), at="")
    (folder / "keys.csv").write_text("key,agent\nsk-Zm9vYmFyYmF6cXV4,tests/adopted\n")
    (folder / "keys.csv").chmod(0o600)
    until = subprocess.run(
        ["date", "-u", "-d", "+5 days", "+%F"], capture_output=True, text=True, check=True
    ).stdout.strip()
    run("token adopt", "--from", str(folder / "keys.csv"), "--until", until)
    run("token revoke", issued["token"], "--reason", "a test")
    run("token revoke", handle["id"], "--reason", "a test")
    run("keys revoke", "--holder", "A" * 43, "--reason", "a test", "--yes")
    run("keys list")
    run("keys rotate", "--overlap", "1h")
    spare = json.loads((folder / "spare.jwk.pub").read_text())["keys"][0]["kid"]
    run("keys retire", spare, "--reason", "a test")
    run("keys revoke", spare, "--reason", "a test", "--yes")


def agents_and_models(runs: Runs) -> None:
    run, gateway = runs.run, runs.gateway
    why = ("--reason", "a test")
    run("agent register", "tests/named", "--principal", "team:named", "--class", "default")
    for verb in ("suspend", "resume", "quarantine", "release"):
        run(f"agent {verb}", "tests/named", *why)
        if verb in ("suspend", "resume"):
            run(f"agent {verb}", "tests/*", *why)
            run("agent list")
    run("agent quarantine", "tests/*", *why)
    run("agent release", "tests/*", *why)
    run("agent show", "tests/two")
    run("agent revoke", "tests/named", *why)
    run("principal suspend", "team:tests", *why)
    run("principal list")
    run("principal release", "team:tests", *why)
    run("egress check", "https://elsewhere.example/a.png", code=1)
    run("egress check", "not a url", "--use", "links", code=1)
    wait_until(lambda: any(row["digest"] for row in run("model list")), 30, "the weights are seen")
    run("model accept", "pinned", *why)
    run("model list")
    answer = ask(gateway, "x", model="echo")
    assert answer.status_code == 200, answer.text
    run("why", answer.headers["token-shield-request"])
    refused = ask(gateway, "x", model="nowhere")
    run(
        "why",
        refused.json()["error"]["request_id"]
        if "request_id" in refused.json()["error"]
        else refused.headers["token-shield-request"],
    )
    stranger = ask(gateway, "x", "no.such.token", model="echo")
    run("why", stranger.headers["token-shield-request"])
    run("config check")


def logs(runs: Runs, folder: Path) -> None:
    run, data = runs.run, runs.gateway.data
    run("audit begin", "--reason", "a test")
    run("audit verify")
    run("audit show", "0")
    run("audit tail", "--lines", "50")
    run("audit query", "--since", "1h")
    run("audit usage", "--by", "principal,agent,model,operation,upstream,day")
    [proof] = run("audit prove", "gw/e000001#0")
    run("audit prove", "gw/e000001#1", "--out", str(folder / "receipt"))
    (folder / "inline").write_text(proof["receipt"])
    run(
        "audit verify-receipt", str(folder / "inline"), "--log-keys", str(data / "log.vkeys"), at=""
    )
    rows = run("audit disclose", "gw/e000001#1", "gw/e000001#2")
    (folder / "disclosed").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        "audit verify-disclosure",
        str(folder / "disclosed"),
        "--log-keys",
        str(data / "log.vkeys"),
        at="",
    )
    run("audit export", str(folder / "export"))
    run("backup", str(folder / "backup"), "--with-operator-keys")
    run("audit forget", "team:named", "--revoke", "--reason", "a test", "--yes")
    run("clock accept")
    run("audit bench", str(folder), "--seconds", "1", "--waiters", "2", at="")


def at_rest(runs: Runs, folder: Path) -> None:
    run = runs.run
    run("agent suspend", "tests/two", "--reason", "no gateway runs")
    run("audit begin", "--reason", "no gateway runs")
    run("audit replay")
    shutil.copytree(runs.gateway.data / "audit", folder / "damaged")
    tile = next(
        path
        for path in sorted((folder / "damaged/e000001/tile/entries").rglob("*"))
        if path.is_file()
    )
    tile.write_bytes(tile.read_bytes()[:-1])
    done = binary(
        "audit",
        "verify",
        "--dir",
        str(folder / "damaged"),
        "--log-keys",
        str(runs.gateway.data / "log.vkeys"),
        "--json",
    )
    assert done.code == 1, done
    runs.take("audit verify", done.out)
    run("audit prune", "--keep", "30d", "--yes")
    # The epoch is old enough once the cache of the books covers it.
    runs.gateway.restart()
    runs.gateway.stop()
    run(
        "audit prune",
        "--keep",
        "0s",
        "--to",
        str(folder / "archive"),
        "--reason",
        "a test",
        "--yes",
    )
    done = binary("restore", str(folder / "backup"), "--data", str(folder / "restored"), "--json")
    assert done.code == 0, done.err
    runs.take("restore", done.out)


def descriptions(runs: Runs, folder: Path) -> None:
    runs.run("completions", "bash", at="")
    runs.run("man", str(folder / "man"), at="")
    runs.run("version", at="")
    with Gateway(folder / "dev") as dev:
        runs.rows["dev"].append(
            {"url": dev.url, "token": dev.token, "metrics": dev.metrics, "data": str(dev.data)}
        )


def upgraded(runs: Runs) -> None:
    [done] = runs.run("upgrade")
    runs.gateway.process.wait(STOP_S)
    os.kill(done["pid"], signal.SIGTERM)
    wait_until(
        lambda: not (runs.gateway.data / "admin.sock").exists(), STOP_S, "the successor has ended"
    )


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """The objects of every command, from one gateway's life."""
    folder = tmp_path_factory.mktemp("every")
    data = folder / "data"
    weights = folder / "weights.bin"
    weights.write_text("other weights")
    config = CONFIG.replace("WEIGHTS-FILE", str(weights)).replace("PINNED", "0" * 64)
    with Served(data, config) as gateway:
        runs = Runs(gateway)
        keys_and_tokens(runs, folder)
        gateway.token = gateway.issue("tests/asks", models=("echo",))
        agents_and_models(runs)
        logs(runs, folder)
        gateway.stop()
        at_rest(runs, folder)
        descriptions(runs, folder)
        gateway.restart()
        upgraded(runs)
    yield runs.rows


def test_every_object_has_the_members_that_are_documented(
    seen: dict[str, list[dict[str, Any]]],
) -> None:
    shapes = documented()
    # `serve` prints only log lines.
    assert sorted(seen) == sorted({*LISTED} - {"serve"}), "each command was run"
    assert sorted(shapes) == sorted(seen), "each command stands in the table"
    for name, rows in seen.items():
        for row in rows:
            assert any(fits(row, shape) for shape in shapes[name]), (
                f"{name}: no form in docs/CLI.md fits {seen_as(row)}"
            )
        for about in (row["gateway"] for row in rows if "sealed" in row and "gateway" in row):
            assert fits(
                about,
                {"name": ("string", False), "data": ("string", False), "pid": ("number", True)},
            ), (name, about)
        for shape in shapes[name]:
            assert any(fits(row, shape) for row in rows), (
                f"{name}: no object of this form was seen: {shape}"
            )


@pytest.mark.parametrize("name", LISTED)
def test_an_error_is_one_object(name: str, tmp_path: Path) -> None:
    """Invalid words: no command accepts the same flag twice."""
    done = binary(*name.split(), "--json", "--json", cwd=tmp_path)
    assert done.code == 2 and done.out == "", done
    [line] = done.err.splitlines()
    assert json.loads(line)["error"]["code"] == "usage" and "multiple times" in line


FAILING: list[tuple[str, ...]] = [
    ("serve", "--config", "none.toml"),
    ("upgrade", "--data", "none"),
    ("dev", "--listen", "192.0.2.1:0"),
    ("keys", "list", "--data", "none"),
    ("keys", "generate", "--out", "none/x"),
    ("keys", "rotate", "--data", "none"),
    ("token", "issue", "--agent", "a/b", "--data", "none"),
    ("token", "delegate", "--parent", "none", "--holder-key", "none", "--name", "x"),
    ("token", "inspect", "none"),
    ("token", "verify-vectors", "none"),
    ("token", "renew", "none", "--data", "none"),
    ("agent", "suspend", "a/b", "--reason", "x", "--data", "none"),
    ("principal", "list", "--data", "none"),
    ("egress", "check", "x", "--data", "none"),
    ("model", "list", "--data", "none"),
    ("why", "rq_x", "--data", "none"),
    ("clock", "accept", "--data", "none"),
    ("backup", "to", "--data", "none"),
    ("restore", "from", "--data", "none"),
    ("config", "check", "none.toml"),
    ("audit", "verify", "--dir", "none"),
    ("audit", "show", "0", "--dir", "none"),
    ("audit", "tail", "--dir", "none"),
    ("audit", "query", "--dir", "none"),
    ("audit", "usage", "--dir", "none"),
    ("audit", "prove", "0", "--dir", "none"),
    ("audit", "verify-receipt", "none"),
    ("audit", "disclose", "0", "--dir", "none"),
    ("audit", "verify-disclosure", "none"),
    ("audit", "export", "to", "--dir", "none"),
    ("audit", "replay", "--dir", "none"),
    ("audit", "forget", "x", "--yes", "--data", "none"),
    ("audit", "begin", "--reason", "x", "--data", "none"),
    ("audit", "prune", "--yes", "--keep", "1d", "--data", "none"),
    ("audit", "bench", "/proc/none"),
    ("man", "/proc/none"),
]


@pytest.mark.parametrize("words", FAILING, ids=[" ".join(words[:2]) for words in FAILING])
def test_a_failure_is_one_object_with_a_documented_code(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    done = binary(*words, "--json", cwd=tmp_path)
    assert done.code == 1 and done.out == "", done
    error = json.loads(done.err.splitlines()[-1])["error"]
    assert error.keys() == {"code", "message"} and error["message"], error
    assert re.search(rf"^\|.*`{error['code']}`.*\|", PAGE, re.M), (
        f"docs/CLI.md does not know {error['code']}"
    )
