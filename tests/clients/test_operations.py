"""Operation: certificates, reloads that need a restart, addresses, counters, causes."""

from __future__ import annotations

import datetime
import json
import ssl
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fake_upstream import FakeUpstream
from gateway import SERVED, Served, binary
from test_serve import ask, fake_model, serve
from waiting import wait_until

DAY = datetime.timedelta(days=1)


def certificate(cert: Path, key: Path, *, begins: int, ends: int, name: str = "localhost") -> None:
    """Writes a key and its self-signed certificate, valid `begins` to `ends` days from now."""
    secret = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
    )
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now + begins * DAY).not_valid_after(now + ends * DAY)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False
    )
    made = builder.sign(secret, hashes.SHA256())
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    key.touch(mode=0o600)
    key.write_bytes(secret.private_bytes(*form))


def written(folder: Path, more: str, *, listen: str = "") -> Path:
    """A config and an operator's key; no gateway runs."""
    (folder / "keys").mkdir(mode=0o700)
    made = binary("keys", "generate", "--out", str(folder / "keys" / "operator.jwk"))
    assert made.code == 0, made.err
    config = folder / "token-shield.toml"
    config.write_text(f"{SERVED}[listen]\n{listen}\n{more}")
    return config


TLS = 'tls = { cert = "gw.pem", key = "file:gw.key" }'


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [(-30, -1, "the certificate expired at"), (1, 30, "the certificate is not valid before")],
)
def test_a_certificate_that_is_not_valid_now_is_refused(
    tmp_path: Path, begins: int, ends: int, words: str
) -> None:
    config = written(tmp_path, fake_model("http://127.0.0.1:9"), listen=TLS)
    certificate(tmp_path / "gw.pem", tmp_path / "gw.key", begins=begins, ends=ends)
    for verb in (("config", "check", str(config)), ("serve", "--config", str(config))):
        done = binary(*verb)
        assert done.code == 1 and words in done.err, done


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    config = written(tmp_path, fake_model("http://127.0.0.1:9"), listen=TLS)
    certificate(tmp_path / "gw.pem", tmp_path / "gw.key", begins=-1, ends=30)
    certificate(tmp_path / "other.pem", tmp_path / "gw.key", begins=-1, ends=30)
    done = binary("config", "check", str(config))
    assert done.code == 1 and "TLS" in done.err, done


def test_a_certificate_that_expires_soon_is_warned_of(tmp_path: Path) -> None:
    config = written(tmp_path, fake_model("http://127.0.0.1:9"), listen=TLS)
    certificate(tmp_path / "gw.pem", tmp_path / "gw.key", begins=-1, ends=7)
    done = binary("config", "check", str(config))
    assert done.code == 0 and "warning" in done.err and "expires at" in done.err, done


def shown(gateway: Served) -> bytes:
    """The certificate that a new connection receives."""
    return ssl.get_server_certificate(("127.0.0.1", gateway.port)).encode()


def test_a_changed_certificate_is_taken_without_a_reload(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    certificate(tmp_path / "gw.pem", tmp_path / "gw.key", begins=-1, ends=30)
    with Served(
        data,
        fake_model(upstream.url),
        'tls = { cert = "../gw.pem", key = "file:../gw.key" }',
        tls=True,
    ) as gateway:
        first = (tmp_path / "gw.pem").read_bytes().strip()
        assert shown(gateway).strip() == first
        # An expired certificate is refused: the former one stays.
        certificate(tmp_path / "gw.pem", tmp_path / "gw.key", begins=-30, ends=-1)
        reads = "token_shield_certificate_reads_total"
        wait_until(
            lambda: gateway.metric(reads, result="refused") > 0,
            20,
            "the expired certificate is refused",
        )
        assert shown(gateway).strip() == first
        certificate(tmp_path / "gw.pem", tmp_path / "gw.key", begins=-1, ends=60)
        wait_until(
            lambda: gateway.metric(reads, result="ok") > 0, 20, "the new certificate is read"
        )
        assert shown(gateway).strip() == (tmp_path / "gw.pem").read_bytes().strip()


def test_a_reload_that_needs_a_restart_is_refused_whole(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as gateway:
        changed = gateway.config.read_text()
        changed = changed.replace("[listen]\n", '[listen]\ntrusted_proxies = ["127.0.0.0/8"]\n')
        changed = changed.replace('name = "echo"\nroute', 'name = "parrot"\nroute')
        gateway.config.write_text(changed)
        gateway.reload()
        assert gateway.metric("token_shield_config_reload_total", result="refused") == 1
        line = gateway.line("the config was not reloaded; the former one stays in force")
        assert line and "trusted_proxies" in line["why"] and "restart" in line["why"], line
        # None of its settings took effect.
        assert ask(gateway, "hello", model="echo").status_code == 200


def test_a_credential_never_crosses_a_network_unencrypted(tmp_path: Path) -> None:
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "key").write_text("sk-0123456789abcdef0123")
    config = written(tmp_path, "")
    text = config.read_text()
    for host, code in (
        ("studio.lan:8080", 1),
        ("10.0.0.7:8080", 1),
        ("127.0.0.1:8080", 0),
        ("localhost:8080", 0),
    ):
        config.write_text(text + fake_model(f"http://{host}", 'credential = "file:key"'))
        done = binary("config", "check", str(config))
        assert done.code == code, (host, done)
        assert code == 0 or "unencrypted" in done.err


def test_a_key_of_two_issuers_is_refused(tmp_path: Path) -> None:
    other = (
        '[[issuer]]\niss = "https://b.example"\naud = "https://gw.example"\n'
        'jwks = "keys/operator.jwk.pub"\nnamespaces = ["b"]\nprincipals = ["team:b"]\n'
    )
    config = written(tmp_path, other + fake_model("http://127.0.0.1:9"))
    config.write_text(
        config.read_text().replace(
            'namespaces = ["*"]', 'namespaces = ["*"]\nprincipals = ["*"]', 1
        )
    )
    done = binary("config", "check", str(config))
    assert done.code == 1 and "two issuers" in done.err, done


def test_a_config_is_checked_without_its_files(tmp_path: Path) -> None:
    config = written(tmp_path, fake_model("http://127.0.0.1:9"), listen=TLS)
    (tmp_path / "keys" / "operator.jwk.pub").unlink()
    assert binary("config", "check", str(config)).code == 1
    done = binary("config", "check", "--syntax", str(config))
    assert done.code == 0, done
    config.write_text("nonsense = 1\n")
    assert binary("config", "check", "--syntax", str(config)).code == 1


def test_counters_exist_before_their_first_increase(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as gateway:
        text = gateway.scrape()
        for series in (
            'token_shield_config_reload_total{result="refused"} 0',
            'token_shield_jwks_reads_total{result="refused"} 0',
            'token_shield_certificate_reads_total{result="refused"} 0',
            'token_shield_refusals_total{code="audit-full",stage="recorded"} 0',
        ):
            assert series in text, series


def test_the_peer_is_named_in_the_line_and_in_why(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url), 'trusted_proxies = ["127.0.0.0/8"]') as gateway:
        body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
        headers = {"authorization": f"Bearer {gateway.token}", "x-forwarded-for": "203.0.113.9"}
        answer = httpx2.post(
            gateway.url + "/v1/chat/completions",
            json=body,
            headers=headers,
            timeout=30,
            trust_env=False,
        )
        assert answer.status_code == 200
        request = answer.headers["token-shield-request"]
        line = wait_until(
            lambda: gateway.line("request", request=request), 10, "the request's line"
        )
        assert line["peer"] == "203.0.113.9"
        told = gateway.command("why", request, "--json")
        rows = [json.loads(row) for row in told.out.splitlines()]
        admission = next(row["payload"] for row in rows if row["kind"] == "admission")
        assert admission["peer"] == "203.0.113.9", told.out


def test_an_operators_command_is_in_the_gateways_log(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as gateway:
        gateway.command("agent", "suspend", "tests/main", "--reason", "test")
        line = wait_until(
            lambda: gateway.line("operator command", kind="agent-status"),
            10,
            "the command's line",
        )
        assert line["by"].startswith("uid:")
