"""Connections at the gateway's other sockets are bounded too."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway import Gateway
from waiting import settled, wait_until

# Maximum number of connections at each socket.
MAX = 16


def opened(gateway: Gateway) -> int:
    return len(os.listdir(f"/proc/{gateway.process.pid}/fd"))


@pytest.mark.parametrize("door", ["metrics", "admin"])
def test_a_crowd_at_another_socket_takes_few_descriptors(tmp_path: Path, door: str) -> None:
    with Gateway(tmp_path / "data") as gateway:
        metrics = ("127.0.0.1", urlsplit(gateway.metrics).port)
        before = opened(gateway)
        held = []
        for _ in range(100):
            one = socket.socket(socket.AF_INET if door == "metrics" else socket.AF_UNIX)
            one.settimeout(20)
            one.connect(metrics if door == "metrics" else str(gateway.data / "admin.sock"))
            held.append(one)
        taken = settled(lambda: opened(gateway), 1, 20, "they are accepted or wait")
        assert taken - before <= MAX + 2, f"{taken - before} descriptors for 100 connections"
        if door == "metrics":
            # Silent connections are closed for new ones, so that every waiting peer is served in
            # turn.
            for one in held:
                one.sendall(b"GET /healthz HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n")
            answered = sum(b"alive" in answer(one) for one in held)
            assert answered == 100, f"{answered} of 100 were answered"
            late = [socket.create_connection(metrics, timeout=20) for _ in range(MAX)]
            assert gateway.metric("token_shield_in_flight") == 0, "who is silent keeps scrapers out"
            held += late
        for one in held:
            one.close()
        wait_until(lambda: opened(gateway) <= before + 2, 20, "they are given back")
        assert json.loads(gateway.command("agent", "list", "--json").out or "[]") is not None


def answer(connection: socket.socket) -> bytes:
    """All bytes until the end."""
    data = b""
    while piece := connection.recv(65_536):
        data += piece
    return data
