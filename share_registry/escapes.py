"""Escape what came from outside for where it is shown: a terminal, a notebook, a model card.

Messages, labels, authors, file names and base models may be anybody's. They are kept as they are
and made harmless where they are shown, here and nowhere else.
"""

import json
import re
from typing import Any, Final

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
# What ends code or its line, drives a terminal, or reorders letters: a fixed list, as it is
# part of the format (spec EXP-03).
_ENDS_CODE: Final = re.compile("[`\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LAST_OF_16_BITS: Final = 0xFFFF


def printable(text: str) -> str:
    """Replace what could drive a terminal or reorder a line; line ends stay."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter == "\n" else REPLACEMENT for letter in text
    )


def one_line(text: str) -> str:
    """Return a text as `printable` does, on one line."""
    return printable(" ".join(text.splitlines()) if "\n" in text else text)


def indented(text: str, width: int) -> str:
    """Return a text as `printable` does; its lines behind the first begin with so many blanks."""
    return printable(text).replace("\n", "\n" + " " * width)


def html(text: str) -> str:
    """Return a text for the inside of an HTML element, or for a quoted attribute."""
    from html import escape

    return escape(printable(text))


def code_span(text: str) -> str:
    """Return a text as code of Markdown, in which nothing is markup (spec EXP-03)."""
    return f"`{_ENDS_CODE.sub(REPLACEMENT, text)}`"


def json_text(value: Any, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """Return JSON with what `printable` would replace, or all but ASCII, written as escapes."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter == "\n" else _escape(letter) for letter in text
    )


def _escape(letter: str) -> str:
    code = ord(letter)
    if code <= _LAST_OF_16_BITS:
        return f"\\u{code:04x}"
    return json.dumps(letter).strip('"')
