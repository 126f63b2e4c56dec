"""Handles: short secrets for tokens, and API keys that agents already have."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import openai
import pytest

from clients import claude, open_ai, send_raw, user
from fake_upstream import MODEL, FakeUpstream
from gateway import ISSUER, Gateway, Served, binary
from test_serve import ask, fake_model, last_error, serve
from waiting import wait_until


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    fast = "[class.default]\nrpm = 60000\nburst = 10000\n"
    with serve(tmp_path_factory.mktemp("handles"), fast + fake_model(upstream.url)) as served:
        yield served


def refusal(gateway: Gateway, credential: str) -> str | None:
    answer = ask(gateway, "x", credential)
    return None if answer.status_code == 200 else answer.json()["error"]["code"]


def me(gateway: Gateway, credential: str) -> dict[str, object]:
    answer = httpx2.get(
        gateway.url + "/v1/token-shield/me", headers={"x-api-key": credential}, trust_env=False
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def shown(gateway: Gateway, agent: str) -> list[dict[str, object]]:
    """Rows of the agent's tokens and handles."""
    done = gateway.command("agent", "show", agent, "--json")
    return [json.loads(line) for line in done.out.splitlines()][1:]


def day(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%d")


def adopt(
    gateway: Served, text: str, *flags: str, until: str | None = None
) -> tuple[int, str, str]:
    file = gateway.data.parent / "keys.csv"
    file.write_text(text)
    done = binary(
        "token",
        "adopt",
        "--data",
        str(gateway.data),
        "--from",
        str(file),
        "--until",
        until or day(20),
        *flags,
    )
    return done.code, done.out, done.err


def test_a_handle_stands_for_its_token_in_both_sdks(gateway: Served) -> None:
    handle = gateway.issue("tests/short", "--handle", models=("echo",))
    assert handle.startswith("ts_") and len(handle) == 46
    assert (
        open_ai(gateway, handle)
        .chat.completions.create(model="echo", messages=user("short"))
        .choices[0]
        .message.content
        == "short"
    )
    assert (
        claude(gateway, handle)
        .messages.create(model="echo", max_tokens=8, messages=user("short"))
        .content[0]
        .text
        == "short"
    )
    with pytest.raises(openai.NotFoundError):
        open_ai(gateway, handle).chat.completions.create(model=MODEL, messages=user("not granted"))
    about = me(gateway, handle)
    rows = shown(gateway, "tests/short")
    assert (
        about["agent"] == "tests/short"
        and about["handle"] == rows[1]["handle"] == rows[0]["handle"]
    )
    books = b"".join(file.read_bytes() for file in gateway.data.rglob("*") if file.is_file())
    assert handle.encode() not in books and handle not in gateway.logged(), (
        "the handle itself is kept nowhere"
    )


def test_a_token_behind_a_handle_is_taken_by_that_alone(gateway: Served) -> None:
    """A reader of the record sees the token, but the gateway accepts only the handle."""
    handle = gateway.issue("tests/record", "--handle", models=(MODEL,))
    assert refusal(gateway, handle) is None
    read = binary("audit", "query", str(gateway.data / "audit"), "--kind", "handle-set")
    tokens = [json.loads(line)["payload"]["token"] for line in read.out.splitlines()]
    assert tokens and {refusal(gateway, token) for token in tokens} == {"handle-required"}


def test_guesses_are_refused_alike(gateway: Served) -> None:
    handle = gateway.issue("tests/guess", "--handle", models=(MODEL,))
    for guess in [handle[:-1], handle + "A", handle.swapcase(), "ts_", "ts_" + "A" * 43]:
        assert refusal(gateway, guess) in ("handle-unknown", "token-malformed"), guess
    assert refusal(gateway, "sk-not-adopted-0123456789") == "token-malformed"


def test_the_token_is_renewed_and_the_handle_stays(gateway: Served) -> None:
    handle = gateway.issue("tests/renewed", "--handle", models=(MODEL,), ttl="2s")
    first = me(gateway, handle)
    wait_until(lambda: refusal(gateway, handle) == "token-expired", 10, "the token runs out")
    done = gateway.command("token", "renew", handle, "--ttl", "1h")
    assert handle not in done.err and "renewed" in done.err
    second = me(gateway, handle)
    assert second["handle"] == first["handle"] and second["expires"] > first["expires"]
    assert second["models"] == first["models"] == [MODEL] and second["scopes"] == first["scopes"]
    # Renewal by id works too; the id is not secret.
    gateway.command("token", "renew", str(first["handle"]))
    assert refusal(gateway, handle) is None


@pytest.mark.parametrize("by", ["handle", "id", "token"])
def test_what_is_revoked_stays_so(gateway: Served, upstream: FakeUpstream, by: str) -> None:
    agent = f"tests/gone-{by}"
    handle = gateway.issue(agent, "--handle", models=(MODEL,))
    rows = shown(gateway, agent)
    named = {"handle": handle, "id": str(rows[1]["handle"]), "token": str(rows[0]["token"])}[by]
    with httpx2.stream(
        "POST",
        gateway.url + "/v1/chat/completions",
        timeout=30,
        trust_env=False,
        headers={"authorization": f"Bearer {handle}"},
        json={"model": MODEL, "messages": user(f"behave forever {by}"), "stream": True},
    ) as stream:
        upstream.exchange(f"behave forever {by}")
        done = gateway.command("token", "revoke", named, "--reason", "a test")
        stream.read()
    code = "handle-revoked"
    assert handle not in done.err, "the handle is not repeated on the terminal"
    assert last_error(stream) == code, "the open stream ends"
    assert refusal(gateway, handle) == code
    again = binary("token", "renew", "--data", str(gateway.data), handle)
    assert again.code == 1 and "is revoked for ever" in again.err and handle not in again.err


def test_keys_are_adopted(gateway: Served) -> None:
    code, out, err = adopt(
        gateway,
        "key,agent,principal,models,rpm\n"
        f"sk-first-0123456789abcdef,tests/old,team:old,{MODEL},600\n"
        "sk.second.0123456789abcdef-x\n",
    )
    assert (
        code == 1
        and "line 3" in err
        and "sk.second" not in err
        and refusal(gateway, "sk-first-0123456789abcdef") is not None
    )
    text = (
        f"key,agent,principal,models,rpm\nsk-first-0123456789abcdef,tests/old,team:old,{MODEL},1\n"
        f'"sk-second-0123456789,abc",tests/older,,"{MODEL} echo",\n'
    )
    code, out, err = adopt(gateway, text, "--json")
    *rows, last = [json.loads(line) for line in out.splitlines()]
    assert (
        code == 0
        and [row["line"] for row in rows] == [2, 3]
        and last["done"] == "2 keys are adopted"
    )
    assert me(gateway, "sk-first-0123456789abcdef")["principal"] == "team:old"
    assert sorted(me(gateway, "sk-second-0123456789,abc")["models"]) == sorted(["echo", MODEL])
    assert (
        open_ai(gateway, "sk-second-0123456789,abc")
        .chat.completions.create(model="echo", messages=user("as ever"))
        .choices
    )
    assert refusal(gateway, "sk-first-0123456789abcdef") == "rate-exceeded", (
        "one a minute, which is gone"
    )
    code, out, err = adopt(gateway, text)
    assert code == 0 and out == "" and err.count("adopted before") == 2, "it can be run again"
    books = b"".join(file.read_bytes() for file in gateway.data.rglob("*") if file.is_file())
    assert b"sk-first" not in books and b"sk-second" not in books


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("key,agent\nsk-tooshort,tests/a\n", "line 2: a key must have 16 to 512"),
        ("key,agent\nsk.a.b.0123456789abcdef,tests/a\n", "line 2: a key with two dots"),
        (
            "key,agent\nsk-0123456789abcdef,Tests/A\n",
            "line 2: the column agent is not an agent name",
        ),
        (
            "key,agent\nsk-0123456789abcdef,t/a\nsk-0123456789abcdef,t/b\n",
            "line 3: the key of line 2 again",
        ),
        (
            "key,agent,rpm\nsk-0123456789abcdef,t/a,many\n",
            "line 2: the column rpm is not a whole number",
        ),
        ("key\nsk-0123456789abcdef\n", "line 1: the header line has no column agent"),
        (
            "key,agent,colour\nsk-0123456789abcdef,t/a,red\n",
            "line 1: the column 3 has a name that is none of",
        ),
    ],
)
def test_a_file_with_a_fault_adopts_nothing(gateway: Served, text: str, part: str) -> None:
    code, out, err = adopt(gateway, text)
    assert (code, out) == (1, "") and part in err, err
    assert "0123456789abcdef" not in err, "a key is never repeated"


def test_a_key_that_looks_like_an_id_is_found_all_the_same(gateway: Served) -> None:
    key = "Zm9v" * 10 + "YmE"
    code, _, err = adopt(gateway, f"key,agent,models\n{key},tests/looks,{MODEL}\n")
    assert code == 0 and refusal(gateway, key) is None, err
    gateway.command("token", "renew", key)
    done = gateway.command("token", "revoke", key, "--reason", "a test")
    assert refusal(gateway, key) == "handle-revoked"
    assert key not in gateway.logged() + done.err and "sealed as" in done.err


def test_adopted_keys_end_with_their_date(gateway: Served) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=4)).strftime("%Y-%m-%dT%H:%M:%SZ")
    code, _, err = adopt(
        gateway, f"key,agent,models\nsk-brief-0123456789abc,tests/brief,{MODEL}\n", until=soon
    )
    assert code == 0, err
    assert refusal(gateway, "sk-brief-0123456789abc") is None
    wait_until(
        lambda: refusal(gateway, "sk-brief-0123456789abc") == "token-expired", 10, "the date comes"
    )
    again = binary(
        "token", "renew", "--data", str(gateway.data), "sk-brief-0123456789abc", "--ttl", "1h"
    )
    assert again.code == 1 and "longer than the handle is valid" in again.err, again.err
    # By its id too, which could also be a key.
    shown = gateway.command("agent", "show", "tests/brief", "--json").out
    rows = [json.loads(line) for line in shown.splitlines()]
    (held,) = {row["handle"] for row in rows if row.get("handle")}
    by_id = binary("token", "renew", "--data", str(gateway.data), held, "--ttl", "1h")
    assert by_id.code == 1 and "longer than the handle is valid" in by_id.err, by_id.err
    assert adopt(gateway, "key,agent\n", until="2020-01-01")[0] == 1


def test_verify_knows_handles_and_inspect_explains(gateway: Served) -> None:
    handle = gateway.issue("tests/verified", "--handle", models=(MODEL,))
    assert "tests/verified" in gateway.command("token", "verify", handle).out
    told = binary("token", "inspect", handle)
    assert told.code == 1 and "handle" in told.err and handle not in told.err


def test_handles_survive_a_restart(gateway: Served) -> None:
    handle = gateway.issue("tests/restart", "--handle", models=(MODEL,))
    gateway.restart()
    assert refusal(gateway, handle) is None


@pytest.mark.parametrize(
    ("narrowed", "expect"),
    [('handles = "off"', "handles-off"), ('namespaces = ["other"]', "token-namespace")],
)
def test_a_narrowed_issuer_reaches_requests_in_flight(
    upstream: FakeUpstream, tmp_path: Path, narrowed: str, expect: str
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        handle = own.issue("tests/flying", "--handle", models=(MODEL,))
        held = send_raw(
            own, handle, {"model": MODEL, "messages": user(f"held back {expect}")}, held_back=1
        )
        wait_until(
            lambda: own.metric("token_shield_in_flight") >= 1, 5, "the gateway knows the request"
        )
        with httpx2.stream(
            "POST",
            own.url + "/v1/chat/completions",
            timeout=30,
            trust_env=False,
            headers={"authorization": f"Bearer {handle}"},
            json={"model": MODEL, "messages": user(f"behave forever {expect}"), "stream": True},
        ) as stream:
            upstream.exchange(f"behave forever {expect}")
            text = own.config.read_text()
            own.config.write_text(
                text.replace(
                    'namespaces = ["*"]',
                    narrowed if "namespaces" in narrowed else f'namespaces = ["*"]\n{narrowed}',
                )
            )
            own.reload()
            stream.read()
        assert last_error(stream) == expect
        held.sendall(b"}")
        assert f'"{expect}"'.encode() in held.recv(65_536) and not upstream.reached(
            f"held back {expect}"
        )
        held.close()


def test_a_handle_is_renewed_with_the_key_that_follows(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        handle = own.issue("tests/follows", "--handle", models=(MODEL,))
        before = me(own, handle)["expires"]
        own.command("keys", "rotate", "--overlap", "1s")
        own.command("token", "renew", handle, "--ttl", "2h")
        assert me(own, handle)["expires"] > before


def test_handles_can_be_switched_off(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as own:
        handle = own.issue("tests/off", "--handle", models=(MODEL,))
        assert refusal(own, handle) is None
        config = own.data / "token-shield.toml"
        config.write_text(config.read_text().replace("[[issuer]]", '[[issuer]]\nhandles = "off"'))
        own.reload()
        assert refusal(own, handle) == "handles-off"
        told = binary("token", "verify", handle, "--data", str(own.data))
        assert told.code == 3 and "handles-off" in told.err, (
            "what the door refuses is not called valid"
        )
        done = binary(
            "token", "issue", "--data", str(own.data), "--agent", "tests/more", "--handle"
        )
        assert done.code == 3 and 'handles = "off"' in done.err and done.out == ""


def test_a_former_token_takes_its_handle_with_it(gateway: Served) -> None:
    """A revocation by the former token's id, read before a renewal, also revokes the handle."""
    handle = gateway.issue("tests/former", "--handle", models=(MODEL,))
    label = str(shown(gateway, "tests/former")[0]["jti"])
    gateway.command("token", "renew", handle)
    gateway.command("token", "revoke", label, "--reason", "leaked")
    assert refusal(gateway, handle) == "handle-revoked"


def test_a_key_that_signs_no_more_renews_nothing(gateway: Served, tmp_path: Path) -> None:
    spare = tmp_path / "spare.jwk"
    kid = binary("keys", "generate", "--out", str(spare)).out.strip()
    gateway.command("keys", "import", f"{spare}.pub", "--issuer", ISSUER)
    handle = gateway.issue("tests/spare", "--handle", "--key", str(spare), models=(MODEL,))
    gateway.command("keys", "revoke", kid, "--reason", "a test")
    for words in (["token", "renew", handle], ["token", "issue", "--agent", "tests/spare"]):
        done = binary(*words, "--key", str(spare), "--data", str(gateway.data))
        assert done.code == 3 and done.out == "" and "key-revoked" in done.err


def test_an_adoption_goes_on_after_a_revocation(gateway: Served) -> None:
    first, second = "sk-goes-on-0123456789", "sk-comes-later-0123456789"
    text = f"key,agent,models\n{first},tests/goes-on,{MODEL}\n"
    assert adopt(gateway, text)[0] == 0
    gateway.command("token", "revoke", first, "--reason", "a test")
    code, _, err = adopt(gateway, text + f"{second},tests/later,{MODEL}\n")
    assert code == 0 and "line 2: revoked before" in err and "1 keys are adopted" in err
    assert (refusal(gateway, first), refusal(gateway, second)) == ("handle-revoked", None)
    code, _, err = adopt(gateway, f"key,agent,models\n{second},tests/other,{MODEL}\n", until=day(5))
    assert code == 0 and "WARNING: adopted before for tests/later until" in err and "0 keys" in err


class FalseGateway(http.server.BaseHTTPRequestHandler):
    """Answers every request with the given row."""

    row: dict[str, object] = {}

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"done": {"sealed": [1], "rows": [self.row]}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "-"

    def log_message(self, *_: object) -> None:
        pass


def test_renew_signs_nothing_that_was_not_signed_before(gateway: Served, tmp_path: Path) -> None:
    """A compromised gateway returns a forged row: the operator's key must not sign it."""
    handle = gateway.issue("tests/mine", "--handle", models=(MODEL,))
    other = tmp_path / "other.jwk"
    assert binary("keys", "generate", "--out", str(other)).code == 0
    strange = gateway.issue("tests/mine", "--offline", "--key", str(other))
    elsewhere = gateway.issue("tests/another", "--offline")
    good = gateway.issue("tests/mine", "--offline")
    header, payload, signature = good.split(".")
    swapped = f"{header}.{elsewhere.split('.')[1]}.{signature}"
    socket_path = tmp_path / "admin.sock"
    config = tmp_path / "token-shield.toml"
    text = gateway.config.read_text().replace("[listen]", f'[listen]\nadmin = "unix:{socket_path}"')
    config.write_text(
        text.replace('data = "."', f'data = "{gateway.data}"').replace(
            '"keys/', f'"{gateway.data}/keys/'
        )
    )
    server = socketserver.ThreadingUnixStreamServer(str(socket_path), FalseGateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    key = str(gateway.data / "keys/operator.jwk")
    for token, signed in [
        (strange, False),
        (elsewhere, False),
        (swapped, False),
        (f"{header}.{payload}.AAAA", False),
        (good, True),
    ]:
        FalseGateway.row = {
            "handle": "x",
            "agent": "tests/mine",
            "token": token,
            "until": None,
            "revoked": None,
        }
        done = binary("token", "renew", handle, "--config", str(config), "--key", key)
        assert (done.code == 0) == signed, done.err
        assert signed or "no token was signed" in done.err or "token-" in done.err
    server.shutdown()
    server.server_close()
