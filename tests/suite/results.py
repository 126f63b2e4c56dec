"""Results of full runs: one JSON object per line in `tests/results/CAMPAIGN.jsonl`."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from pathlib import Path

from campaigns import Campaign

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "tests" / "results"


def git(*arguments: str) -> str | None:
    """What git prints; None if it fails."""
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def commit() -> str:
    """The commit of the sources, with `-dirty` if files differ from it."""
    head = git("rev-parse", "--short=7", "HEAD") or "unknown"
    changed = git("status", "--porcelain", "--", ".", ":!tests/results")
    return f"{head}-dirty" if changed else head


def add(campaign: Campaign, passed: bool, seconds: float, summary: list[str]) -> Path:
    """Appends a result, and returns its file."""
    FOLDER.mkdir(exist_ok=True)
    result = {
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "campaign": campaign.name,
        "shows": campaign.shows,
        "result": "passed" if passed else "failed",
        "seconds": round(seconds),
        "machine": platform.machine(),
        "summary": summary,
    }
    path = FOLDER / f"{campaign.name}.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result, ensure_ascii=False) + "\n")
    return path


def last_passed(campaign: Campaign) -> str | None:
    """The commit of the last result that passed."""
    path = FOLDER / f"{campaign.name}.jsonl"
    if not path.exists():
        return None
    found = None
    for line in path.read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        if result["result"] == "passed" and not result["commit"].endswith("-dirty"):
            found = result["commit"]
    return found


def reason_to_run(campaign: Campaign) -> str | None:
    """Why an ordinary run includes tests that run on change; None if it does not."""
    since = last_passed(campaign)
    if since is None:
        return "no result of a full run is known"
    changed = git("diff", "--name-only", since, "--", *campaign.on_change)
    if changed is None:
        return f"commit {since} of the last full run is not in this clone"
    files = changed.splitlines()
    if not files:
        return None
    return f"{len(files)} files changed since {since}, for example {files[0]}"
