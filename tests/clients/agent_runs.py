"""Runs unmodified clients, each in a process with a home folder that has no settings."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gateway import ROOT, environment
from turns import MODEL, Call, Scripted, Turn

AGENTS = Path(__file__).parent / "agents"
PLACES = ROOT / "target/agents"
# A client that takes longer than this hangs.
WITHIN_S = 120

CITY = "Paris (https://weather.example/paris?day=1)"
# A link, and code with an image: the default class changes neither.
CHAT = "hello there: https://docs.example/a?b=1 and `![x](https://images.example/x.png)`"
SUNNY = f"It is sunny in {CITY}."
PLACE = {
    "city": "Paris",
    "page": "https://weather.example/paris?day=1&b=2",
    "picture": "![Paris](https://images.example/paris.png)",
}
# What DSPy's own form of an answer has around its fields.
MARKERS = "".join(
    f"[[ ## {name} ## ]]\n{value}\n\n" for name, value in {**PLACE, "picture": "none"}.items()
)
# Reports to the makers, look-ups of versions and of prices, and caches of names.
QUIET = {
    "AGNO_TELEMETRY": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TESTING": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OTEL_SDK_DISABLED": "true",
}


@dataclass(frozen=True)
class Client:
    """A client: its package, the place where it is installed, and the script that uses it."""

    package: str
    place: str
    script: str
    settings: str
    token_class: str = "default"

    @property
    def name(self) -> str:
        """The name in the table, and of the test."""
        if self.script.endswith(".mjs"):
            return f"{self.package} (Node.js)"
        return f"{self.package} ({'Java' if self.place == 'java' else 'Python'})"

    @property
    def version(self) -> str:
        """The version that is installed, and that the list of the place has."""
        if self.place == "java":
            # It is Debian's, and not pinned.
            return "11 or later"
        pinned = pin(self.place, self.package)
        assert installed(self.place, self.package) == pinned, (
            f"{self.package} {pinned} is not installed: python3 tests/clients/agents/install.py"
        )
        return pinned

    def command(self) -> list[str]:
        """The command that runs the script."""
        path = AGENTS / self.script
        if self.place == "java":
            return ["java", str(path)]
        if self.script.endswith(".mjs"):
            return ["node", str(path)]
        return [str(PLACES / self.place / "bin/python"), str(path)]


def pin(place: str, package: str) -> str:
    """The version of a package in the list of a place."""
    lines = (AGENTS / f"{place}.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        name, _, version = line.rpartition("@") if "==" not in line else line.partition("==")
        if name == package:
            return version
    raise AssertionError(f"{package} is not in the list of {place}")


def installed(place: str, package: str) -> str:
    """The version of a package that a place has; empty without one."""
    folder = PLACES / place
    manifest = folder / "node_modules" / package / "package.json"
    if manifest.exists():
        return str(json.loads(manifest.read_text(encoding="utf-8"))["version"])
    stem = package.replace("-", "_")
    for found in folder.glob(f"lib/python3*/site-packages/{stem}-*.dist-info"):
        return found.name.removeprefix(f"{stem}-").removesuffix(".dist-info")
    return ""


def scenarios(script: Scripted) -> None:
    """The scenarios that all clients play."""
    script.play("chat", Turn(CHAT))
    look_up = Call("weather", {"city": CITY})
    script.play("tools", Turn(calls=(look_up,)), Turn("It is {result}."))
    script.play("structured", Turn(data=PLACE))
    script.play("markers", Turn(MARKERS + "[[ ## completed ## ]]\n"))


def surroundings(home: Path, url: str, token: str, **more: str) -> dict[str, str]:
    """The environment of a client: a home without settings, and where the gateway is."""
    home.mkdir(parents=True, exist_ok=True)
    own = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "TMPDIR": str(home)}
    place = {"AGENT_URL": url, "AGENT_TOKEN": token, "AGENT_MODEL": MODEL}
    left_out = ("CLAUDE", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in environment().items() if not name.startswith(left_out)}
    return {**kept, **QUIET, **own, **place, **more}


def run(words: list[str], env: dict[str, str], cwd: Path, within: float = WITHIN_S) -> str:
    """Runs a client that must succeed; returns what it printed."""
    done = subprocess.run(
        words,
        # Some clients take the variable for the folder.
        env={**env, "PWD": str(cwd)},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
    assert done.returncode == 0, (
        f"exit {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-6000:]}"
    )
    return done.stdout


def results(client: Client, home: Path, env: dict[str, str]) -> dict[str, object]:
    """Runs a client's script; returns what it reported."""
    modules = PLACES / client.place / "node_modules"
    if client.script.endswith(".mjs"):
        # A module is looked up beside the script that imports it.
        script = home / "script"
        script.mkdir()
        for source in AGENTS.glob("node/*.mjs"):
            (script / source.name).write_bytes(source.read_bytes())
        (script / "node_modules").symlink_to(modules)
        words = ["node", str(script / Path(client.script).name)]
    else:
        words = client.command()
    said = run(words, env, home)
    reported = json.loads(said.strip().splitlines()[-1])
    assert isinstance(reported, dict), said
    return reported
