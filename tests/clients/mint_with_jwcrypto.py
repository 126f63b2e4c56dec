"""Mints a root token and a narrower child with jwcrypto alone.

python mint_with_jwcrypto.py OPERATOR.jwk ISS AUD
"""

import hashlib
import json
import sys
import time
import uuid
from pathlib import Path

from jwcrypto import jwk, jws
from jwcrypto.common import base64url_encode

BEARER = {"key": "holder", "rank": "bearer", "order": ["bound", "bearer"]}


def sign(key: jwk.JWK, claims: dict) -> str:
    """A JWS in compact form; its header has exactly typ, alg and kid (RFC 7638 thumbprint)."""
    alg = "ML-DSA-65" if key["kty"] == "AKP" else "Ed25519"
    token = jws.JWS(json.dumps(claims))
    token.add_signature(
        key, None, json.dumps({"typ": "at+jwt", "alg": alg, "kid": key.thumbprint()})
    )
    return token.serialize(compact=True)


def authority(scopes: list, *constraints: dict) -> list:
    return [{"type": "agent_delegation", "scopes": scopes, "constraints": list(constraints)}]


def root(operator: jwk.JWK, holder: jwk.JWK, iss: str, aud: str) -> dict:
    """The operator's statement: agent, scopes and limits; its holder may delegate it."""
    now = int(time.time())
    limits = [
        {"key": "model", "one_of": ["echo"]},
        {"key": "requests_per_minute", "rate": 60},
        BEARER,
    ]
    return {
        "iss": iss,
        "aud": aud,
        "sub": "team:research",
        "client_id": "research/planner",
        "iat": now,
        "exp": now + 3600,
        "jti": uuid.uuid4().hex,
        "del_depth": 0,
        "del_max_depth": 2,
        "cnf": {"jwk": holder.export_public(as_dict=True)},
        "authorization_details": authority(["inference.chat", "models.read"], *limits),
    }


def child(parent: str, above: dict, holder: jwk.JWK, name: str) -> dict:
    """The holder's statement: a name below its own, no wider scope or limit, at most 15 minutes."""
    limits = [
        {"key": "model", "one_of": ["echo"]},
        {"key": "requests_per_minute", "rate": 30},
        BEARER,
    ]
    signed = parent.rpartition(".")[0].encode()
    return {
        "iss": "urn:ietf:params:oauth:jwk-thumbprint:sha-256:" + holder.thumbprint(),
        "aud": above["aud"],
        "sub": above["sub"],
        "client_id": f"{above['client_id']}/{name}",
        "iat": above["iat"],
        "exp": above["iat"] + 900,
        "jti": uuid.uuid4().hex,
        "del_depth": 1,
        "del_max_depth": 2,
        "par_hash": base64url_encode(hashlib.sha256(signed).digest()),
        "authorization_details": authority(["inference.chat"], *limits),
    }


if __name__ == "__main__":
    operator = jwk.JWK.from_json(Path(sys.argv[1]).read_text())
    holder = jwk.JWK.generate(kty="OKP", crv="Ed25519")
    said = root(operator, holder, sys.argv[2], sys.argv[3])
    parent = sign(operator, said)
    print(parent + "~" + sign(holder, child(parent, said, holder, "reader")))
