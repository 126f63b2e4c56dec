"""Puts many mutants into one build: each changed function chooses its body by a number.

A mutant is a changed text of a source file. Where two texts differ in the bodies of functions
alone, the function gets both bodies:

    fn port(self) -> u16 { if crate::chosen_mutant::is(7) { 1 } else { self.0 } }

The environment variable TOKEN_SHIELD_MUTANT has the number. Without it, the program is the
original. A mutant that changes other places (a constant, a type) has no such form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

VARIABLE = "TOKEN_SHIELD_MUTANT"
MODULE = f"""
#[doc(hidden)]
#[allow(missing_docs)]
pub mod chosen_mutant {{
    pub fn is(number: u32) -> bool {{
        static NUMBER: std::sync::LazyLock<Option<u32>> = std::sync::LazyLock::new(|| {{
            std::env::var("{VARIABLE}").ok()?.parse().ok()
        }});
        *NUMBER == Some(number)
    }}
}}
"""
# What can hide a brace: comments, strings, characters. A lifetime is read as such.
TOKEN = re.compile(
    r"""//[^\n]*|/\*|\b[bc]?r(?P<hashes>\#*)"|[bc]?"(?:\\.|[^"\\])*"|b?'(?:\\[^\n]+?|[^\\'\n])'"""
    r"""|\bfn\s+\w+|[{}()\[\];]""",
    re.DOTALL,
)


class OutsideOfFunctions(Exception):
    """Two texts differ in more than the bodies of functions."""


@dataclass(frozen=True)
class Body:
    """The body of an outermost function: from its `{` to after its `}`."""

    start: int
    end: int


@dataclass
class Switched:
    """A source file with several bodies for some functions."""

    text: str
    # The lines of each number's bodies, from 1.
    lines: dict[int, list[range]] = field(default_factory=dict)


def tokens(text: str) -> Iterator[re.Match[str]]:
    """The braces, brackets, semicolons and heads of functions that are code."""
    position = 0
    while (found := TOKEN.search(text, position)) is not None:
        position = found.end()
        token = found.group()
        if token == "/*":
            position = after_comment(text, position)
        elif found["hashes"] is not None:
            position = text.index('"' + found["hashes"], position) + 1 + len(found["hashes"])
        elif token[0] in "{}()[];f":
            yield found


def after_comment(text: str, position: int) -> int:
    """The position after a block comment, in which others can be nested."""
    depth = 1
    for found in re.compile(r"/\*|\*/").finditer(text, position):
        depth += 1 if found.group() == "/*" else -1
        if depth == 0:
            return found.end()
    raise ValueError("a comment has no end")


def bodies(text: str) -> list[Body]:
    """The bodies of all functions that are not inside of a function."""
    found = []
    # The depth of braces at a function's body, and of brackets in its head.
    head = False
    brackets = 0
    start: int | None = None
    depth = 0
    for token in tokens(text):
        kind = token.group()[0]
        if kind == "{":
            if head and start is None and brackets == 0:
                head, start, depth = False, token.start(), 0
            depth += 1
        elif kind == "}":
            depth -= 1
            if start is not None and depth == 0:
                found.append(Body(start, token.end()))
                start = None
        elif start is not None:
            continue
        elif kind == "f":
            head, brackets = True, 0
        elif kind in "([":
            brackets += 1
        elif kind in ")]":
            brackets -= 1
        elif kind == ";" and brackets == 0:
            head = False
    return found


def outside(text: str, inside: list[Body]) -> list[str]:
    """The parts of a text between the bodies."""
    ends = [0, *(body.end for body in inside)]
    starts = [*(body.start for body in inside), len(text)]
    return [text[end:start] for end, start in zip(ends, starts, strict=True)]


def changes(original: str, mutant: str) -> dict[int, str]:
    """The bodies that a mutant changes, by their place among the bodies of the text."""
    before, after = bodies(original), bodies(mutant)
    if outside(original, before) != outside(mutant, after):
        raise OutsideOfFunctions
    pairs = zip(before, after, strict=True)
    texts = [
        (original[one.start : one.end], mutant[other.start : other.end]) for one, other in pairs
    ]
    return {place: new for place, (old, new) in enumerate(texts) if old != new}


def switched(original: str, mutants: dict[int, str]) -> Switched:
    """The text that has the bodies of all mutants."""
    changed = {number: changes(original, text) for number, text in mutants.items()}
    inside = bodies(original)
    between = outside(original, inside)
    result = Switched("")
    for place, body in enumerate(inside):
        own = original[body.start : body.end]
        variants = {number: new[place] for number, new in changed.items() if place in new}
        if not variants:
            result.text += between[place] + own
            continue
        # A constant function cannot read the number.
        result.text += re.sub(r"\bconst ((?:unsafe )?fn \w+[^}]*)\Z", r"\1", between[place]) + "{ "
        for number, variant in variants.items():
            first = result.text.count("\n") + 1
            result.text += f"if crate::chosen_mutant::is({number}) {variant} else "
            last = result.text.count("\n") + 1
            result.lines.setdefault(number, []).append(range(first, last + 1))
        result.text += own + " }"
    result.text += between[-1]
    return result
