"""Chains as agents make and present them: by command line, offline, with unmodified clients."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
from jwcrypto import jwk

import mint_with_jwcrypto
from clients import claude, open_ai, user
from fake_upstream import MODEL, FakeUpstream
from gateway import BINARY, ROOT, Gateway, Served, binary, environment
from test_serve import CHAT, fake_model, serve
from waiting import wait_until

WIDE = "[class.default]\nrpm = 6000\nburst = 1000\nin_flight = 64\n"


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("chains"), WIDE + fake_model(upstream.url)) as served:
        yield served


class Holder:
    """An agent's key, and the tokens that it delegates with it."""

    def __init__(self, folder: Path, name: str, *flags: str) -> None:
        self.key = folder / f"{name}.jwk"
        self.public = folder / f"{name}.jwk.pub"
        made = binary("keys", "generate", "--holder", "--out", str(self.key), *flags)
        assert made.code == 0, made.err

    def delegate(self, parent: str, name: str, *flags: str) -> str:
        done = subprocess.run(
            [*self.command(name), *flags],
            input=parent,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def refused(self, parent: str, name: str, *flags: str) -> str:
        done = subprocess.run(
            [*self.command(name), *flags],
            input=parent,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1 and done.stdout == "", done.stdout
        return done.stderr

    def command(self, name: str) -> list[str]:
        return [
            str(BINARY),
            "token",
            "delegate",
            "--parent",
            "-",
            "--holder-key",
            str(self.key),
            "--name",
            name,
        ]


def root(gateway: Served, holder: Holder, agent: str, *flags: str, depth: int = 4) -> str:
    return gateway.issue(
        agent,
        "--holder-key",
        str(holder.public),
        "--bearer-children",
        "--max-depth",
        str(depth),
        *flags,
        models=(MODEL, "echo"),
    )


def four(gateway: Served, folder: Path, agent: str) -> tuple[str, list[str]]:
    """A chain of four tokens, and the chain after each step."""
    holders = [Holder(folder, f"{agent.replace('/', '-')}-{number}") for number in range(3)]
    steps = [root(gateway, holders[0], agent, "--rpm", "600")]
    steps.append(
        holders[0].delegate(steps[-1], "one", "--child-key", str(holders[1].public), "--ttl", "30m")
    )
    steps.append(
        holders[1].delegate(steps[-1], "two", "--child-key", str(holders[2].public), "--rpm", "300")
    )
    steps.append(
        holders[2].delegate(steps[-1], "three", "--model", "echo", "--output-tokens", "64")
    )
    return steps[-1], steps


def code(gateway: Gateway, token: str, model: str = "echo") -> str | None:
    answer = httpx2.post(
        gateway.url + CHAT,
        json={"model": model, "messages": user("hi")},
        headers={"authorization": f"Bearer {token}"},
        timeout=30,
        trust_env=False,
    )
    return None if answer.status_code == 200 else answer.json()["error"]["code"]


def test_a_chain_of_four_through_unmodified_clients(gateway: Served, tmp_path: Path) -> None:
    chain, steps = four(gateway, tmp_path, "chains/four")
    assert chain.count("~") == 3
    assert (
        open_ai(gateway, chain)
        .chat.completions.create(model="echo", messages=user("hello"))
        .choices[0]
        .message.content
        == "hello"
    )
    streamed = open_ai(gateway, chain).chat.completions.create(
        model="echo", messages=user("a b c"), stream=True
    )
    assert (
        "".join(part.choices[0].delta.content or "" for part in streamed if part.choices) == "a b c"
    )
    told = claude(gateway, chain).messages.create(
        model="echo", max_tokens=16, messages=user("hello")
    )
    assert told.content[0].text == "hello"
    curl = subprocess.run(
        ["curl", "-s", gateway.url + "/v1/models", "-H", f"Authorization: Bearer {chain}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert [model["id"] for model in json.loads(curl.stdout)["data"]] == ["echo"], (
        "the last token allows echo alone"
    )
    assert code(gateway, chain, MODEL) == "model-not-found"
    # A chain whose last token names a key is not a bearer token.
    assert [code(gateway, step) for step in steps[:3]] == ["proof-not-supported"] * 3
    assert '"agent":"chains/four/one/two/three"' in gateway.logged()


def test_inspect_explains_a_chain(gateway: Served, tmp_path: Path) -> None:
    chain, _ = four(gateway, tmp_path, "chains/shown")
    shown = binary("token", "inspect", chain)
    assert shown.code == 0 and shown.out.count("narrower than its parent in everything") == 3
    first, *rest = chain.split("~")
    spliced = binary("token", "inspect", "~".join([first, *rest[1:]]))
    assert "chain-signer" in spliced.out and spliced.out.count("narrower") == 1
    listed = json.loads(binary("token", "inspect", "--json", chain).out)["chain"]
    assert [token["payload"]["del_depth"] for token in listed] == [0, 1, 2, 3]
    assert gateway.command("token", "verify", chain).out.startswith(
        "valid: chains/shown/one/two/three "
    )


def test_delegate_signs_nothing_wider(gateway: Served, tmp_path: Path) -> None:
    holder, other = Holder(tmp_path, "holder"), Holder(tmp_path, "other")
    parent = root(gateway, holder, "chains/wider", "--rpm", "10", depth=2)
    assert "more than its parent. (requests_per_minute with rate)" in holder.refused(
        parent, "x", "--rpm", "11"
    )
    assert "more than its parent" in holder.refused(parent, "x", "--model", "secret")
    assert "more than its parent" in holder.refused(parent, "x", "--scope", "egress.connect")
    assert "cnf.jwk" in other.refused(parent, "x")
    assert "is not a name part" in holder.refused(parent, "X/y")
    assert "15 minutes" in holder.refused(parent, "x", "--ttl", "1h")
    child = holder.delegate(parent, "x")
    claims = json.loads(binary("token", "inspect", "--json", child).out)["chain"][1]["payload"]
    assert claims["exp"] - claims["iat"] == 900, "a bearer child lives 15 minutes at the most"
    assert "cnf.jwk" in holder.refused(child, "y")


def check_ten_a_minute(outcomes: list[str | None], began: float) -> None:
    """Ten requests passed, and one for every 6 s that the requests took."""
    refilled = int((time.monotonic() - began) / 6)
    assert 10 <= outcomes.count(None) <= 10 + refilled, outcomes
    assert set(outcomes) == {None, "rate-exceeded"}


def test_children_share_what_their_parent_has(gateway: Served, tmp_path: Path) -> None:
    """Many children or many levels do not multiply a rate."""
    holder, second = Holder(tmp_path, "holder"), Holder(tmp_path, "second")
    parent = root(gateway, holder, "chains/greedy", "--rpm", "10")
    middle = holder.delegate(parent, "middle", "--child-key", str(second.public))
    leaves = [holder.delegate(parent, f"child-{number}") for number in range(3)]
    leaves += [second.delegate(middle, f"grandchild-{number}") for number in range(3)]
    began = time.monotonic()
    outcomes = [code(gateway, leaf) for _ in range(3) for leaf in leaves]
    # Ten requests at once, however they are spread.
    check_ten_a_minute(outcomes, began)


def test_places_in_flight_are_shared(
    gateway: Served, upstream: FakeUpstream, tmp_path: Path
) -> None:
    holder = Holder(tmp_path, "holder")
    parent = root(gateway, holder, "chains/places", "--in-flight", "1")
    one, two = (holder.delegate(parent, name) for name in ("one", "two"))
    with httpx2.stream(
        "POST",
        gateway.url + CHAT,
        json={"model": MODEL, "messages": user("behave mute places"), "stream": True},
        headers={"x-api-key": one},
        timeout=30,
        trust_env=False,
    ) as answer:
        assert answer.status_code == 200
        upstream.exchange("behave mute places")
        assert code(gateway, two) == "in-flight-exceeded"
    wait_until(lambda: code(gateway, two) is None, 5, "the place is given back")


@pytest.mark.parametrize(
    "how",
    [
        "quarantine the root's agent",
        "suspend in the middle",
        "revoke the root",
        "revoke in the middle",
        "close the key of the middle",
    ],
)
def test_a_no_to_any_link_ends_all_below(
    gateway: Served, upstream: FakeUpstream, tmp_path: Path, how: str
) -> None:
    agent = f"chains/{how.replace(' ', '-').replace(chr(39), '')}"
    holder, second = Holder(tmp_path, "holder"), Holder(tmp_path, "second")
    parent = root(gateway, holder, agent)
    middle = holder.delegate(parent, "middle", "--child-key", str(second.public))
    leaf = second.delegate(middle, "leaf")
    spared = holder.delegate(parent, "spared")
    client = open_ai(gateway, leaf)
    stream = client.chat.completions.create(
        model=MODEL, messages=user(f"behave forever {how}"), stream=True
    )
    next(stream)
    commands = {
        "quarantine the root's agent": ["agent", "quarantine", agent],
        "suspend in the middle": ["agent", "suspend", f"{agent}/middle", "--unregistered"],
        "revoke the root": ["token", "revoke", parent],
        "revoke in the middle": ["token", "revoke", middle],
        "close the key of the middle": [
            "keys",
            "revoke",
            "--holder",
            json.loads(second.public.read_text())["keys"][0]["kid"],
        ],
    }
    gateway.command(*commands[how], "--reason", "a test")
    expected = {
        "quarantine": "agent-quarantined",
        "suspend": "agent-suspended",
        "revoke": "token-revoked",
        "close": "key-revoked",
    }[how.split(" ")[0]]
    wait_until(lambda: code(gateway, leaf) == expected, 1, f"{how}: the leaf is refused")
    assert upstream.exchange(f"behave forever {how}").over.wait(1), "the open stream goes on"
    with pytest.raises(openai.APIError):
        for _ in stream:
            pass
    assert (code(gateway, spared) is None) == ("middle" in how)


def test_the_page_shows_the_program_that_runs() -> None:
    program = Path(mint_with_jwcrypto.__file__).read_text()
    assert (
        program.count("\n") <= 90
        and f"```python\n{program}```" in (ROOT / "docs/TOKEN.md").read_text()
    )


@pytest.mark.parametrize("alg", ["ML-DSA-65", "Ed25519"])
def test_a_chain_made_by_another_library(gateway: Served, tmp_path: Path, alg: str) -> None:
    """jwcrypto makes root and child; only the operator's key file comes from this project."""
    config = gateway.config.read_text()
    if alg == "ML-DSA-65":
        key, served = gateway.data / "keys" / "operator.jwk", gateway
    else:
        key = tmp_path / "ed25519.jwk"
        assert binary("keys", "generate", "--alg", alg, "--out", str(key)).code == 0
        served = gateway
        policy = (
            '[[issuer]]\niss = "https://classical.example"\naud = "https://gw.example"\n'
            f'jwks = "{key}.pub"\nnamespaces = ["*"]\nprincipals = ["team:research"]\npq = "off"\n'
        )
        gateway.config.write_text(config + policy)
        gateway.reload()
    iss = "https://operator.example" if alg == "ML-DSA-65" else "https://classical.example"
    script = Path(__file__).with_name("mint_with_jwcrypto.py")
    made = subprocess.run(
        [sys.executable, str(script), str(key), iss, "https://gw.example"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    chain = made.stdout.strip()
    assert code(served, chain) is None
    assert (
        open_ai(served, chain)
        .chat.completions.create(model="echo", messages=user("by jwcrypto"))
        .choices[0]
        .message.content
        == "by jwcrypto"
    )
    # A flipped character in the child's signature, and the parent alone.
    flipped = chain[:-3] + ("A" if chain[-3] != "A" else "B") + chain[-2:]
    assert code(served, flipped) in ("token-signature", "token-malformed")
    assert code(served, chain.split("~")[0]) == "proof-not-supported"
    gateway.config.write_text(config)
    gateway.reload()
    assert (code(served, chain) is None) == (alg == "ML-DSA-65"), (
        "an issuer that is gone speaks for nobody"
    )


def test_what_a_token_allows_is_told_to_whoever_holds_it(gateway: Served, tmp_path: Path) -> None:
    chain, _ = four(gateway, tmp_path, "chains/me")

    def me(token: str) -> dict:
        answer = httpx2.get(
            gateway.url + "/v1/token-shield/me",
            headers={"x-api-key": token},
            timeout=30,
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    told = me(chain)
    assert (told["agent"], told["principal"]) == ("chains/me/one/two/three", "team:tests")
    assert told["models"] == ["echo"] and "inference.chat" in told["scopes"]
    assert [token["agent"] for token in told["tokens"]] == [
        "chains/me",
        "chains/me/one",
        "chains/me/one/two",
        "chains/me/one/two/three",
    ]
    assert [token["limits"]["requests_per_minute"] for token in told["tokens"]] == [
        600,
        600,
        300,
        300,
    ]
    assert told["tokens"][-1]["limits"]["output_tokens"] == 64
    assert told["class"]["name"] == "default" and told["class"]["requests_per_minute"] == 6000
    left = told["left"]
    assert (left["requests"], left["seconds"]) == (300, 60)
    # The limit of the slow token gives a request back only every 30 seconds.
    slow = gateway.issue("chains/slow", "--rpm", "2")
    assert [me(slow)["left"]["remaining"] for _ in range(2)] == [1, 0], "asking counts"
    # `models.read` is enough; a question about models needs no other scope.
    bare = gateway.issue("chains/bare", "--scope", "models.read")
    assert me(bare)["scopes"] == ["models.read"]
    assert (
        httpx2.get(gateway.url + "/v1/token-shield/me", timeout=30, trust_env=False).status_code
        == 401
    )


class Forger:
    """A holder that writes children with another library, which `token delegate` would not sign."""

    def __init__(self, gateway: Served, folder: Path, agent: str, *flags: str) -> None:
        made = Holder(folder, agent.replace("/", "-"))
        self.key = jwk.JWK.from_json(made.key.read_text())
        self.parent = root(gateway, made, agent, *flags)
        self.above = json.loads(binary("token", "inspect", "--json", self.parent).out)["payload"]

    def chain(self, **changes: object) -> str:
        below = mint_with_jwcrypto.child(self.parent, self.above, self.key, "part")
        detail = {
            **below["authorization_details"][0],
            "constraints": self.above["authorization_details"][0]["constraints"],
        }
        below = {**below, "del_max_depth": 4, "authorization_details": [detail], **changes}
        return self.parent + "~" + mint_with_jwcrypto.sign(self.key, below)


def test_a_name_cannot_be_stolen(gateway: Served, tmp_path: Path) -> None:
    """An agent cannot act, spend or be blamed under another's name, nor escape a quarantine."""
    victim = gateway.issue("chains/victim", "--rpm", "1", models=("echo",))
    forger = Forger(gateway, tmp_path, "chains/forger")
    assert code(gateway, forger.chain()) is None, "the forger's tools work"
    for name in [
        "chains/victim",
        "chains/victim/part",
        "chains/forger",
        "chains/part",
        "chains/forger/part/more",
        "chains/forger/Part",
    ]:
        assert code(gateway, forger.chain(client_id=name)) in ("chain-name", "token-claims"), name
    assert code(gateway, forger.chain(sub="team:others")) == "chain-principal"
    assert code(gateway, victim) is None and code(gateway, victim) == "rate-exceeded", (
        "nothing of the victim's rate was used"
    )
    gateway.command("agent", "quarantine", "chains/forger", "--reason", "a test")
    assert {
        code(gateway, forger.chain(client_id=f"chains/forger/{name}"))
        for name in ("part", "other", "x")
    } == {"agent-quarantined"}


def test_a_copied_jti_revokes_nothing_else(gateway: Served, tmp_path: Path) -> None:
    """A child may copy the `jti` of another agent's token.

    A revocation by that `jti` must reach the child, and not the other agent.
    """
    victim = gateway.issue("chains/labelled", models=("echo",))
    label = json.loads(binary("token", "inspect", "--json", victim).out)["payload"]["jti"]
    forger = Forger(gateway, tmp_path, "chains/copier")
    copied = forger.chain(jti=label)
    assert code(gateway, copied) is None
    gateway.command("token", "revoke", label, "--reason", "means the victim's own")
    assert code(gateway, victim) == "token-revoked", "the label means the operator's token"
    assert code(gateway, copied) is None, "and no child's"
    # The child is revoked alone; its twin with the same label is not.
    twin = forger.chain(jti=label, client_id="chains/copier/twin")
    gateway.command("token", "revoke", copied, "--reason", "a test")
    assert (code(gateway, copied), code(gateway, twin)) == ("token-revoked", None)


def test_parent_and_child_by_turns_refill_no_rate(gateway: Served, tmp_path: Path) -> None:
    second = Holder(tmp_path, "second")
    holder = Holder(tmp_path, "holder")
    parent = root(gateway, holder, "chains/turns", "--rpm", "10")
    child = holder.delegate(parent, "child")
    below = second.delegate(
        holder.delegate(parent, "middle", "--child-key", str(second.public)), "below"
    )
    began = time.monotonic()
    turns = [code(gateway, token) for _ in range(10) for token in (child, below)]
    # A new name gets no new rate.
    turns.append(code(gateway, holder.delegate(parent, "fresh")))
    check_ten_a_minute(turns, began)
