"""A server of declared routes: sounds, images, tensors. It records each request as it arrived."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any


@dataclass(frozen=True)
class FormField:
    """A part of a form, as Python's own reader of MIME finds it."""

    name: str
    file: str | None
    media: str
    content: bytes


@dataclass(frozen=True)
class Arrived:
    """A request as it arrived; the names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def form(self) -> list[FormField]:
        """The parts of a form, in order."""
        head = f"content-type: {self.headers['content-type']}\r\n\r\n".encode()
        message = BytesParser(policy=HTTP).parsebytes(head + self.body)
        fields = []
        for part in message.iter_parts():
            disposition = part["content-disposition"].params
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            name, file = disposition["name"], disposition.get("filename")
            fields.append(FormField(name, file, part.get_content_type(), content))
        return fields


@dataclass(frozen=True)
class Reply:
    """An answer."""

    media: str
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class RoutesServer(http.server.ThreadingHTTPServer):
    """Listens on a loopback port until `stop`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Replies)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.replies: dict[str, Reply] = {}
        self.requests: list[Arrived] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def server_bind(self) -> None:
        # Bypasses HTTPServer's method, which asks the resolver for this host's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def say(self, path: str, media: str, body: bytes | object, status: int = 200) -> None:
        """Sets the answer of a path. A body other than bytes is written as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.replies[path] = Reply(media, data, status)

    def last(self) -> Arrived:
        """The newest request."""
        return self.requests[-1]

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Replies(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RoutesServer

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        reply = self.server.replies.get(self.path)
        if reply is not None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.server.requests.append(Arrived(self.command, self.path, headers, body))
        else:
            # The gateway asks for the weights of the model.
            reply = Reply("application/json", b"{}", 404)
        self.send_response(reply.status)
        self.send_header("content-type", reply.media)
        self.send_header("content-length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None:
        """No log."""
