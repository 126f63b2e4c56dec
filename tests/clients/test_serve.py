"""`token-shield serve` with an operator's config: times, proxies, upstream kinds, reload, keys."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from fake_upstream import MODEL, FakeUpstream
from gateway import ISSUER, Gateway, Served, binary
from waiting import wait_until

CHAT = "/v1/chat/completions"


def fake_model(url: str, more: str = "") -> str:
    """The config of one upstream with the model, and `echo`."""
    return (
        f'[[upstream]]\nname = "fake"\nurl = "{url}"\n{more}\n[[model]]\nname = "{MODEL}"\n'
        'route = ["fake"]\n'
        '[[upstream]]\nname = "echo"\nurl = "echo:"\n[[model]]\nname = "echo"\nroute = ["echo"]\n'
    )


def ask(
    gateway: Gateway, text: str, token: str | None = None, *, model: str = MODEL, **more: object
) -> httpx2.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    headers = {"authorization": f"Bearer {token or gateway.token}"}
    return httpx2.post(gateway.url + CHAT, json=body, headers=headers, timeout=60, trust_env=False)


def serve(folder: Path, config: str, listen: str = "", **more: object) -> Served:
    served = Served(folder / "data", config, listen, **more)
    served.token = served.issue("tests/main", models=(MODEL, "echo"))
    return served


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def last_error(answer: httpx2.Response) -> str:
    """The code of the error that ends a stream."""
    events = [
        json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")
    ]
    return events[-1]["error"]["code"]


# ---- times ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hasty(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    times = (
        '[timeouts]\nhandshake = "1s"\nheader = "1s"\nbody_idle = "1s"\nconnect = "1s"\n'
        'first_byte = "1s"\nstream_idle = "1s"\ntotal = "3s"\n'
    )
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    # These two fill the queue, so that a later SYN gets no answer.
    waiting = [socket.socket() for _ in range(2)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(full.getsockname())
    deaf = (
        f'[[upstream]]\nname = "deaf"\nurl = "http://127.0.0.1:{full.getsockname()[1]}"\n'
        '[[model]]\nname = "deaf"\nroute = ["deaf"]\n'
    )
    served = serve(tmp_path_factory.mktemp("hasty"), times + fake_model(upstream.url) + deaf)
    served.token = served.issue("tests/main", models=(MODEL, "echo", "deaf"))
    with served:
        yield served
    for one in [full, *waiting]:
        one.close()


def timed(act: Callable[[], httpx2.Response]) -> tuple[httpx2.Response, float]:
    began = time.monotonic()
    return act(), time.monotonic() - began


def test_a_server_that_nobody_can_dial(hasty: Served) -> None:
    answer, took = timed(lambda: ask(hasty, "hello", model="deaf"))
    assert code(answer) == (503, "upstream-unavailable") and 0.9 < took < 5
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_does_not_begin(hasty: Served, upstream: FakeUpstream, stream: bool) -> None:
    text = f"behave thinking {stream}"
    answer, took = timed(lambda: ask(hasty, text, stream=stream))
    assert code(answer) == (504, "upstream-slow") and 0.9 < took < 5
    exchange = upstream.exchange(text)
    assert exchange.over.wait(5) and exchange.left_at is not None, (
        "the upstream still works for nobody"
    )


def test_a_stream_that_falls_silent(hasty: Served, upstream: FakeUpstream) -> None:
    answer, took = timed(lambda: ask(hasty, "behave mute", stream=True))
    assert (
        answer.status_code == 200
        and "one " in answer.text
        and last_error(answer) == "upstream-slow"
        and 0.9 < took < 5
    )
    assert upstream.exchange("behave mute").over.wait(5), "the upstream still works for nobody"


def test_a_stream_that_never_ends(hasty: Served, upstream: FakeUpstream) -> None:
    answer, took = timed(lambda: ask(hasty, "behave forever", stream=True))
    assert answer.status_code == 200 and last_error(answer) == "upstream-slow" and 2.9 < took < 10
    assert upstream.exchange("behave forever").over.wait(5), "the upstream still works for nobody"


def test_a_body_that_falls_silent(hasty: Served) -> None:
    with socket.create_connection(("127.0.0.1", hasty.port), timeout=20) as connection:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {hasty.token}\r\n"
            "content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
        )
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


# ---- proxies in front ----------------------------------------------------------------------------

BELIEVED = 'trusted_proxies = ["127.0.0.0/8"]'
STINGY = "[limits]\npeer_rps = 1\n"


def stranger(gateway: Gateway, headers: dict[str, str]) -> str:
    """The code of the answer to a request without a token."""
    answer = httpx2.get(gateway.url + "/v1/models", headers=headers, timeout=20, trust_env=False)
    return answer.json()["error"]["code"]


def test_forwarded_addresses_of_a_trusted_proxy(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, STINGY + fake_model(upstream.url), BELIEVED) as gateway:
        # One a second for each address: another address has a separate rate.
        for last in range(20):
            assert stranger(gateway, {"x-forwarded-for": f"203.0.113.{last}"}) == "token-missing"
        codes = {stranger(gateway, {"x-forwarded-for": "198.51.100.1"}) for _ in range(20)}
        assert codes == {"token-missing", "peer-rate"}
        # Entries before the address that the proxy added come from the caller, and may be forged.
        codes = {
            stranger(gateway, {"x-forwarded-for": f"192.0.2.{last}, 198.51.100.2"})
            for last in range(20)
        }
        assert codes == {"token-missing", "peer-rate"}


def test_forwarded_addresses_of_anybody_else(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, STINGY + fake_model(upstream.url)) as gateway:
        codes = {stranger(gateway, {"x-forwarded-for": f"203.0.113.{last}"}) for last in range(20)}
        assert codes == {"token-missing", "peer-rate"}


def proxied(port: int, header: bytes, secure: ssl.SSLContext | None = None) -> bytes:
    """The answer to a request without a token after a PROXY header, or None."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(header)
        over = secure.wrap_socket(connection, server_hostname="localhost") if secure else connection
        over.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = b""
        try:
            while piece := over.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        return answer


def proxy_header(address: str) -> bytes:
    """A header of PROXY protocol version 2 for TCP over IPv4, from this address."""
    block = (
        socket.inet_aton(address) + socket.inet_aton("127.0.0.1") + struct.pack(">HH", 40_000, 443)
    )
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x21, 0x11]) + struct.pack(">H", len(block)) + block


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_proxy_protocol(upstream: FakeUpstream, tmp_path: Path, tls: bool) -> None:
    context, listen = None, BELIEVED
    if tls:
        authority(tmp_path)
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        listen += (
            f'\ntls = {{ cert = "{tmp_path}/server.pem", key = "file:{tmp_path}/server.key" }}'
        )
    with serve(tmp_path, STINGY + fake_model(upstream.url), listen, tls=tls) as gateway:
        for last in range(20):
            assert b"token-missing" in proxied(
                gateway.port, proxy_header(f"203.0.113.{last}"), context
            )
        answers = [proxied(gateway.port, proxy_header("198.51.100.1"), context) for _ in range(20)]
        assert any(b"peer-rate" in answer for answer in answers)
        if not tls:
            assert proxied(gateway.port, proxy_header("198.51.100.1")[:12] + b"\x11" * 4) == b"", (
                "version 1 is taken"
            )


def test_a_handshake_that_does_not_come(upstream: FakeUpstream, tmp_path: Path) -> None:
    authority(tmp_path)
    listen = (
        f"{BELIEVED}\n"
        f'tls = {{ cert = "{tmp_path}/server.pem", key = "file:{tmp_path}/server.key" }}'
    )
    with serve(
        tmp_path, '[timeouts]\nhandshake = "1s"\n' + fake_model(upstream.url), listen, tls=True
    ) as gateway:
        for begun in (
            b"",
            b"\x16\x03\x01",
            proxy_header("203.0.113.1")[:14],
            proxy_header("203.0.113.1"),
        ):
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
                connection.sendall(begun)
                assert connection.recv(1) == b"" and time.monotonic() - began < 5, begun


# ---- kinds of upstream ---------------------------------------------------------------------------


def authority(folder: Path) -> None:
    """A CA (ca.pem), and its certificate for localhost (server.pem, server.key)."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)

    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(
        "req",
        "-x509",
        *new,
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-subj",
        "/CN=tests",
        "-days",
        "2",
    )
    openssl("req", *new, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-out",
        "server.pem",
        "-days",
        "2",
        "-extfile",
        "san",
    )
    (folder / "server.key").chmod(0o600)


def test_an_upstream_on_a_unix_socket_with_a_credential(tmp_path: Path) -> None:
    fake = FakeUpstream(unix=tmp_path / "model.sock")
    secret = tmp_path / "model.key"
    secret.write_text("swordfish\n")
    secret.chmod(0o600)
    with serve(tmp_path, fake_model(fake.url, f'credential = "file:{secret}"')) as gateway:
        assert ask(gateway, "over a socket").status_code == 200
        assert fake.exchange("over a socket").request.header("authorization") == [
            "Bearer swordfish"
        ]
        assert "fine" in ask(gateway, "streamed", stream=True).text
        assert "swordfish" not in gateway.logged()
    fake.stop()


@pytest.mark.parametrize("trusted", [True, False], ids=["own-ca", "unknown-ca"])
def test_an_upstream_over_tls(tmp_path: Path, trusted: bool) -> None:
    authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    fake = FakeUpstream(tls=context)
    ca = f'tls = {{ ca = "{tmp_path}/ca.pem" }}' if trusted else ""
    with serve(tmp_path, fake_model(fake.url, ca)) as gateway:
        answer = ask(gateway, "over TLS")
        if trusted:
            assert answer.status_code == 200 and fake.reached("over TLS")
        else:
            assert code(answer) == (503, "upstream-unavailable") and not fake.reached("over TLS")
    fake.stop()


def test_a_route_goes_on_to_the_next_server_and_comes_back(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    first = FakeUpstream()
    port = first.port
    config = fake_model(upstream.url).replace('route = ["fake"]', 'route = ["first", "fake"]')
    with serve(
        tmp_path, config + f'[[upstream]]\nname = "first"\nurl = "{first.url}"\n'
    ) as gateway:
        assert ask(gateway, "route 1").status_code == 200 and first.reached("route 1")
        first.stop()
        assert ask(gateway, "route 2").status_code == 200 and upstream.reached("route 2")
        assert gateway.metric("token_shield_upstream_up", upstream="first") == 0
        first = FakeUpstream(port=port)
        wait_until(
            lambda: gateway.metric("token_shield_upstream_up", upstream="first") == 1,
            30,
            "a probe finds the first server",
        )
        assert ask(gateway, "route 3").status_code == 200 and first.reached("route 3")
    first.stop()


def test_what_the_gateway_writes_for_vllm(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url, 'profile = "vllm"')) as gateway:
        other = gateway.issue("tests/other", models=(MODEL,))
        stranger = gateway.issue("tests/stranger", models=(MODEL,), principal="team:strangers")
        bodies = []
        for number, token in enumerate([gateway.token, gateway.token, other, stranger]):
            answer = ask(gateway, f"salted {number}", token)
            body = json.loads(upstream.exchange(f"salted {number}").request.body)
            assert body["request_id"] == answer.headers["token-shield-request"]
            bodies.append(body)
        salts = [body["cache_salt"] for body in bodies]
        assert len(set(salts[:3])) == 1 and salts[3] != salts[0], (
            "the cache is shared by the principal alone"
        )
        assert code(ask(gateway, "forged", cache_salt=salts[0])) == (400, "field-not-allowed")
        assert not upstream.reached("forged")


# ---- reload --------------------------------------------------------------------------------------


def test_the_config_is_read_again(upstream: FakeUpstream, tmp_path: Path) -> None:
    config = fake_model(upstream.url)
    with serve(tmp_path, config) as gateway:
        assert code(ask(gateway, "x", model="later")) == (404, "model-not-found")
        everything = gateway.issue("tests/all", models=())
        gateway.write(
            config
            + '[[model]]\nname = "later"\nroute = ["fake"]\n[class.default]\noutput_tokens = 7\n'
        )
        gateway.reload()
        assert ask(gateway, "reloaded", everything, model="later").status_code == 200
        assert json.loads(upstream.exchange("reloaded").request.body)["max_tokens"] == 7
        # A config with an error is refused as a whole: the old one stays in force.
        gateway.write(
            config.replace(MODEL, "renamed") + "[class.default]\noutput_tokens = 'many'\n"
        )
        gateway.reload()
        assert gateway.metric("token_shield_config_reload_total", result="refused") == 1
        assert ask(gateway, "after the refusal", everything, model="later").status_code == 200
        assert ask(gateway, "and this one", everything).status_code == 200


# ---- keys ----------------------------------------------------------------------------------------


def test_a_key_is_retired_and_another_revoked(upstream: FakeUpstream, tmp_path: Path) -> None:
    with serve(tmp_path, fake_model(upstream.url)) as gateway:
        second = tmp_path / "second.jwk"
        assert binary("keys", "generate", "--out", str(second)).code == 0
        gateway.command("keys", "import", f"{second}.pub", "--issuer", ISSUER)
        kids = {
            json.loads(line)["kid"]
            for line in gateway.command("keys", "list", "--json").out.splitlines()
        }
        own = json.loads(second.with_name("second.jwk.pub").read_text())["keys"][0]["kid"]
        assert own in kids and len(kids) == 2
        early = gateway.issue("tests/second", "--key", str(second))
        assert ask(gateway, "x", early, model="echo").status_code == 200
        gateway.command("keys", "retire", own, "--reason", "a test")
        # The token's iat has whole seconds: a token issued in the next second is newer than the
        # retirement.
        retired = int(time.time())
        wait_until(lambda: int(time.time()) > retired, 3, "the next second")
        late = gateway.issue("tests/second", "--key", str(second), "--offline")
        assert ask(gateway, "x", early, model="echo").status_code == 200, (
            "a retired key's tokens run out by themselves"
        )
        assert code(ask(gateway, "x", late, model="echo")) == (401, "key-revoked")
        gateway.command("keys", "revoke", own, "--reason", "a test")
        wait_until(
            lambda: code(ask(gateway, "x", early, model="echo")) == (401, "key-revoked"),
            1,
            "the revoked key's token is refused",
        )
        assert ask(gateway, "x", model="echo").status_code == 200
