"""A transparent proxy that records the bodies that the gateway sends to its model server."""

from __future__ import annotations

import http.client
import http.server
import socketserver
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Forwarded:
    """A request that passed through: its path and its body."""

    path: str
    body: bytes


class Recorder(http.server.ThreadingHTTPServer):
    """Listens on a loopback port in front of `upstream` until `stop`."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Pass)
        self.target = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._posts: list[Forwarded] = []
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def server_bind(self) -> None:
        # Bypasses HTTPServer's method, which asks the resolver for this host's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def keep(self, post: Forwarded) -> None:
        with self._lock:
            self._posts.append(post)

    def taken(self) -> list[Forwarded]:
        """The POSTs since the last call."""
        with self._lock:
            posts, self._posts = self._posts, []
        return posts

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Pass(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Recorder

    def do_GET(self) -> None:
        self._pass(b"")

    def do_POST(self) -> None:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self.server.keep(Forwarded(self.path, body))
        self._pass(body)

    def _pass(self, body: bytes) -> None:
        # A new connection for each request: llama.cpp closes one after a stream without an
        # announcement.
        inner = http.client.HTTPConnection(self.server.target, timeout=120)
        try:
            kept = {
                name: self.headers[name]
                for name in ("content-type", "accept")
                if self.headers[name]
            }
            inner.request(self.command, self.path, body or None, kept)
            answer = inner.getresponse()
            self.send_response_only(answer.status)
            self.send_header("content-type", answer.headers["content-type"])
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            while data := answer.read1(65_536):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.write(b"0\r\n\r\n")
        finally:
            inner.close()

    def log_message(self, format: str, *args: object) -> None:
        pass
