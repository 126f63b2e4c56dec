"""Ways to connect: both SDKs over each transport, with a note of every answer that came in."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

import anthropic
import httpx2
import openai

from gateway import Gateway


@dataclass
class Line:
    """An HTTP client to hand to an SDK, and the answers that it saw, retries included."""

    http: httpx2.Client
    answers: list[httpx2.Response] = field(default_factory=list)

    def statuses(self) -> list[int]:
        return [answer.status_code for answer in self.answers]


def line(gateway: Gateway, *, http2: bool = False) -> Line:
    """Over TLS where the gateway speaks it, trusting its own CA alone. HTTP/2 is negotiated there, and known beforehand else."""
    secure = gateway.url.startswith("https:")
    trust = ssl.create_default_context(cafile=str(gateway.ca)) if secure else False
    made = Line(httpx2.Client(http1=secure or not http2, http2=http2, verify=trust, trust_env=False, timeout=60))
    made.http.event_hooks = {"request": [], "response": [made.answers.append]}
    return made


def open_ai(gateway: Gateway, token: str, over: Line | None = None, retries: int = 0) -> openai.OpenAI:
    over = over or line(gateway)
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=token, http_client=over.http, max_retries=retries)


def claude(gateway: Gateway, token: str, over: Line | None = None, retries: int = 0) -> anthropic.Anthropic:
    over = over or line(gateway)
    return anthropic.Anthropic(base_url=gateway.url, api_key=token, http_client=over.http, max_retries=retries)


def user(text: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]
