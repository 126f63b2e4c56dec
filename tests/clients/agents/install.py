"""Installs the packages of the clients, in their pinned versions, under `target/agents`.

    python3 tests/clients/agents/install.py [--all]

A place is a virtual environment or a folder of Node.js packages. Without `--all`, the places of an
ordinary run are made. A place that has what its list says stays as it is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[2] / "target/agents"
# The installer of Python packages: it takes seconds where pip takes minutes.
UV = "uv==0.13.9"
# The lists of places. The environments of Python have lists with all dependencies.
PYTHON = ("python", "python-older", "aider", "crewai", "google-adk")
NODE = ("node", "claude-code", "coding")
ORDINARY = ("python", "python-older", "aider", "node", "claude-code")


def packages(place: str) -> list[str]:
    """The packages of a place, each with its version."""
    lines = (HERE / f"{place}.txt").read_text(encoding="utf-8").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def run(*words: object) -> None:
    """Runs a command that must succeed."""
    subprocess.run([str(word) for word in words], check=True)


def python(place: str, folder: Path) -> None:
    """Makes a virtual environment with exactly the packages of the list."""
    uv = TARGET / "uv/bin/uv"
    if not uv.exists():
        run(sys.executable, "-m", "venv", TARGET / "uv")
        run(TARGET / "uv/bin/pip", "install", "-q", "--disable-pip-version-check", UV)
    if not (folder / "bin/python").exists():
        run(uv, "venv", "-q", "--python", sys.executable, folder)
    interpreter = folder / "bin/python"
    run(uv, "pip", "sync", "-q", "--python", interpreter, HERE / f"{place}.txt")


def node(place: str, folder: Path) -> None:
    """Installs the packages of the list, and what they need."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ("--silent", "--no-fund", "--no-audit", "--prefix", folder)
    run("npm", "install", *options, *packages(place))


def install(place: str) -> None:
    """Makes a place, if it is not there with these packages."""
    folder, wanted = TARGET / place, "\n".join(packages(place))
    mark = TARGET / f"{place}.installed"
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted and folder.exists():
        return
    TARGET.mkdir(parents=True, exist_ok=True)
    if place in PYTHON:
        python(place, folder)
    else:
        node(place, folder)
    mark.write_text(wanted, encoding="utf-8")


def main() -> int:
    if sys.argv[1:] not in ([], ["--all"]):
        print(__doc__)
        return 2
    for place in (*PYTHON, *NODE) if sys.argv[1:] else ORDINARY:
        install(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
