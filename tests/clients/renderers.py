"""Shows what renderers make of a text, and where the result would lead.

There are three Markdown renderers, and an HTML reader for their output.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import ada_url
import html5lib
import markdown_it
import mistune
import tinycss2

BASES = ["https://chat.example/room/", "http://chat.example/room/"]
MARKED = Path(__file__).parents[2] / "target/node/node_modules/marked"
FETCHED = {
    "src",
    "poster",
    "background",
    "data",
    "href",
    "xlink:href",
    "action",
    "formaction",
    "cite",
    "longdesc",
    "code",
    "codebase",
    "classid",
    "usemap",
    "manifest",
    "icon",
    "lowsrc",
    "dynsrc",
    "profile",
    "archive",
    "imagesrcset",
}
# Not mailto: renderers turn bare mail addresses into links, which docs/EGRESS.md leaves to them.
OPAQUE = {
    "javascript:",
    "vbscript:",
    "data:",
    "blob:",
    "filesystem:",
    "jar:",
    "view-source:",
    "feed:",
}
LISTS = {"srcset", "imagesrcset", "ping", "archive"}


@cache
def _python_renderers() -> list[Any]:
    strict = markdown_it.MarkdownIt("commonmark", {"html": True})
    rich = markdown_it.MarkdownIt("gfm-like", {"html": True, "linkify": True})
    # It also turns bare names into links, which docs/EGRESS.md leaves to the renderer.
    rich.linkify.set({"fuzzy_link": False, "fuzzy_email": False})
    plugins = ["url", "table", "footnotes", "strikethrough", "task_lists", "def_list", "math"]
    return [strict.render, rich.render, mistune.create_markdown(escape=False, plugins=plugins)]


def rendered(texts: list[str]) -> Iterator[tuple[str, str]]:
    """Each renderer's output for each text."""
    program = (
        f"const {{ marked }} = require({json.dumps(str(MARKED))});"
        "const texts = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        "process.stdout.write(JSON.stringify(texts.map((text) => marked.parse(text))));"
    )
    ran = subprocess.run(
        ["node", "-e", program],
        input=json.dumps(texts),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    for text, by_marked in zip(texts, json.loads(ran.stdout), strict=True):
        yield from ((text, render(text)) for render in _python_renderers())
        yield text, by_marked


def leads(html: str) -> Iterator[str]:
    """The URLs that a page would make its reader fetch or link to."""
    for element in html5lib.parseFragment(html, namespaceHTMLElements=False).iter():
        if not isinstance(element.tag, str):
            continue
        if element.tag == "style":
            yield from _of_style("".join(element.itertext()))
        for name, value in element.attrib.items():
            name = name if isinstance(name, str) else ":".join(filter(None, name))
            yield from _of_attribute(re.sub(r"^\{.*\}", "xlink:", name).lower(), value)


def _of_attribute(name: str, value: str) -> Iterator[str]:
    if name in LISTS:
        yield from (word for word in re.split(r"[\s,]+", value) if word)
    elif name in FETCHED:
        yield value
    elif name == "style":
        yield from _of_style(value)
    elif name == "srcdoc":
        yield from leads(value)
    elif name == "content" and (
        url := re.search(r"url\s*=\s*['\"]?([^'\"]*)", value, re.IGNORECASE)
    ):
        yield url[1]


def _of_style(text: str) -> Iterator[str]:
    yield from _of_tokens(tinycss2.parse_component_value_list(text))


def _of_tokens(tokens: Iterable[Any]) -> Iterator[str]:
    for token in tokens:
        if token.type in ("url", "string"):
            yield token.value
        yield from _of_tokens(
            getattr(token, "content", None) or getattr(token, "arguments", None) or []
        )


def elsewhere(url: str, allowed: str) -> str | None:
    """A URL's destination, as browsers read it, unless it is the page's host or allowed."""
    for base in BASES:
        try:
            read = ada_url.URL(url, base=base)
        except ValueError:
            continue
        own = read.protocol in ("http:", "https:") and read.hostname == "chat.example"
        picture = read.protocol == "data:" and read.pathname.startswith("image/png")
        # A URL without a scheme takes the scheme of the page.
        seen = url.lstrip().translate({ord(left_out): None for left_out in "\t\r\n"})
        schemeless = seen[:2].replace("\\", "/") == "//" and read.host == ada_url.URL(allowed).host
        leads_somewhere = (
            "://" in read.href and (read.host or read.protocol == "file:")
        ) or read.protocol in OPAQUE
        if (
            not own
            and not picture
            and not schemeless
            and leads_somewhere
            and read.origin != allowed
        ):
            return str(read.href)[:300]
    return None
