"""A model server with one answer for each path. It records what the gateway sends."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Seen:
    """A request as it arrived; the names of headers in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """An answer: one body, or the pieces of a stream."""

    pieces: tuple[bytes, ...]
    media: str
    status: int
    cut: bool


class StubServer(http.server.ThreadingHTTPServer):
    """Listens on a loopback port until `stop`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answers: dict[str, Answer] = {}
        self.requests: list[Seen] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def server_bind(self) -> None:
        # Bypasses HTTPServer's method, which asks the resolver for this host's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def say(
        self,
        path: str,
        *pieces: bytes | object,
        media: str = "application/json",
        status: int = 200,
        cut: bool = False,
    ) -> None:
        """Sets the answer of a path. A piece other than bytes is written as JSON.

        A cut answer ends without the end of its framing.
        """
        data = tuple(
            piece if isinstance(piece, bytes) else json.dumps(piece).encode() for piece in pieces
        )
        self.answers[path] = Answer(data, media, status, cut)

    def last(self) -> Seen:
        """The newest request."""
        return self.requests[-1]

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubServer

    def do_GET(self) -> None:
        # The gateway asks for the weights of the model.
        self.send_response(404)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.path not in self.server.answers:
            self.do_GET()
            return
        self.server.requests.append(Seen(self.path, headers, body))
        answer = self.server.answers[self.path]
        self.send_response(answer.status)
        self.send_header("content-type", answer.media)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in answer.pieces:
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()
        if answer.cut:
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """No log."""
