//! What comes out of texts, however they are cut and spelled.

mod joints;

use super::*;
use crate::guard::egress::policy::EgressPolicy;
use proptest::prelude::*;

mod readers;
mod shown;

fn is_good(what: &Found<'_>) -> bool {
    what.url.ok().and_then(EgressPolicy::host).is_some_and(|host| host == "good.example")
}

/// What comes out of `text` in pieces, where `good.example` alone is controlled, and what was
/// found.
fn filtered(pieces: &[&str], fences: bool) -> (String, Vec<(Kind, String, bool)>) {
    let (mut scanner, mut out, mut found) = (Scanner::new(fences), String::new(), Vec::new());
    let mut judge = |what: &Found<'_>| {
        let good = is_good(what);
        if !good {
            found.push((what.kind, what.url.unwrap_or_else(|odd| odd).to_owned(), what.fenced));
        }
        if good || what.fenced { Verdict::Pass } else { Verdict::Strip }
    };
    for piece in pieces {
        scanner.push(piece, &mut out, &mut judge);
    }
    scanner.pause(&mut out, &mut judge);
    (out, found)
}

#[track_caller]
fn check(text: &str, expect: &str) {
    let expect = expect.replace('@', MARK);
    assert_eq!(filtered(&[text], true).0, expect, "{text}");
    let letters: Vec<String> = text.chars().map(String::from).collect();
    let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
    assert_eq!(filtered(&letters, true).0, expect, "letter by letter: {text}");
}

#[track_caller]
fn same(text: &str) {
    assert_eq!(filtered(&[text], true).0, text);
}

#[track_caller]
fn kind(text: &str, expect: Kind) {
    let found: Vec<Kind> = filtered(&[text], true).1.into_iter().map(|(kind, ..)| kind).collect();
    assert_eq!(found, [expect], "{text}");
}

#[test]
fn what_leads_elsewhere_gives_way() {
    check("see https://evil.example/x?y=1 now", "see https@ now");
    check("![a](https://evil.example/x)", "![a](https@)");
    check("![a](<https://evil.example/x y>)", "![a](<https@ y>)");
    check("[a]: //evil.example/x 'title'", "[a]: @ 'title'");
    check("<https://evil.example>", "<https@>");
    check("<img src=\"//evil\">", "<img src=\"@\">");
    check(
        &format!("{}https://evil.example x", "8".repeat(60)),
        &format!("{}https@ x", "8".repeat(60)),
    );
    check("www.evil.example is there", "www@ is there");
    check("http:evil.example", "http@");
    check("HtTpS:\\\\evil.example\\x", "HtTpS@\\x");
    check("https://good.example@evil.example/", &format!("https{MARK}"));
    check("https://good.example.evil.example/", "https@");
    check("https://good.example),evil.example", "https@),evil.example");
    check("(https://evil.example), *https://evil.example*", "(https@), *https@");
    check("[x](javascript:alert(1))", "[x](javascript@))");
    check("[x](data:text/html,a)", "[x](data@)");
    check("write to mailto:a@b.example", "write to mailto@");
    check("x:foo://evil.example", "x:foo:@");
    check("https://a.example/https://evil.example b", "https@ b");
    check("https://good.example/?to=https://evil.example b", "https://good.example/?to=https@ b");
}

#[test]
fn however_it_is_spelled() {
    check("![a](https&colon;//evil.example)", "![a](https@)");
    check("![a](&#104;ttps&#x3a;&sol;&#47;evil.example)", "![a](&#104;ttps@)");
    check("![a](https\\://evil.example)", "![a](https@)");
    check("![a](https:\\/\\/evil.example)", "![a](https@)");
    check("![a](\\/\\/evil.example)", "![a](@)");
    check("![a](\\\\\\\\evil.example)", "![a](@)");
    check("<img src='ht\ntps:\n//evil.example'>", "<img src='ht\ntps\n@'>");
    check("<img src='&Tab;/&NewLine;/evil.example'>", "<img src='&Tab;@'>");
    check("<a href='https://good.example\n.evil.example/'>", "<a href='https@\n.evil.example/'>");
    check("<x a='\nmailto:a@b.example", "<x a='\nmailto@");
    check("<y foo\nwww.evil.example", "<y foo\nwww@");
    check("https://good&#46;example", "https@");
    check("https://good.example&sol;.evil.example", "https@");
    check("<style>a{b:url('http:/&Tab;/evil')}", "<style>a{b:url('http@')}");
    check("<img src='http:/&#&#49;'>", "<img src='http@'>");
    check("see //localhost:80/", "see @");
    check("<img src=\\&#10;/evil.example>", "<img src=@>");
    check("<img src=\r\n'/\\127.0.0.1'>", "<img src=\r\n'@'>");
    check("https://good.example&#46;evil.example", "https@");
    check("https://good.example\\.evil.example", "https@\\.evil.example");
    check(
        "<style>a{b:url(https\\3a\\2f\\2f evil.example)}",
        "<style>a{b:url(https@@@ evil.example)}",
    );
    check("<a style='b:url(\\68ttps://evil.example)'>", "<a style='b:url(@)'>");
    check("$\\alpha$ and \\beta", "$\\alpha$ and \\beta");
    check("http://2130706433/", "http@");
    check("http://ｅvil.example", "http@");
    check(&format!("https://{}.example/ x", "a".repeat(70_000)), "https@ x");
    check(&format!("https:{}evil.example x", "/".repeat(70_000)), "https@ x");
    check(
        &format!("<img src='https:&#{}47;/evil.example'>", "0".repeat(100)),
        "<img src='https@'>",
    );
}

#[test]
fn what_is_harmless_comes_out_byte_for_byte() {
    for text in [
        "Use https: it is safer, and http:// is not a whole URL.",
        "See (https://good.example), or https://good.example/a//b?c=d&e=f#g. And \
            *https://good.example*!",
        "[a](https://good.example/x) ![b](https://good.example:443/y 'z') <https://good.example> \
            <img src=\"https://good.example\">",
        "| a | https://good.example |\n|---|---|\n| AT&T | 1/2 and/or 3//4 |",
        "fn f<T: Into<String>>(x: Vec<u8>) -> std::io::Result<()> { a::b(c) } // not a URL",
        "C:\\Users\\x and D:/y, \\\\server\\share, a\\\\b, $\\alpha \\\\ \\beta$, \\[x\\], 12:30, \
            a:b, key: value",
        "mail me: a@b.example. Ratio 16:9. \"urn:isbn:1\" &amp; &copy; &nbsp; &#8212; & so on",
        "![a](data:image/png;base64,iVBORw0KGgo=) [b](#c) [d](../e/f.md) [g](/h)",
        "中文，然后 https://good.example 结束。",
        "```sh\ncurl https://evil.example\n```\nafter",
    ] {
        same(text);
    }
}

#[test]
fn code_is_believed_only_where_every_reader_has_it_so() {
    check(
        "```\nhttps://evil.example\n```\nhttps://evil.example",
        "```\nhttps://evil.example\n```\nhttps@",
    );
    check("<div>\n```\nhttps://evil.example\n```", "<div>\n```\nhttps@\n```");
    check("<!-- -->\n\n```\nhttps://evil.example\n```", "<!-- -->\n\n```\nhttps@\n```");
    check("  ```\na\n```\nhttps://evil.example\n", "  ```\na\n```\nhttps@\n");
    assert_eq!(
        filtered(&["```\nhttps://evil.example\n```"], false).0,
        format!("```\nhttps{MARK}\n```")
    );
    assert_eq!(
        filtered(&["```\nhttps://evil.example\n"], true).1,
        [(Kind::Clicked, "https://evil.example/".to_owned(), true)]
    );
}

#[test]
fn fences_that_one_reader_closes_or_opens_are_not_believed() {
    let evil = "![a](https://evil.example/x)";
    for before in [
        "```\ncode\n``` x\n```\n",
        "~~~\na\n~~~ x\nb\n~~~\n",
        "para\n2. x\n   ```\n```\n",
        "- - -\n  ```\n```\n",
        "a\n- \n  ```\n```\n",
        "1. \n\n   ```\n```\n",
        "a | b\n- | -\n  ```\n```\n",
        "$$\n```\n$$\n",
        "[a]:\n```\n",
        "[a]: b \"\n```\n\"\n\n",
        "a | b\n-|-\n``` | x\n",
        "Term\n: ```\n```\n",
        "Term\n: a\n```\n: ",
        "<iframe title='\n\n```\n' ",
        "\u{feff}```\ncode\n```\n",
    ] {
        let out = filtered(&[&format!("{before}{evil}")], true).0;
        assert!(out.ends_with(&format!("![a](https{MARK})")), "{out:?}");
    }
    let zeros = "0".repeat(70);
    check(&format!("<div>\n&#{zeros}\n```\nhttps://evil.example/"), "<div>\n@\n```\nhttps@");
    same("1. do\n   ```sh\n   ls\n   ```\n\n```\ncurl https://evil.example\n```\n");
}

#[test]
fn what_a_hostile_reader_found() {
    check("![a](https://good.example\".evil.example/x)", "![a](https@\".evil.example/x)");
    check("![a](https://\".evil.example/x)", "![a](https@\".evil.example/x)");
    check("<img src='//\".evil.example/x'>", "<img src='@\".evil.example/x'>");
    check("<iframe title='\n\nx' src=/\\evil.example/x y", "<iframe title='\n\nx' src=@ y");
    check(
        "srcdoc='&lt;img src=https&amp#58;&amp#47;&amp#47;evil.example/x>'",
        "srcdoc='&lt;img src=https@>'",
    );
    check("![a](https&ampcolon;&ampsol;&ampsol;evil.example/x)", "![a](https@)");
    check(
        "<style>a{b:url(\"\\ht\\tp\\s:evil.example/x\")}</style>",
        "<style>a{b:url(\"\\ht\\tp\\s@\")}</style>",
    );
    check("![a](/&Tab;/evil.example/x)", "![a](@)");
    check("[a](java&Tab;script:alert)", "[a](java&Tab;script@)");
    check("xwww.evil.example/x", "xwww@");
    check("-//evil.example/x", "-@");
    check("[a](ftp:evil.example/x)", "[a](ftp@)");
    check("<a href=\"javascript: alert\">", "<a href=\"javascript@ alert\">");
    check(
        "{\"a\":\"<a href=\\\"https://evil.example/x\\\">x</a>\"}",
        "{\"a\":\"<a href=\\\"https@\\\">x</a>\"}",
    );
    for text in [
        "For $0<x<1$ we get $\\frac{1}{2}$ and $\\alpha$.",
        "a<b? … regex \\d+ … C:\\data\\file",
        "//foo(bar) //don't //x=5 (a)//(b) \"//div[@id='x']\"",
        "http::StatusCode::OK and http::request",
        "```html\n<style>a{}</style><!-- x -->\n```\n\n```js\n/\\d+/ // \
            https://evil.example\n```\nconst re = /\\d+/",
        "{\"a\": \"https://good.example\", \"b\":\"https://good.example/\",\"c\":1}",
    ] {
        same(text);
    }
}

#[test]
fn what_is_fetched_and_what_is_clicked() {
    kind("![a](https://evil.example)", Kind::Fetched);
    kind("[a](https://evil.example)", Kind::Clicked);
    kind("[![a](b)](https://evil.example)", Kind::Clicked);
    kind("![a](b) `[` [c](https://evil.example)", Kind::Either);
    kind("[a]: https://evil.example", Kind::Either);
    kind("https://evil.example", Kind::Clicked);
    kind("<https://evil.example>", Kind::Clicked);
    kind("<a href=\"https://evil.example\">", Kind::Clicked);
    kind("<img src=\"https://evil.example\">", Kind::Either);
    kind("<a style='background:url(https://evil.example)'>", Kind::Either);
    kind("<style>\n\na { b: c } @import 'https://evil.example'", Kind::Either);
}

#[test]
fn what_is_cut_between_two_texts_is_not_put_together() {
    let joined = |one: &str, two: &str| {
        let (mut scanner, mut out) = (Scanner::new(true), String::new());
        let mut judge = |what: &Found<'_>| {
            if is_good(what) { Verdict::Pass } else { Verdict::Strip }
        };
        scanner.push(one, &mut out, &mut judge);
        scanner.pause(&mut out, &mut judge);
        scanner.push(two, &mut out, &mut judge);
        scanner.pause(&mut out, &mut judge);
        out
    };
    assert_eq!(joined("https", "://evil.example"), format!("https{MARK}"));
    assert_eq!(joined("https:", "//evil.example"), format!("https: {MARK}{MARK}"));
    assert_eq!(
        joined("https://good.example", ".evil.example"),
        format!("https://good.example {MARK}.evil.example")
    );
    assert_eq!(joined("https&col", "on;//x"), format!("https&col {MARK}on;//x"));
    assert_eq!(joined("```\n", "https://evil.example"), format!("```\nhttps{MARK}"));
    assert_eq!(joined("a: ", "b"), "a: b");
}

/// Pieces that texts with and without URLs are made of.
fn pieces() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "https",
        "http",
        ":",
        "//",
        "/",
        "\\",
        "\\/",
        "evil.example",
        "good.example",
        "www.",
        "www",
        "](",
        "] (",
        "java",
        "script:x",
        "\0",
        "> ",
        "![",
        "[a]: ",
        "]",
        "(",
        ")",
        "<",
        ">",
        "<img src=",
        "<a href='",
        "\"",
        "'",
        "\n",
        "\n\n",
        "```\n",
        "~~~",
        " ",
        "\t",
        "&colon;",
        "&#58",
        ";",
        "&",
        "&amp;#47;",
        "@",
        ".",
        ",",
        "é",
        "\u{3002}",
        "mailto:",
        "data:image/png,",
        "javascript:",
        "url(",
        "1. ",
        "- ",
        "text",
        "[::1]",
        "%",
        "#",
        "?",
        "=",
        "&#00",
        "<!--",
        "-->",
        "`",
    ]);
    prop::collection::vec(words, 0..40).prop_map(|words| words.concat())
}

/// The number of texts: many in a campaign, few in an ordinary run.
fn cases() -> u32 {
    if std::env::var_os("TOKEN_SHIELD_FULL").is_some() { 200_000 } else { 4_000 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn a_cut_changes_nothing(
        text in pieces(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        places.retain(|at| text.is_char_boundary(*at));
        places.sort_unstable();
        let (mut split, mut from) = (Vec::new(), 0);
        for place in places {
            split.push(&text[from..place]);
            from = place;
        }
        split.push(&text[from..]);
        prop_assert_eq!(filtered(&split, true), filtered(&[&text], true));
    }

    #[test]
    fn what_passes_at_once_passes_one_by_one(text in pieces()) {
        let (mut scanner, mut out, mut count) = (Scanner::new(true), String::new(), 0);
        let mut judge = |found: &Found<'_>| {
            let good = is_good(found);
            count += usize::from(!good);
            if good || found.fenced { Verdict::Pass } else { Verdict::Strip }
        };
        // Past what looks for runs in which nothing is open.
        text.chars().for_each(|next| scanner.raw(next, &mut out, &mut judge));
        scanner.pause(&mut out, &mut judge);
        let (expect, found) = filtered(&[&text], true);
        prop_assert_eq!((out, count), (expect, found.len()));
    }

    #[test]
    fn what_came_out_stays(text in pieces()) {
        let (once, _) = filtered(&[&text], false);
        // But for the mark itself, where it stands behind slashes.
        let again = filtered(&[&once], false).1;
        prop_assert!(again.iter().all(|(_, url, _)| url.contains('\u{27e8}')), "{:?} of {:?} in \
            {:?}", again, text, once);
    }
}

/// Texts in which `§` stands where the mark comes, behind what stands there, in place of an `@`.
#[track_caller]
fn marked(text: &str) {
    let (before, after) = (text.replace('§', "@"), text.replace('§', MARK));
    let letters: Vec<String> = before.chars().map(String::from).collect();
    let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
    for out in [filtered(&[&before], true).0, filtered(&letters, true).0] {
        // What follows of the URL goes with it.
        let front = after.split(MARK).next().unwrap_or_default();
        assert!(
            out.starts_with(front) && !out.contains("@") && !out.contains("evil"),
            "{before}: {out}"
        );
    }
}
