//! The egress policy: internal addresses in every spelling, tricks, and ordinary URLs that must
//! pass.

use std::net::{Ipv4Addr, Ipv6Addr};

use token_shield::guard::egress::address::{NAMED_V6, RANGES_V4, RANGES_V6};
use token_shield::guard::egress::destination::Destination;
use token_shield::guard::egress::policy::{
    EgressPolicy, ListEntry, Lists, SelfEndpoints, TokenRestrictions, Use,
};

/// A policy that lists a few names. An attacker might hide under each of them.
fn policy() -> EgressPolicy {
    let list = [
        "good.example",
        "*.good.example",
        "good.example:8443",
        "xn--bcher-kva.example",
        "93.184.215.14:80",
        "[2a00:1450::1]:443",
    ];
    let media: Vec<ListEntry> = list.iter().map(|line| line.parse().expect("an entry")).collect();
    EgressPolicy::new(Lists { media, ..Lists::default() }, SelfEndpoints::default())
}

#[track_caller]
fn refused(policy: &EgressPolicy, url: &str) {
    let found = policy.evaluate(Use::Media, url, &TokenRestrictions::default());
    assert!(found.is_err(), "{url:?} leads to {found:?}");
}

/// The first and the last address of each internal range, and one between them.
fn within_v4() -> Vec<Ipv4Addr> {
    let of = |(first, prefix, _): &(Ipv4Addr, u8, &str)| {
        let (first, size) = (u64::from(first.to_bits()), 1_u64 << (32 - prefix));
        [first, first + size / 3, first + size / 2, first + size - 1]
            .map(|bits| Ipv4Addr::from_bits(u32::try_from(bits).expect("in range")))
    };
    let mut found: Vec<Ipv4Addr> = RANGES_V4.iter().flat_map(of).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The text in full-width characters (U+FF01 and later), which IDNA maps to ASCII.
fn full_width(text: &str) -> String {
    text.chars()
        .map(|digit| {
            char::from_u32(u32::from(digit) + 0xfee0)
                .filter(|_| digit.is_ascii_graphic())
                .unwrap_or(digit)
        })
        .collect()
}

/// Every spelling that some parser accepts as an IPv4 address.
fn spellings_v4(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let bits = address.to_bits();
    let low24 = bits & 0xff_ffff;
    let low16 = bits & 0xffff;
    let plain = address.to_string();
    let escaped: String = plain.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let first_escaped = format!("%{:02x}{}", plain.as_bytes()[0], &plain[1..]);
    let [g, h, i, j] = [bits >> 16, bits & 0xffff, bits >> 8, bits & 0xff];
    vec![
        plain.clone(),
        format!("{plain}."),
        format!("{a:#o}.{b:#o}.{c:#o}.{d:#o}").replace("0o", "0"),
        format!("0{a}.{b}.{c}.{d}"),
        format!("{a}.{b}.{c}.0{d}"),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("{a:#X}.{b}.{c}.{d}").replace("0x", "0X"),
        // Forms of inet_aton(3): one number, or fewer than four parts.
        format!("{bits}"),
        format!("{bits:#x}"),
        format!("0{bits:o}"),
        format!("{a}.{low24}"),
        format!("{a}.{b}.{low16}"),
        format!("{a:#x}.{low24:#x}"),
        format!("{a}.{b}.{c}.{d}.0"),
        // Percent-encoding and Unicode forms of digits and dots.
        escaped,
        first_escaped,
        full_width(&plain),
        plain.replace('.', "\u{3002}"),
        plain.replace('.', "\u{ff0e}"),
        plain.replace('1', "\u{2460}").replace('2', "\u{2461}").replace('0', "\u{24ea}"),
        // IPv6 addresses that contain the IPv4 address.
        format!("[::ffff:{plain}]"),
        format!("[::ffff:{g:x}:{h:x}]"),
        format!("[0:0:0:0:0:FFFF:{g:X}:{h:X}]"),
        format!("[::{plain}]"),
        format!("[::ffff:0:{plain}]"),
        format!("[64:ff9b::{plain}]"),
        format!("[64:ff9b:1::{plain}]"),
        format!("[2002:{g:x}:{h:x}::]"),
        format!("[2001:0:{g:x}:{h:x}::1]"),
        format!("[::ffff:{plain}%25lo]"),
        format!("[fe80::{plain}%lo]"),
        // User information and fragments that look like the listed host.
        format!("good.example@{plain}"),
        format!("{plain}#@good.example"),
        format!("{plain}:80\\@good.example"),
        format!("{plain}\t"),
        format!(" {plain}"),
        format!("{i}.{j}"),
        format!("{plain}:080"),
        format!("{plain}:"),
    ]
}

#[test]
fn internal_addresses_are_refused_in_every_spelling() {
    let (policy, mut count) = (policy(), 0);
    for address in within_v4() {
        for host in spellings_v4(address) {
            for url in [format!("http://{host}/"), format!("HTTPS://{host}/x.png?good.example")] {
                refused(&policy, &url);
                count += 1;
            }
        }
    }
    for (first, prefix, _) in RANGES_V6.iter().chain(NAMED_V6) {
        let size = 1_u128.checked_shl(128 - u32::from(*prefix)).unwrap_or(u128::MAX);
        for bits in
            [first.to_bits(), first.to_bits() + (size - 1) / 3, first.to_bits() + (size - 1)]
        {
            let (address, groups) =
                (Ipv6Addr::from_bits(bits), Ipv6Addr::from_bits(bits).segments());
            let long = groups.map(|group| format!("{group:04X}")).join(":");
            for host in [
                format!("[{address}]"),
                format!("[{long}]"),
                format!("[{address}%25eth0]"),
                format!("[{address}%eth0]"),
                format!("{address}"),
            ] {
                for url in [format!("http://{host}/"), format!("https://{host}:8443/x")] {
                    refused(&policy, &url);
                    count += 1;
                }
            }
        }
    }
    for name in [
        // Names that resolve to this machine or to a cloud's metadata service.
        "localhost",
        "LOCALHOST",
        "localhost.",
        "a.localhost",
        "ip6-localhost",
        "metadata.google.internal",
        "metadata",
        "instance-data",
    ] {
        refused(&policy, &format!("http://{name}/"));
        count += 1;
    }
    // Proves that the lists of ranges and spellings are not empty.
    assert!(count >= 5_000, "{count}");
}

/// URLs that look like a listed host, and that some parser reads as another host.
const TRICKS: &[&str] = &[
    "http://good.example@evil.example/",
    "https://good.example:443@evil.example/",
    "https://good.example%40evil.example/",
    "https://evil.example\\@good.example/",
    "https://evil.example\\.good.example/",
    "https://good.example\\.evil.example/",
    "https://evil.example#@good.example/",
    "https://evil.example?@good.example/",
    "https://evil.example;@good.example/",
    "https:good.example",
    "https:/good.example/",
    "https:///good.example/",
    "https:////good.example/",
    "https:\\\\good.example/",
    "//good.example/",
    "/\\good.example/",
    "good.example/",
    "javascript://good.example/%0aalert(1)",
    "data://good.example/x",
    "file://good.example/etc/passwd",
    "ftp://good.example/",
    "gopher://good.example/",
    "ws://good.example/",
    "https+x://good.example/",
    "view-source:https://good.example/",
    "jar:https://good.example/!/",
    "blob:https://good.example/x",
    "https://good.example./",
    "https://good.example../",
    "https://.good.example/",
    "https://a..good.example/",
    "https://good.example:443:80/",
    "https://good.example:/",
    "https://good.example:0/",
    "https://good.example:65979/",
    "https://good.example:443\u{0660}/",
    "https://good.example:４４３/",
    "https://good.example:+443/",
    "https://good.example:-443/",
    "https://good.example: 443/",
    "https://good.example:0443/",
    "https://goodexample/",
    "https://good.example.evil.example/",
    "https://evilgood.example/",
    "https://good\u{3002}example/",
    "https://good\u{ff0e}example/",
    "https://ｇｏｏｄ.example/",
    "https://g\u{043e}\u{043e}d.example/",
    "https://good\u{ad}.example/",
    "https://good\u{200b}.example/",
    "https://good.example\u{2028}/",
    "https://good.example\t/",
    "https://good.exam\nple/",
    "https://good.example\r\nHost: evil.example/",
    "\u{1}https://good.example/",
    " https://good.example/",
    "https://good.example\0.evil.example/",
    "https://good%2eexample/",
    "https://good%00.example/",
    "https://xn--good.example/",
    "https://xn--.good.example/",
    "https://[good.example]/",
    "https://[::1].good.example/",
    "https://good.example[::1]/",
    "https://%5b::1%5d/",
    "https://good_.example/",
    "https://-a.good.example/",
    "https://a-.good.example/",
    "https://*.good.example/",
    "https://good.example,evil.example/",
    "https://good.example&evil.example/",
    "https://evil.example/https://good.example/",
    "http://good.example/",
    "https://good.example:8080/",
    "https://a b.good.example/",
    "https://<good.example>/",
    "https://good.example|evil.example/",
    "https://good.example^.evil.example/",
    "https://u:p@good.example/",
    "https://:@good.example/",
    "https://@good.example/",
    "https://@@good.example/",
    "https://good.example\u{202e}/gnp.a",
    "https://good.example/\u{202e}gnp.a",
    "HtTp://93.184.215.14:81/",
    "http://93.184.215.014/",
];

#[test]
fn tricks_are_refused() {
    let policy = policy();
    assert!(TRICKS.len() >= 60);
    for url in TRICKS {
        refused(&policy, url);
    }
    refused(&policy, &format!("https://good.example/{}", "a".repeat(1 << 16)));
    refused(&policy, &format!("https://{}good.example/", "a.".repeat(200)));
    refused(&policy, "");
}

#[test]
fn ordinary_urls_of_listed_hosts_are_not_refused() {
    let policy = policy();
    let hosts = [
        "good.example",
        "GOOD.example",
        "good.example:443",
        "a.good.example",
        "a-b.c_d.good.example",
        "3d.good.example",
        "r3---sn-x.good.example",
        "xn--bcher-kva.example",
        "good.example:8443",
        "[2a00:1450::1]",
        "[2a00:1450:0::1]:443",
    ];
    let paths = [
        "",
        "/",
        "/a/b.png",
        "/%e2%82%ac/%2F",
        "/ä/日本語.png",
        "/a;b=c/d,e",
        "/~u/(x)/!$&'*+",
        "/a//b/../c",
        "/@u/x@y",
        "/a:b",
        "/[x]",
        "/{x}",
        "/a|b",
        "/\"q\"",
        "/<x>",
        "/^`",
        "/.well-known/x",
        "/😀",
    ];
    let queries = [
        "",
        "?",
        "?a=b&c=d",
        "?url=http://127.0.0.1/",
        "?q=%20x&y=@z",
        "?a[]=1",
        "?ä=ö",
        "?x=//evil.example",
        "?a=b?c=d",
    ];
    let fragments = ["", "#", "#top", "#a=b&c", "#:~:text=x", "#ä"];
    let mut count = 0;
    for host in hosts {
        for path in paths {
            for query in queries {
                for fragment in fragments {
                    let url = format!("https://{host}{path}{query}{fragment}");
                    let found = policy.evaluate(Use::Media, &url, &TokenRestrictions::default());
                    assert!(found.is_ok(), "{url}: {found:?}");
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 5_000, "{count}");
    assert!(
        policy
            .evaluate(Use::Media, "http://93.184.215.14/x", &TokenRestrictions::default())
            .is_ok()
    );
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(20_000))]

    #[test]
    fn what_is_read_is_written_so_that_it_is_read_the_same(
        url in "(http|https|HTTP)://[a-zA-Z0-9._:@%\\[\\]\\\\/?#ä\u{ff0e}-]{0,24}"
    ) {
        if let Ok(read) = Destination::read(&url) {
            proptest::prop_assert_eq!(Destination::read(&read.to_string()), Ok(read));
        }
    }
}
