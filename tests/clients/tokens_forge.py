"""Tokens and chains made with Ed25519, fast enough for thousands of them."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

AUDIENCE = "https://gw.example"
BEARER = {"key": "holder", "rank": "bearer", "order": ["bound", "bearer"]}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Signer:
    """A key, its public JWK and its thumbprint (RFC 7638)."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.jwk = {
            "crv": "Ed25519",
            "kty": "OKP",
            "x": b64(self.key.public_key().public_bytes_raw()),
        }
        self.kid = b64(hashlib.sha256(compact(self.jwk)).digest())
        self._header = b64(compact({"typ": "at+jwt", "alg": "Ed25519", "kid": self.kid}))

    def sign(self, claims: dict) -> str:
        signed = f"{self._header}.{b64(compact(claims))}"
        return f"{signed}.{b64(self.key.sign(signed.encode()))}"


def authority(
    constraints: list[dict], scopes: tuple[str, ...] = ("inference.chat", "models.read")
) -> list[dict]:
    return [{"type": "agent_delegation", "scopes": list(scopes), "constraints": constraints}]


class Issuer:
    """An issuer of a gateway's config whose tokens are signed with Ed25519."""

    def __init__(
        self, iss: str, folder: Path, *, principals: str = '["forged:*"]', more: str = ""
    ) -> None:
        self.iss, self.signer = iss, Signer()
        jwks = folder / f"{iss.split('//')[1]}.jwks"
        jwks.write_text(json.dumps({"keys": [self.signer.jwk]}))
        self.config = (
            f'[[issuer]]\niss = "{iss}"\naud = "{AUDIENCE}"\njwks = "{jwks}"\nnamespaces = ["*"]\n'
            f'principals = {principals}\npq = "off"\n{more}'
        )

    def claims(
        self,
        agent: str,
        sub: str = "forged:tests",
        holder: Signer | None = None,
        constraints: list[dict] | None = None,
    ) -> dict:
        now = int(time.time())
        said = {
            "iss": self.iss,
            "aud": AUDIENCE,
            "sub": sub,
            "client_id": agent,
            "iat": now,
            "exp": now + 3600,
            "jti": hashlib.sha256(f"{agent}{sub}{time.monotonic_ns()}".encode()).hexdigest(),
            "del_depth": 0,
            "del_max_depth": 4 if holder else 1,
            "authorization_details": authority(constraints or []),
        }
        if holder:
            said["cnf"] = {"jwk": holder.jwk}
        return said

    def token(self, agent: str, sub: str = "forged:tests", **changes: object) -> str:
        return self.signer.sign({**self.claims(agent, sub), **changes})


class Link:
    """A token that its holder may delegate, and the chain that ends with it."""

    def __init__(self, chain: str, claims: dict, holder: Signer) -> None:
        self.chain, self.claims, self.holder = chain, claims, holder

    @classmethod
    def root(
        cls,
        issuer: Issuer,
        agent: str,
        constraints: list[dict] | None = None,
        sub: str = "forged:tests",
    ) -> Link:
        holder = Signer()
        claims = issuer.claims(agent, sub, holder, [*(constraints or []), BEARER])
        return cls(issuer.signer.sign(claims), claims, holder)

    def _below(self, name: str, number: int, holder: Signer | None) -> dict:
        signed = self.chain.rsplit("~", 1)[-1].rpartition(".")[0]
        above = self.claims
        said = {
            **above,
            "iss": f"urn:ietf:params:oauth:jwk-thumbprint:sha-256:{self.holder.kid}",
            "client_id": f"{above['client_id']}/{name}",
            "exp": above["iat"] + 900,
            "jti": f"child-{number}",
            "del_depth": above["del_depth"] + 1,
            "par_hash": b64(hashlib.sha256(signed.encode()).digest()),
        }
        del said["cnf"]
        return {**said, "cnf": {"jwk": holder.jwk}} if holder else said

    def link(self, name: str) -> Link:
        """A child with a new key."""
        holder = Signer()
        claims = self._below(name, 0, holder)
        return Link(f"{self.chain}~{self.holder.sign(claims)}", claims, holder)

    def leaf(self, number: int, name: str = "leaf", **changes: object) -> str:
        """A bearer token at the end of the chain; another one for each number."""
        return f"{self.chain}~{self.holder.sign({**self._below(name, number, None), **changes})}"
