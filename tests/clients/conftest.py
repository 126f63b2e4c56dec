"""Shared fixtures: llama.cpp's server with a tiny model, and the gateway in front of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import tiny_model
from fake_upstream import FakeUpstream
from gateway import Gateway
from llama_server import LlamaServer


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    folder = tmp_path_factory.mktemp("llama")
    tiny_model.write(folder / "tiny.gguf")
    server = LlamaServer(folder / "tiny.gguf", folder / "llama.log")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def gateway(llama: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("gateway") / "data", upstream=llama.url)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def over_tls(llama: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("tls") / "data", upstream=llama.url, tls=True)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    fake = FakeUpstream()
    yield fake
    fake.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, for thousands of requests of which none may fail.

    A sync of 250 ms, which a shared disk has now and then, refuses new requests by design.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)
