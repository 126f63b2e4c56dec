//! Addresses outside the public network, by the IANA special-purpose registries (RFC 6890) and by
//! the additions of clouds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range: its first address, the length of its prefix, and its name.
type Range<A> = (A, u8, &'static str);

/// An IPv4 address.
const fn four(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// An IPv6 address by its first four groups.
const fn six(a: u16, b: u16, c: u16, d: u16) -> Ipv6Addr {
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)
}

/// IPv4 (IANA IPv4 Special-Purpose Address Registry, and RFC 5771). An address in two ranges gets
/// the name of the first one.
pub const RANGES_V4: &[Range<Ipv4Addr>] = &[
    (four(0, 0, 0, 0), 8, "this network"),
    (four(10, 0, 0, 0), 8, "private"),
    (four(100, 100, 100, 200), 32, "cloud metadata"),
    (four(100, 64, 0, 0), 10, "carrier-grade NAT"),
    (four(127, 0, 0, 0), 8, "loopback"),
    (four(168, 63, 129, 16), 32, "cloud metadata"),
    (four(169, 254, 169, 254), 32, "cloud metadata"),
    (four(169, 254, 170, 2), 32, "cloud metadata"),
    (four(169, 254, 0, 0), 16, "link-local"),
    (four(172, 16, 0, 0), 12, "private"),
    (four(192, 0, 0, 192), 32, "cloud metadata"),
    (four(192, 0, 0, 0), 24, "protocol assignments"),
    (four(192, 0, 2, 0), 24, "documentation"),
    (four(192, 31, 196, 0), 24, "AS112"),
    (four(192, 52, 193, 0), 24, "AMT"),
    (four(192, 88, 99, 0), 24, "6to4 relays"),
    (four(192, 168, 0, 0), 16, "private"),
    (four(192, 175, 48, 0), 24, "AS112"),
    (four(198, 18, 0, 0), 15, "benchmarking"),
    (four(198, 51, 100, 0), 24, "documentation"),
    (four(203, 0, 113, 0), 24, "documentation"),
    (four(224, 0, 0, 0), 4, "multicast"),
    (four(255, 255, 255, 255), 32, "broadcast"),
    (four(240, 0, 0, 0), 4, "reserved"),
];

/// IPv6 within 2000::/3 (IANA IPv6 Special-Purpose Address Registry). Outside of it no address is
/// global unicast.
pub const RANGES_V6: &[Range<Ipv6Addr>] = &[
    (six(0x2001, 0, 0, 0), 32, "Teredo"),
    (six(0x2001, 0, 0, 0), 23, "protocol assignments"),
    (six(0x2001, 0xdb8, 0, 0), 32, "documentation"),
    (six(0x2002, 0, 0, 0), 16, "6to4"),
    (six(0x2620, 0x4f, 0x8000, 0), 48, "AS112"),
    (six(0x3fff, 0, 0, 0), 20, "documentation"),
];

/// IPv6 ranges outside of 2000::/3 that have a name.
pub const NAMED_V6: &[Range<Ipv6Addr>] = &[
    (Ipv6Addr::UNSPECIFIED, 128, "unspecified"),
    (Ipv6Addr::LOCALHOST, 128, "loopback"),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, "IPv4-mapped"),
    (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96, "IPv4-translated"),
    (Ipv6Addr::UNSPECIFIED, 96, "IPv4-compatible"),
    (six(0x64, 0xff9b, 0, 0), 96, "NAT64"),
    (six(0x64, 0xff9b, 1, 0), 48, "NAT64"),
    (six(0x100, 0, 0, 0), 64, "discard"),
    (six(0x5f00, 0, 0, 0), 16, "segment routing"),
    (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128, "cloud metadata"),
    (Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128, "cloud metadata"),
    (six(0xfc00, 0, 0, 0), 7, "private"),
    (six(0xfe80, 0, 0, 0), 10, "link-local"),
    (six(0xfec0, 0, 0, 0), 10, "site-local"),
    (six(0xff00, 0, 0, 0), 8, "multicast"),
];

/// The name of an address outside the public network; `None` for a public one. An address that
/// contains another address (IPv4-mapped, NAT64, 6to4, Teredo, …) is never public: the same
/// destination can be written in another form.
#[must_use]
pub fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(four) => name_in(RANGES_V4, |first, prefix| {
            front_of_four(four, prefix) == front_of_four(first, prefix)
        }),
        IpAddr::V6(six) => {
            // 2000::/3: the first three bits are 001 (RFC 4291 section 2.4).
            let global = front_of_six(six, 3) == 1;
            // An IPv4 address after 0:5efe or 200:5efe (ISATAP, RFC 5214 section 6.1), with any
            // prefix.
            if global && matches!(six.segments(), [_, _, _, _, 0 | 0x200, 0x5efe, _, _]) {
                return Some("ISATAP");
            }
            if global {
                return name_of_six(RANGES_V6, six);
            }
            // Everything outside 2000::/3 is refused, even ranges that IANA may assign later.
            Some(name_of_six(NAMED_V6, six).unwrap_or("not assigned"))
        }
    }
}

/// The first `prefix` bits of an IPv4 address.
fn front_of_four(address: Ipv4Addr, prefix: u8) -> u64 {
    u64::from(address.to_bits()) >> (32 - prefix)
}

/// The first `prefix` bits of an IPv6 address.
fn front_of_six(address: Ipv6Addr, prefix: u8) -> u128 {
    // A shift by 128 bits (a prefix of 0) is not defined for the operator; the result is then 0.
    address.to_bits().checked_shr(128 - u32::from(prefix)).unwrap_or(0)
}

/// The name of the first range that has an IPv6 address.
fn name_of_six(ranges: &[Range<Ipv6Addr>], six: Ipv6Addr) -> Option<&'static str> {
    name_in(ranges, |first, prefix| front_of_six(six, prefix) == front_of_six(first, prefix))
}

/// The name of the first range that `has` accepts, by its first address and its prefix.
fn name_in<A: Copy>(ranges: &[Range<A>], has: impl Fn(A, u8) -> bool) -> Option<&'static str> {
    for (first, prefix, name) in ranges {
        if has(*first, *prefix) {
            return Some(name);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(address: &str, expect: Option<&str>) {
        assert_eq!(special(address.parse().expect("an address")), expect, "{address}");
    }

    #[test]
    fn public_addresses_are_public() {
        for public in [
            "1.1.1.1",
            "93.184.215.14",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:200::1",
            "2a00:1450::1",
            "2003::1",
        ] {
            check(public, None);
        }
    }

    #[test]
    fn every_range_is_known_at_both_ends() {
        for (first, prefix, what) in RANGES_V4 {
            let last = Ipv4Addr::from_bits(
                first.to_bits() | u32::try_from((1_u64 << (32 - prefix)) - 1).expect("in range"),
            );
            assert!(
                special((*first).into()).is_some() && special(last.into()).is_some(),
                "{first} {last} {what}"
            );
        }
        for (first, prefix, what) in RANGES_V6.iter().chain(NAMED_V6) {
            let last = Ipv6Addr::from_bits(
                first.to_bits()
                    | 1_u128.checked_shl(128 - u32::from(*prefix)).map_or(0, |bits| bits - 1),
            );
            assert!(
                special((*first).into()).is_some() && special(last.into()).is_some(),
                "{first} {last} {what}"
            );
        }
        check("169.254.169.254", Some("cloud metadata"));
        check("169.254.1.1", Some("link-local"));
        check("::ffff:8.8.8.8", Some("IPv4-mapped"));
        check("64:ff9b::808:808", Some("NAT64"));
        check("2002:808:808::", Some("6to4"));
        check("2001:0:53aa::1", Some("Teredo"));
        check("::1", Some("loopback"));
        check("::8.8.8.8", Some("IPv4-compatible"));
        check("4000::1", Some("not assigned"));
        check("2001:470:1:2:0:5efe:a00:1", Some("ISATAP"));
        check("2001:470:1:2:200:5efe:a9fe:a9fe", Some("ISATAP"));
        check("fd00:ec2::254", Some("cloud metadata"));
    }
}
