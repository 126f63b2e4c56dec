"""Runs the commands of README.md and docs/OPERATIONS.md as printed, in order, in a shell."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from gateway import BINARY, ROOT, STOP_S, Gateway, environment
from test_cli_place import PORTS, started

WITHIN_S = 60


def section(page: str, title: str) -> str:
    return (ROOT / page).read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def commands(text: str) -> list[str]:
    """The text after `$ ` in console blocks, with continuation lines."""
    found: list[str] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(line[2:])
            elif found and (found[-1].endswith("\\") or found[-1].count("'") % 2):
                found[-1] += "\n" + line
    return found


class Shell:
    """A shell in one folder that keeps exported variables."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        bin_ = folder / ".bin"
        bin_.mkdir()
        (bin_ / "token-shield").symlink_to(BINARY)
        # `python` is the interpreter that has the SDKs.
        (bin_ / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        (bin_ / "python").chmod(0o755)
        path = f"{bin_}:{os.environ['PATH']}"
        self.environment = environment() | {"PATH": path}

    def paste(self, line: str) -> str:
        """Runs a line, which must exit with 0. Exported variables stay."""
        script = (
            f"cd {shlex.quote(str(self.folder))}\n{line}\nended=$?\npwd -P >&9\nexport -p >&9\n"
            "exit $ended\n"
        )
        read, write = os.pipe()
        with subprocess.Popen(
            ["bash", "-c", script.replace(">&9", f">&{write}")],
            env=self.environment,
            pass_fds=[write],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            os.close(write)
            with os.fdopen(read) as left:
                out, _ = process.communicate(timeout=WITHIN_S)
                folder, _, exported = left.read().partition("\n")
        assert process.returncode == 0, f"{line}\n{out}"
        self.folder = Path(folder)
        for name, value in re.findall(
            r'^declare -x (OPENAI_\w+|REQUEST|KID)="(.*)"$', exported, re.M
        ):
            self.environment[name] = value
        return out


def test_the_readme_as_it_is_printed(tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    folder.mkdir()
    with Gateway(folder / "data") as gateway:
        shell = Shell(folder)
        api, metrics = urlsplit(gateway.url).netloc, urlsplit(gateway.metrics).netloc

        def own(line: str) -> str:
            return line.replace("127.0.0.1:8700", api).replace("127.0.0.1:9464", metrics)

        [_, curl] = commands(section("README.md", "Run it"))
        assert '"content":"hello"' in shell.paste(own(curl))
        for line in commands(section("README.md", "Issue a token")):
            # The machine already has the binary's folder and the SDK.
            if "target/release" not in line and "pip install" not in line:
                said = shell.paste(own(line))
        assert said.endswith("hi\n")
        refused, *standing = commands(section("README.md", "See a refusal"))
        answer = shell.paste(own(refused))
        assert '"code":"egress-uncontrolled"' in answer
        shell.environment["REQUEST"] = re.search(r'"request":"(rq_\w+)"', answer)[1]
        for line in standing:
            shell.paste(line)
        for line in commands(section("README.md", "Verify the log")):
            # It runs until it is ended.
            shell.paste(f"timeout 1 {line}\n[ $? = 124 ]" if "--follow" in line else line)
    assert (folder / "for-the-court.jsonl").stat().st_size > 0 and (
        folder / "for-the-regulator/audit/e000001"
    ).is_dir()


def test_the_deployment_as_it_is_printed(tmp_path: Path) -> None:
    text = section("README.md", "Deploy it")
    shell = Shell(tmp_path)
    made, generated, check, serve, issue = commands(text)
    for line in (made, generated):
        shell.paste(line)
    [config] = re.findall(r"```toml\n(.*?)```", text, re.S)
    (tmp_path / "gateway/token-shield.toml").write_text(config + PORTS)
    assert shell.folder == tmp_path / "gateway" and "no faults" in shell.paste(check)
    program, *words = shlex.split(serve)
    assert program == "token-shield"
    with started(tmp_path / "log", *words, cwd=shell.folder) as gateway:
        gateway.serving()
        assert re.search(r"^[\w-]+\.[\w-]+\.[\w-]+$", shell.paste(issue), re.M)
    assert gateway.process.wait(STOP_S) == 0


def test_stopping_somebody_as_it_is_printed(tmp_path: Path) -> None:
    with Gateway(tmp_path / "data") as gateway:
        (tmp_path / "leaked.token").write_text(
            gateway.issue("research/summarizer", principal="team:research")
        )
        shell = Shell(tmp_path)
        rotate, listed = commands(section("docs/OPERATIONS.md", "Signing keys"))
        shell.paste(rotate)
        shell.environment["KID"] = re.search(r'"kid":"([\w-]{43})"', shell.paste(listed))[1]
        lines = commands(section("docs/OPERATIONS.md", "Stopping somebody"))
        assert len(lines) == 7
        for line in lines:
            shell.paste(line)
