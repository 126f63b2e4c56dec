"""Records state which weights answered; a model with other weights than pinned does not answer."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from clients import open_ai, user
from fake_upstream import MODEL, FakeUpstream, completion
from gateway import Gateway, Served, binary
from waiting import wait_until

# Files are checked every 2 s, servers every 10 s.
LOOKED_S = 15
ASKED_S = 30


def sha256(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def chat(gateway: Gateway, token: str) -> str | None:
    """Sends one request; returns None on success, else the refusal's code."""
    try:
        open_ai(gateway, token).chat.completions.create(model=MODEL, messages=user("hi"))
    except openai.APIStatusError as refused:
        return refused.code
    return None


def row(gateway: Gateway) -> dict[str, Any]:
    """The row of `model list` for the one model."""
    [only] = [
        json.loads(line) for line in gateway.command("model", "list", "--json").out.splitlines()
    ]
    found: dict[str, Any] = only
    return found


def becomes(gateway: Gateway, digest: str | None, source: str, within: float) -> None:
    wait_until(
        lambda: (row(gateway)["digest"], row(gateway)["source"]) == (digest, source),
        within,
        f"the digest is {digest}",
    )


def records(gateway: Gateway, kind: str) -> list[dict[str, Any]]:
    done = binary("audit", "query", str(gateway.data / "audit"), "--kind", kind)
    assert done.code == 0, done.err
    return [json.loads(line)["payload"] for line in done.out.splitlines()]


def config(url: str, model: str, profile: str = "generic") -> str:
    upstream = f'[[upstream]]\nname = "fake"\nurl = "{url}"\nprofile = "{profile}"\n'
    many = "[class.default]\nrpm = 60000\nburst = 10000\n"
    return f'{upstream}[[model]]\nname = "{MODEL}"\nroute = ["fake"]\n{model}\n{many}'


def swap(path: Path, text: str) -> None:
    """Replaces a file by another with the same length and modification time."""
    before = path.stat()
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
    fresh.rename(path)
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    assert before.st_ino != after.st_ino


class Ollama:
    """Answers chats, and reports `digest` as the model's digest."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def tags(self) -> dict[str, object]:
        name = f"{MODEL}:latest"
        return {
            "models": [{"name": name, "model": name, "digest": self.digest.removeprefix("sha256:")}]
        }


@contextmanager
def serving(ollama: Ollama) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            # Acts as two kinds of servers: the requested path decides which.
            listed = {"data": [{"id": MODEL, "root": "org/weights", "max_model_len": 512}]}
            self.answer({"/api/tags": ollama.tags(), "/v1/models": listed}[self.path])

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.answer(completion("fine"))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_files_are_hashed_watched_and_pinned(folder: Path, upstream: FakeUpstream) -> None:
    weights = folder / "w.gguf"
    weights.write_text("one")
    named = f'weights = ["{weights}"]\npin = "{sha256("one")}"'
    with Served(folder / "data", config(upstream.url, named)) as gateway:
        token = gateway.issue("tests/weights", models=(MODEL,))
        becomes(gateway, sha256("one"), "measured", LOOKED_S)
        assert chat(gateway, token) is None
        expected = {"source": "measured", "value": sha256("one")}
        assert [record["model_digest"] for record in records(gateway, "admission")] == [expected]
        assert [record["model_digest"] for record in records(gateway, "outcome")] == [expected]

        swap(weights, "two")
        wait_until(
            lambda: chat(gateway, token) == "model-changed", LOOKED_S, "the swapped file is noticed"
        )
        becomes(gateway, sha256("two"), "measured", LOOKED_S)
        assert chat(gateway, token) == "model-changed"
        assert records(gateway, "refusal")[-1]["code"] == "model-changed"

        gateway.command("model", "accept", MODEL, "--reason", "a test")
        assert chat(gateway, token) is None
        [accepted] = records(gateway, "model-accepted")
        assert (accepted["model"], accepted["digest"], accepted["reason"]) == (
            MODEL,
            sha256("two"),
            "a test",
        )
        assert row(gateway)["accepted"] == [sha256("two")]
        again = binary("model", "accept", MODEL, "--reason", "again", "--data", str(gateway.data))
        assert again.code == 3 and "already accepted" in again.err

        gateway.restart()
        becomes(gateway, sha256("two"), "measured", LOOKED_S)
        assert chat(gateway, token) is None, "what was accepted is forgotten after a restart"

        weights.unlink()
        becomes(gateway, None, "unknown", LOOKED_S)
        assert chat(gateway, token) == "model-changed", "weights that nobody knows pass"


def test_a_folder_is_its_files_in_the_order_of_their_names(
    folder: Path, upstream: FakeUpstream
) -> None:
    weights = folder / "weights"
    weights.mkdir()
    for name in ("b.safetensors", "a.safetensors", "config.json"):
        (weights / name).write_text(name)
    sums = {
        name: sha256(name).removeprefix("sha256:") for name in ("a.safetensors", "b.safetensors")
    }
    with Served(folder / "data", config(upstream.url, f'weights = ["{weights}"]')) as gateway:
        becomes(
            gateway,
            sha256("".join(f"{name} {sums[name]}\n" for name in sorted(sums))),
            "measured",
            LOOKED_S,
        )
        (weights / "b.safetensors").unlink()
        becomes(gateway, sha256("a.safetensors"), "measured", LOOKED_S)
        token = gateway.issue("tests/weights", models=(MODEL,))
        assert chat(gateway, token) is None
        done = gateway.command("model", "accept", MODEL, "--reason", "a test")
        assert "has no pin" in done.err


def test_ollama_says_which_weights_it_has(folder: Path) -> None:
    ollama = Ollama(sha256("one"))
    with (
        serving(ollama) as url,
        Served(folder / "data", config(url, f'pin = "{sha256("one")}"', "ollama")) as gateway,
    ):
        token = gateway.issue("tests/weights", models=(MODEL,))
        becomes(gateway, sha256("one"), "measured", ASKED_S)
        assert chat(gateway, token) is None
        assert records(gateway, "outcome")[-1]["model_digest"] == {
            "source": "measured",
            "value": sha256("one"),
        }
        ollama.digest = sha256("two")
        wait_until(
            lambda: chat(gateway, token) == "model-changed", ASKED_S, "the pulled model is noticed"
        )
        gateway.command("model", "accept", MODEL, "--reason", "pulled")
        assert chat(gateway, token) is None
        assert records(gateway, "admission")[-1]["model_digest"] == {
            "source": "measured",
            "value": sha256("two"),
        }


def test_the_route_goes_on_to_a_server_with_the_right_weights(folder: Path) -> None:
    with serving(Ollama(sha256("other"))) as wrong, serving(Ollama(sha256("one"))) as right:
        servers = "".join(
            f'[[upstream]]\nname = "{name}"\nurl = "{url}"\nprofile = "ollama"\n'
            for name, url in (("wrong", wrong), ("right", right))
        )
        model = (
            f'[[model]]\nname = "{MODEL}"\nroute = ["wrong", "right"]\npin = "{sha256("one")}"\n'
        )
        with Served(folder / "data", servers + model) as gateway:
            token = gateway.issue("tests/weights", models=(MODEL,))

            def listed() -> list[str | None]:
                return [
                    json.loads(line)["digest"]
                    for line in gateway.command("model", "list", "--json").out.splitlines()
                ]

            wait_until(
                lambda: listed() == [sha256("other"), sha256("one")],
                ASKED_S,
                "both servers were asked",
            )
            assert chat(gateway, token) is None
            outcome = records(gateway, "outcome")[-1]
            assert (outcome["upstream"]["name"], outcome["model_digest"]["value"]) == (
                "right",
                sha256("one"),
            )


def test_what_a_server_says_is_reported(folder: Path) -> None:
    with serving(Ollama("")) as url, Served(folder / "data", config(url, "", "vllm")) as gateway:
        token = gateway.issue("tests/weights", models=(MODEL,))
        becomes(gateway, "org/weights", "reported", ASKED_S)
        assert chat(gateway, token) is None
        # A cap never exceeds the context that the server reports, and none is written without one.
        for cap, expect in ((4096, "512"), (100, "100"), (None, None)):
            words = ("--output-tokens", str(cap)) if cap else ()
            token = gateway.issue(f"tests/cap-{cap or 0}", *words, models=(MODEL,))
            answer = open_ai(gateway, token).chat.completions.with_raw_response.create(
                model=MODEL, messages=user("hi"), max_tokens=10_000
            )
            assert answer.headers.get("token-shield-output-tokens") == expect
        assert records(gateway, "outcome")[-1]["model_digest"] == {
            "source": "reported",
            "value": "org/weights",
        }


@pytest.mark.parametrize("echo", [False, True])
def test_a_server_that_says_nothing_leaves_them_unknown(
    folder: Path, upstream: FakeUpstream, echo: bool
) -> None:
    with Served(folder / "data", config("echo:" if echo else upstream.url, "")) as gateway:
        token = gateway.issue("tests/weights", models=(MODEL,))
        assert chat(gateway, token) is None
        for kind in ("admission", "outcome"):
            assert records(gateway, kind)[-1]["model_digest"] == {"source": "unknown", "value": ""}
        refused = binary(
            "model", "accept", MODEL, "--reason", "a test", "--data", str(gateway.data)
        )
        assert refused.code == 3 and "not known" in refused.err
