"""Power cuts on a file system that loses unsynced data: what was acknowledged remains."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

import audit_verifier
from clients import user
from gateway import Gateway, binary
from test_audit import FULL, inside, load, query, verified
from waiting import Late, wait_until

ROUNDS = 500 if FULL else 100
SEED = 5
# Seconds from the first answer to the cut, at most. The first checkpoint comes after 250 ms or
# more, so some cuts wait for one.
SOON, LATER = 0.15, 0.6

# linux/fs/ext4/ext4.h: _IOR('X', 125, __u32). With the flag even the file system's journal is not
# written any more.
EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
CUT = (
    f"import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], 0), {EXT4_IOC_SHUTDOWN}, "
    f"struct.pack('I', {NO_LOG_FLUSH}))"
)
NEEDED = (
    "power cuts need root (or sudo without a password), loop devices (/dev/loop-control), mount, "
    "and mkfs.ext4 of e2fsprogs"
)
# The path of some users has no /usr/sbin, but the folder exists.
PROGRAMS = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# A preloaded library that reports success for every sync, and skips it for paths with $UNSYNCED.
LIAR = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int lie(int file, const char *call) {
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (readlink(link, path, sizeof path - 1) > 0 && strstr(path, getenv("UNSYNCED"))) return 0;
    return ((int (*)(int)) dlsym(RTLD_NEXT, call))(file);
}
int fsync(int file) { return lie(file, "fsync"); }
int fdatasync(int file) { return lie(file, "fdatasync"); }
"""


def shown(client: httpx2.Client, gateway: Gateway, token: str) -> httpx2.Response | None:
    """The refusal code of a token; retries while too many strangers are the cause."""
    answer = client.get(gateway.url + "/v1/models", headers={"x-api-key": token})
    return None if answer.status_code == 429 else answer


def run(*words: str, root: bool = False) -> str:
    """Runs a command that must succeed, because the test would prove too little without it."""
    command = ["sudo", "-n", *words] if root and os.geteuid() != 0 else list(words)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=os.environ | {"PATH": PROGRAMS},
        )
    except OSError as error:
        pytest.fail(f"{NEEDED}; {error}")
    if done.returncode != 0:
        pytest.fail(f"{NEEDED}; `{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


class Disk:
    """An ext4 in a sparse file, mounted at `at`, that can lose its power."""

    def __init__(self, folder: Path) -> None:
        self.at, self._file = folder / "data", folder / "disk"
        self._gateways: list[Gateway] = []
        self.at.mkdir(mode=0o700, parents=True)
        with self._file.open("wb") as file:
            file.truncate(1 << 30)
        run("mkfs.ext4", "-q", "-E", f"root_owner={os.getuid()}:{os.getgid()}", str(self._file))

    def __enter__(self) -> Disk:
        try:
            self._mount()
            (self.at / "lost+found").rmdir()
            self.at.chmod(0o700)
            run("sync", "-f", str(self.at))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stops every gateway, unmounts every file system and detaches every loop device."""
        for gateway in self._gateways:
            kill(gateway)
        try:
            if self.at.is_mount():
                run("umount", str(self.at), root=True)
        finally:
            if self.at.is_mount():
                run("umount", "-l", str(self.at), root=True)
            self._let_go()
            self._file.unlink(missing_ok=True)

    def _let_go(self) -> None:
        """Waits until no loop device uses our file."""
        listed = ("losetup", "--noheadings", "--output", "NAME", "--associated", str(self._file))
        try:
            wait_until(lambda: not run(*listed), 60, "the loop device is free")
        except Late:
            run("losetup", "--detach", *run(*listed).split(), root=True)
            raise

    def _mount(self) -> None:
        run("mount", "-o", "loop", "-t", "ext4", str(self._file), str(self.at), root=True)

    def start(self) -> Gateway:
        """A gateway whose whole data folder is on this disk."""
        self._gateways.append(Gateway(self.at, upstream="http://127.0.0.1:9"))
        return self._gateways[-1]

    def cut(self) -> None:
        """Cuts the power: later writes do not reach the disk, and unsynced data is lost."""
        if os.geteuid() != 0:
            run(sys.executable, "-c", CUT, str(self.at), root=True)
            return
        folder = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(folder)

    def back(self) -> None:
        """Restores the power and mounts the disk again."""
        with pytest.raises(OSError):
            (self.at / "written").write_text("without power")
        run("umount", str(self.at), root=True)
        self._let_go()
        self._mount()


class Told:
    """What callers and operators were told, and what must therefore hold."""

    def __init__(self) -> None:
        self.answered: list[tuple[str, str]] = []
        self.streamed: list[str] = []
        self.admitted: list[str] = []
        self.registered: list[str] = []
        self.suspended: list[str] = []
        self.revoked: list[tuple[str, str]] = []

    def __str__(self) -> str:
        return ", ".join(f"{len(items)} {name}" for name, items in vars(self).items())

    def check(self, disk: Disk) -> None:
        """Checks that all promises hold after a start, and that the log is valid after a stop."""
        with disk.start() as gateway, httpx2.Client(trust_env=False, timeout=10) as client:
            listed = map(json.loads, gateway.command("agent", "list", "--json").out.splitlines())
            standing = {row["agent"]: row["status"] for row in listed}
            lost = [f"agent {agent}" for agent in self.registered if agent not in standing]
            lost += [
                f"standing of {agent}"
                for agent in self.suspended
                if standing.get(agent) != "suspended"
            ]
            for agent, token in self.revoked:
                answer = wait_until(
                    lambda token=token: shown(client, gateway, token),
                    30,
                    "strangers are slowed down, and told",
                )
                lost += [f"revocation of {agent}"] if "token-revoked" not in answer.text else []
        known: dict[str, list[str]] = {}
        for row in query(gateway):
            if row["kind"] in ("admission", "outcome"):
                known.setdefault(str(inside(row)["request"]), []).append(str(row["kind"]))
        ended = [request for request, _ in self.answered] + self.streamed
        lost += [
            f"request {request}"
            for request in ended
            if known.get(request) != ["admission", "outcome"]
        ]
        lost += [
            f"admission {request}"
            for request in self.admitted
            if "admission" not in known.get(request, [])
        ]
        assert not lost, f"{len(lost)} lost: {lost[:20]}"
        verified(gateway)


def stream(gateway: Gateway, told: Told) -> None:
    """Requests streams until the gateway ends.

    A stream is admitted when it begins, and answered when its last event was read.
    """
    asked = {"model": "echo", "messages": user("one two three"), "stream": True}
    headers = {"authorization": f"Bearer {gateway.token}"}
    with httpx2.Client(trust_env=False, timeout=5) as client, suppress(httpx2.HTTPError):
        while True:
            with client.stream(
                "POST", gateway.url + "/v1/chat/completions", json=asked, headers=headers
            ) as answer:
                request = answer.headers["token-shield-request"]
                if answer.status_code == 200:
                    told.admitted.append(request)
                for line in answer.iter_lines():
                    if line == "data: [DONE]":
                        told.streamed.append(request)


def commands(gateway: Gateway, told: Told, number: int) -> None:
    """Runs commands until one is refused, for tokens and agents in turn: cuts affect both."""
    data = ("--data", str(gateway.data))
    for count in itertools.count():
        agent, of_tokens = f"kept/r{number}n{count}", (number + count) % 2 == 0
        issue = (
            "token",
            "issue",
            "--agent",
            agent,
            "--principal",
            f"user:{number}",
            "--model",
            "echo",
            "--ttl",
            "1h",
        )
        registered = binary(*(issue if of_tokens else ("agent", "register", agent)), *data)
        if registered.code != 0:
            return
        told.registered.append(agent)
        token = registered.out.strip()
        stop = ("token", "revoke", token) if of_tokens else ("agent", "suspend", agent)
        if binary(*stop, "--reason", "a test", *data).code != 0:
            return
        if of_tokens:
            told.revoked.append((agent, token))
        else:
            told.suspended.append(agent)


def kill(gateway: Gateway) -> None:
    gateway.process.kill()
    gateway.ended()


def cut_under_load(disk: Disk, gateway: Gateway, told: Told, number: int, after: float) -> None:
    """Cuts the power under load. Answers in the moment after the cut count as promises too."""
    loads: list[Callable[[], None]] = [lambda: load(gateway, told.answered)] * 3
    loads += [lambda: stream(gateway, told), lambda: commands(gateway, told, number)]
    threads, before = [threading.Thread(target=each) for each in loads], len(told.answered)
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(told.answered) > before, 10, "the first answer")
        time.sleep(after)
        disk.cut()
        time.sleep(0.02)
    finally:
        kill(gateway)
        for thread in threads:
            thread.join()
    disk.back()


def cut_while_starting(disk: Disk, after: float) -> None:
    """Cuts the power while the gateway starts, or shortly after."""
    cutting = threading.Timer(after, disk.cut)
    cutting.start()
    with suppress(AssertionError):  # Without power the start may fail.
        kill(disk.start())
    cutting.join()
    disk.back()


def test_power_cuts_under_load(tmp_path: Path) -> None:
    """Every answer received is in the log, every command is in force, and the gateway starts."""
    chance, told = random.Random(SEED), Told()
    with Disk(tmp_path) as disk:
        for number in range(ROUNDS):
            if number % 4 == 3:
                cut_while_starting(disk, chance.random() * 0.1)
            gateway = disk.start()
            cut_under_load(
                disk, gateway, told, number, chance.random() * (LATER if number % 5 == 4 else SOON)
            )
            if number % 10 == 0:
                verified(gateway, live=True)
            if number % 10 == 5:
                told.check(disk)
        told.check(disk)
    print(f"{ROUNDS} power cuts under load; {told}")
    assert (
        len(told.answered) > 5 * ROUNDS
        and len(told.streamed) > ROUNDS
        and len(told.registered) > ROUNDS
    )


def test_power_cuts_at_the_first_start(tmp_path: Path) -> None:
    """The next start continues from any keys, log and config that a cut has left."""
    chance = random.Random(SEED)
    for number in range(ROUNDS // 5):
        with Disk(tmp_path / str(number)) as disk:
            cut_while_starting(disk, chance.random() * 0.05)
            Told().check(disk)


@pytest.mark.parametrize("unsynced", ["/", "/journal", "/tile", "/secret/record-keys"])
def test_a_gateway_that_does_not_sync_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unsynced: str
) -> None:
    """The same cuts with a libc that does not sync `unsynced`: a check fails within a few cuts."""
    library, chance, told = tmp_path / "liar.so", random.Random(SEED), Told()
    library.with_suffix(".c").write_text(LIAR)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", str(library), str(library.with_suffix(".c")), "-ldl"],
        check=True,
    )
    with Disk(tmp_path) as disk:
        told.check(disk)
        for number in range(15):
            with monkeypatch.context() as lying:
                lying.setenv("LD_PRELOAD", str(library))
                lying.setenv("UNSYNCED", unsynced)
                gateway = disk.start()
            cut_under_load(disk, gateway, told, number, chance.random() * LATER)
            try:
                verified(gateway, live=True)
                told.check(disk)
            except (AssertionError, audit_verifier.Fault) as fault:
                print(f"noticed at cut {number}: {str(fault)[:200]}")
                return
    pytest.fail("15 power cuts without a sync, and nobody noticed")
