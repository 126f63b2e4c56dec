"""Another issuer next to the operator's, and a server that publishes its keys."""

from __future__ import annotations

import http.server
import ssl
import threading
from pathlib import Path

from gateway import binary

OTHER = "https://other.example"


def key(path: Path, alg: str = "ML-DSA-65") -> str:
    """Makes a key and returns its thumbprint."""
    made = binary("keys", "generate", "--out", str(path), "--alg", alg)
    assert made.code == 0, made.err
    return made.out.strip()


class Publisher:
    """Serves one JWK Set over HTTPS on localhost: `text` with status `status`."""

    def __init__(self, folder: Path) -> None:
        self.text, self.status, self.asked = '{"keys":[]}', 200, 0
        publisher = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.asked += 1
                body = publisher.text.encode()
                self.send_response(publisher.status)
                self.send_header("location", "https://localhost:1/elsewhere")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_address[1]}/keys.json"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def other_issuer(url: str, ca: Path) -> str:
    return (
        f'[[issuer]]\niss = "{OTHER}"\naud = "https://gw.example"\njwks = "{url}"\n'
        f'jwks_ca = "{ca}"\n'
        'jwks_refresh = "1s"\nnamespaces = ["tests"]\nprincipals = ["user:*"]\n'
    )
