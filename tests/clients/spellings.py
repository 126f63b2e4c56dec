"""Internal addresses in every spelling that some reader accepts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

# IANA's special-purpose registries, and the addresses that clouds add to them.
RANGES = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "100.100.100.200/32",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "169.254.169.254/32",
    "169.254.170.2/32",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
]
RANGES_V6 = [
    "::1/128",
    "::/128",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fd00:ec2::254/128",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]


def _of(address: ipaddress.IPv4Address) -> Iterator[str]:
    a, b, c, d = address.packed
    bits, plain = int(address), str(address)
    high, low = bits >> 16, bits & 0xFFFF
    yield from (
        plain,
        plain + ".",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"0{plain}",
        f"{a}.{b}.{c}.0{d}",
        f"{a:#x}.{b:#x}.{c:#x}.{d:#x}",
        f"0X{a:x}.{b}.{c}.{d}",
    )
    yield from (
        str(bits),
        hex(bits),
        f"0{bits:o}",
        f"{a}.{bits & 0xFFFFFF}",
        f"{a}.{b}.{low}",
        f"{a:#x}.{bits & 0xFFFFFF:#x}",
        f"{plain}.0",
    )
    yield from (
        "".join(f"%{ord(one):02x}" for one in plain),
        f"%{ord(plain[0]):02x}{plain[1:]}",
        "".join(chr(ord(one) + 0xFEE0) for one in plain),
    )
    yield from (
        plain.replace(".", "\u3002"),
        plain.replace(".", "\uff0e"),
        plain.replace("1", "\u2460").replace("2", "\u2461").replace("0", "\u24ea"),
    )
    yield from (
        f"[::ffff:{plain}]",
        f"[::ffff:{high:x}:{low:x}]",
        f"[0:0:0:0:0:FFFF:{high:X}:{low:X}]",
        f"[::{plain}]",
        f"[::ffff:0:{plain}]",
    )
    yield from (
        f"[64:ff9b::{plain}]",
        f"[64:ff9b:1::{plain}]",
        f"[2002:{high:x}:{low:x}::]",
        f"[2001:0:{high:x}:{low:x}::1]",
        f"[::ffff:{plain}%25lo]",
        f"[fe80::{plain}%lo]",
    )
    yield from (
        f"pics.test@{plain}",
        f"{plain}#@pics.test",
        f"{plain}:80\\@pics.test",
        f"{plain}\t",
        f" {plain}",
        f"{bits >> 8}.{bits & 0xFF}",
        f"{plain}:080",
        f"{plain}:",
    )


def internal() -> Iterator[str]:
    """URLs, each of which some reader resolves to an internal address."""
    for network in map(ipaddress.IPv4Network, RANGES):
        size = network.num_addresses
        for at in sorted({0, size // 3, size // 2, size - 1}):
            for host in _of(network[at]):
                yield from (f"http://{host}/", f"HTTPS://{host}/x.png?pics.test")
    for network in map(ipaddress.IPv6Network, RANGES_V6):
        size = network.num_addresses
        for at in sorted({0, size // 3, size - 1}):
            address = network[at]
            for host in (
                f"[{address}]",
                f"[{address.exploded.upper()}]",
                f"[{address}%25eth0]",
                f"[{address}%eth0]",
                str(address),
            ):
                yield from (f"http://{host}/", f"https://{host}:8443/x")
    for name in (
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "ip6-localhost",
        "metadata.google.internal",
        "metadata",
        "instance-data",
    ):
        yield f"http://{name}/"
