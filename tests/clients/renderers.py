"""Shows what renderers make of a text, and what a browser would load of the result.

`YARDSTICKS` follow CommonMark or GFM. `OTHERS` have rules of their own.
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
import cmarkgfm
import html5lib
import mistune
import tinycss2
from cmarkgfm.cmark import Options

BASES = ["https://chat.example/room/", "http://chat.example/room/"]
NODE = Path(__file__).parents[2] / "target/node/node_modules"
PROGRAM = """
const commonmark = require('commonmark');
const MarkdownIt = require('markdown-it');
const { marked } = require('marked');
const strict = new MarkdownIt('commonmark', { html: true });
const rich = new MarkdownIt({ html: true, linkify: true });
const plain = new MarkdownIt({ html: false, linkify: true });
const reader = new commonmark.Parser();
const writer = new commonmark.HtmlRenderer();
const texts = JSON.parse(require('fs').readFileSync(0, 'utf8'));
process.stdout.write(JSON.stringify(texts.map((text) => ({
  'commonmark': writer.render(reader.parse(text)),
  'markdown-it commonmark': strict.render(text),
  'markdown-it': rich.render(text),
  'markdown-it without HTML': plain.render(text),
  'marked': marked.parse(text),
}))));
"""
EXTENSIONS = ["table", "strikethrough", "autolink", "tasklist"]
YARDSTICKS = (
    "commonmark",
    "markdown-it commonmark",
    "markdown-it",
    "markdown-it without HTML",
    "cmark-gfm",
    "cmark-gfm without HTML",
)
OTHERS = ("marked", "mistune")
# Attributes that load something, whatever their element.
LOADING = {
    "src",
    "poster",
    "background",
    "data",
    "code",
    "codebase",
    "classid",
    "manifest",
    "icon",
    "lowsrc",
    "dynsrc",
    "archive",
}
# The same, except in elements that are opened by a click.
LINKING = {"href", "xlink:href"}
CLICKED = {"a", "area"}
FRAMES = {"iframe", "frame", "embed", "object"}
STYLES = {
    "style",
    "clip-path",
    "cursor",
    "fill",
    "filter",
    "marker",
    "marker-end",
    "marker-mid",
    "marker-start",
    "mask",
    "stroke",
}
LISTS = {"srcset", "imagesrcset", "archive"}


@cache
def _mistune() -> Any:
    plugins = ["url", "table", "footnotes", "strikethrough", "task_lists", "def_list", "math"]
    return mistune.create_markdown(escape=False, plugins=plugins)


def rendered(texts: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each renderer's output for each text, by the renderer's name."""
    ran = subprocess.run(
        ["node", "-e", PROGRAM],
        input=json.dumps(texts),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
        cwd=NODE,
    )
    for text, outputs in zip(texts, json.loads(ran.stdout), strict=True):
        gfm = cmarkgfm.markdown_to_html_with_extensions
        outputs["cmark-gfm"] = gfm(
            text, options=Options.CMARK_OPT_UNSAFE, extensions=EXTENSIONS
        )
        outputs["cmark-gfm without HTML"] = gfm(text, extensions=EXTENSIONS)
        outputs["mistune"] = _mistune()(text)
        yield text, outputs


def elements(html: str) -> Iterator[Any]:
    """The elements that a browser makes of a page."""
    for element in html5lib.parseFragment(html, namespaceHTMLElements=False).iter():
        if isinstance(element.tag, str):
            yield element


def code(html: str) -> list[str]:
    """The contents of code in a page."""
    return ["".join(found.itertext()) for found in elements(html) if found.tag == "code"]


def links(html: str) -> list[str]:
    """The addresses of links in a page."""
    found = (element.attrib.get("href") for element in elements(html) if element.tag == "a")
    return [href for href in found if href]


def images(html: str) -> list[str]:
    """The addresses of images in a page."""
    found = (element.attrib.get("src") for element in elements(html) if element.tag == "img")
    return [src for src in found if src]


def loads(html: str) -> Iterator[str]:
    """The URLs that a page makes its reader load without a click."""
    for element in elements(html):
        tag = element.tag.rpartition("}")[2].lower()
        if tag == "style":
            yield from _of_style("".join(element.itertext()))
        for name, value in element.attrib.items():
            name = name if isinstance(name, str) else ":".join(filter(None, name))
            yield from _of_attribute(tag, re.sub(r"^\{.*\}", "xlink:", name).lower(), value)


def _of_attribute(tag: str, name: str, value: str) -> Iterator[str]:
    if name.startswith("data-"):
        return
    if name in LISTS:
        yield from (word for word in re.split(r"[\s,]+", value) if word)
    elif name in LOADING or (name in LINKING and tag not in CLICKED):
        is_data = value.strip().lower().startswith("data:")
        if not is_data:
            yield value
        elif tag in FRAMES:
            yield "https://data.invalid/"
    elif name == "srcdoc":
        yield from loads(value)
    elif name == "content" and (
        url := re.search(r"url\s*=\s*['\"]?([^'\"]*)", value, re.IGNORECASE)
    ):
        yield url[1]
    elif name in STYLES:
        yield from _of_style(value)


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
        # A URL without a scheme takes the scheme of the page.
        seen = url.lstrip().translate({ord(left_out): None for left_out in "\t\r\n"})
        schemeless = seen[:2].replace("\\", "/") == "//" and read.host == ada_url.URL(allowed).host
        connects = read.protocol in ("http:", "https:", "ws:", "wss:", "ftp:", "file:")
        if connects and not own and not schemeless and read.origin != allowed:
            return str(read.href)[:300]
    return None


def loaded_elsewhere(html: str, allowed: str) -> list[str]:
    """The destinations that a page loads from, except its own host and the allowed one."""
    return [found for url in loads(html) if (found := elsewhere(url, allowed))]
