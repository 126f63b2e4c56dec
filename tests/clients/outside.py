"""External systems: a counting content server, and a scripted DNS server and model server."""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable

from dnslib import AAAA, QTYPE, RR, A, DNSRecord
from dnslib.server import DNSServer

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(200))
PDF = b"%PDF-1.7\n%\xe2\xe3\n" + bytes(300)


class Content:
    """An HTTP content server at one address.

    `asked` has every request's path and headers, and `reached` counts connections.
    """

    def __init__(
        self, address: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.reached = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked.append(
                    (self.path, {name.lower(): value for name, value in self.headers.items()})
                )
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def server_bind(self) -> None:
                # The library's method would look up the name of the address.
                socketserver.TCPServer.server_bind(self)
                self.server_name, self.server_port = address, self.server_address[1]

            def get_request(self) -> tuple[socket.socket, object]:
                connection, peer = super().get_request()
                outer.reached += 1
                return (tls.wrap_socket(connection, server_side=True) if tls else connection), peer

        self._server = Server((address, port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, to: http.server.BaseHTTPRequestHandler) -> None:
        """Answers by the prefix of the path."""
        kind = to.path.split("?")[0].strip("/").split("/")[0]
        status, headers, body = 200, {"Content-Type": "image/png"}, PNG
        if kind == "pdf":
            headers, body = {"Content-Type": "application/pdf"}, PDF
        elif kind == "octets":
            headers = {"Content-Type": "application/octet-stream"}
        elif kind == "svg":
            body = (
                b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1/"/></svg>'
            )
        elif kind == "html":
            headers, body = {"Content-Type": "text/html"}, b"<img src='http://127.0.0.1/'>"
        elif kind == "mislabelled":
            headers = {"Content-Type": "text/html"}
        elif kind == "playlist":
            body = b"#EXTM3U\nhttp://127.0.0.1/x.ts\n"
        elif kind == "redirect":
            status, headers = 302, {"Location": f"http://127.0.0.1:{self.port}/a.png"}
        elif kind == "gzip":
            headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
        elif kind == "missing":
            status = 404
        elif kind == "empty":
            body = b""
        elif kind == "large":
            body = PNG + bytes(1 << 20)
        to.send_response(status)
        for name, value in headers.items():
            to.send_header(name, value)
        if kind in ("chunked", "drip", "endless"):
            to.send_header("Transfer-Encoding", "chunked")
            to.end_headers()
            self._pieces(to, kind)
            return
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body)

    def _pieces(self, to: http.server.BaseHTTPRequestHandler, kind: str) -> None:
        pieces = {"chunked": [PNG, bytes(1000)], "endless": [PNG] + [bytes(1 << 16)] * 4096}.get(
            kind, [PNG]
        )
        try:
            for piece in pieces:
                to.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            while kind == "drip":
                to.wfile.write(b"1\r\n\0\r\n")
                to.wfile.flush()
                time.sleep(0.05)
            to.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass  # the peer has closed

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Says:
    """A model server that returns the given answer for the last message, whole or as a stream."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[bytes, bytes]] = {}
        said = self._said

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                whole, streamed = said[asked["messages"][-1]["content"]]
                body = streamed if asked.get("stream") else whole
                self.send_response(200)
                self.send_header(
                    "Content-Type",
                    "text/event-stream" if asked.get("stream") else "application/json",
                )
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def say(self, mark: str, whole: bytes, streamed: bytes) -> None:
        self._said[mark] = (whole, streamed)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Quiet:
    """Logs no requests."""

    def log_pass(self, *_: object) -> None:
        pass

    log_recv = log_send = log_request = log_reply = log_truncated = log_error = log_data = log_pass


class Names:
    """A DNS server over UDP; `addresses` gives a name's addresses for each query, with TTL 0."""

    def __init__(self, addresses: Callable[[str], list[str]]) -> None:
        self.queries: list[str] = []
        outer = self

        class Resolver:
            def resolve(self, request: DNSRecord, _: object) -> DNSRecord:
                name, reply = str(request.q.qname).rstrip("."), request.reply()
                outer.queries.append(name)
                for address in addresses(name):
                    six = ":" in address
                    if request.q.qtype == (QTYPE.AAAA if six else QTYPE.A):
                        kind, data = (QTYPE.AAAA, AAAA(address)) if six else (QTYPE.A, A(address))
                        reply.add_answer(RR(request.q.qname, kind, rdata=data, ttl=0))
                return reply

        self._server = DNSServer(Resolver(), address="127.0.0.1", port=0, logger=Quiet())
        self.port = self._server.server.server_address[1]
        self._server.start_thread()

    def stop(self) -> None:
        self._server.stop()
        self._server.server.server_close()
