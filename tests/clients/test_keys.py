"""Signing keys change while the gateway runs: rotated, published, and read again."""

from __future__ import annotations

import json
import os
import socket
import time
from datetime import datetime
from pathlib import Path

import httpx2
import pytest
from jwcrypto import jwk

from fake_upstream import FakeUpstream
from gateway import ISSUER, Served, binary
from publisher import OTHER, Publisher, key, other_issuer
from test_serve import ask, authority, code, fake_model, last_error, serve
from waiting import wait_until


def refusal(gateway: Served, token: str) -> str | None:
    answer = ask(gateway, "x", token, model="echo")
    return None if answer.status_code == 200 else code(answer)[1]


def rows(gateway: Served) -> dict[str, dict[str, object]]:
    listed = map(json.loads, gateway.command("keys", "list", "--json").out.splitlines())
    return {row["kid"]: row for row in listed}


def signed_by(gateway: Served, file: Path, *flags: str, principal: str = "team:tests") -> str:
    return gateway.issue(
        "tests/agent", "--key", str(file), "--offline", *flags, principal=principal
    )


# ---- rotation ------------------------------------------------------------------------------------


def test_a_key_is_rotated_and_nothing_is_refused_in_between(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as gateway:
        file = gateway.data / "keys/operator.jwk"
        (old,) = rows(gateway)
        done = gateway.command("keys", "rotate", "--overlap", "3s", "--reason", "yearly")
        new = done.out.strip()
        retires = time.time() + 3
        copy = file.with_name(f"operator.jwk.{old[:8]}")
        known = rows(gateway)
        assert (
            known[new]["state"] == "active"
            and known[old]["state"] == "retiring"
            and len(known) == 2
        )
        assert known[old]["live_tokens"] == 2 and known[new]["live_tokens"] == 0
        assert file.stat().st_mode & 0o777 == copy.stat().st_mode & 0o777 == 0o600
        late = gateway.issue("tests/agent")
        within = signed_by(gateway, copy)
        assert [refusal(gateway, token) for token in (gateway.token, late, within)] == [None] * 3
        # The token's iat has whole seconds.
        wait_until(lambda: time.time() > retires + 1, 10, "the overlap is over")
        assert refusal(gateway, signed_by(gateway, copy)) == "key-revoked"
        assert [refusal(gateway, token) for token in (gateway.token, late, within)] == [None] * 3
        gateway.restart()
        assert [refusal(gateway, token) for token in (gateway.token, late, within)] == [None] * 3
        listed = {
            entry["kid"]
            for entry in json.loads(file.with_name("operator.jwk.pub").read_text())["keys"]
        }
        assert listed == {old, new} and not file.with_name("operator.jwk.next").exists()


def test_a_rotation_that_was_interrupted_goes_on(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as gateway:
        file = gateway.data / "keys/operator.jwk"
        (old,) = rows(gateway)
        began = key(file.with_name("operator.jwk.next"))
        gateway.command(
            "keys", "import", str(file.with_name("operator.jwk.next.pub")), "--issuer", ISSUER
        )
        assert gateway.command("keys", "rotate").out.strip() == began, (
            "the key that was begun with is used"
        )
        assert set(rows(gateway)) == {old, began}
        assert refusal(gateway, gateway.issue("tests/agent")) is None


def test_what_a_rotation_left_behind_is_looked_at(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as gateway:
        file = gateway.data / "keys/operator.jwk"
        left = file.with_name("operator.jwk.next")

        def rotated() -> str | None:
            done = binary("keys", "rotate", "--data", str(gateway.data))
            assert done.code == 0 or "operator.jwk.next" in done.err and "remove it" in done.err, (
                done.err
            )
            return done.out.strip() or None

        left.touch(0o600)
        assert rotated() is None
        left.unlink()
        key(left, "Ed25519")
        assert rotated() is None
        left.unlink()
        left.with_name("operator.jwk.next.pub").unlink()
        revoked = key(left)
        gateway.command("keys", "import", f"{left}.pub", "--issuer", ISSUER)
        gateway.command("keys", "revoke", revoked, "--reason", "a test")
        assert rotated() is None and refusal(gateway, gateway.issue("tests/agent")) is None, (
            "the key in use is still the old one"
        )
        left.unlink()
        left.with_name("operator.jwk.next.pub").unlink()
        began = key(left)
        # Stopped between the two files of the new key.
        left.with_name("operator.jwk.next.pub").unlink()
        assert rotated() == began and refusal(gateway, gateway.issue("tests/agent")) is None


def test_a_key_that_the_gateway_does_not_know_is_not_rotated(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as gateway:
        key(tmp_path / "stranger.jwk")
        done = binary(
            "keys", "rotate", "--data", str(gateway.data), "--key", str(tmp_path / "stranger.jwk")
        )
        assert done.code == 1 and "keys import" in done.err
        assert not (tmp_path / "stranger.jwk.next").exists() and len(rows(gateway)) == 1


# ---- JWK Sets that change ------------------------------------------------------------------------


def test_a_file_is_read_again_when_it_changes(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as gateway:
        public = gateway.data / "keys/operator.jwk.pub"
        first = public.read_text()
        key(tmp_path / "second.jwk")
        token = signed_by(gateway, tmp_path / "second.jwk")
        assert refusal(gateway, token) == "token-key-unknown"
        both = {
            "keys": json.loads(first)["keys"]
            + json.loads((tmp_path / "second.jwk.pub").read_text())["keys"]
        }
        public.write_text(json.dumps(both))
        wait_until(lambda: refusal(gateway, token) is None, 10, "the new key is known")
        public.write_text("{ not JSON")
        wait_until(
            lambda: gateway.metric("token_shield_jwks_reads_total", result="refused") == 1,
            10,
            "the broken file is noticed",
        )
        assert refusal(gateway, token) is None and refusal(gateway, gateway.token) is None, (
            "the former keys stay"
        )
        with httpx2.stream(
            "POST",
            gateway.url + "/v1/chat/completions",
            timeout=30,
            trust_env=False,
            headers={
                "x-api-key": gateway.issue(
                    "tests/streaming", "--key", str(tmp_path / "second.jwk"), models=("fake-model",)
                )
            },
            json={
                "model": "fake-model",
                "messages": [{"role": "user", "content": "behave forever key"}],
                "stream": True,
            },
        ) as stream:
            upstream.exchange("behave forever key")
            public.write_text(first)
            stream.read()
        assert last_error(stream) == "token-key-unknown", "open streams of the key end"
        assert (
            refusal(gateway, token) == "token-key-unknown"
            and refusal(gateway, gateway.token) is None
        )


def test_a_change_is_seen_whatever_its_time_and_length_say(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    other = tmp_path / "b.jwks"
    key(tmp_path / "second.jwk")
    other.write_text((tmp_path / "second.jwk.pub").read_text())
    more = (
        f'[[issuer]]\niss = "{OTHER}"\naud = "https://gw.example"\njwks = "{other}"\n'
        'namespaces = ["b"]\nprincipals = ["team:b"]\n'
    )
    with serve(tmp_path, more + fake_model(upstream.url), issuer=ISSUER) as gateway:
        public = gateway.data / "keys/operator.jwk.pub"
        about, length = public.stat(), len(public.read_text())
        key(tmp_path / "third.jwk")
        # The file is changed in place, with the same length and times; another issuer's set is
        # broken too.
        other.write_text("{ not JSON")
        public.write_text((tmp_path / "third.jwk.pub").read_text())
        os.utime(public, ns=(about.st_atime_ns, about.st_mtime_ns))
        assert len(public.read_text()) == length
        wait_until(
            lambda: refusal(gateway, gateway.token) == "token-key-unknown",
            10,
            "the key that is gone is unknown",
        )
        assert (
            refusal(gateway, signed_by(gateway, tmp_path / "third.jwk", "--issuer", ISSUER)) is None
        )
        assert gateway.metric("token_shield_jwks_reads_total", result="refused") == 1


def test_a_published_set_is_fetched_again_and_again(upstream: FakeUpstream, tmp_path: Path) -> None:
    authority(tmp_path)
    publisher = Publisher(tmp_path)
    key(tmp_path / "other.jwk")
    theirs = json.loads((tmp_path / "other.jwk.pub").read_text())["keys"]
    publisher.text = (tmp_path / "other.jwk.pub").read_text()
    own = tmp_path / "gw"
    own.mkdir()
    with serve(
        own,
        other_issuer(publisher.url, tmp_path / "ca.pem") + fake_model(upstream.url),
        issuer=ISSUER,
    ) as gateway:
        assert ask(gateway, "the first").status_code == 200
        token = gateway.issue(
            "tests/agent",
            "--key",
            str(tmp_path / "other.jwk"),
            "--issuer",
            OTHER,
            principal="user:agent",
        )
        assert refusal(gateway, token) is None, "the keys are there from the first request on"

        def now(text: str, status: int = 200) -> None:
            before = publisher.asked
            publisher.text, publisher.status = text, status
            wait_until(lambda: publisher.asked >= before + 2, 30, "the set is fetched again")

        # Keys for other purposes are ignored.
        rsa = json.loads(jwk.JWK.generate(kty="RSA", size=2048).export_public())
        now(json.dumps({"keys": [rsa, {**theirs[0], "use": "enc"}, *theirs]}))
        assert refusal(gateway, token) is None
        # An unreadable set changes no key; a redirect is not followed and changes none either.
        large = json.dumps({"keys": [], "x": "x" * (2 << 20)})
        for text, status in [
            (large, 200),
            ("{", 200),
            ('{"keys":[]}', 404),
            ('{"keys":[]}', 302),
            ((tmp_path / "other.jwk").read_text(), 200),
        ]:
            now(text, status)
            assert refusal(gateway, token) is None, (text, status)
        assert gateway.metric("token_shield_jwks_reads_total", result="refused") >= 5
        now('{"keys":[]}')
        wait_until(
            lambda: refusal(gateway, token) == "token-key-unknown",
            10,
            "a key that is published no more is known no more",
        )
        publisher.stop()
        assert refusal(gateway, gateway.token) is None
        gateway.restart()
        assert refusal(gateway, gateway.token) is None, (
            "a gateway starts where a set cannot be fetched"
        )
        assert refusal(gateway, token) == "token-key-unknown"


def test_a_publisher_that_nobody_vouches_for_is_not_believed(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    authority(tmp_path)
    publisher = Publisher(tmp_path)
    key(tmp_path / "other.jwk")
    publisher.text = (tmp_path / "other.jwk.pub").read_text()
    own = tmp_path / "gw"
    own.mkdir()
    strange = other_issuer(publisher.url, tmp_path / "ca.pem").replace(
        f'jwks_ca = "{tmp_path}/ca.pem"\n', ""
    )
    with serve(own, strange + fake_model(upstream.url), issuer=ISSUER) as gateway:
        token = signed_by(
            gateway, tmp_path / "other.jwk", "--issuer", OTHER, principal="user:agent"
        )
        assert refusal(gateway, token) == "token-key-unknown" and publisher.asked == 0
    publisher.stop()


def test_publishers_that_never_answer_hold_nobody_up(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    """Four silent publishers: the gateway serves after one time limit; keys from files count."""
    silent = socket.create_server(("127.0.0.1", 0))
    more = "".join(
        f'[[issuer]]\niss = "https://{number}.example"\naud = "x"\n'
        f'jwks = "https://localhost:{silent.getsockname()[1]}/{number}"\n'
        f'jwks_refresh = "1s"\nnamespaces = ["x"]\nprincipals = ["user:{number}"]\n'
        for number in range(4)
    )
    with serve(tmp_path, more + fake_model(upstream.url), issuer=ISSUER) as gateway:
        began = time.monotonic()
        assert refusal(gateway, gateway.token) is None
        assert time.monotonic() - began < 12, "each was waited for in turn"
        public = gateway.data / "keys/operator.jwk.pub"
        public.write_text('{"keys":[]}')
        wait_until(
            lambda: refusal(gateway, gateway.token) == "token-key-unknown",
            4.5,
            "the file is looked at meanwhile",
        )
        gateway.restart()
        began = time.monotonic()
        gateway.terminate()
        assert gateway.ended() == 0 and time.monotonic() - began < 4, (
            "a start that waits can be stopped"
        )
    silent.close()


@pytest.mark.parametrize("url", ["http://localhost/keys.json", "https://", "ftp://x/y"])
def test_a_set_is_fetched_over_tls_alone(tmp_path: Path, url: str) -> None:
    config = tmp_path / "token-shield.toml"
    config.write_text(
        f'name = "gw"\n[[issuer]]\niss = "a"\naud = "b"\nnamespaces = ["*"]\njwks = "{url}"\n'
    )
    done = binary("config", "check", str(config))
    assert done.code == 1 and "https://HOST" in done.out + done.err


# ---- public resources ----------------------------------------------------------------------------


def test_public_keys_are_published_on_demand(upstream: FakeUpstream, tmp_path: Path) -> None:
    def fetched(gateway: Served) -> httpx2.Response:
        return httpx2.get(gateway.url + "/.well-known/jwks.json", trust_env=False)

    (tmp_path / "off").mkdir()
    (tmp_path / "on").mkdir()
    with serve(tmp_path / "off", fake_model(upstream.url)) as gateway:
        assert code(fetched(gateway)) == (401, "token-missing")
    with serve(tmp_path / "on", fake_model(upstream.url), "publish_keys = true") as gateway:
        gone = key(tmp_path / "gone.jwk")
        gateway.command("keys", "import", f"{tmp_path}/gone.jwk.pub", "--issuer", ISSUER)
        gateway.command("keys", "revoke", gone, "--reason", "a test")
        answer = fetched(gateway)
        assert (
            answer.status_code == 200
            and answer.headers["content-type"] == "application/jwk-set+json"
        )
        assert answer.headers["token-shield-request"].startswith("rq_")
        (only,) = jwk.JWKSet.from_json(answer.text)["keys"]
        assert (
            only.thumbprint() in rows(gateway)
            and only.thumbprint() != gone
            and not only.has_private
        )
        assert code(httpx2.post(gateway.url + "/.well-known/jwks.json", trust_env=False)) == (
            401,
            "token-missing",
        )


# ---- unused keys ---------------------------------------------------------------------------------


def test_a_key_that_signs_nothing_live_is_said_so(upstream: FakeUpstream, tmp_path: Path) -> None:
    idle = 'idle_key = "2s"\n'
    with serve(tmp_path, fake_model(upstream.url), first=idle) as gateway:
        spare = key(tmp_path / "spare.jwk")
        gateway.command("keys", "import", f"{tmp_path}/spare.jwk.pub", "--issuer", ISSUER)
        wait_until(
            lambda: gateway.metric("token_shield_idle_keys") == 1, 20, "the spare key is noticed"
        )
        said = [
            json.loads(line)
            for line in gateway.logged().splitlines()
            if "no live token of this key" in line
        ]
        assert [line["kid"] for line in said] == [spare], "the key with live tokens is none of them"
        used = gateway.issue("tests/agent", "--key", f"{tmp_path}/spare.jwk")
        wait_until(lambda: gateway.metric("token_shield_idle_keys") == 0, 20, "it has a live token")
        gateway.command("token", "revoke", used, "--reason", "a test")
        assert rows(gateway)[spare]["live_tokens"] == 0
        # A token signed elsewhere becomes known by its use, also from the token cache.
        elsewhere = signed_by(gateway, tmp_path / "spare.jwk")
        before = time.time()
        while time.time() < before + 7:
            assert refusal(gateway, elsewhere) is None
            time.sleep(0.5)
        assert gateway.metric("token_shield_idle_keys") == 0
        assert (
            datetime.fromisoformat(str(rows(gateway)[spare]["last_used"])).timestamp() > before + 5
        )
        wait_until(lambda: gateway.metric("token_shield_idle_keys") == 1, 20, "and by its want")
        gateway.restart()
        assert gateway.metric("token_shield_idle_keys") == 0, (
            "a start knows of no use yet, and says nothing"
        )
