"""Debian's nginx and haproxy in front of the gateway, and Node's `fetch`.

Chains use the settings of docs/OPERATIONS.md, and handles use the defaults.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from clients import claude, open_ai, user
from fake_upstream import FakeUpstream
from gateway import ROOT, Served, environment
from test_chains import WIDE, Holder, root
from test_operations import certificate
from test_serve import fake_model, serve
from waiting import wait_until

NGINX = """daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    {settings}
    location / {{ proxy_pass {scheme}://127.0.0.1:{gateway}; }}
  }}
}}
"""
HAPROXY = """global
  {settings}
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server s 127.0.0.1:{gateway}
"""
# The code blocks under the heading, as a user copies them.
PAGE = (
    (ROOT / "docs/OPERATIONS.md")
    .read_text()
    .split("## A proxy in front", 1)[1]
    .split("\n## ", 1)[0]
)
SETTINGS = {
    "nginx": re.search(r"```nginx\n(.*?)```", PAGE, re.S)[1],
    "haproxy": re.search(r"```haproxy\n(.*?)```", PAGE, re.S)[1].replace("global\n", ""),
}


class Front:
    """A proxy as a child process; `url` and `port` are its address."""

    def __init__(
        self, kind: str, folder: Path, gateway: int, settings: str, scheme: str = "http"
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        folder.mkdir(exist_ok=True)
        file = folder / f"{kind}.conf"
        text = NGINX if kind == "nginx" else HAPROXY
        file.write_text(
            text.format(
                folder=folder, port=self.port, gateway=gateway, settings=settings, scheme=scheme
            )
        )
        words = (
            ["nginx", "-p", str(folder), "-c", str(file)]
            if kind == "nginx"
            else ["haproxy", "-db", "-f", str(file)]
        )
        self._log = (folder / f"{kind}.log").open("wb")
        self._child = subprocess.Popen(words, stdout=self._log, stderr=self._log, env=environment())
        wait_until(self._open, 20, f"{kind} listens")

    def _open(self) -> bool:
        assert self._child.poll() is None, f"it ended: {Path(self._log.name).read_text()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self._child.terminate()
        self._child.wait(20)
        self._log.close()


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("fronts"), WIDE + fake_model(upstream.url)) as served:
        yield served


@pytest.fixture(scope="module")
def chains(gateway: Served, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Chains of four tokens: one with Ed25519 holders, and one with ML-DSA-65 only."""
    folder = tmp_path_factory.mktemp("holders")
    made = {}
    for kind in ("Ed25519", "ML-DSA-65"):
        holders = [Holder(folder, f"{kind}-{number}", "--alg", kind) for number in range(3)]
        chain = root(gateway, holders[0], "tests/fronted")
        for number in range(3):
            below = ["--child-key", str(holders[number + 1].public)] if number < 2 else []
            chain = holders[number].delegate(chain, f"part-{number}", *below)
        assert chain.count("~") == 3
        made[kind] = chain
    assert len(made["Ed25519"]) > 9_000 and len(made["ML-DSA-65"]) > 28_000, {
        kind: len(chain) for kind, chain in made.items()
    }
    return made


@pytest.fixture(params=["nginx", "haproxy"])
def front(
    request: pytest.FixtureRequest, gateway: Served, tmp_path: Path
) -> Iterator[Callable[[str], Front]]:
    fronts: list[Front] = []

    def start(settings: str) -> Front:
        fronts.append(
            Front(request.param, tmp_path / f"front-{len(fronts)}", gateway.port, settings)
        )
        return fronts[-1]

    start.kind = request.param  # type: ignore[attr-defined]
    yield start
    for one in fronts:
        one.stop()


def models(url: str, token: str) -> int:
    return httpx2.get(
        url + "/v1/models", headers={"x-api-key": token}, trust_env=False, timeout=30
    ).status_code


def test_chains_pass_with_the_settings_that_the_docs_name(
    front: Callable[[str], Front], gateway: Served, chains: dict[str, str]
) -> None:
    fronted = front(SETTINGS[front.kind])
    for chain in chains.values():
        client = open_ai(fronted, chain)
        assert (
            client.chat.completions.create(model="echo", messages=user("whole"))
            .choices[0]
            .message.content
            == "whole"
        )
        pieces = client.chat.completions.create(
            model="echo", messages=user("in pieces"), stream=True
        )
        assert (
            "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
            == "in pieces"
        )
        assert (
            claude(fronted, chain)
            .messages.create(model="echo", max_tokens=9, messages=user("whole"))
            .content[0]
            .text
            == "whole"
        )
    # A request without a token is refused, with or without a proxy.
    assert models(fronted.url, "x") == 401


def test_handles_pass_with_the_defaults_and_chains_do_not(
    front: Callable[[str], Front], gateway: Served, chains: dict[str, str]
) -> None:
    fronted = front("")
    handle = gateway.issue("tests/short", "--handle", models=("echo",))
    assert (
        open_ai(fronted, handle)
        .chat.completions.create(model="echo", messages=user("short"))
        .choices[0]
        .message.content
        == "short"
    )
    assert models(fronted.url, gateway.token) == 200, "a single token passes too"
    assert models(fronted.url, chains["ML-DSA-65"]) in (400, 431, 502), (
        "the defaults suffice: say so in the docs"
    )


NODE = """
const [url, token] = [process.argv[1], require('fs').readFileSync(0, 'utf8')];
const ask = (body, headers) => fetch(url + '/v1/chat/completions', {
  method: 'POST', headers: {'content-type': 'application/json', ...headers}, \
body: JSON.stringify(body)});
(async () => {
  const messages = [{role: 'user', content: 'from node'}];
  const whole = await ask({model: 'echo', messages}, {authorization: `Bearer ${token}`});
  const stream = await ask({model: 'echo', messages, stream: true}, {'x-api-key': token});
  const refused = await ask({model: 'echo', messages}, {authorization: 'Bearer x'});
  console.log(JSON.stringify({whole: (await whole.json()).choices[0].message.content, \
events: await stream.text(), refused: refused.status}));
})();
"""


@pytest.mark.parametrize("kind", ["Ed25519", "ML-DSA-65"])
def test_node_sends_chains(gateway: Served, chains: dict[str, str], kind: str) -> None:
    ran = subprocess.run(
        ["node", "-e", NODE, gateway.url],
        input=chains[kind],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["whole"] == "from node" and said["refused"] == 401
    assert said["events"].rstrip().endswith("data: [DONE]") and "from" in said["events"]


def test_nginx_over_tls_names_the_caller_and_passes_large_bodies(
    upstream: FakeUpstream, tmp_path: Path
) -> None:
    certificate(tmp_path / "gw.pem", tmp_path / "gw.key", begins=-1, ends=30)
    listen = 'tls = { cert = "../gw.pem", key = "file:../gw.key" }\ntrusted_proxies = ["127.0.0.1"]'
    with Served(tmp_path / "data", fake_model(upstream.url), listen, tls=True) as gateway:
        fronted = Front("nginx", tmp_path / "front", gateway.port, SETTINGS["nginx"], "https")
        try:
            large = {"role": "system", "content": "x" * (30 << 20)}
            body = {"model": "echo", "messages": [large, {"role": "user", "content": "small"}]}
            # The client claims an address; nginx replaces it with the peer's address.
            headers = {
                "authorization": f"Bearer {gateway.token}",
                "x-forwarded-for": "203.0.113.66",
            }
            answer = httpx2.post(
                fronted.url + "/v1/chat/completions",
                json=body,
                headers=headers,
                timeout=120,
                trust_env=False,
            )
            assert answer.status_code == 200, answer.text[:500]
            assert answer.json()["choices"][0]["message"]["content"] == "small"
            request = answer.headers["token-shield-request"]
            line = wait_until(
                lambda: gateway.line("request", request=request), 10, "the request's line"
            )
            assert line["peer"] == "127.0.0.1"
        finally:
            fronted.stop()
