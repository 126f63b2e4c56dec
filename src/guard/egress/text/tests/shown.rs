//! What some reader of Markdown or HTML showed when it was tried.

use super::*;

/// A text, and what comes out, with `@` for the mark.
const SHOWN: &[(&str, &str)] = &[
    ("mailto:[x](https://good.example\n.evil.example/x)", "mailto@](https@\n.evil.example/x)"),
    ("mailto:[x](java\nscript:alert(1))", "mailto@](java\nscript@))"),
    (
        "<style>a{b:url('//<img src=www.//evil.example: @evil.example/x')}",
        "<style>a{b:url('//<img src=www.@ @')}",
    ),
    ("a <JavaScript:alert(1)> b", "a <JavaScript@)> b"),
    ("<search-ms:query=x> <wss:evil.com> <ftp:evil.com>", "<search-ms@> <wss@> <ftp@>"),
    (
        "<img alt=\"Home -> Settings\"\n\nsrc=\"//evil/x\">",
        "<img alt=\"Home -> Settings\"\n\nsrc=\"@\">",
    ),
    (
        "<a title=\"\n> x\"\n\nhref=\"javascript:alert(1)\">",
        "<a title=\"\n> x\"\n\nhref=\"javascript@)\">",
    ),
    (
        "<iframe title=\"a\nb\" name=\"x>y\"\n\nsrc=/\\evil.com/x>",
        "<iframe title=\"a\nb\" name=\"x>y\"\n\nsrc=@>",
    ),
    ("> <iframe\n> a\n\n> src=/\\evil.com/x></iframe>", "> <iframe\n> a\n\n> src=@></iframe>"),
    ("<table><thead\n\nbackground=/\\evil.com/x>", "<table><thead\n\nbackground=@>"),
    (
        "[x](supercalifragilisticexpialidocious\nwww.evil.com/x",
        "[x](supercalifragilisticexpialidocious\nwww@",
    ),
    (
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\0www.evil.com/x",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\0www@",
    ),
    (
        "<a ping='https://good.example/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nhttps:/evil.com/x'>",
        "<a ping='https://good.example/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nhttps@'>",
    ),
    ("![x](\\\n/evil.com/x)", "![x](\n@)"),
    ("![x](<\\\n/evil.com/x>)", "![x](<\n@>)"),
    ("<\u{2}img src=/\\evil.com/x>", "<\u{2}img src=@>"),
    ("```\na\n``\u{2}`\n![x](https://evil.com/x)\n```\n", "```\na\n``\u{2}`\n![x](https@)\n```\n"),
    ("# h { a:b style=b:image-set('//evil/x' 1x) }", "# h { a:b style=b:image-set('@' 1x) }"),
    ("![x](/\u{2}/evil.example/x)", "![x](@)"),
    ("![x](https://good.example\u{2}.evil.example/x)", "![x](https@\u{2}.evil.example/x)"),
    ("[x](java\u{2}script:alert(1))", "[x](java\u{2}script@))"),
    ("![x](< https://good.example\n.evil.example/x>)", "![x](< https@\n.evil.example/x>)"),
    ("[x](< java\nscript:alert(1)>)", "[x](< java\nscript@)>)"),
    ("~~//evil.example/x~~", "~~@"),
    ("__//evil.example/x__", "__@"),
    ("[x](search\\-ms:query=a&crumb=location:%5C%5Cevil.example%5Cs)", "[x](search\\-ms@)"),
    (
        "<p style='b:url(https://good.example\\xevil.example/x)'>a</p>",
        "<p style='b:url(https@\\xevil.example/x)'>a</p>",
    ),
    (
        "```a,b\nx\n```\n\ny\n\n```\n![x](https://evil.example/x)\n",
        "```a,b\nx\n```\n\ny\n\n```\n![x](https@)\n",
    ),
    ("![x](y){src=/\\evil.example/x}", "![x](y){src=@}"),
    ("![x](y){src=https://links.example/x}", "![x](y){src=https@}"),
    ("<img <b\n\nsrc=/\\evil.example/x>", "<img <b\n\nsrc=@>"),
    ("<table <b\n\nbackground=/\\evil.example/x>", "<table <b\n\nbackground=@>"),
    ("<https://good.example @evil.example/x>", "<https://good.example @>"),
    (
        "```\n```\nx\n```\n![x](https://evil.example/x)\n```\n",
        "```\n```\nx\n```\n![x](https@)\n```\n",
    ),
    (
        "```\na\n````\n\nb\n\n```\n\n![x](https://evil.example/x)\n\n```\n",
        "```\na\n````\n\nb\n\n```\n\n![x](https@)\n\n```\n",
    ),
    (
        "```a,b\nx\n```\n\ny\n\n```\n\n![x](https://evil.example/x)\n\n```\n\nc\n\n```\n",
        "```a,b\nx\n```\n\ny\n\n```\n\n![x](https@)\n\n```\n\nc\n\n```\n",
    ),
    ("](< https://good.example>@evil.example/x", "](< https://good.example>@"),
    ("[a]:< https://good.example>@evil.example/x", "[a]:< https://good.example>@"),
    ("https://good.example\u{c}@evil.example/x", "https://good.example\u{c}@"),
    ("![x](https://good.example\u{3000}.evil.example/x)", "![x](https@\u{3000}.evil.example/x)"),
    ("//evil\0.com/x", "@\0.com/x"),
    ("www.good.example\u{a0}.evil.example/x", "www@\u{a0}.evil.example/x"),
    (
        "<style>a{background:url('https://good.example\\40 evil.example/x')}</style>",
        "<style>a{background:url('https@@ evil.example/x')}</style>",
    ),
    ("<img a=b\\> src=/\\evil.example/x>", "<img a=b\\> src=@>"),
    ("<img a ]]> src=//evil/x>", "<img a ]]> src=@>"),
    ("<i <image a='>' --> src=/\\evil.example/x>", "<i <image a='>' --> src=@>"),
    ("![x](https://good.example&#10;\n.evil.example/x)", "![x](https@&#10;\n.evil.example/x)"),
    ("![x](y){#i .c src=/\\evil.example/x}", "![x](y){#i .c src=@}"),
    (
        "a | b\n--|--\nc {background=/\\evil.example/x} | d\n",
        "a | b\n--|--\nc {background=@} | d\n",
    ),
    ("<https://good.example\n@evil.example/x>", "<https://good.example\n@>"),
    ("<table </b\n\nbackground=//intranet/x>\n", "<table </b\n\nbackground=@>\n"),
    ("[x](view\\-source:file)", "[x](view\\-source@)"),
    ("[x](ms\\-word:ofe%7Cu%7Chttps:%5C%5Cevil.example)", "[x](ms\\-word@)"),
    ("<iframe a='\n\n' > src=/\\evil.example/x>", "<iframe a='\n\n' > src=@>"),
    ("<iframe a='\n\n' ?> src=/\\evil.example/x>", "<iframe a='\n\n' ?> src=@>"),
    (
        "<link a='\n\n' > rel=stylesheet href=/\\evil.example/x>",
        "<link a='\n\n' > rel=stylesheet href=@>",
    ),
    ("<table a='\n\n' \\> background=//intranet/x>", "<table a='\n\n' \\> background=@>"),
    (
        "a <img src=\"https://good.example\n  .evil.example/x\">",
        "a <img src=\"https@\n  .evil.example/x\">",
    ),
    ("> a <img src=\"/\n> /evil.example/x\">", "> a <img src=\"\n@\">"),
    ("> a <a href=\"java\n> script:alert(1)\">x</a>", "> a <a href=\"java\n> script@)\">x</a>"),
    (
        "- a <img src=\"https://good.example\n  .evil.example/x\">",
        "- a <img src=\"https@\n  .evil.example/x\">",
    ),
    ("![)[](https://links.example/x)", "![)[](https@)"),
    ("> a <img\n> src=/\\evil.example/x>", "> a <img\n> src=@>"),
    ("> a <a\n> href=javascript:alert(1)>x</a>", "> a <a\n> href=javascript@)>x</a>"),
    ("> a <img\n> src=\"https://links.example/x\">", "> a <img\n> src=\"https@\">"),
    ("> <p style=\"b:url(https\\\n> :/evil.example/x)\">", "> <p style=\"b:url(https\n@)\">"),
    ("> a <img src=\"/&#10;\n> /evil.example/x\">", "> a <img src=\"@\n> /evil.example/x\">"),
    ("a <img srcset=\"a,\n  /\\evil.example/x\">", "a <img srcset=\"a,\n  @\">"),
    ("<table><tr><td a='\n\n'> background=//intranet/x>", "<table><tr><td a='\n\n'> background=@>"),
    ("[^1]\n\n[^1]: a <img src=\"/\n    /evil.example/x\">", "[^1]\n\n[^1]: a <img src=\"\n@\">"),
    ("t\n: a <img src=\"/\n  /evil.example/x\">", "t\n: a <img src=\"\n@\">"),
    ("> ![x](https://good.example\n> .evil.example/x)", "> ![x](https@\n> .evil.example/x)"),
    ("> <iframe a='\n' > src=/\\evil.example/x>", "> <iframe a='\n' > src=@>"),
    ("- <iframe a='\n' > src=/\\evil.example/x>", "- <iframe a='\n' > src=@>"),
];

#[test]
fn what_some_reader_showed() {
    for (text, expect) in SHOWN {
        check(text, expect);
    }
}

#[test]
fn what_an_image_leads_to_is_fetched() {
    kind("!\u{2}[x](https://links.example/x)", Kind::Fetched);
    kind("<img alt=\"->\"\n\nsrc=https://links.example/x>", Kind::Either);
}

#[test]
fn what_leads_nowhere_where_it_stands() {
    for text in [
        "Use `for(i=0;i<n;i++) //count` here.",
        "$$\n\\begin{aligned}\na &<b \\\\\nc &= d\n\\end{aligned}\n$$",
        "\\[ x<y \\\\[4pt] z>1 \\]",
        "For `Vec<T` write `\\\\n`",
        "`{ path=\"C:\\dev\\app\" }` and $\\sqrt[3]{x=\\alpha}$",
        "the `mailto:` scheme, and \"xmpp:\"",
        "<!-- a -->\n\na <b -> c //x\n\n<img\n  src=\"https://good.example/\"\n  \
            alt=\"a\"\n>\n\n// done",
        "> a quote\n> goes on (see https://good.example)\n> and ends",
    ] {
        same(text);
    }
}

#[test]
fn no_text_is_held_back_without_end() {
    for held in ["\t", "\n", "&Tab;"] {
        let (mut scanner, mut out) = (Scanner::new(true), String::new());
        scanner.push("<a b=\\", &mut out, &mut |_| Verdict::Strip);
        for _ in 0..10_000 {
            scanner.push(held, &mut out, &mut |_| Verdict::Strip);
            assert!(scanner.held.len() <= 2 * AUTHORITY_MAX);
        }
    }
}
