"""Untrustworthy keys: public keys for which anyone can sign, and stolen holder keys."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import openai
import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa

from clients import open_ai, user
from fake_upstream import MODEL, FakeUpstream
from gateway import ISSUER, Served, binary
from test_chains import Holder, code, root
from test_serve import fake_model, serve
from tokens_forge import AUDIENCE, Issuer, authority, b64, compact
from waiting import wait_until

WIDE = "[class.default]\nrpm = 6000\nburst = 1000\nin_flight = 64\n"


@pytest.fixture(scope="module")
def gateway(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory):
    with serve(tmp_path_factory.mktemp("tokens-keys"), WIDE + fake_model(upstream.url)) as served:
        yield served


# ---- t1 = 0 --------------------------------------------------------------------------------------


def zero_key() -> bytes:
    """An ML-DSA-65 public key whose t1 is zero."""
    return os.urandom(32) + bytes(1920)


def forge(public: bytes, message: bytes) -> bytes:
    """A signature for such a key, without a secret (FIPS 204 algorithm 8, z = 0 and no hints)."""
    tr = hashlib.shake_256(public).digest(64)
    mu = hashlib.shake_256(tr + b"\0\0" + message).digest(64)
    # HighBits(A z - c t1 2^d) is zero everywhere: 1,536 coefficients of 4 bits.
    challenge = hashlib.shake_256(mu + bytes(768)).digest(48)
    # z = 0, each coefficient written as 2^19 in 20 bits, and 55 + 6 bytes for no hints.
    z = b"".join((2**19 | 2**19 << 20).to_bytes(5, "little") for _ in range(5 * 128))
    return challenge + z + bytes(61)


def akp(public: bytes) -> dict:
    return {"alg": "ML-DSA-65", "kty": "AKP", "pub": b64(public)}


def thumbprint(jwk: dict) -> str:
    return b64(hashlib.sha256(compact(jwk)).digest())


def forged(public: bytes, claims: dict) -> str:
    header = {"typ": "at+jwt", "alg": "ML-DSA-65", "kid": thumbprint(akp(public))}
    signed = f"{b64(compact(header))}.{b64(compact(claims))}"
    return f"{signed}.{b64(forge(public, signed.encode()))}"


def test_the_forgery_is_one() -> None:
    """Another library accepts the signature: only the refusal of the key prevents the forgery."""
    public = zero_key()
    mldsa.MLDSA65PublicKey.from_public_bytes(public).verify(forge(public, b"message"), b"message")


def test_a_key_for_which_anybody_can_sign_is_no_issuers_key(
    gateway: Served, upstream: FakeUpstream, tmp_path: Path
) -> None:
    public = zero_key()
    jwks = tmp_path / "zero.jwks"
    jwks.write_text(json.dumps({"keys": [akp(public)]}))
    done = binary("keys", "import", str(jwks), "--data", str(gateway.data))
    assert done.code == 1 and "anybody could sign" in done.err
    issuer = Issuer("https://zero.example", tmp_path)
    token = forged(public, {**issuer.claims("tests/forged"), "iss": ISSUER})
    assert code(gateway, token) == "token-key-unknown"
    config = gateway.config.read_text() + issuer.config.replace("zero.example.jwks", "zero.jwks")
    other = gateway.data / "other.toml"
    other.write_text(config)
    done = binary("config", "check", str(other))
    assert done.code == 1 and "anybody could sign" in done.out + done.err
    # The offline command refuses it too, without a gateway.
    vector = {
        "id": "x",
        "token": token,
        "jwks": {"keys": [akp(public)]},
        "iss": ISSUER,
        "aud": AUDIENCE,
        "now": 1,
    }
    (tmp_path / "vectors").write_text(json.dumps(vector))
    done = binary("token", "verify-vectors", str(tmp_path / "vectors"))
    assert done.code == 1 and "anybody could sign" in done.err


@pytest.mark.parametrize(
    "t1",
    [bytes(1920), b"\xff" * 1920, bytes([0x55]) * 1920, bytes(1919) + b"\1"],
    ids=["0", "1023", "equal", "one"],
)
def test_nor_a_holders(gateway: Served, tmp_path: Path, t1: bytes) -> None:
    public = os.urandom(32) + t1
    (tmp_path / "holder.pub").write_text(json.dumps({"keys": [akp(public)]}))
    done = binary(
        "token",
        "issue",
        "--data",
        str(gateway.data),
        "--agent",
        "tests/x",
        "--holder-key",
        str(tmp_path / "holder.pub"),
    )
    assert done.code == 1 and "anybody could sign" in done.err and done.out == ""


def test_a_chain_below_such_a_key_is_refused(upstream: FakeUpstream, tmp_path: Path) -> None:
    """A careless issuer made the chain without the command line."""
    public, issuer = zero_key(), Issuer("https://careless.example", tmp_path)
    bearer = {"key": "holder", "rank": "bearer", "order": ["bound", "bearer"]}
    claims = {
        **issuer.claims("tests/careless"),
        "cnf": {"jwk": akp(public)},
        "del_max_depth": 2,
        "authorization_details": authority([bearer]),
    }
    parent = issuer.signer.sign(claims)
    child = {
        **claims,
        "iss": "urn:ietf:params:oauth:jwk-thumbprint:sha-256:" + thumbprint(akp(public)),
        "client_id": "tests/careless/anybody",
        "exp": claims["iat"] + 900,
        "del_depth": 1,
        "par_hash": b64(hashlib.sha256(parent.rpartition(".")[0].encode()).digest()),
    }
    del child["cnf"]
    chain = f"{parent}~{forged(public, child)}"
    with serve(tmp_path, WIDE + fake_model(upstream.url) + issuer.config, issuer=ISSUER) as own:
        assert code(own, chain) == "token-claims"
    shown = binary("token", "inspect", chain)
    assert "anybody could sign" in shown.out


# ---- holders' keys -------------------------------------------------------------------------------


def kid(holder: Holder) -> str:
    return json.loads(holder.public.read_text())["keys"][0]["kid"]


def test_a_stolen_holders_key_is_revoked_by_its_thumbprint(
    gateway: Served, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """It was never an operator's key, and no command made it one."""
    holder, second = Holder(tmp_path, "holder"), Holder(tmp_path, "second")
    parent = root(gateway, holder, "tests/stolen")
    middle = holder.delegate(parent, "middle", "--child-key", str(second.public))
    leaf, spared = second.delegate(middle, "leaf"), holder.delegate(parent, "spared")
    stream = open_ai(gateway, leaf).chat.completions.create(
        model=MODEL, messages=user("behave forever stolen"), stream=True
    )
    next(stream)
    assert kid(second) in binary("token", "inspect", leaf).out
    done = gateway.command(
        "keys", "revoke", "--holder", kid(second), "--reason", "a laptop was stolen"
    )
    assert "sealed as" in done.err
    wait_until(lambda: code(gateway, leaf) == "key-revoked", 1, "the chain is refused")
    assert upstream.exchange("behave forever stolen").over.wait(1), "the open stream goes on"
    with pytest.raises(openai.APIError):
        for _ in stream:
            pass
    assert code(gateway, second.delegate(middle, "later")) == "key-revoked", (
        "what it signs from now on"
    )
    assert code(gateway, spared) is None, "the parent's own key is another one"
    rows = [json.loads(line) for line in gateway.command("keys", "list", "--json").out.splitlines()]
    assert [row["state"] for row in rows if row["kid"] == kid(second)] == ["revoked"]
    assert kid(second) not in gateway.command("keys", "export").out
    verified = binary("token", "verify", "--data", str(gateway.data), leaf)
    assert verified.code == 3 and "key-revoked" in verified.err
    gateway.restart()
    assert (code(gateway, leaf), code(gateway, spared)) == ("key-revoked", None), (
        "after a restart too"
    )
    # A new token cannot use it either.
    done = binary(
        "token",
        "issue",
        "--data",
        str(gateway.data),
        "--agent",
        "tests/again",
        "--holder-key",
        str(second.public),
    )
    assert done.code == 3 and "key-revoked" in done.err
    done = binary(
        "keys", "import", str(second.public), "--data", str(gateway.data), "--issuer", ISSUER
    )
    assert done.code == 3 and "is revoked" in done.err


def test_the_two_kinds_of_keys_are_not_mixed_up(gateway: Served, tmp_path: Path) -> None:
    holder = Holder(tmp_path, "other")
    words = ("--reason", "a test", "--yes", "--data", str(gateway.data))
    operator = json.loads((gateway.data / "keys/operator.jwk.pub").read_text())["keys"][0]["kid"]
    done = binary("keys", "revoke", "--holder", operator, *words)
    assert done.code == 3 and "is an issuer's key" in done.err
    done = binary("keys", "revoke", kid(holder), *words)
    assert done.code == 3 and "keys revoke --holder KID" in done.err
    assert binary("keys", "revoke", *words).code == 2
    assert binary("keys", "revoke", operator, "--holder", kid(holder), *words).code == 2
    gateway.command("keys", "revoke", "--holder", kid(holder), "--reason", "a test")
    assert binary("keys", "revoke", "--holder", kid(holder), *words).code == 3
    assert code(gateway, gateway.token) is None


# ---- type confusion (jsonwebtoken before 12) -----------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"sub": ["team:tests"]},
        {"sub": {"0": "team:tests"}},
        {"sub": 7},
        {"sub": None},
        {"iss": ["https://own.example"]},
        {"iss": None},
        {"aud": {"0": AUDIENCE}},
        {"aud": [[AUDIENCE]]},
        {"aud": None},
        {"aud": 7},
        {"exp": "4102444800"},
        {"nbf": "0"},
    ],
    ids=str,
)
def test_claims_of_another_type_are_refused(confused: tuple[Served, Issuer], wrong: dict) -> None:
    served, issuer = confused
    assert code(served, issuer.token("tests/typed", **wrong)) == "token-claims"


@pytest.mark.parametrize(
    "member",
    [{"crit": ["exp"]}, {"crit": ["b64"], "b64": False}, {"crit": []}, {"zip": "DEF"}],
    ids=str,
)
def test_a_header_with_crit_is_refused(confused: tuple[Served, Issuer], member: dict) -> None:
    served, issuer = confused
    header = {"typ": "at+jwt", "alg": "Ed25519", "kid": issuer.signer.kid, **member}
    signed = f"{b64(compact(header))}.{b64(compact(issuer.claims('tests/crit')))}"
    assert (
        code(served, f"{signed}.{b64(issuer.signer.key.sign(signed.encode()))}") == "token-header"
    )


@pytest.fixture(scope="module")
def confused(upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("confused")
    issuer = Issuer("https://own.example", folder)
    with serve(folder, WIDE + fake_model(upstream.url) + issuer.config, issuer=ISSUER) as served:
        assert code(served, issuer.token("tests/right")) is None
        yield served, issuer
