//! Where readers differ in how far a tag, a destination or a name goes.

use super::*;

#[test]
fn what_gave_way_is_not_read_again_and_again() {
    // Each of them is at most a seventh of what it is read in.
    let hostile = "http:@)".repeat(20_000);
    let (out, found) = filtered(&[&hostile], true);
    assert!(
        found.len() < hostile.len() / 64,
        "{} were found in {} bytes",
        found.len(),
        hostile.len()
    );
    assert!(!out.contains('@'), "{out}");
    // The text after a replaced URL is scanned as text, also beyond the length of a name.
    let behind = "\u{96e8}".repeat(400);
    check(&format!("(https://evil.example){behind}"), &format!("(https@){behind}"));
}

#[test]
fn a_tag_goes_on_as_long_as_any_reader_has_it() {
    for front in [
        "<img x=&#97; alt='>' src='",
        "<iframe =\" title=\">\" src=\"",
        "<div>\n<img =\" alt=\">\" src=\"",
        "<iframe x==\" title=\">\" src=\"",
        "<iframe x=\"a\"=\" title=\">\" src=\"",
        "<div>\n<img\n\nsrc=\"",
        "![x](y){: src=\"",
        "![x](y){srcset=\"",
        "$\\href{",
        "$\\style{background:url(",
    ] {
        check(&format!("{front}/\\evil.example/x"), &format!("{front}@"));
        check(&format!("{front}javascript:alert(1)"), &format!("{front}javascript@)"));
    }
    check("<iframe srcdoc=\"&lt;style&gt;", &format!("<iframe srcdoc{MARK}\"&lt;style&gt;"));
    check(
        "<p style='background:url(&quot//evil.example/x&quot)'>",
        "<p style='background:url(&quot@&quot)'>",
    );
    check("<svg><style>a{b:url(&quothttps:/evil.example/x", "<svg><style>a{b:url(&quothttps@");
    check(
        "<rect cursor=\"url(https\\3a//evil.example/x)\">",
        &format!("<rect cursor=\"url(https{MARK})\">"),
    );
    kind(
        "<a style=\"--a: href=;background:image-set('https://evil.example/x' 1x)\">",
        Kind::Either,
    );
}

#[test]
fn what_gave_way_opens_no_tag() {
    // What is seen of it behind the mark is what was seen before.
    let tag = "<img alt=x\n<//evil.example\n\nsrc=";
    let (out, _) = filtered(&[&format!("{tag}//intranet/x")], true);
    assert!(!out.contains("intranet"), "{out}");
}

#[test]
fn formulas_are_no_attributes() {
    for text in [
        "$\\sum_{i=1}^{n} \\alpha_i = \\frac{a}{b}$ and $$\\int_{x=0}^{\\infty} \\beta\\,dx$$",
        "{\"answer\":\"x=\\\\frac{1}{2}\",\"path\":\"C:\\\\dir\",\"re\":\"a=\\\\d+\"}",
        "\\begin{align} a &= b \\\\ c &= \\delta \\end{align}",
        "fn f() { let a=1; } // done\n\\left\\{x=1\\right\\} \\cdot \\epsilon",
        "`a` b {y=\\beta}",
        "f(x) {y=\\beta} and `a` {b=\\alpha}",
    ] {
        same(text);
    }
}

#[test]
fn a_line_feed_in_a_destination_is_none_for_some() {
    check("![x](/\n/evil.example/p.png)", "![x](\n@)");
    check("[x](java\nscript:alert(1))", "[x](java\nscript@))");
    check("> ![x](\n> http:\\/evil.example)", "> ![x](\n> http@)");
    check("![x](\nhttp:\\/evil.example)", "![x](\nhttp@)");
    check("![x](http:\\/evil.example)", "![x](http@)");
    check("![x](\nhttp:\\/evil.example)\n```\n<br>", "![x](\nhttp@)\n```\n<br>");
    check("![x](https://evil.example\n```\n<br>", "![x](https@\n```\n<br>");
    check("<img src=https://evil.example\n```\n<br>", "<img src=https@\n```\n<br>");
    check("www ``` a`b\n> ![x](\n> http:\\/evil.example)", "www ``` a`b\n> ![x](\n> http@)");
    same("a ]( b //\n\nSee this. ]( //\r\n\r\nSee");
    check("[x](\nsearch-ms:query)", "[x](\nsearch-ms@)");
    same(
        "[a]: https://good.example\n[b]: \
            https://good.example/x\n\n[x](https://good.example/\n\"title\")",
    );
}

#[test]
fn what_gives_way_in_a_name_is_not_ended_by_what_stands_for_something() {
    for text in [
        "![x](https://good.example^&#32;§evil.example/p.png)",
        "![x](<https://good.example^&gt;§evil.example/p.png>)",
        "[x](<https://good.example^\\>§evil.example/>)",
        "https://good.example<§evil.example/p",
        "//good.example<§evil.example/p",
        "![x](https://good.example^(a)§evil.example/p.png)",
    ] {
        marked(text);
    }
    for text in
        ["<https://good.example^&sol;@evil.example/p>", "https://good.example^&sol;@evil.example/p"]
    {
        check(text, &text.replace("&sol;@evil.example/p", MARK));
    }
    let goes_on = "<style>a{b:url('https://good.example^\\\n@evil.example/x')}";
    check(goes_on, &goes_on.replace("\\\n@evil.example/x", &format!("\n{MARK}")));
    same(
        "[docs](https://good.example) or mail me@there, [x](https://good.example 'me@x') \
            (https://good.example) me@x",
    );
}

#[test]
fn what_stands_behind_one_that_gave_way_is_looked_at() {
    let hidden = "www.`www.`www.evil.example";
    check(&format!("<img?sr=\"`{hidden}:@/il.ex\n"), "<img?sr=\"`www@`www@`www@\n");
    for end in 0..=hidden.len() {
        let (out, _) = filtered(&[&hidden[..end]], true);
        assert!(!out.contains(".e") && out.len() <= end + 3 * MARK.len(), "{out}");
    }
}
