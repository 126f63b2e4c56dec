//! Tests of the egress policy.

use super::*;

fn policy() -> EgressPolicy {
    let list = |lines: &[&str]| {
        lines.iter().map(|line| line.parse().expect("an entry")).collect::<Vec<ListEntry>>()
    };
    // An upstream is on a list too (`gpu.example`): the gateway's own endpoints must be refused all
    // the same.
    let lists = Lists {
        media: list(&[
            "cdn.example",
            "*.pictures.example:8443",
            "10.1.2.3:8000",
            "gpu.example:8000",
            "lan.example",
        ]),
        links: list(&["docs.example:443"]),
        tunnel: Vec::new(),
        networks: vec!["10.9.0.0/16".parse().expect("a network")],
    };
    let upstreams = vec![(Host::Name("gpu.example".to_owned()), 8000)];
    EgressPolicy::new(
        lists,
        SelfEndpoints { upstreams, listeners: vec!["0.0.0.0:8443".parse().expect("an address")] },
    )
}

#[track_caller]
fn check(url: &str, expect: Result<(), &str>) {
    let found = policy().evaluate(Use::Media, url, &TokenRestrictions::default());
    assert_eq!(found.as_ref().map(|_| ()).map_err(Uncontrolled::as_str), expect, "{url}");
}

#[test]
fn what_is_listed_is_controlled() {
    check("https://cdn.example/a.png", Ok(()));
    check("HTTPS://CDN.example:443/a.png", Ok(()));
    check("http://cdn.example/", Err("not-listed"));
    check("https://cdn.example:8443/", Err("not-listed"));
    check("https://a.cdn.example/", Err("not-listed"));
    check("https://a.pictures.example:8443/", Ok(()));
    check("https://a.b.pictures.example:8443/", Ok(()));
    check("https://pictures.example:8443/", Err("not-listed"));
    check("https://evilpictures.example:8443/", Err("not-listed"));
    check("https://docs.example/", Err("not-listed"));
    check("http://10.1.2.3:8000/", Ok(()));
    check("http://10.1.2.4:8000/", Err("address"));
    check("http://169.254.169.254/x", Err("address"));
    check("https://1.1.1.1/", Err("not-listed"));
    check("http://gpu.example:8000/v1", Err("self"));
    check("http://[::1]:8443/", Err("self"));
    check("https://cdn.example./", Err("unreadable"));
}

fn names(list: &[&str]) -> Names {
    Names::read(list, 64).expect("a list")
}

#[test]
fn tokens_only_narrow() {
    let narrowed = |hosts: &[&[&str]], nothing| TokenRestrictions {
        nothing,
        hosts: hosts.iter().map(|hosts| names(hosts)).collect(),
    };
    let found = |narrowing: &TokenRestrictions, url| {
        policy().evaluate(Use::Media, url, narrowing).map_err(|no| no.as_str()).map(|_| ())
    };
    let url = "https://cdn.example/";
    // Both tokens of a chain limit the hosts, so that only their intersection is left.
    assert_eq!(found(&narrowed(&[&["cdn.example"]], false), url), Ok(()));
    assert_eq!(found(&narrowed(&[&["cdn.example"], &["other.example"]], false), url), Err("token"));
    assert_eq!(found(&narrowed(&[], true), url), Err("token"));
    assert_eq!(
        // The token allows a host that the operator does not list: a token widens no list.
        found(&narrowed(&[&["evil.example"]], false), "https://evil.example/"),
        Err("not-listed")
    );
}

#[test]
fn one_address_that_is_not_allowed_spoils_a_name() {
    let policy = policy();
    let named = policy
        .evaluate(Use::Media, "https://lan.example/", &TokenRestrictions::default())
        .expect("listed");
    let check = |address: &str, expect: Result<(), &str>| {
        let found = policy.address(&named, address.parse().expect("an address"));
        assert_eq!(found.map_err(|no| no.as_str()), expect, "{address}");
    };
    check("93.184.215.14:443", Ok(()));
    check("10.9.1.1:443", Ok(()));
    check("10.8.1.1:443", Err("address"));
    // The network is listed in IPv4 form only; the mapped form is another address for the policy.
    check("[::ffff:10.9.1.1]:443", Err("address"));
    check("127.0.0.1:443", Err("address"));
    check("10.9.1.1:8443", Ok(()));
    check("127.0.0.1:8443", Err("self"));
}

#[test]
fn what_is_explained_is_what_is_judged() {
    let narrowed = TokenRestrictions { nothing: false, hosts: vec![names(&["cdn.example"])] };
    for url in [
        "https://cdn.example/a.png",
        "http://cdn.example/",
        "https://a.pictures.example:8443/",
        "http://10.1.2.3:8000/",
        "http://10.1.2.4:8000/",
        "http://gpu.example:8000/v1",
        "http://[::1]:8443/",
        "https://1.1.1.1/",
        "https://cdn.example./",
        "cdn.example",
    ] {
        for narrowing in [
            TokenRestrictions::default(),
            narrowed.clone(),
            TokenRestrictions { nothing: true, ..TokenRestrictions::default() },
        ] {
            // Both functions must agree for every URL and restriction.
            let explained = policy().explain(Use::Media, url, &narrowing);
            let judged = policy().evaluate(Use::Media, url, &narrowing);
            assert_eq!(
                explained.iter().all(|step| step.passes),
                judged.is_ok(),
                "{url} {explained:?}"
            );
        }
    }
}

#[test]
fn entries_are_written_as_they_are_read() {
    for (text, expect) in [
        ("A.example", "a.example:443"),
        ("*.b.example:80", "*.b.example:80"),
        ("[fd00::1]:8000", "[fd00::1]:8000"),
    ] {
        assert_eq!(text.parse::<ListEntry>().map(|entry| entry.to_string()), Ok(expect.to_owned()));
    }
    for text in [
        "",
        "*",
        "*.",
        "*.10.0.0.1",
        "a.example/",
        "https://a.example",
        "a.*.example",
        "a.example:0",
        "user@a.example",
    ] {
        assert!(text.parse::<ListEntry>().is_err(), "{text}");
    }
}
