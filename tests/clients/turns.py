"""A model server that plays scenarios, in OpenAI's and Anthropic's dialect, whole and streamed.

A user message that contains `scenario NAME.` selects the scenario. Its turn is the number of the
assistant's messages after that message, so that the server has no state for each client. A turn is
a text and calls of tools. `{result}` in a text is replaced by the last tool's result, so that the
answer proves that the result has arrived. A request without the tool that a turn calls is one for a
title or a summary: it gets `ASIDE`.
"""

from __future__ import annotations

import base64
import http.server
import json
import re
import socketserver
import struct
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MODEL = "fake-model"
ASIDE = "A title"
VECTOR = [0.5, -0.25, 0.125, 1.0]
# Characters of a text in one event of a stream: few, so that URLs are cut.
PIECE = 7
RESULT = "{result}"
MARK = re.compile(r"scenario ([a-z-]+)\.")


@dataclass(frozen=True)
class Call:
    """A call of a tool. Its name is the tool's, with or without a plugin's."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """What the model says in one turn. `data` replaces it where the request declares a form."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    data: dict[str, Any] | None = None


@dataclass(frozen=True)
class Asked:
    """A request: its path, its headers in lower case, and its body."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True)
class Spoken:
    """A turn that is made out for one request: a text, and calls with their ids."""

    text: str
    calls: list[tuple[str, Call]] = field(default_factory=list)


def text_of(content: object) -> str:
    """The text of a message's content: a string, or parts in either dialect."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(text_of(part) for part in content)
    if isinstance(content, dict):
        return text_of(content.get("text") or content.get("content") or "")
    return ""


def tools_of(body: dict[str, Any]) -> list[str]:
    """The names of a request's tools."""
    named = [tool.get("function", tool) for tool in body.get("tools") or []]
    return [tool["name"] for tool in named if "name" in tool]


def tool_named(name: str, body: dict[str, Any]) -> str | None:
    """The request's tool of that name. A framework may put the name of a plugin before it."""
    tools = tools_of(body)
    if name in tools:
        return name
    return next((tool for tool in tools if tool.endswith(f"-{name}")), None)


def declares_form(body: dict[str, Any]) -> bool:
    """Whether the request declares the form of its answer."""
    form = body.get("response_format") or body.get("output_config") or body.get("output_format")
    return bool(form)


def last_result(messages: list[dict[str, Any]]) -> str:
    """The last result of a tool in the conversation."""
    found = ""
    for message in messages:
        content = message.get("content")
        if message["role"] == "tool":
            found = text_of(content)
        elif isinstance(content, list):
            for part in content:
                if isinstance(part, dict) and part.get("type") == "tool_result":
                    found = text_of(part.get("content") or "")
    return unwrapped(found)


def unwrapped(result: str) -> str:
    """A result without the object that some frameworks put around it."""
    try:
        value = json.loads(result)
    except ValueError:
        return result
    return value["result"] if isinstance(value, dict) and "result" in value else result


class Scripted:
    """The scenarios, and which turn of which one a request asks for."""

    def __init__(self) -> None:
        self._scenarios: dict[str, tuple[Turn, ...]] = {}

    def play(self, name: str, *turns: Turn) -> None:
        """Sets the turns of a scenario. The last one is repeated."""
        self._scenarios[name] = turns

    def turn(self, body: dict[str, Any]) -> Spoken:
        """What the model says to this request."""
        messages = body.get("messages") or []
        name, at = "", 0
        for place, message in enumerate(messages):
            marks = MARK.findall(text_of(message.get("content")))
            if message["role"] == "user" and marks:
                name, at = marks[-1], place
        turns = self._scenarios.get(name)
        if turns is None:
            return Spoken(ASIDE)
        answered = sum(message["role"] == "assistant" for message in messages[at:])
        turn = turns[min(answered, len(turns) - 1)]
        if turn.data is not None:
            return self._formed(turn.data, body)
        calls: list[tuple[str, Call]] = []
        for index, call in enumerate(turn.calls):
            tool = tool_named(call.name, body)
            if tool is None:
                return Spoken(ASIDE)
            calls.append((f"call_{answered}_{index}", Call(tool, call.arguments)))
        return Spoken(turn.text.replace(RESULT, last_result(messages)), calls)

    @staticmethod
    def _formed(data: dict[str, Any], body: dict[str, Any]) -> Spoken:
        """Data as the text of a declared form, or else as a call of the last tool."""
        tools = tools_of(body)
        if tools and not declares_form(body):
            return Spoken("", [("call_data", Call(tools[-1], data))])
        return Spoken(json.dumps(data))


def pieces(text: str) -> Iterator[str]:
    """A text in pieces of a stream."""
    for start in range(0, len(text), PIECE):
        yield text[start : start + PIECE]


def fresh(kind: str) -> str:
    """A new id. Clients take two answers with one id for parts of one answer."""
    return f"{kind}_{uuid.uuid4().hex}"


def _usage() -> dict[str, int]:
    return {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def chat_answer(spoken: Spoken, model: str) -> dict[str, Any]:
    """A chat completion (OpenAI's API reference, `chat/completions`)."""
    message: dict[str, Any] = {"role": "assistant", "content": spoken.text or None}
    if spoken.calls:
        message["tool_calls"] = [
            {
                "id": name,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
            }
            for name, call in spoken.calls
        ]
    reason = "tool_calls" if spoken.calls else "stop"
    return {
        "id": fresh("chatcmpl"),
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": _usage(),
    }


def chat_events(spoken: Spoken, body: dict[str, Any]) -> Iterator[bytes]:
    """The same as a stream."""
    base = {
        "id": fresh("chatcmpl"),
        "object": "chat.completion.chunk",
        "created": 1,
        "model": body["model"],
    }

    def event(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return b"data: " + json.dumps({**base, "choices": [choice]}).encode() + b"\n\n"

    yield event({"role": "assistant", "content": ""})
    for piece in pieces(spoken.text):
        yield event({"content": piece})
    for index, (name, call) in enumerate(spoken.calls):
        function = {"name": call.name, "arguments": ""}
        head = {"index": index, "id": name, "type": "function", "function": function}
        yield event({"tool_calls": [head]})
        for piece in pieces(json.dumps(call.arguments)):
            yield event({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield event({}, "tool_calls" if spoken.calls else "stop")
    if (body.get("stream_options") or {}).get("include_usage"):
        last = {**base, "choices": [], "usage": _usage()}
        yield b"data: " + json.dumps(last).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def messages_answer(spoken: Spoken, model: str) -> dict[str, Any]:
    """A message (Anthropic's API reference, `v1/messages`)."""
    content: list[dict[str, Any]] = []
    if spoken.text:
        content.append({"type": "text", "text": spoken.text})
    for name, call in spoken.calls:
        content.append(
            {"type": "tool_use", "id": f"tu_{name}", "name": call.name, "input": call.arguments}
        )
    return {
        "id": fresh("msg"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "tool_use" if spoken.calls else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 4},
    }


def messages_events(spoken: Spoken, body: dict[str, Any]) -> Iterator[bytes]:
    """The same as a stream."""

    def event(name: str, **members: object) -> bytes:
        data = json.dumps({"type": name, **members})
        return f"event: {name}\ndata: {data}\n\n".encode()

    whole = messages_answer(spoken, body["model"])
    start = {**whole, "content": [], "stop_reason": None}
    yield event("message_start", message=start)
    for index, block in enumerate(whole["content"]):
        if block["type"] == "text":
            first: dict[str, Any] = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        else:
            first = {**block, "input": {}}
            deltas = [
                {"type": "input_json_delta", "partial_json": piece}
                for piece in pieces(json.dumps(block["input"]))
            ]
        yield event("content_block_start", index=index, content_block=first)
        for delta in deltas:
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    stop = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=stop, usage={"output_tokens": 4})
    yield event("message_stop")


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """The same vector for each input, as numbers or in base64."""
    inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vector: object = VECTOR
    if body.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack(f"<{len(VECTOR)}f", *VECTOR)).decode()
    return {
        "object": "list",
        "model": body["model"],
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index in range(len(inputs))
        ],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }


class TurnServer(http.server.ThreadingHTTPServer):
    """Listens on a loopback port until `stop`, and records every POST."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.script = Scripted()
        self._asked: list[Asked] = []
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def server_bind(self) -> None:
        # Bypasses HTTPServer's method, which asks the resolver for this host's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def keep(self, asked: Asked) -> None:
        with self._lock:
            self._asked.append(asked)

    def taken(self) -> list[Asked]:
        """The POSTs since the last call."""
        with self._lock:
            asked, self._asked = self._asked, []
        return asked

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: TurnServer

    def do_HEAD(self) -> None:
        self._send(200, b"")

    def do_GET(self) -> None:
        model = {"id": MODEL, "object": "model", "created": 1, "owned_by": "tests"}
        self._json(200, {"object": "list", "data": [model]})

    def do_POST(self) -> None:
        body = json.loads(self._body())
        path = self.path.split("?")[0]
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.keep(Asked(path, headers, body))
        if path.endswith("/embeddings"):
            self._json(200, embeddings(body))
        elif path.endswith("/count_tokens"):
            self._json(200, {"input_tokens": 9})
        elif path.endswith("/chat/completions"):
            spoken = self.server.script.turn(body)
            if body.get("stream"):
                self._stream(chat_events(spoken, body))
            else:
                self._json(200, chat_answer(spoken, body["model"]))
        elif path.endswith("/messages"):
            spoken = self.server.script.turn(body)
            if body.get("stream"):
                self._stream(messages_events(spoken, body))
            else:
                self._json(200, messages_answer(spoken, body["model"]))
        else:
            self._json(404, {"error": {"message": f"no such path: {path}"}})

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", "").lower():
            return self.rfile.read(int(self.headers.get("content-length", "0")))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, status: int, body: object) -> None:
        self._send(status, json.dumps(body).encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response_only(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events: Iterator[bytes]) -> None:
        self.send_response_only(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for event in events:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:
        pass
