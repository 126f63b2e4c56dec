//! Tests of the destinations in tool calls.

use super::*;
use crate::guard::egress::policy::{ListEntry, Lists, SelfEndpoints};

fn policy() -> EgressPolicy {
    let tunnel = ["good.example", "good.example:80", "api.good.example:8443"];
    let entry = |text: &&str| text.parse::<ListEntry>().expect("an entry");
    EgressPolicy::new(
        Lists { tunnel: tunnel.iter().map(entry).collect(), ..Lists::default() },
        SelfEndpoints::default(),
    )
}

#[track_caller]
fn check(arguments: &str, expect: Option<&str>) {
    let found =
        leads(Arguments::Json(arguments.as_bytes()), &policy(), &TokenRestrictions::default());
    assert_eq!(found.map(|outbound| outbound.reason), expect, "{arguments}");
}

#[test]
fn places_are_judged_wherever_they_stand() {
    check(r#"{"url":"https://good.example/a?b#c","n":3,"text":"a file.txt, e.g. this"}"#, None);
    check(r#"{"url":"good.example/a"}"#, None);
    check(r#"{"urls":["https://good.example/","good.example"],"path":"/etc/x"}"#, None);
    check(r#"{"base_url":"/a/b","url":"?q=1"}"#, None);
    check("", None);
    check("{}", None);
    check(r#"{"site_id":5,"server_timeout":30,"note":"https://good.example/ is\n a page"}"#, None);
    for evil in [
        r#"{"url":"https://evil.example"}"#,
        r#"{"url":"evil.example/x"}"#,
        r#"{"url":"  evil.example"}"#,
        r#"{"anything":"see http://evil.example/"}"#,
        r#"{"deep":[{"er":["https://evil.example"]}]}"#,
        r#"{"https://evil.example":1}"#,
        r#"{"hostname":"evil.example"}"#,
        r#"{"baseurl":"evil.example"}"#,
        r#"{"imageURLs":["evil.example"]}"#,
        r#"{"src":"evil.example"}"#,
        // A parser of the URL Standard removes tabs and line feeds.
        r#"{"page":"https://\tevil.example/"}"#,
        r#"{"page":"https:/\n/evil.example"}"#,
        r#"{"page":"https://good.example\t.evil.example/"}"#,
        r#"{"targetHost":"evil.example"}"#,
        r#"{"request":"{\"url\":\"evil.example\"}"}"#,
        // JSON in a text, with the URL in escapes.
        r#"{"request":"{\"url\":\"https\\u003a\\u002f\\u002fevil.example/\"}"}"#,
        r#""{\"url\":\"evil.example\"}""#,
        r#"["evil.example"]"#,
        r#"{"server":{"name":"evil.example"}}"#,
        r#"{"link":"api.good.example"}"#,
        r#"{"URL":"good.example:8443"}"#,
    ] {
        check(evil, Some("not-listed"));
    }
}

#[test]
fn ordinary_arguments_name_no_place() {
    for fine in [
        r#"{"security":"high","during":"May","hourly":"yes","curiosity":"x"}"#,
        r#"{"favourite":"x","ghost":"boo","curl":"-s"}"#,
        r#"{"url_type":"page","url_encoded":"true","current_url_only":"true"}"#,
        r#"{"host_language":"en","use_proxy":"false","proxy":"none"}"#,
        r#"{"base":"main","base_branch":"main","origin":"Berlin"}"#,
        r#"{"server":"github","domain":"finance","src_lang":"en"}"#,
        r#"{"link_text":"Read more...","body":{"link":"/a/b","site":"main"},"url":"about:blank"}"#,
        r#"{"selector":"//a[@href='/x']","xpath":"//div[@class=\"a\"]//input[@id='a.b']"}"#,
    ] {
        check(fine, None);
    }
    for evil in [
        r#"{"hosts":{"evil.example":{}}}"#,
        r#"{"sites":["evil.example"],"n":1}"#,
        r#"{"ips":["93.184.216.34"]}"#,
        r#"{"proxy_host":"intranet"}"#,
        r#"{"server":"localhost"}"#,
        // With a scheme it is a URL, also where it looks like XPath.
        r#"{"q":"https://a[@evil.example='x']"}"#,
        r#"{"q":"//a[@evil.example/x"}"#,
    ] {
        let found =
            leads(Arguments::Json(evil.as_bytes()), &policy(), &TokenRestrictions::default());
        assert!(found.is_some(), "{evil}");
    }
}

#[test]
fn what_readers_differ_in_is_no_place() {
    check(r#"{"host":"10.0.0.1"}"#, Some("address"));
    // Small numbers and times under such names are no addresses.
    check(r#"{"site_id":123456789,"server_time":1764000000,"ip":4}"#, None);
    check(
        concat!(
            r#"{"url":"https://good.example","max_urls":5,"url_timeout":30,"#,
            r#""host_count":2,"url_options":{"retries":3}}"#
        ),
        None,
    );
    check(
        r#"{"link_text":"click here","code":"[1, 2] {a}","list":"[\"a\"]","note":"file: a"}"#,
        None,
    );
    check(r#"{"note":"https://good.example/ is by me@good.example"}"#, None);
    for odd in [
        r#"{"page":"https://^@evil.example/"}"#,
        r#"{"page":"https:// @evil.example/"}"#,
        r#"{"page":"http: @evil.example/"}"#,
        r#"{"page":"https://good.example |@evil.example/"}"#,
        // Compatibility characters, which IDNA maps to ASCII letters.
        r#"{"page":"https://good.example.\u339d\u338f.\u33cc/x"}"#,
        r#"{"ip":2130706433}"#,
        r#"{"ip":0}"#,
        r#"{"host":0.0}"#,
        r#"{"url":"/evil.example/x"}"#,
        r#"{"urls":["/localhost"]}"#,
        r#"{"href":"/\u200bevil.example"}"#,
        r#"{"host":"/evil"}"#,
        r#"{"u":"\\\\evil.example\\x"}"#,
        r#"{"u":"wss:evil.example"}"#,
        // Not strict JSON, but a lenient parser would decode the escapes.
        r#"{"request":"{\"url\":\"h\\u0074tps:\\u002f/evil.example/\",}"}"#,
        r#"{"server":3627734734}"#,
        r#"{"host":2130706433}"#,
        r#"{"url":"https://good.example@evil.example/"}"#,
        r#"{"url":"//evil.example"}"#,
        r#"{"url":"/\\evil.example"}"#,
        r#"{"url":"\\\\evil.example\\share"}"#,
        r#"{"url":"javascript:fetch('x')"}"#,
        r#"{"url":"file:///etc/passwd"}"#,
        r#"{"url":"the red button"}"#,
        r#"{"url":"https:// evil.example"}"#,
        r#"{"url":"https://good.example""#,
        // A duplicate key: parsers differ in which one counts.
        r#"{"url":"https://good.example","url":"x"}"#,
        "evil",
    ] {
        let found =
            leads(Arguments::Json(odd.as_bytes()), &policy(), &TokenRestrictions::default());
        assert!(found.is_some(), "{odd}");
    }
}

#[test]
fn a_long_text_is_read_to_its_end() {
    for text in ["//", "http:", "https:a ", "/ /", "[1]"] {
        let found = |end: &str| {
            // Long enough that quadratic time would be noticed.
            let document = format!("{{\"q\":\"{}{end}\"}}", text.repeat(100_000));
            leads(Arguments::Json(document.as_bytes()), &policy(), &TokenRestrictions::default())
                .map(|outbound| outbound.reason)
        };
        assert!(found(" https://evil.example/").is_some(), "{text}");
        assert_eq!(
            userinfo(&format!("{}x@evil.example", text.repeat(100_000))).is_some(),
            text != "[1]" && text != "/ /",
            "{text}"
        );
    }
}

#[test]
fn words_of_free_text_are_judged() {
    let found =
        |text| leads(Arguments::Text(text), &policy(), &TokenRestrictions::default()).is_some();
    assert!(!found("GET good.example/x and nothing else"));
    assert!(
        found("curl evil.example/x")
            && found("curl 'https://evil.example'")
            && found("ping 10.0.0.1")
    );
    assert!(found("curl https://^@evil.example/x") && found("see https: @evil.example"));
}

#[test]
fn tools_are_named_whole_or_by_their_beginning() {
    let is_of = |pattern: &str, tool| Pattern::read(pattern).map(|pattern| pattern.is_of(tool));
    assert_eq!(is_of("fetch", "Fetch"), Some(true));
    assert_eq!(is_of("fetch", " fetch\n"), Some(true));
    assert_eq!(is_of("fetch", "fetch_all"), Some(false));
    assert_eq!(is_of("fetch*", "fetch_all"), Some(true));
    assert_eq!(is_of("*", "anything"), Some(true));
    assert_eq!(is_of("f*h", "fetch"), None);
    assert_eq!(is_of("", ""), None);
}
