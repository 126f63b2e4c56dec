"""HTTP/2 by hand, over the state machine of PyPI's `h2`, for what HTTP libraries do not do: reset one stream and stay."""

from __future__ import annotations

import json
import socket

import h2.config
import h2.connection
import h2.errors
import h2.events


class PlainHttp2:
    """One connection without TLS to a gateway's port, known beforehand to speak HTTP/2."""

    def __init__(self, port: int, token: str) -> None:
        self._token = token
        self._state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._state.initiate_connection()
        self._flush()

    def post(self, path: str, body: object) -> int:
        """Sends a request; gives the number of its stream."""
        stream = self._state.get_next_available_stream_id()
        data = json.dumps(body).encode()
        head = [(":method", "POST"), (":scheme", "http"), (":authority", "127.0.0.1"), (":path", path)]
        head += [("authorization", f"Bearer {self._token}"), ("content-type", "application/json"), ("content-length", str(len(data)))]
        self._state.send_headers(stream, head)
        self._state.send_data(stream, data, end_stream=True)
        self._flush()
        return stream

    def first_data(self, stream: int) -> bytes:
        """Waits for the first bytes of a stream's answer; it must not have ended."""
        while True:
            for event in self._receive():
                if isinstance(event, h2.events.DataReceived) and event.stream_id == stream:
                    return event.data
                assert not isinstance(event, h2.events.StreamEnded), "the stream ended"

    def whole(self, stream: int) -> bytes:
        """Waits for a stream's whole answer."""
        data = b""
        while True:
            for event in self._receive():
                if isinstance(event, h2.events.DataReceived) and event.stream_id == stream:
                    data += event.data
                if isinstance(event, h2.events.StreamEnded) and event.stream_id == stream:
                    return data

    def reset(self, stream: int) -> None:
        """Leaves one stream, as RFC 9113 section 5.4.2 says, and keeps the connection."""
        self._state.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        self._flush()

    def close(self) -> None:
        self._socket.close()

    def _flush(self) -> None:
        self._socket.sendall(self._state.data_to_send())

    def _receive(self) -> list[h2.events.Event]:
        data = self._socket.recv(65_536)
        assert data, "the gateway closed the connection"
        events = self._state.receive_data(data)
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                self._state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self._flush()
        return events
