//! What renderers load, what they do not, and every cut of a text.

use proptest::prelude::*;

use super::{LoadUse, RenderedText, Scope, Verdict};

/// The output of a text that comes in pieces. Only `https://ok.example` is controlled.
fn filtered(pieces: &[&str]) -> String {
    let (mut filter, mut out) = (RenderedText::new(Scope::Loads), String::new());
    let mut judge = |_: LoadUse, host: Result<&str, &str>| match host {
        Ok("https://ok.example/") => Verdict::Pass,
        Ok(_) | Err(_) => Verdict::Strip,
    };
    for piece in pieces {
        filter.push(piece, &mut out, &mut judge);
    }
    filter.pause(&mut out, &mut judge);
    out
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(filtered(&[text]), expected, "{text:?}");
}

#[track_caller]
fn unchanged(text: &str) {
    check(text, text);
}

#[test]
fn images_are_changed_and_links_stay() {
    check(
        "see ![a](http://x.example/i.png) and",
        "see ![a](#link-removed:http://x.example/i.png) and",
    );
    check("![a](<//x.example/i> \"t\")", "![a](<#link-removed://x.example/i> \"t\")");
    check(
        "![a](h&#116;tp&colon;\\/\\/x.example)",
        "![a](#link-removed:h&#116;tp&colon;\\/\\/x.example)",
    );
    check("![a `]` b](http://x.example)", "![a `]` b](#link-removed:http://x.example)");
    check("![a\nb](http:x.example)", "![a\nb](#link-removed:http:x.example)");
    check(
        "[![a](http://x.example)](http://y.example)",
        "[![a](#link-removed:http://x.example)](http://y.example)",
    );
    unchanged("[a](http://x.example) <http://x.example> http://x.example");
    unchanged("![a](https://ok.example/i.png) ![b](i.png) ![c](#d)");
    unchanged("wow![1] \\![a](http://x.example) ! [a](http://x.example)");
}

#[test]
fn code_is_never_changed() {
    let image = "![a](http://x.example) <img src=\"http://x.example\">";
    for text in [
        format!("`{image}`"),
        format!("a `` ` {image}\n{image} `` b"),
        format!("```\n{image}\n```\n"),
        format!("``` js title=\"a\"\n{image}\n\n{image}\n`````\ntext"),
        format!("- a\n  > ~~~\n  > {image}\n  > ~~~\n"),
        format!("    {image}\n\n\t{image}\n"),
        format!("1. a\n\n       {image}\n"),
        format!("> ```\n> {image}\n"),
        format!("| a |\n| - |\n| `{}` |\n", image.replace('|', "")),
    ] {
        unchanged(&text);
    }
}

#[test]
fn what_is_code_for_some_renderers_only_is_text() {
    // An open span, an indented line in a paragraph, a cell that ends within a span.
    check("` ![a](http://x.example)", "` ![a](#link-removed:http://x.example)");
    check("a\n    ![a](http://x.example)\n", "a\n    ![a](#link-removed:http://x.example)\n");
    check("> ```\n![a](http://x.example)\n", "> ```\n![a](#link-removed:http://x.example)\n");
    check(
        "`a | b\n- | -\n`c | ![a](http://x.example) `",
        "`a | b\n- | -\n`c | ![a](#link-removed:http://x.example) `",
    );
    // A definition has no code span that continues in the text after it.
    check("[a]:b``c\n![a](http://x.example)``", "[a]:b``c\n![a](#link-removed:http://x.example)``");
    // GFM takes the backtick into the bare URL.
    check(
        "http://ok.example/` ![a](http://x.example) `",
        "http://ok.example/` ![a](#link-removed:http://x.example) `",
    );
    // A fence within an HTML block is none, and without raw HTML it is one.
    check(
        "<div>\n```\n<img src=http://x.example>\n```\n",
        "<div>\n```\n<img data-removed-src=http://x.example>\n```\n",
    );
}

#[test]
fn a_change_ends_no_code_of_another_renderer() {
    // Without raw HTML, the image is in a code span that ends in the value of an attribute.
    check(
        "<div><b```![a](http://x.example) c=//y.example/```>",
        "<div><b```![a](http://x.example) data-removed-c=//y.example/```>",
    );
}

#[test]
fn an_image_and_its_definition_meet() {
    check("[a]: http://x.example\n\n![b][A] ", "[a]: http://x.example\n\n![b][#link-removed:A] ");
    check("![b][a]\n\n[a]: http://x.example\n", "![b][a]\n\n[a]: #link-removed:http://x.example\n");
    check(
        "![ a\nB ]\n\n> [a b]: <http://x.example>\n",
        "![ a\nB ]\n\n> [a b]: <#link-removed:http://x.example>\n",
    );
    check(
        "[#link-removed:x]: http://x.example",
        "[#link-removed:x]: #link-removed:http://x.example",
    );
    unchanged("[a]: http://x.example\n\n[b][a] [a]\n");
    unchanged("![b][a]\n\n[a]: https://ok.example\n[c]: http://x.example\n");
}

#[test]
fn raw_html_loads_nothing() {
    check("<img src='http://x.example'>", "<img data-removed-src='http://x.example'>");
    check("a <IMG\nSRC = //x.example>", "a <IMG\ndata-removed-SRC = //x.example>");
    check(
        "<img srcset=\"a 1x, http://x.example 2x\">",
        "<img data-removed-srcset=\"a 1x, http://x.example 2x\">",
    );
    check(
        "<p style=\"background: u\\72l(http://x.example)\">",
        "<p data-removed-style=\"background: u\\72l(http://x.example)\">",
    );
    check(
        "<iframe srcdoc=\"&lt;img src=&quot;http://x.example&quot;&gt;\"></iframe>",
        "<iframe data-removed-srcdoc=\"&lt;img src=&quot;http://x.example&quot;&gt;\"></iframe>",
    );
    check("<object data=\"data:text/html,x\">", "<object data-removed-data=\"data:text/html,x\">");
    check(
        "<style>@import '//x.example';</style>",
        "<pre><removed-style>@import '//x.example';</style>",
    );
    check(
        "a <style>@import \"\\ht\\tp\\s:x.example\"</style>",
        "a <removed-style>@import \"\\ht\\tp\\s:x.example\"</style>",
    );
    check("a <style>@import '//x.example'", "a <removed-style>@import '//x.example'");
    check(
        "<!-- --!> <img src=http://x.example> -->",
        "<!-- --!> <img data-removed-src=http://x.example> -->",
    );
    // The second attribute of a name would count without the first one.
    check(
        "<img src=//x.example src=//y.example>",
        "<img data-removed-src=//x.example data-removed-src=//y.example>",
    );
    unchanged("<a href=\"http://x.example\" title=\"http://x.example\">a</a>");
    unchanged("<img src=\"data:image/png;base64,AAAA\"> <img src=i.png> a < b, Vec<String>\n");
    unchanged("<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>");
}

#[test]
fn a_tag_that_is_open_at_the_end_of_its_block_is_text() {
    check("<div><img alt='\n\ntext '>\n", "<div>&lt;img alt='\n\ntext '>\n");
    check("<div title='\n\ntext '>\n", "<div>&lt;div title='\n\ntext '>\n");
    check(
        "<div><style>\n\n@import '//x.example'\n",
        "<div><removed-style>\n\n@import '//x.example'\n",
    );
}

#[test]
fn text_goes_out_at_once_and_candidates_wait() {
    let (mut filter, mut out) = (RenderedText::new(Scope::Loads), String::new());
    let mut push = |piece: &str| {
        let from = out.len();
        filter.push(piece, &mut out, &mut |_, _| Verdict::Strip);
        out.get(from..).map(str::to_owned)
    };
    assert_eq!(push("Some te").as_deref(), Some("Some te"));
    assert_eq!(push("xt with `code").as_deref(), Some("xt with `code"));
    assert_eq!(push(" ![a](http://x.exa").as_deref(), Some(" "));
    assert_eq!(push("mple)").as_deref(), Some(""));
    assert_eq!(push("` and\n").as_deref(), Some("![a](http://x.example)` and\n"));
    assert_eq!(
        push("![a](http://x.example)\n").as_deref(),
        Some("![a](#link-removed:http://x.example)\n")
    );
}

#[test]
fn a_span_is_held_up_to_its_limit() {
    let long = "word ".repeat(4_000);
    let text = format!("`![a](http://x.example)\n{long}\n{long}` ![b](http://x.example)\n");
    assert_eq!(filtered(&[&text]).matches("](#link-removed:http://x.example)").count(), 2);
}

#[test]
fn a_cut_image_is_changed() {
    let (mut filter, mut out) = (RenderedText::new(Scope::Loads), String::new());
    let mut judge = |_: LoadUse, _: Result<&str, &str>| Verdict::Strip;
    filter.push("![a](http://x.exa", &mut out, &mut judge);
    filter.pause(&mut out, &mut judge);
    filter.push("mple/i.png)\n![b](//x.example)", &mut out, &mut judge);
    filter.pause(&mut out, &mut judge);
    assert_eq!(out, "![a](#link-removed:http://x.example/i.png)\n![b](#link-removed://x.example)");
}

#[test]
fn a_block_ends_the_text() {
    let (mut filter, mut out) = (RenderedText::new(Scope::Loads), String::new());
    let mut judge = |_: LoadUse, _: Result<&str, &str>| Verdict::Block;
    filter.push("a ![b](http://x.example)\nmore\n", &mut out, &mut judge);
    filter.push("more", &mut out, &mut judge);
    filter.pause(&mut out, &mut judge);
    assert!(filter.is_blocked() && !out.contains("x.example") && !out.contains("more"), "{out}");
}

#[test]
fn a_text_with_too_many_containers_has_no_code() {
    let text = format!("{}a\n\n```\n![a](http://x.example)\n```\n", "+ ".repeat(200));
    assert!(filtered(&[&text]).contains("![a](#link-removed:http://x.example)"));
}

/// Fragments whose combinations renderers read in different ways.
const FRAGMENTS: [&str; 48] = [
    "![a](http://x.example)",
    "![a][b]",
    "[b]: http://x.example",
    "<img src=http://x.example>",
    "<a title=\"",
    "\">",
    "<div>",
    "</div>",
    "<!--",
    "-->",
    "<style>",
    "</style>",
    "<pre>",
    "<?",
    "?>",
    "<source>",
    "`",
    "``",
    "```",
    "~~~",
    "\n",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "    ",
    "\t",
    "> ",
    "- ",
    "1. ",
    "2) ",
    "# ",
    "---",
    "===",
    "|",
    "| - | - |",
    "\\",
    "!",
    "[",
    "]",
    "(",
    ")",
    "text ",
    "http://ok.example/",
    "é",
    "<b",
    "![a](https://ok.example)",
    "[![a](http://x.example)][b]",
];

fn texts() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(FRAGMENTS.to_vec()), 1..24)
        .prop_map(|fragments| fragments.concat())
}

/// The number of cases, more in a full run.
fn cases() -> ProptestConfig {
    let full = std::env::var_os("TOKEN_SHIELD_FULL").is_some();
    ProptestConfig::with_cases(if full { 500_000 } else { 10_000 })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_cut_gives_the_same_output(text in texts(), seed in any::<u64>()) {
        let mut pieces = Vec::new();
        let (mut rest, mut seed) = (text.as_str(), seed);
        while !rest.is_empty() {
            let count = usize::try_from(seed % 5).unwrap_or_default() + 1;
            let end = rest.char_indices().nth(count).map_or(rest.len(), |(at, _)| at);
            let (piece, after) = rest.split_at(end);
            pieces.push(piece);
            (rest, seed) = (after, seed.rotate_left(7).wrapping_mul(0x9e37_79b9));
        }
        prop_assert_eq!(filtered(&pieces), filtered(&[&text]));
        prop_assert_eq!(without_links(&pieces), without_links(&[&text]));
    }

    #[test]
    fn a_filtered_text_loads_nothing(text in texts()) {
        let once = filtered(&[&text]);
        let (mut filter, mut loaded) = (RenderedText::new(Scope::Loads), Vec::new());
        let mut judge = |used: LoadUse, host: Result<&str, &str>| {
            if let (LoadUse::Loaded, Ok(host @ "http://x.example/")) = (used, host) {
                loaded.push(host.to_owned());
            }
            Verdict::Strip
        };
        filter.push(&once, &mut String::new(), &mut judge);
        filter.pause(&mut String::new(), &mut judge);
        prop_assert_eq!(loaded, Vec::<String>::new(), "{}", once);
    }

    #[test]
    fn a_text_without_links_has_none(text in texts()) {
        let once = without_links(&[&text]);
        let (mut filter, mut linked) = (RenderedText::new(Scope::Links), Vec::new());
        let mut judge = |_: LoadUse, host: Result<&str, &str>| {
            if let Ok(host @ "http://x.example/") = host {
                linked.push(host.to_owned());
            }
            Verdict::Strip
        };
        filter.push(&once, &mut String::new(), &mut judge);
        filter.pause(&mut String::new(), &mut judge);
        prop_assert_eq!(linked, Vec::<String>::new(), "{}", once);
    }

    #[test]
    fn a_text_with_controlled_hosts_is_not_changed(text in texts()) {
        let text = text.replace("x.example", "ok.example").replace("http:", "https:");
        let (mut filter, mut out) = (RenderedText::new(Scope::Loads), String::new());
        let mut tags = false;
        let mut judge = |_: LoadUse, host: Result<&str, &str>| {
            tags |= host.is_err();
            Verdict::Pass
        };
        filter.push(&text, &mut out, &mut judge);
        filter.pause(&mut out, &mut judge);
        prop_assert_eq!(out, text);
    }
}

/// The output of a text in pieces, where links are changed too.
fn without_links(pieces: &[&str]) -> String {
    let (mut filter, mut out) = (RenderedText::new(Scope::Links), String::new());
    let mut judge = |load_use: LoadUse, host: Result<&str, &str>| match (load_use, host) {
        (_, Ok("https://ok.example/")) => Verdict::Pass,
        (LoadUse::Linked | LoadUse::Loaded | LoadUse::Defined, Ok(_) | Err(_)) => Verdict::Strip,
    };
    for piece in pieces {
        filter.push(piece, &mut out, &mut judge);
    }
    filter.pause(&mut out, &mut judge);
    out
}

#[test]
fn links_are_changed_where_a_class_says_so() {
    for (text, expected) in [
        ("[a](http://x.example/y) b", "[a](#link-removed:x.example/y) b"),
        (
            "[a](h&#116;tp&colon;//x.example)",
            "[a](#link-removed:h&#116;tp&colon;#link-removed:x.example)",
        ),
        (
            "<http://x.example> (http://x.example/y).",
            "<#link-removed:x.example> (#link-removed:x.example/y).",
        ),
        ("[a]: http://x.example\n", "[a]: #link-removed:x.example\n"),
        ("<a href='http&#58;/x.example'>", "<a href='#link-removed:http&#58;/x.example'>"),
        ("<div>\nwww.x.example\n</div>\n", "<div>\n#link-removed:x.example\n</div>\n"),
        (
            "![a](http://x.example/y) //x.example/y",
            "![a](#link-removed:x.example/y) #link-removed:x.example/y",
        ),
        ("a ` http://x.example", "a ` #link-removed:x.example"),
    ] {
        assert_eq!(without_links(&[text]), expected);
    }
    for text in [
        "`http://x.example` [a](https://ok.example/y) https://ok.example",
        "```\nhttp://x.example\n```\n",
        "postgres://x.example/y // see a.b, 12:30, a/b\n",
    ] {
        assert_eq!(without_links(&[text]), text);
    }
}

/// The reported hosts of a text in pieces, of which nothing is changed.
fn reported(pieces: &[&str]) -> Vec<String> {
    let (mut filter, mut out, mut found) =
        (RenderedText::new(Scope::Nothing), String::new(), Vec::new());
    let mut judge = |load_use: LoadUse, host: Result<&str, &str>| {
        if load_use != LoadUse::Defined {
            let (Ok(host) | Err(host)) = host;
            found.push(format!("{load_use:?} {host}"));
        }
        Verdict::Pass
    };
    let mut length = 0;
    for piece in pieces {
        filter.push(piece, &mut out, &mut judge);
        length += piece.len();
        // Nothing waits.
        assert_eq!(out.len(), length);
    }
    filter.pause(&mut out, &mut judge);
    assert_eq!(out, pieces.concat());
    found
}

#[test]
fn what_is_only_reported_is_sent_at_once() {
    let text =
        "![a](http://x.example) [b](http://y.example)\n\n`http://z.example`\n```\n//z.example";
    let pieces: Vec<&str> = text.split_inclusive(' ').collect();
    for pieces in [vec![text], pieces] {
        let mut found = reported(&pieces);
        found.sort();
        assert_eq!(found, ["Linked http://y.example/", "Loaded http://x.example/"]);
    }
}

#[test]
fn an_address_that_was_sent_before_a_pause_is_changed_in_its_rest() {
    for (first, second) in [
        ("![a](/", "/x.example/i.png)"),
        ("![a](htt", "p:/x.example/i.png)"),
        ("![a](https://ok.example", ".x.example/i.png)"),
        ("[b]: //x.example\n\n![a][", "b]"),
    ] {
        let (mut filter, mut out) = (RenderedText::new(Scope::Loads), String::new());
        let mut judge = |_: LoadUse, host: Result<&str, &str>| match host {
            Ok("https://ok.example/") => Verdict::Pass,
            Ok(_) | Err(_) => Verdict::Strip,
        };
        filter.push(first, &mut out, &mut judge);
        filter.pause(&mut out, &mut judge);
        filter.push(second, &mut out, &mut judge);
        filter.pause(&mut out, &mut judge);
        assert_eq!(out, format!("{first}#link-removed:{second}"));
    }
}

#[test]
fn a_line_arrives_as_a_whole_where_links_are_changed() {
    let (mut filter, mut out) = (RenderedText::new(Scope::Links), String::new());
    let mut push = |piece: &str| {
        let from = out.len();
        filter.push(piece, &mut out, &mut |_, _| Verdict::Strip);
        out.get(from..).map(str::to_owned)
    };
    assert_eq!(push("a line\nand [more").as_deref(), Some("a line\n"));
    // The link is open at the end of the line.
    assert_eq!(push("\n").as_deref(), Some(""));
    let sent = push("](h&#116;tp://x.example)\n");
    assert_eq!(sent.as_deref(), Some("and [more\n](#link-removed:h&#116;tp://x.example)\n"));
}
