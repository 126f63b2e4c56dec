"""Take-overs between two configs: the successor's config applies.

A forbidden change is refused before any service stops.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

from fake_upstream import MODEL, FakeUpstream
from gateway import ISSUER, START_S, binary
from publisher import OTHER, Publisher, key, other_issuer
from takeover import Relayed, config, stream
from test_serve import authority
from waiting import wait_until


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def with_other_issuer(tmp_path: Path, keys: Path) -> str:
    """The config of a second issuer, whose JWK Set is the file `keys`."""
    key(tmp_path / "other.jwk")
    other = other_issuer("x", tmp_path).replace('jwks = "x"', f'jwks = "{keys}"')
    lines = other.splitlines()
    return "".join(
        line + "\n" for line in lines if not line.startswith(("jwks_ca", "jwks_refresh"))
    )


def stream_of_other(gateway: Relayed, tmp_path: Path, seen: list[str]) -> threading.Thread:
    """An open stream with a token of the second issuer."""
    own = gateway.token
    words = ["--key", str(tmp_path / "other.jwk"), "--issuer", OTHER]
    gateway.token = gateway.issue("tests/agent", *words, principal="user:agent", models=(MODEL,))
    reader = stream(gateway, "behave gate", seen)
    gateway.token = own
    return reader


def test_who_has_no_issuer_at_the_successor_is_cut_at_the_predecessor(
    upstream: FakeUpstream, folder: Path, tmp_path: Path
) -> None:
    other = with_other_issuer(tmp_path, tmp_path / "other.jwk.pub")
    with Relayed(folder, config(upstream.url, other), issuer=ISSUER) as gateway:
        upstream.gate.clear()
        seen: list[str] = []
        reader = stream_of_other(gateway, tmp_path, seen)
        kept: list[str] = []
        stays = stream(gateway, "behave gate", kept)
        gateway.write(config(upstream.url))
        gateway.take_over()
        reader.join(10)
        assert (
            not reader.is_alive()
            and json.loads(seen[-1][6:])["error"]["code"] == "token-key-unknown"
        )
        assert stays.is_alive()
        upstream.gate.set()
        stays.join(10)
        assert kept[-1] == "data: [DONE]"
        gateway.drained()


def test_a_key_that_leaves_its_file_cuts_at_the_predecessor_too(
    upstream: FakeUpstream, folder: Path, tmp_path: Path
) -> None:
    other = with_other_issuer(tmp_path, tmp_path / "set.jwks")
    (tmp_path / "set.jwks").write_text((tmp_path / "other.jwk.pub").read_text())
    with Relayed(folder, config(upstream.url, other), issuer=ISSUER) as gateway:
        upstream.gate.clear()
        seen: list[str] = []
        reader = stream_of_other(gateway, tmp_path, seen)
        gateway.take_over()
        assert reader.is_alive()
        (tmp_path / "set.jwks").write_text('{"keys":[]}')
        reader.join(15)
        assert (
            not reader.is_alive()
            and json.loads(seen[-1][6:])["error"]["code"] == "token-key-unknown"
        )
        upstream.gate.set()
        gateway.drained()


def test_fetched_keys_go_on_where_their_publisher_is_gone_before_the_take_over(
    upstream: FakeUpstream, folder: Path, tmp_path: Path
) -> None:
    """Of two issuers that publish their keys, the successor can reach only one."""
    authority(tmp_path)
    gone, there = Publisher(tmp_path), Publisher(tmp_path)
    key(tmp_path / "other.jwk")
    gone.text = (tmp_path / "other.jwk.pub").read_text()
    second = (
        other_issuer(there.url, tmp_path / "ca.pem")
        .replace(OTHER, OTHER + "/2")
        .replace("user:*", "team:others")
        .replace('"tests"', '"others"')
    )
    published = other_issuer(gone.url, tmp_path / "ca.pem") + second
    with Relayed(folder, config(upstream.url, published), issuer=ISSUER) as gateway:
        assert gateway.ask().status_code == 200
        words = ["--key", str(tmp_path / "other.jwk"), "--issuer", OTHER]
        gateway.token = gateway.issue(
            "tests/agent", *words, principal="user:agent", models=(MODEL,)
        )
        assert gateway.ask().status_code == 200
        gone.status = 404
        asked = there.asked
        gateway.take_over()
        assert there.asked > asked and gateway.ask().status_code == 200
        before = gone.asked
        wait_until(lambda: gone.asked >= before + 2, 30, "the set is asked for again")
        assert gateway.ask().status_code == 200
        gateway.drained()
    gone.stop()
    there.stop()


def test_a_reload_between_is_not_undone(upstream: FakeUpstream, folder: Path) -> None:
    """The config changes after the successor has read it; the running gateway reads it again."""
    with Relayed(folder, config(upstream.url)) as gateway:
        late = gateway.successor(TOKEN_SHIELD_HANGS_AT="successor-asks")
        wait_until(lambda: state(late.pid) == "T", START_S, "it has read the config")
        gateway.write(config(upstream.url).replace("rpm = 1000000", "rpm = 0"))
        gateway.reload()
        assert gateway.ask().status_code == 429
        os.kill(late.pid, signal.SIGCONT)
        assert late.wait(START_S) != 0
        # The running gateway may kill the successor before it has printed its reason, and logs the
        # reason itself then.
        wait_until(
            lambda: "the config has changed while this process started" in gateway.logged(),
            START_S,
            "the reason is logged",
        )
        assert gateway.ask().status_code == 429
        gateway.take_over()
        assert gateway.ask().status_code == 429
        gateway.drained()


def test_sockets_of_other_names_are_refused_and_of_the_same_taken(
    upstream: FakeUpstream, folder: Path
) -> None:
    """Sockets are identified by their full path, from whatever folder a process was started."""
    with Relayed(folder, config(upstream.url)) as gateway:
        text = gateway.config.read_text()
        other = folder / "other"
        other.mkdir(mode=0o700)
        for section, line in (
            ("[listen]\n", f'admin = "unix:{other}/admin.sock"\n'),
            ("[audit]\n", f'listen = "unix:{other}/audit.sock"\n'),
        ):
            gateway.config.write_text(text.replace(section, section + line))
            refused = gateway.successor()
            assert (
                refused.wait(START_S) == 1
                and "[listen] of the config has changed" in gateway.logged()
            )
            assert gateway.ask().status_code == 200
        gateway.config.write_text(text)
        gateway.take_over()
        assert gateway.ask().status_code == 200
        gateway.drained()
        gateway.stop()
        assert not (gateway.data / "admin.sock").exists()


def test_a_process_that_drains_holds_no_socket(upstream: FakeUpstream, folder: Path) -> None:
    """If its successor crashes, the next process can listen at once."""
    with Relayed(folder, config(upstream.url)) as gateway:
        upstream.gate.clear()
        seen: list[str] = []
        reader = stream(gateway, "behave gate", seen)
        gateway.take_over()
        former = gateway.former[-1]

        def listens() -> list[str]:
            inodes = {os.readlink(link) for link in Path(f"/proc/{former.pid}/fd").iterdir()}
            rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
            unix = [
                row[7]
                for row in rows
                if len(row) > 7 and f"socket:[{row[6]}]" in inodes and str(gateway.data) in row[7]
            ]
            ports = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            return unix + [
                row[1] for row in ports if row[3] == "0A" and f"socket:[{row[9]}]" in inodes
            ]

        wait_until(lambda: not listens(), 10, "it holds no socket that listens")
        gateway.process.kill()
        gateway.process.wait(10)
        reader.join(20)
        assert not reader.is_alive() and json.loads(seen[-1][6:])["error"]["code"]
        gateway.process = gateway.successor()
        wait_until(lambda: gateway.serves(gateway.process), START_S, "the next process serves")
        gateway.follow(gateway.process)
        assert gateway.ask().status_code == 200
        former.wait(60)
        assert binary("audit", "verify", str(gateway.data / "audit")).code == 0
