"""HTTP/2 over the state machine of PyPI's `h2`, for what HTTP libraries do not do.

For example, it resets one stream and keeps the connection.
"""

from __future__ import annotations

import json
import socket
import time

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings


class PlainHttp2:
    """One connection without TLS to a gateway's port; it uses HTTP/2 with prior knowledge."""

    def __init__(self, port: int, token: str) -> None:
        self._token = token
        self._state = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._state.initiate_connection()
        self._flush()

    def post(self, path: str, body: object) -> int:
        """Sends a request; returns its stream id."""
        stream = self._state.get_next_available_stream_id()
        data = json.dumps(body).encode()
        head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "127.0.0.1"),
            (":path", path),
        ]
        head += [
            ("authorization", f"Bearer {self._token}"),
            ("content-type", "application/json"),
            ("content-length", str(len(data))),
        ]
        self._state.send_headers(stream, head)
        self._state.send_data(stream, data, end_stream=True)
        self._flush()
        return stream

    def first_data(self, stream: int) -> bytes:
        """Waits for the first bytes of a stream's answer, which must not have ended."""
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

    def goes_away(self) -> bool:
        """Waits for the end of a connection without open streams; returns whether it had GOAWAY.

        This reads frames itself: the library ends a connection at the first GOAWAY, but a gateway
        may ping after it (RFC 9113 section 6.8).
        """
        rest, goaway = b"", 7
        kinds = set()
        while data := self._socket.recv(65_536):
            rest += data
            while len(rest) >= 9 and len(rest) >= (end := 9 + int.from_bytes(rest[:3], "big")):
                kinds.add(rest[3])
                rest = rest[end:]
        return goaway in kinds

    def reset(self, stream: int) -> None:
        """Resets one stream as RFC 9113 section 5.4.2 describes, and keeps the connection."""
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


class Narrow(PlainHttp2):
    """A client with small stream windows, which it opens only when the test calls `give`."""

    def __init__(self, port: int, token: str, window: int) -> None:
        super().__init__(port, token)
        self._state.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        self._flush()
        self.read: dict[int, bytes] = {}
        self.over: set[int] = set()
        self.is_closed = False

    def listen(self, within: float) -> None:
        """Reads for a while, and opens no stream's window."""
        until = time.monotonic() + within
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65_536)
            except TimeoutError:
                return
            self.is_closed = not data
            if self.is_closed:
                return
            for event in self._state.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    self.read[event.stream_id] = self.read.get(event.stream_id, b"") + event.data
                    # The connection's window must never be what blocks a stream.
                    if event.flow_controlled_length:
                        self._state.increment_flow_control_window(event.flow_controlled_length)
                if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                    self.over.add(event.stream_id)
            self._flush()

    def give(self, stream: int, count: int) -> None:
        """Opens the window of one stream."""
        self._state.increment_flow_control_window(count, stream)
        self._flush()
