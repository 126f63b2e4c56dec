//! Names that are cut, and what stands at the joints of lines, lists and tags.

use super::*;

#[test]
fn what_stands_before_an_at_sign_is_no_host() {
    for blank in ['\u{a0}', '\u{3000}', '\0', '\u{2}'] {
        check(
            &format!("![x](https://good.example{blank}.evil.example/x.png)"),
            &format!("![x](https@{blank}.evil.example/x.png)"),
        );
    }
    for odd in ['^', '<', ']', '|', '\u{1}'] {
        marked(&format!("![x](https://{odd}§evil.example/x.png)"));
        marked(&format!("![x](http:{odd}§evil.example/x.png)"));
        marked(&format!("![x](//{odd}§evil.example/x.png)"));
        marked(&format!("![x](https://good.example{odd}§evil.example/x.png)"));
    }
    for text in [
        "see https://|§evil.example/x",
        "<https://]§evil.example/x>",
        "x <y =title=\"https://|\">§evil.example/",
        "<img src=\"https:// §evil.example/x.png\">",
        "<img src=\"https: §evil.example/x.png\">",
        "<img src=\"// §evil.example/x.png\">",
        "<img src='\\\\ §evil.example/x.png'>",
        "![x](<https://good.example §evil.example/>)",
        "[x]: <https://good.example §evil.example/>",
        "<style>x 'https://good.example §evil.example/'",
        "![x](https://good.example\\x§evil.example/x.png)",
    ] {
        marked(text);
    }
    for text in [
        "<img src='//] //evil.example @evil.example/'>",
        "<img src=\"https://^@a/ b@evil.example/\">",
        "<img src='https://good.example @a b@ c @evil.example/'>",
    ] {
        let out = filtered(&[text], true).0;
        assert!(!out.contains('@'), "{out}");
    }
    check(
        "<img src='https://good.example\n .evil.example/x.png'>",
        "<img src='https@\n .evil.example/x.png'>",
    );
    let (out, found) = filtered(&["![x](https://^&#64;evil.example/x.png)"], true);
    assert!(!out.contains("evil") && found.len() == 1, "{out}");
    for fine in [
        "see https://good.example or write to me@good.example",
        "<a href=\"https://good.example\" title=\"me@there\">me@there</a> me@there",
        "[me](https://good.example \"me@there\") and <https://good.example> me@there",
        "[me](<https://good.example> 'me@there') // see @param and https://good.example/@me",
        "<style>x { background: url(https://good.example) }\n@media print {}</style>",
    ] {
        same(fine);
    }
}

#[test]
fn what_is_left_out_of_a_name_cuts_it_for_some() {
    check("<img srcset='//good.e\nxample/x'>", "<img srcset='@\nxample/x'>");
    check("<img src='https:/&#x26;Tab;/]x'>", "<img src='https@]x'>");
    check("<a b=//`x\nws:/0", "<a b=@`x\nws@");
    same("<a href=\"\nhttps://good.example\n\">x</a>");
}

#[test]
fn symbols_that_become_letters_belong_to_a_host() {
    check("<img src=\"https://good.example.\u{339d}\u{338f}.\u{33cc}/x\">", "<img src=\"https@\">");
    check("https://good.example\u{ad}.\u{33c4}/", "https@");
    check("//3627734734/x", "@");
    check("see //evil\u{ff0e}example/x", "see @");
    for fine in [
        "(https://good.example\u{201d})",
        "\u{300c}https://good.example\u{300d}\u{ff0c}",
        "x //2 // 3",
        "\u{ab}https://good.example\u{bb}",
    ] {
        same(fine);
    }
}

#[test]
fn marks_of_quotes_stand_in_no_destination() {
    check("> ![x](\n> //evil.example/x.png)", "> ![x](\n> @)");
    check("> ![x](\n>//evil/x.png)", "> ![x](\n>@)");
    check("1. > [a]:\n   > //3627734734/x.png", "1. > [a]:\n   > @");
    check("> [x](\n> javascript:alert(1))", "> [x](\n> javascript@))");
    kind("> ![x](\n> https://evil.example/x.png)", Kind::Fetched);
}

#[test]
fn a_fence_in_a_list_hides_none_behind_it() {
    let live = "![x](https://evil.example/x.png)\n```\n";
    for front in [
        "<div>\n- a\n  ```\n\n  ```\n```\n",
        "* * *\n  ``` `x`\n  ```\n```\n",
        "text\n- \n  ``` `x`\n  ```\n```\n",
        "- a\n  ``` `x`\n  ```\n```\n",
        "$$x\n```\n$$\n",
        "---\n```\n---\n",
        "```mermaid\n",
        "~~~ {.Mermaid}\n",
    ] {
        check(
            &format!("{front}{live}"),
            &format!("{front}{}", live.replace("://evil.example/x.png", "@")),
        );
    }
    same("- a\n  ```\n  x\n  ```\n\n```js\nfetch('https://evil.example/')\n```\n");
}

#[test]
fn nothing_goes_on_across_a_joint_in_a_tag() {
    for (before, behind) in [
        ("https:", "\nevil.example/x"),
        ("https:", "@evil.example/x"),
        ("https://good.example", "@evil.example/x"),
    ] {
        let (mut scanner, mut out) = (Scanner::new(true), String::new());
        let mut judge =
            |found: &Found<'_>| if is_good(found) { Verdict::Pass } else { Verdict::Strip };
        scanner.push(&format!("<img src=\"{before}"), &mut out, &mut judge);
        scanner.pause(&mut out, &mut judge);
        scanner.push(&format!("{behind}\">"), &mut out, &mut judge);
        assert!(
            out.starts_with(&format!("<img src=\"{before} {MARK}")) && !out.contains('@'),
            "{out}"
        );
    }
}
