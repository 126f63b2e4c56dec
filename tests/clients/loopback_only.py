"""Runs the client tests with loopback only, and proves that no packet was sent outward.

    python loopback_only.py [options for pytest]

A new network namespace has only `lo`. All other routes lead to a tun interface whose other end is
this script, so that every packet outward is read and reported. The resolver's configuration names a
recording server on 127.0.0.1:53, which reports DNS queries of any process. Before the tests, the
script sends packets outward on purpose, and checks that it detects them. It needs root (for the
namespace) and iproute2, and fails without them.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from waiting import wait_until

HERE = Path(__file__).resolve().parent
INSIDE = "--inside"

# linux/if_tun.h
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
ICMPV6 = 58
# The name of an upstream in test_routes_causes.py: that test needs a name that does not exist.
ON_PURPOSE = {"model.invalid"}
# The network of the cable in test_routes_vanished.py. The kernel repeats packets to it for a while
# after the test removed the cable.
REMOVED_CABLE = "198.18.0.0/30"
# Router and neighbour discovery and multicast reports: the kernel sends them for every interface.
KERNELS_OWN = {130, 131, 132, 133, 134, 135, 136, 143}


class Trap:
    """A tun interface for all routes except loopback; `packets` describes what was sent into it."""

    def __init__(self) -> None:
        self.packets: list[str] = []
        self._far_end = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(
            self._far_end, TUNSETIFF, struct.pack("16sH22x", b"outward", IFF_TUN | IFF_NO_PI)
        )
        run("ip", "address", "add", "192.0.2.2/24", "dev", "outward")
        run("ip", "-6", "address", "add", "2001:db8::2/64", "dev", "outward", "nodad")
        run("ip", "link", "set", "outward", "up")
        run("ip", "route", "add", "default", "dev", "outward")
        run("ip", "-6", "route", "add", "default", "dev", "outward")
        # The cable's own route precedes this one while the cable exists.
        run("ip", "route", "add", "blackhole", REMOVED_CABLE, "metric", "9999")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            said = describe(os.read(self._far_end, 65_536))
            if said:
                self.packets.append(said)


class Names:
    """A DNS server over UDP and TCP that records queries and answers SERVFAIL."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 53))
        self._tcp = socket.create_server(("127.0.0.1", 53))
        threading.Thread(target=self._answer_udp, daemon=True).start()
        threading.Thread(target=self._answer_tcp, daemon=True).start()

    def _answer_udp(self) -> None:
        while True:
            query, peer = self._udp.recvfrom(4_096)
            self.queries.append(asked_name(query))
            # The query's id and question, with QR set and SERVFAIL.
            self._udp.sendto(query[:2] + b"\x80\x02" + query[4:], peer)

    def _answer_tcp(self) -> None:
        while True:
            connection, _ = self._tcp.accept()
            self.queries.append("a connection over TCP")
            connection.close()


def run(*words: str) -> None:
    """Runs a command that must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"loopback-only: `{' '.join(words)}` failed: {done.stderr.strip()}")


def describe(packet: bytes) -> str | None:
    """Protocol and destination of an IP packet; None for the kernel's housekeeping."""
    if packet[0] >> 4 == 4:
        head, protocol, address = (
            (packet[0] & 15) * 4,
            packet[9],
            socket.inet_ntop(socket.AF_INET, packet[16:20]),
        )
    else:
        head, protocol, address = 40, packet[6], socket.inet_ntop(socket.AF_INET6, packet[24:40])
        if protocol == 0:  # a hop-by-hop header precedes the others
            protocol, head = packet[40], 40 + 8 * (packet[41] + 1)
        if protocol == ICMPV6 and packet[head] in KERNELS_OWN:
            return None
    name = {1: "icmp", 6: "tcp", 17: "udp", ICMPV6: "icmpv6"}.get(protocol, f"protocol {protocol}")
    port = (
        f" port {int.from_bytes(packet[head + 2 : head + 4], 'big')}"
        if name in ("tcp", "udp")
        else ""
    )
    return f"{name} to {address}{port}"


def asked_name(query: bytes) -> str:
    """The name that a DNS query asks for."""
    labels, place = [], 12
    while place < len(query) and (length := query[place]):
        labels.append(query[place + 1 : place + 1 + length].decode("ascii", "replace"))
        place += 1 + length
    return ".".join(labels)


def send_outward() -> None:
    """Does what the tests must not do: packets over both IP versions, and a DNS query."""
    for family, address in ((socket.AF_INET, "198.51.100.7"), (socket.AF_INET6, "2001:db8:1::7")):
        with socket.socket(family, socket.SOCK_DGRAM) as datagram:
            datagram.sendto(b"outward", (address, 9))
        with socket.socket(family, socket.SOCK_STREAM) as stream:
            stream.setblocking(False)
            stream.connect_ex((address, 9))
    subprocess.run(
        ["getent", "ahosts", "control.invalid"], capture_output=True, timeout=60, check=False
    )


def try_the_trap(trap: Trap, names: Names) -> None:
    """Fails if the trap does not detect a packet; leaves the trap empty."""
    send_outward()
    wanted = {
        f"{protocol} to {address} port 9"
        for protocol in ("udp", "tcp")
        for address in ("198.51.100.7", "2001:db8:1::7")
    }
    wait_until(lambda: wanted <= set(trap.packets), 10, "the trap sees packets")
    wait_until(
        lambda: any(name.startswith("control.invalid") for name in names.queries),
        10,
        "the trap sees a DNS query",
    )
    trap.packets.clear()
    names.queries.clear()


def inside(words: list[str]) -> int:
    """The run itself, inside the namespace."""
    run("ip", "link", "set", "lo", "up")
    links = sorted(os.path.basename(link.split(":")[1].strip().split("@")[0]) for link in _links())
    if links != ["lo"]:
        sys.exit(f"loopback-only: this is no fresh network namespace: {links}")
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as resolver:
        resolver.write("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        resolver.flush()
        os.chmod(resolver.name, 0o644)
        run("mount", "--bind", resolver.name, os.path.realpath("/etc/resolv.conf"))
        trap, names = Trap(), Names()
        try_the_trap(trap, names)
        tests = [
            sys.executable,
            "-B",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *words,
            str(HERE),
        ]
        code = subprocess.run(tests, check=False).returncode
    for packet in sorted(set(trap.packets)):
        print(f"outward: {packet}")
    queries = [name for name in names.queries if name not in ON_PURPOSE]
    for name in sorted(set(queries)):
        print(f"asked the resolver: {name}")
    print(
        f"loopback only: {len(trap.packets)} packets outward, {len(queries)} DNS queries, tests "
        f"exit {code}"
    )
    return 1 if code or trap.packets or queries else 0


def _links() -> list[str]:
    """The lines of the kernel's table of interfaces."""
    shown = subprocess.run(
        ["ip", "-oneline", "link", "show"], capture_output=True, text=True, check=True
    )
    return shown.stdout.splitlines()


def outside(words: list[str]) -> int:
    """Starts this script again in new namespaces, as root."""
    kept = (
        [f"TOKEN_SHIELD_BIN={os.environ['TOKEN_SHIELD_BIN']}"]
        if "TOKEN_SHIELD_BIN" in os.environ
        else []
    )
    script = [
        "env",
        *kept,
        "PYTHONDONTWRITEBYTECODE=1",
        sys.executable,
        str(Path(__file__).resolve()),
        INSIDE,
        *words,
    ]
    command = ["unshare", "--net", "--mount", "--", *script]
    if os.geteuid() != 0:
        command = ["sudo", "-n", *command]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(inside(arguments[1:]) if arguments[:1] == [INSIDE] else outside(arguments))
