"""Declared routes: sounds, images, tokens and tensors, with the clients that people use."""

from __future__ import annotations

import io
import json
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from gateway import Served, binary
from llama_server import MODEL, LlamaServer
from routes_server import FormField, RoutesServer
from waiting import wait_until

SPEAKER = "org/speaker"
SCOPES = ("inference.*", "models.read")
EVIL = "https://evil.example/x"


def wav(seconds: float = 0.1) -> bytes:
    """A sound of silence."""
    frames = b"\0\0" * int(8_000 * seconds)
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(frames), b"WAVE", b"fmt ", 16, 1, 1,
                       8_000, 16_000, 2, 16)
    return head + struct.pack("<4sI", b"data", len(frames)) + frames


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(64)


@pytest.fixture(scope="module")
def server() -> Iterator[RoutesServer]:
    running = RoutesServer()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def served(
    server: RoutesServer, llama: LlamaServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("declared")
    own = """
[[route]]
name = "custom.bytes"
path = "/custom/{model}/bytes"
body = "bytes"
types = ["application/octet-stream"]
body_bytes = "1KiB"
model = "path"
scope = "inference.tensors"
answers = ["bytes"]
"""
    (folder / "own.toml").write_text(own)
    config = f"""
[class.default]
rpm = 100000
[[upstream]]
name = "vllm"
url = "{server.url}"
profile = "vllm"
credential = "file:{folder}/credential"
[[upstream]]
name = "tgi"
url = "{server.url}"
profile = "tgi"
[[upstream]]
name = "llama"
url = "{llama.url}"
profile = "llama.cpp"
[[model]]
name = "speaker"
as = "{SPEAKER}"
route = ["vllm"]
[[model]]
name = "writer"
route = ["tgi"]
[[model]]
name = "{MODEL}"
route = ["llama"]
[[routes]]
declaration = "audio"
[[routes]]
declaration = "images"
[[routes]]
declaration = "kserve"
[[routes]]
declaration = "triton"
[[routes]]
declaration = "llama.cpp"
model = "{MODEL}"
[[routes]]
declaration = "{folder}/own.toml"
"""
    (folder / "credential").write_text("the-servers-own-credential")
    (folder / "credential").chmod(0o600)
    with Served(folder / "data", config) as running:
        flags = [word for scope in SCOPES for word in ("--scope", scope)]
        running.token = running.issue("tests/maker", *flags, models=("speaker", "writer", MODEL))
        yield running


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    http = httpx2.Client(trust_env=False, timeout=30)
    return openai.OpenAI(
        base_url=served.url + "/v1", api_key=served.token, http_client=http, max_retries=0
    )


def ask(served: Served, path: str, token: str | None = None, **options: Any) -> httpx2.Response:
    """Sends a request; POST, except without a body."""
    method = "POST" if set(options) & {"json", "content", "files", "data"} else "GET"
    headers = {"authorization": f"Bearer {token or served.token}", **options.pop("headers", {})}
    return httpx2.request(
        method, served.url + path, headers=headers, timeout=30, trust_env=False, **options
    )


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_sound_becomes_text(client: openai.OpenAI, server: RoutesServer) -> None:
    path = "/v1/audio/transcriptions"
    server.say(path, "application/json", {"text": "hello", "usage": {"type": "duration"}})
    made = client.audio.transcriptions.create(
        model="speaker",
        file=("héllo.wav", io.BytesIO(wav())),
        prompt="https://evil.example/ is a word of the prompt",
        timestamp_granularities=["word", "segment"],
        response_format="verbose_json",
    )
    assert made.text == "hello"
    fields = server.last().form()
    plain = {field.name: field.content for field in fields if field.file is None}
    assert plain["model"] == SPEAKER.encode()
    lists = [field for field in fields if field.name == "timestamp_granularities[]"]
    assert [field.content for field in lists] == [b"word", b"segment"]
    (file,) = [field for field in fields if field.file is not None]
    assert (file.name, file.content) == ("file", wav())
    assert file.media in ("audio/wav", "audio/x-wav")
    # No byte between the contents is the caller's.
    boundary = server.last().headers["content-type"].split("boundary=")[1]
    assert boundary.startswith("token-shield-")
    assert server.last().headers["authorization"] == "Bearer the-servers-own-credential"


def test_subtitles_are_plain_text(client: openai.OpenAI, server: RoutesServer) -> None:
    path = "/v1/audio/transcriptions"
    said = "1\n00:00:00,000 --> 00:00:01,000\nhello\n"
    server.say(path, "text/plain; charset=utf-8", said.encode())
    made = client.audio.transcriptions.create(
        model="speaker", file=("a.wav", wav()), response_format="srt"
    )
    assert str(made) == said
    # A renderer would load this image.
    server.say(path, "text/plain", f"![x]({EVIL})".encode())
    made = client.audio.transcriptions.create(
        model="speaker", file=("a.wav", wav()), response_format="text"
    )
    assert f"]({EVIL})" not in str(made) and EVIL in str(made)


def test_a_transcription_streams(client: openai.OpenAI, server: RoutesServer) -> None:
    events = (
        {"type": "transcript.text.delta", "delta": "hel"},
        {"type": "transcript.text.delta", "delta": "lo"},
        {"type": "transcript.text.done", "text": "hello"},
    )
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    server.say("/v1/audio/transcriptions", "text/event-stream", stream.encode())
    made = client.audio.transcriptions.create(model="speaker", file=("a.wav", wav()), stream=True)
    assert [event.type for event in made] == [event["type"] for event in events]


def test_streams_are_filtered_in_every_form(served: Served, server: RoutesServer) -> None:
    path = f"/v2/models/{SPEAKER.replace('/', '%2F')}/generate_stream"
    pieces = ["![x](https://evil", ".example/x)"]
    stream = "".join(f"data: {json.dumps({'text_output': piece})}\n\n" for piece in pieces)
    server.say(path, "text/event-stream", stream.encode())
    got = ask(served, "/v2/models/speaker/generate_stream", json={"text_input": "x"})
    assert got.status_code == 200 and "](https://evil" not in got.text, got.text
    assert got.text.count("data: ") >= 1
    # Events that are no JSON have no texts that the filter knows.
    server.say(path, "text/event-stream", f"data: ![x]({EVIL})\n\n".encode())
    got = ask(served, "/v2/models/speaker/generate_stream", json={"text_input": "x"})
    assert "](https://evil" not in got.text, got.text


def test_text_becomes_a_sound(client: openai.OpenAI, server: RoutesServer) -> None:
    sound = bytes(range(256)) * 300
    server.say("/v1/audio/speech", "audio/mpeg", sound)
    text = f"Read {EVIL} aloud"
    made = client.audio.speech.create(model="speaker", voice="alloy", input=text)
    assert made.read() == sound
    assert server.last().json() == {"model": SPEAKER, "voice": "alloy", "input": text}
    # A type that a browser would show as a page does not pass.
    server.say("/v1/audio/speech", "text/html", b"<script>alert(1)</script>")
    with pytest.raises(openai.InternalServerError) as page:
        client.audio.speech.create(model="speaker", voice="alloy", input="x")
    server.say("/v1/audio/speech", "audio/mpeg", b"\0\xff the-servers-own-credential \0")
    with pytest.raises(openai.InternalServerError) as secret:
        client.audio.speech.create(model="speaker", voice="alloy", input="x")
    assert page.value.code == secret.value.code == "upstream-invalid"


def test_images_are_made_and_changed(client: openai.OpenAI, server: RoutesServer) -> None:
    image = {"created": 1, "data": [{"b64_json": "iVBORw0KGgo="}]}
    server.say("/v1/images/generations", "application/json", image)
    made = client.images.generate(model="speaker", prompt=EVIL, size="1024x1024")
    assert made.data and made.data[0].b64_json == "iVBORw0KGgo="
    server.say("/v1/images/edits", "application/json", image)
    client.images.edit(model="speaker", prompt="red", image=[("a.png", PNG), ("b.png", PNG)])
    files = [field for field in server.last().form() if field.file]
    assert files == [
        FormField("image[]", "a.png", "image/png", PNG),
        FormField("image[]", "b.png", "image/png", PNG),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", EVIL),
        ("webhook", "HTTPS://evil.example"),
        ("source", " //evil.example/x"),
        ("deep", {"list": [{"x": "file:///etc/passwd"}]}),
        ("voice", "ht\ntp:\\\\evil.example"),
    ],
)
def test_a_url_in_a_body_is_judged(
    served: Served, server: RoutesServer, field: str, value: object
) -> None:
    server.say("/v1/audio/speech", "audio/mpeg", b"\xff\xfb\x90\0sound")
    before = len(server.requests)
    body = {"model": "speaker", "input": "x", field: value}
    assert refusal(ask(served, "/v1/audio/speech", json=body)) == (403, "egress-uncontrolled")
    if isinstance(value, str):
        form = {"model": "speaker", field: value}
        files = {"file": ("a.wav", wav())}
        answer = ask(served, "/v1/audio/transcriptions", data=form, files=files)
        assert refusal(answer) == (403, "egress-uncontrolled")
    assert len(server.requests) == before


def test_hostile_forms_are_refused(served: Served, server: RoutesServer) -> None:
    path, before = "/v1/audio/transcriptions", len(server.requests)
    playlist = ("a.wav", b"#EXTM3U\n#EXTINF:1,\nhttps://evil.example/a.ts\n")
    answer = ask(served, path, data={"model": "speaker"}, files={"file": playlist})
    assert refusal(answer) == (400, "field-invalid")
    twice = [("model", (None, "speaker")), ("model", (None, "writer")), ("file", ("a.wav", wav()))]
    assert refusal(ask(served, path, files=twice)) == (400, "form-invalid")
    answer = ask(served, path, json={"model": "speaker"})
    assert refusal(answer) == (415, "content-type")
    assert refusal(ask(served, path, content=b"x")) == (415, "content-type")
    part = 'Content-Disposition: form-data; name="model"\r\n\r\nspeaker'
    for body in (
        f"--b\r\n{part}\r\n--b--\r\n--b\r\n{part}\r\n--b--",
        f"\r\n--b\r\n{part}\r\n--b--",
        f"--b\n{part}\n--b--",
        f"--b\r\n{part}",
    ):
        answer = ask(
            served, path, content=body, headers={"content-type": "multipart/form-data; boundary=b"}
        )
        assert refusal(answer) == (400, "form-invalid"), body
    assert len(server.requests) == before


def test_scope_model_and_server_are_checked(served: Served, server: RoutesServer) -> None:
    server.say("/v1/audio/speech", "audio/mpeg", b"\xff\xfb\x90\0sound")
    body = {"model": "speaker", "input": "x"}
    narrow = served.issue("tests/chat", "--scope", "inference.chat", models=("speaker",))
    assert refusal(ask(served, "/v1/audio/speech", narrow, json=body)) == (403, "scope-missing")
    other = served.issue("tests/other", "--scope", "inference.audio", models=("writer",))
    assert refusal(ask(served, "/v1/audio/speech", other, json=body)) == (404, "model-not-found")
    assert refusal(ask(served, "/v1/audio/speech")) == (405, "method-not-allowed")
    assert refusal(ask(served, "/v1/audio/other", json=body)) == (404, "route-unknown")
    del body["model"]
    assert refusal(ask(served, "/v1/audio/speech", json=body)) == (400, "field-missing")


def test_tensors_name_the_model_in_the_path(served: Served, server: RoutesServer) -> None:
    path = f"/v2/models/{SPEAKER.replace('/', '%2F')}"
    strings = [f"word {number}" for number in range(5_000)]
    output = {"name": "out", "datatype": "BYTES", "shape": [5_000], "data": strings}
    answer = {"model_name": "speaker", "outputs": [output]}
    server.say(f"{path}/infer", "application/json", answer)
    tensor = {"name": "in", "shape": [1, 2], "datatype": "FP32", "data": [[0.1, 2e10]]}
    got = ask(served, "/v2/models/speaker/infer", json={"inputs": [tensor]})
    assert got.status_code == 200 and got.json() == answer, got.text[:500]
    assert server.last().path == f"{path}/infer"
    assert server.last().json() == {"inputs": [tensor]}
    server.say(path, "application/json", {"name": "speaker", "platform": "onnx"})
    got = ask(served, "/v2/models/speaker")
    assert got.status_code == 200 and got.json()["platform"] == "onnx"
    assert server.last().method == "GET" and "content-type" not in server.last().headers
    # The name in the body must be that of the path.
    body = {"model": "writer", "inputs": [tensor]}
    answer = ask(served, "/v2/models/speaker/infer", json=body)
    assert refusal(answer) == (400, "field-invalid")


def test_bytes_pass_unread(served: Served, server: RoutesServer) -> None:
    data = bytes(range(256))
    server.say(f"/custom/{SPEAKER.replace('/', '%2F')}/bytes", "application/octet-stream", data)
    kind = {"content-type": "application/octet-stream"}
    got = ask(served, "/custom/speaker/bytes", content=data, headers=kind)
    assert got.status_code == 200 and got.content == data
    assert server.last().body == data
    got = ask(served, "/custom/speaker/bytes", content=data * 5, headers=kind)
    assert refusal(got) == (413, "body-too-large")
    got = ask(served, "/custom/speaker/bytes", content=data, headers={"content-type": "a/b"})
    assert refusal(got) == (415, "content-type")


def test_caps_hold_on_declared_routes(served: Served, server: RoutesServer) -> None:
    path = f"/v2/models/{SPEAKER.replace('/', '%2F')}/generate"
    server.say(path, "application/json", {"text_output": f"![x]({EVIL})"})
    capped = served.issue(
        "tests/capped", "--scope", "inference.*", "--output-tokens", "10", models=("speaker",)
    )
    body = {"text_input": EVIL, "max_tokens": 500, "parameters": {"top_k": 3}}
    got = ask(served, "/v2/models/speaker/generate", capped, json=body)
    assert got.status_code == 200, got.text
    assert f"]({EVIL})" not in got.text
    assert server.last().json() == {**body, "max_tokens": 10}
    got = ask(served, "/v2/models/speaker/generate", json=body)
    assert server.last().json() == body
    both = {**body, "parameters": {"max_tokens": 9}}
    got = ask(served, "/v2/models/speaker/generate", capped, json=both)
    assert refusal(got) == (400, "field-invalid")


def test_errors_keep_their_status(served: Served, server: RoutesServer) -> None:
    body = {"model": "speaker", "input": "x"}
    server.say("/v1/audio/speech", "application/json", {"error": {"message": "no voice"}}, 400)
    got = ask(served, "/v1/audio/speech", json=body)
    assert got.status_code == 400 and got.json()["error"]["message"] == "no voice"
    server.say("/v1/audio/speech", "text/html", b"<h1>busy</h1>", 503)
    assert refusal(ask(served, "/v1/audio/speech", json=body)) == (503, "upstream-error")


def test_llama_cpp_completes_and_counts(served: Served, llama: LlamaServer) -> None:
    body: dict[str, Any] = {"prompt": "one two", "n_predict": 8, "temperature": 0, "seed": 1}
    direct = httpx2.post(f"{llama.url}/completion", json=body, timeout=60, trust_env=False).json()
    got = ask(served, "/completion", json=body)
    assert got.status_code == 200, got.text
    assert got.json()["content"] == direct["content"]
    assert got.json()["tokens_predicted"] == direct["tokens_predicted"]
    streamed = ask(served, "/completion", json={**body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    pieces = [
        json.loads(line.removeprefix("data: "))
        for line in streamed.text.splitlines()
        if line.startswith("data: {")
    ]
    assert "".join(piece["content"] for piece in pieces) == direct["content"]
    tokens = ask(served, "/tokenize", json={"content": "one two", "with_pieces": True})
    exact = httpx2.post(
        f"{llama.url}/tokenize",
        json={"content": "one two", "with_pieces": True},
        timeout=60,
        trust_env=False,
    )
    assert tokens.json() == exact.json()


def test_metrics_name_the_route(served: Served, server: RoutesServer) -> None:
    server.say("/v1/audio/speech", "audio/mpeg", b"\xff\xfb\x90\0sound")
    ask(served, "/v1/audio/speech", json={"model": "speaker", "input": "x"})
    labels = {"operation": "audio.speech", "code": "ok", "model": "speaker"}
    wait_until(
        lambda: served.metric("token_shield_requests_total", **labels) > 0, 10, "it is counted"
    )


CURL = ("curl", "-sS", "--noproxy", "*", "-F", "model=speaker", "-F", "language=en")
NODE = """
const [url, token, file] = process.argv.slice(1);
const form = new FormData();
form.append("model", "speaker");
form.append("language", "en");
form.append("file", new Blob([require("fs").readFileSync(file)], {type: "audio/wav"}), "a b.wav");
fetch(url, {method: "POST", body: form, headers: {authorization: `Bearer ${token}`}})
  .then(async (answer) => { console.log(await answer.text()); });
"""


@pytest.mark.parametrize("name", ["curl", "node"])
def test_forms_of_other_clients_pass(
    served: Served, server: RoutesServer, tmp_path: Path, name: str
) -> None:
    path = "/v1/audio/transcriptions"
    server.say(path, "application/json", {"text": "hello"})
    sound = tmp_path / "a b.wav"
    sound.write_bytes(wav())
    url = served.url + path
    if name == "curl":
        words = [*CURL, "-F", f"file=@{sound}", "-H", f"authorization: Bearer {served.token}", url]
    else:
        words = ["node", "-e", NODE, url, served.token, str(sound)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(done.stdout) == {"text": "hello"}, done.stderr
    found = {field.name: field.content for field in server.last().form()}
    assert found == {"model": SPEAKER.encode(), "language": b"en", "file": wav()}


def test_faults_of_declarations_are_named(served: Served, tmp_path: Path) -> None:
    text = served.config.read_text()

    def faults(more: str) -> str:
        config = tmp_path / "config.toml"
        config.write_text(text + more)
        done = binary("config", "check", str(config))
        assert done.code != 0, more
        return done.out + done.err

    assert "must be one of audio" in faults('[[routes]]\ndeclaration = "sounds"\n')
    assert "set model here" in faults('[[routes]]\ndeclaration = "tgi"\n')
    assert "also that of route audio" in faults('[[routes]]\ndeclaration = "audio"\n')
    own = tmp_path / "own.toml"
    own.write_text(
        '[[route]]\nname = "x"\npath = "/v1/models/x"\nbody = "json"\nmodel = "field"\n'
        'scope = "inference.any"\nanswers = ["json"]\n'
    )
    found = faults(f'[[routes]]\ndeclaration = "{own}"\n')
    assert "scope must be one of" in found
