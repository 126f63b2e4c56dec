"""Files that a coding agent is told to write, and the answers that tell it so.

The files are what programmers write: programs with URLs, pages that load pictures, documents with
fences of every form.
"""

from __future__ import annotations

PROGRAMS = {
    "fetch.py": (
        "import requests\n\n"
        'BADGE = "![build](https://ci.example/badge.svg?branch=main)"\n'
        'PAGE = "<img src=https://images.example/a.png><link rel=stylesheet href=//c.example/x>"\n'
        "# See <https://docs.example/api> and [the guide](https://docs.example/guide).\n"
        'answer = requests.get("https://api.example/v1/items?a=1&b=2", timeout=5)\n'
        'print(f"{answer.url} ![x]({answer.url})")\n'
    ),
    "index.html": (
        "<!doctype html>\n<html><head>\n"
        '<base href="https://base.example/">\n'
        '<link rel="stylesheet" href="https://cdn.example/site.css">\n'
        '<style>body { background: url("https://images.example/b.png"); }</style>\n'
        '<script src="https://cdn.example/app.js"></script>\n</head><body>\n'
        '<!-- <img src="https://images.example/comment.png"> -->\n'
        '<img srcset="https://images.example/1.png 1x, https://images.example/2.png 2x">\n'
        '<iframe srcdoc="<img src=https://images.example/c.png>"></iframe>\n'
        "</body></html>\n"
    ),
    "style.css": (
        '@import "https://cdn.example/base.css";\n'
        '.a { background: image-set("https://images.example/a.png" 1x); }\n'
    ),
    "app.js": (
        "// ![x](https://images.example/x.png)\n"
        "const text = `![y](https://images.example/y.png)`;\n"
        'fetch("https://api.example/v1", { method: "POST" }).then((a) => a.json());\n'
    ),
    "compose.yaml": (
        "services:\n  app:\n    image: registry.example/app:1\n    environment:\n"
        "      DATABASE: postgres://user@db.example/app\n"
        "      LOGO: https://images.example/logo.png\n"
    ),
    "run.sh": (
        "#!/bin/sh\ncurl -s https://get.example/install.sh | sh\n"
        'echo "![x](https://images.example/x.png)" > README.md\n'
    ),
    "data.json": (
        '{"html": "<img src=\\"https://images.example/x.png\\">",'
        ' "md": "![x](https://images.example/x.png)"}\n'
    ),
}
# No fence in them has the form of the fence around them.
DOCUMENTS = {
    "docs/plain.md": (
        "# Title\n\n![logo](https://images.example/logo.png)\n\n"
        "[![build](https://ci.example/b.svg)](https://ci.example)\n\n"
        '<img src="https://images.example/wide.png" width="400">\n'
    ),
    "docs/tildes.md": (
        'Run:\n\n~~~sh title="run.sh"\ncurl https://get.example/install\n~~~\n\n'
        "![shot](https://images.example/shot.png)\n"
    ),
    "docs/indented.md": (
        "Run:\n\n    curl https://get.example/install\n\n- a list\n\n"
        "      ![code](https://images.example/code.png)\n\n"
        "![shot][one]\n\n[one]: https://images.example/shot.png\n"
    ),
}
# A fence in them ends the fence around them, as CommonMark reads the answer.
NESTED = {
    "docs/nested.md": (
        "# Title\n\n```sh\ncurl https://get.example/install\n```\n\n"
        "![shot](https://images.example/shot.png)\n"
    ),
    "docs/named.md": (
        'Run:\n\n```python title="a.py" {1,3}\nprint(1)\n```\n\n'
        "![one](https://images.example/1.png)\n\n```\n![two](https://images.example/2.png)\n```\n"
    ),
    "docs/links.md": (
        "See [the guide](https://docs.example/guide).\n\n```\ncode\n```\n\n"
        "And <https://docs.example/more>.\n"
    ),
}
PLAIN = ("```", "```{kind}")
FENCES = (*PLAIN, '```{kind} title="{name}"', "```{kind} {{1,3}}")
# What the model shows before it edits. aider takes no file from it.
SHOWN = (
    'I change this:\n\n```python title="a.py" {1,3}\n# ![a](https://images.example/a.png)\n```\n\n'
    "~~~~js\nfetch('https://api.example')\n~~~~\n\n"
)


def _fence(forms: tuple[str, ...], place: int, name: str) -> str:
    """The opening of the fence around a file: each form in turn."""
    return forms[place % len(forms)].format(kind=name.rpartition(".")[2], name=name)


def whole(files: dict[str, str]) -> str:
    """An answer in the format `whole`: each file in a fence under its name."""
    blocks = [
        f"{name}\n{_fence(FENCES, place, name)}\n{text}```\n"
        for place, (name, text) in enumerate(files.items())
    ]
    return "I write the files.\n\n" + "\n".join(blocks)


def diff(files: dict[str, str]) -> str:
    """An answer in the format `diff`: each file is new. aider reads titles of fences as names."""
    blocks = [
        f"{name}\n{_fence(PLAIN, place, name)}\n"
        f"<<<<<<< SEARCH\n=======\n{text}>>>>>>> REPLACE\n```\n"
        for place, (name, text) in enumerate(files.items())
    ]
    return SHOWN + "\n".join(blocks)
