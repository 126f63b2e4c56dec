"""Connects both SDKs over each transport, and records every answer."""

from __future__ import annotations

import json
import socket
import ssl
from dataclasses import dataclass, field

import anthropic
import httpx2
import openai

from gateway import Gateway


@dataclass
class Line:
    """An HTTP client for an SDK, and the answers that it received, retries included."""

    http: httpx2.Client
    answers: list[httpx2.Response] = field(default_factory=list)

    def statuses(self) -> list[int]:
        return [answer.status_code for answer in self.answers]


def line(gateway: Gateway, *, http2: bool = False) -> Line:
    """Uses TLS if the gateway does, and then trusts only its CA.

    With TLS, HTTP/2 is negotiated; without TLS, the client uses prior knowledge.
    """
    secure = gateway.url.startswith("https:")
    trust = ssl.create_default_context(cafile=str(gateway.ca)) if secure else False
    made = Line(
        httpx2.Client(
            http1=secure or not http2, http2=http2, verify=trust, trust_env=False, timeout=60
        )
    )
    made.http.event_hooks = {"request": [], "response": [made.answers.append]}
    return made


def open_ai(
    gateway: Gateway, token: str, over: Line | None = None, retries: int = 0
) -> openai.OpenAI:
    over = over or line(gateway)
    return openai.OpenAI(
        base_url=gateway.url + "/v1", api_key=token, http_client=over.http, max_retries=retries
    )


def claude(
    gateway: Gateway, token: str, over: Line | None = None, retries: int = 0
) -> anthropic.Anthropic:
    over = over or line(gateway)
    return anthropic.Anthropic(
        base_url=gateway.url, api_key=token, http_client=over.http, max_retries=retries
    )


def user(text: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def send_raw(
    gateway: Gateway,
    token: str,
    body: dict[str, object],
    *,
    held_back: int = 0,
    window: int | None = None,
) -> socket.socket:
    """Sends a chat request without its last bytes, on a new connection without TLS.

    `window` bounds the received bytes that wait unread.
    """
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    connection = socket.socket()
    if window is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", gateway.port))
    connection.sendall(head.encode() + data[: len(data) - held_back])
    return connection
