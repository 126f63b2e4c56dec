"""An operator's refusal takes effect within a second, on open streams too."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time

import openai
import pytest

from clients import open_ai, send_raw, user
from gateway import Gateway
from waiting import wait_until


def chat(gateway: Gateway, token: str) -> str | None:
    """Sends one request; returns None on success, else the refusal's code."""
    try:
        open_ai(gateway, token).chat.completions.create(model="echo", messages=user("hi"))
    except openai.APIStatusError as refused:
        return refused.code
    return None


def refused_within_a_second(gateway: Gateway, token: str, code: str, *command: str) -> None:
    """Runs the command and sends requests until it takes effect, within a second of it."""
    assert chat(gateway, token) is None
    gateway.command(*command, "--reason", "a test")
    wait_until(lambda: chat(gateway, token) == code, 1, f"{code} after {' '.join(command[:2])}")


def identity(token: str) -> str:
    """A token's id: SHA-256 of its header and payload."""
    signed, _, _ = token.rpartition(".")
    return base64.urlsafe_b64encode(hashlib.sha256(signed.encode()).digest()).rstrip(b"=").decode()


def claims(token: str) -> dict[str, object]:
    payload = token.split(".")[1]
    read: dict[str, object] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return read


@pytest.mark.parametrize("named_by", ["jti", "id"])
def test_revoking_one_token(gateway: Gateway, named_by: str) -> None:
    agent = f"standing/revoked-{named_by}"
    token, spared = gateway.issue(agent), gateway.issue(agent)
    name = str(claims(token)["jti"]) if named_by == "jti" else identity(token)
    refused_within_a_second(gateway, token, "token-revoked", "token", "revoke", name)
    assert chat(gateway, spared) is None, "the agent's other token was revoked as well"


@pytest.mark.parametrize(
    ("no", "yes", "code"),
    [
        ("suspend", "resume", "agent-suspended"),
        ("quarantine", "release", "agent-quarantined"),
        ("revoke", None, "agent-revoked"),
    ],
)
def test_standing_of_an_agent(gateway: Gateway, no: str, yes: str | None, code: str) -> None:
    agent = f"standing/{no}"
    token, other = gateway.issue(agent), gateway.issue(f"{agent}-not")
    refused_within_a_second(gateway, token, code, "agent", no, agent)
    assert chat(gateway, other) is None, "an agent with a longer name was stopped as well"
    if yes:
        gateway.command("agent", yes, agent, "--reason", "a test")
        wait_until(lambda: chat(gateway, token) is None, 1, f"passes after {yes}")


class SlowReader:
    """A caller that reads a long answer in small pieces, and so keeps its stream open."""

    def __init__(self, gateway: Gateway, token: str, text: str) -> None:
        body = {"model": "echo", "messages": user(text), "stream": True}
        self.socket = send_raw(gateway, token, body, window=16_384)
        self.taken = 0
        self.tail = b""
        self.closed_at: float | None = None
        self._hurry = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = self.socket.recv(65_536)
            except OSError:
                data = b""
            if not data:
                self.closed_at = time.monotonic()
                return
            self.taken += len(data)
            self.tail = (self.tail + data)[-512:]
            # The last chunk ends the answer; the connection may stay open for another request (RFC
            # 9112 section 7.1).
            if self.tail.endswith(b"\r\n0\r\n\r\n"):
                self.closed_at = time.monotonic()
                return
            self._hurry.wait(0.01)

    def finish(self) -> None:
        """Reads the rest as fast as possible."""
        self._hurry.set()
        self._reader.join(30)
        assert not self._reader.is_alive(), "the stream is still open"
        self.socket.close()


def test_a_quarantine_cuts_a_long_answer_that_is_read_slowly(gateway: Gateway) -> None:
    token = gateway.issue("standing/long")
    text = " ".join(["word" * 1_000] * 4_000)
    reader = SlowReader(gateway, token, text)
    wait_until(
        lambda: reader.taken > 0 and gateway.metric("token_shield_in_flight") == 1,
        10,
        "an open stream",
    )
    gateway.command("agent", "quarantine", "standing/long", "--reason", "a test")
    wait_until(lambda: gateway.metric("token_shield_in_flight") == 0, 1, "the stream has ended")
    reader.finish()
    assert reader.taken < len(text), "the whole answer was delivered"
    assert b"[DONE]" not in reader.tail and b'"finish_reason":"stop"' not in reader.tail, (
        "a cut answer looks complete"
    )


def test_a_revoked_token_ends_its_own_open_stream(gateway: Gateway) -> None:
    token = gateway.issue("standing/open")
    reader = SlowReader(gateway, token, " ".join(["word" * 1_000] * 4_000))
    wait_until(
        lambda: reader.taken > 0 and gateway.metric("token_shield_in_flight") == 1,
        10,
        "an open stream",
    )
    gateway.command("token", "revoke", str(claims(token)["jti"]), "--reason", "a test")
    wait_until(lambda: gateway.metric("token_shield_in_flight") == 0, 1, "the stream has ended")
    reader.finish()
    assert b"[DONE]" not in reader.tail


def test_what_was_commanded_is_there_after_a_restart(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = tmp_path_factory.mktemp("restart") / "data"
    with Gateway(data) as first:
        revoked, stopped, spared = (first.issue(f"standing/{name}") for name in ("a", "b", "c"))
        first.command("token", "revoke", identity(revoked), "--reason", "a test")
        first.command("agent", "quarantine", "standing/b", "--reason", "a test")
    with Gateway(data) as second:
        assert [chat(second, token) for token in (revoked, stopped, spared)] == [
            "token-revoked",
            "agent-quarantined",
            None,
        ]
