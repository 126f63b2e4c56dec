"""Why an upstream did not serve: in the log line, `upstream changed`, the record and `why`.

No place shows a secret.
"""

from __future__ import annotations

import datetime
import json
import re
import socket
import ssl
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway import Served, binary
from raw_upstream import Behaviour, RawUpstream, answers, resets, status
from test_routes_failover import route, serve
from test_serve import ask, code
from waiting import wait_until

DAY = datetime.timedelta(days=1)
# A valid host name, so that a certificate can carry it.
CREDENTIAL = "sk-canary-zq7-0123456789abcdef"
QUICK = '[timeouts]\nconnect = "1s"\nfirst_byte = "1s"\nstream_idle = "1s"\n'


class Authority:
    """A test CA; `ca` is the file of its certificate."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
        now = datetime.datetime.now(datetime.UTC)
        made = self._builder(self._name, self._key, now - DAY, now + DAY)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(
            made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        begins: datetime.datetime,
        ends: datetime.datetime,
    ) -> x509.CertificateBuilder:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
        )
        return (
            builder.serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )

    def context(self, *names: str, ends: int = 1) -> ssl.SSLContext:
        """The TLS settings of a server with those names; its certificate expires in `days`."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        made = self._builder(subject, key, now - 9 * DAY, now + ends * DAY)
        made = made.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False
        )
        pem = made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        form = (
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file = self._folder / "server.pem"
        file.touch(mode=0o600)
        file.write_bytes(pem + key.private_bytes(*form))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def shaking(context: ssl.SSLContext) -> RawUpstream:
    """A TLS server whose client does not trust it."""

    def shake(connection: socket.socket) -> bool:
        connection.settimeout(10)
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            connection.close()
        return False

    return RawUpstream(on_accept=shake)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def bad() -> Iterator[RawUpstream]:
    server = RawUpstream()
    yield server
    server.stop()


def told(
    gateway: Served, text: str, expect: tuple[int, str], cause: str, changed: str | None = None
) -> str:
    """Sends a request and checks the cause in each place.

    `changed` is the cause in `upstream changed`, if it differs or is absent.
    """
    answer = ask(gateway, text)
    assert code(answer) == expect, answer.text
    assert not re.search(cause, answer.text), "the caller is told what only the operator is told"
    request = answer.headers["token-shield-request"]
    line = wait_until(lambda: gateway.line("request", request=request), 10, "the request's line")
    assert re.search(cause, line.get("cause", "")), line
    if changed != "":
        news = wait_until(
            lambda: gateway.line("upstream changed", upstream="bad"), 10, "the upstream's line"
        )
        assert news["up"] is False and re.search(changed or cause, news["cause"]), news
    live = gateway.command("why", request).out
    assert re.search(cause, live) and expect[1] in live, live
    gateway.stop()
    assert binary("why", request, "--data", str(gateway.data)).out == live
    records = recorded(gateway, request)
    assert re.search(cause, records), "the record does not say it"
    return gateway.logged() + live + records


def recorded(gateway: Served, *requests: str) -> str:
    """The causes in the records of these requests."""
    return "".join(
        binary("audit", "query", str(gateway.data / "audit"), "--request", request).out
        for request in requests
    )


def over_tls(folder: Path, port: int, ca: Path | None, host: str = "localhost") -> str:
    lines = f'https://{host}:{port}"\ncredential = "env:ROUTES_CREDENTIAL'
    return QUICK + route(("bad", lines)).replace(
        "[[model]]", (f'tls = {{ ca = "{ca}" }}\n' if ca else "") + "[[model]]"
    )


@pytest.fixture(autouse=True)
def credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTES_CREDENTIAL", CREDENTIAL)


UNAVAILABLE = (503, "upstream-unavailable")
INVALID = (502, "upstream-invalid")

# ---- upstreams that cannot be reached ------------------------------------------------------------


def test_an_untrusted_certificate(tmp_path: Path, authority: Authority) -> None:
    server = shaking(authority.context("localhost"))
    with serve(tmp_path, over_tls(tmp_path, server.port, None)) as gateway:
        told(gateway, "hello", UNAVAILABLE, r"certificate: .*UnknownIssuer")
    server.stop()


def test_an_expired_certificate(tmp_path: Path, authority: Authority) -> None:
    server = shaking(authority.context("localhost", ends=-1))
    with serve(tmp_path, over_tls(tmp_path, server.port, authority.ca)) as gateway:
        told(gateway, "hello", UNAVAILABLE, r"certificate: .*expired")
    server.stop()


def test_a_certificate_of_another_name(tmp_path: Path, authority: Authority) -> None:
    """The certificate lists very many names of the server's choice; one is the credential."""
    server = shaking(
        authority.context(
            f"{CREDENTIAL}.example", *(f"name-{number}.example" for number in range(400))
        )
    )
    with serve(tmp_path, over_tls(tmp_path, server.port, authority.ca)) as gateway:
        everything = told(gateway, "hello", UNAVAILABLE, r"certificate: .*not valid for name")
    assert CREDENTIAL not in everything
    assert all(len(line) < 4000 for line in everything.splitlines() if "certificate: " in line), (
        "the causes are not bounded"
    )
    server.stop()


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    with serve(tmp_path, QUICK + route(("bad", "http://model.invalid:8000"))) as gateway:
        told(gateway, "hello", UNAVAILABLE, r"(upstream bad: no connection: )?DNS: ")


def test_a_port_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with serve(
            tmp_path, QUICK + route(("bad", f"http://127.0.0.1:{taken.getsockname()[1]}"))
        ) as gateway:
            told(gateway, "hello", UNAVAILABLE, r"(upstream bad: no connection: )?refused: ")


def test_the_causes_of_all_that_were_tried(tmp_path: Path, authority: Authority) -> None:
    """In any order: upstreams that are known to be down come last."""
    first = shaking(authority.context(f"{CREDENTIAL}.example"))
    gone = RawUpstream()
    gone.stop()
    lines = (
        f'https://localhost:{first.port}"\ncredential = "env:ROUTES_CREDENTIAL"\n'
        f'tls = {{ ca = "{authority.ca}" }}\n#'
    )
    with serve(tmp_path, route(("first", lines), ("bad", gone.url))) as gateway:
        causes = [
            r"upstream first: no connection: certificate: .*",
            r"upstream bad: no connection: refused: .*",
        ]
        everything = told(
            gateway,
            "hello",
            UNAVAILABLE,
            "|".join(f"{one}; {other}" for one, other in (causes, causes[::-1])),
            changed="",
        )
    assert CREDENTIAL not in everything
    first.stop()


# ---- upstreams that are reached and do not serve -------------------------------------------------


def sends(answer: bytes) -> Behaviour:
    """Answers with those bytes and closes."""

    def behave(_: RawUpstream, connection: socket.socket, _body: bytes) -> bool:
        connection.sendall(answer)
        return False

    return behave


def silent(_: RawUpstream, connection: socket.socket, _body: bytes) -> bool:
    """Sends no byte until its client closes."""
    return connection.recv(1) != b""


def http(media: str, body: str, status_line: str = "200 OK", *more: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status_line}",
        f"Content-Type: {media}",
        f"Content-Length: {len(body)}",
        *more,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def keyed(url: str) -> str:
    """The config of one upstream with the credential; one failure does not yet mark it as down."""
    return QUICK + route(("bad", f'{url}"\ncredential = "env:ROUTES_CREDENTIAL'))


def test_no_answer_in_time(tmp_path: Path, bad: RawUpstream) -> None:
    bad.on_request = silent
    with serve(tmp_path, keyed(bad.url)) as gateway:
        for _ in range(2):
            assert code(ask(gateway, "slow")) == (504, "upstream-slow")
        told(gateway, "hello", (504, "upstream-slow"), "upstream bad: timeout first_byte")


def test_a_reset(tmp_path: Path, bad: RawUpstream) -> None:
    bad.on_request = lambda _server, connection, _body: resets(connection)
    with serve(tmp_path, keyed(bad.url)) as gateway:
        for _ in range(2):
            assert code(ask(gateway, "reset")) == INVALID
        told(gateway, "hello", INVALID, "upstream bad: reset: the server reset the connection")


ODD = {
    "redirect": (
        http("application/json", "{}", "302 Found", "Location: http://127.0.0.1:9/"),
        INVALID,
        "status 302",
    ),
    "media type": (
        http("text/html; charset=utf-8", "<p>"),
        INVALID,
        "a body that is neither JSON nor events, of the media type .*text/html",
    ),
    "no media type": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes",
        INVALID,
        "a body that is neither JSON nor events",
    ),
    "encoded": (
        http("application/json", "{}", "200 OK", "Content-Encoding: gzip"),
        INVALID,
        "the answer is encoded",
    ),
    "no JSON": (http("application/json", "fine."), INVALID, "the answer is not JSON"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.9\r\n", INVALID, "no valid HTTP: "),
    "cut": (
        http("application/json", '{"id"').replace(b"Content-Length: 5", b"Content-Length: 500"),
        (502, "truncated"),
        "closed: the server ended the connection in the middle of its answer",
    ),
    "credential": (
        http("application/json", "{}", "401 Unauthorized"),
        (502, "upstream-credential"),
        "status 401",
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_an_answer_that_is_not_passed_on(tmp_path: Path, bad: RawUpstream, what: str) -> None:
    answer, expect, cause = ODD[what]
    bad.on_request = sends(answer)
    with serve(tmp_path, keyed(bad.url)) as gateway:
        told(gateway, "hello", expect, cause, changed="")


def test_the_status_that_takes_an_upstream_down(tmp_path: Path, bad: RawUpstream) -> None:
    bad.on_request = status(503)
    with serve(tmp_path, keyed(bad.url)) as gateway:
        for _ in range(3):
            assert ask(gateway, "no").status_code == 503
        line = wait_until(
            lambda: gateway.line("upstream changed", upstream="bad"), 10, "the upstream's line"
        )
        assert line["up"] is False and line["cause"] == "it answers 503"


# ---- what an upstream repeats --------------------------------------------------------------------

REPEATED = {
    "error body": http(
        "application/json", f'{{"error":{{"message":"bad key {CREDENTIAL}"}}}}', "500 Oops"
    ),
    "reason phrase": http("application/json", "{}", f"302 {CREDENTIAL}"),
    "media type": http(f"text/{CREDENTIAL}", "{}"),
    "head": f"{CREDENTIAL} is no HTTP\r\n\r\n".encode(),
    "header": http(
        "application/json",
        "{}",
        "401 No",
        f"WWW-Authenticate: Bearer {CREDENTIAL}",
        f"X-{CREDENTIAL}: {CREDENTIAL}",
    ),
    "no JSON": http("application/json", f"Bearer {CREDENTIAL}"),
    "finish reason": http(
        "application/json",
        f'{{"choices":[{{"index":0,"finish_reason":"{CREDENTIAL}","message":{{"content":"x"}}}}]}}',
    ),
    "half": http("application/json", f'{{"error":"{CREDENTIAL}"').replace(
        b"Content-Length", b"Content-Length: 999\r\nX-Length"
    ),
    "events": http("text/event-stream", f'data: {{"error":{{"message":"{CREDENTIAL}"}}}}\n\n'),
    "an event's name": http(
        "text/event-stream", f'event: {CREDENTIAL}\ndata: {{"choices":[]}}\n\n'
    ),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_credential_that_is_repeated_is_said_nowhere(
    tmp_path: Path, bad: RawUpstream, stream: bool
) -> None:
    def repeats(server: RawUpstream, connection: socket.socket, body: bytes) -> bool:
        return sends(REPEATED[server.texts[-1]])(server, connection, body)

    bad.on_request = repeats
    with serve(tmp_path, keyed(bad.url)) as gateway:
        requests = []
        for what in REPEATED:
            answer = ask(gateway, what, stream=stream)
            assert CREDENTIAL not in answer.text + repr(answer.headers), what
            requests.append(answer.headers["token-shield-request"])
        lines = [
            wait_until(
                lambda request=request: gateway.line("request", request=request), 10, "its line"
            )
            for request in requests
        ]
        assert all(
            line["cause"]
            for line in lines
            if line["code"].startswith("upstream-") and line["code"] != "upstream-error"
        ), lines
        said = "".join(gateway.command("why", request).out for request in requests)
        bad.on_request = answers
        assert ask(gateway, "fine").status_code == 200
        gateway.stop()
        said += recorded(gateway, *requests)
        assert requests[0] in said and CREDENTIAL not in said + gateway.logged()


def test_a_short_credential_is_warned_of_at_a_reload(tmp_path: Path, bad: RawUpstream) -> None:
    with serve(tmp_path, route(("bad", bad.url))) as gateway:
        assert "has fewer than 16 bytes" not in gateway.logged()
        short = tmp_path / "short.key"
        short.write_text("swordfish")
        short.chmod(0o600)
        gateway.write(route(("bad", f'{bad.url}"\ncredential = "file:{short}')))
        gateway.reload()
        assert (
            'the credential of the upstream \\"bad\\" has fewer than 16 bytes' in gateway.logged()
        )
        assert "swordfish" not in gateway.logged()


# ---- usage that an upstream reports --------------------------------------------------------------


def test_usage_that_cannot_be_true_is_noticed(tmp_path: Path, bad: RawUpstream) -> None:
    def reports(server: RawUpstream, connection: socket.socket, _body: bytes) -> bool:
        tokens = server.texts[-1].split()[-1]
        body = (
            '{"id":"c","object":"chat.completion","created":1,"model":"m","choices":['
            '{"index":0,"finish_reason":"stop","message":'
        )
        body += (
            '{"role":"assistant","content":"fine"}}],"usage":{"prompt_tokens":9,'
            f'"completion_tokens":{tokens}}}}}'
        )
        connection.sendall(http("application/json", body))
        return True

    bad.on_request = reports
    with serve(
        tmp_path, route(("bad", bad.url)).replace("output_tokens = 1000000", "output_tokens = 5000")
    ) as gateway:
        absurd = partial(gateway.metric, "token_shield_usage_implausible_total", upstream="bad")
        requests = [ask(gateway, "true 4").headers["token-shield-request"]]
        assert absurd(reason="over-cap") == absurd(reason="over-text") == 0
        for number in range(5):
            for tokens in (10**15, 4000):
                requests.append(ask(gateway, f"{number} {tokens}").headers["token-shield-request"])
        gateway.idle()
        assert absurd(reason="over-cap") == absurd(reason="over-text") == 5
        warned = [
            line for line in gateway.logged().splitlines() if "usage that cannot be true" in line
        ]
        assert len(warned) == 1 and '"what":"over-cap"' in warned[0], "warned once a minute"
        gateway.stop()
        usage = [
            json.loads(row)["payload"]["usage"]["output"]
            for row in recorded(gateway, *requests).splitlines()
            if '"usage_source"' in row
        ]
        assert sorted(usage) == [4] * 6 + [4000] * 5, (
            "beyond the cap each byte of text counts; within it the report may be true"
        )
