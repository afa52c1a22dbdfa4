"""Turns the Markdown of the repository, which Git hosts show, into that of the site's renderer.

They differ in four things. What belongs to an item of a list stands four columns in, where
CommonMark has it below the item's text. A table needs a blank line before it. A link to a folder
leads to its README. And the comments that say what a block prints (tests/house/blocks.py) become a
class, so that output looks like output.
"""

import re
from collections.abc import Container, Iterator
from posixpath import dirname, join, normpath
from typing import Final

_FENCE: Final = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+)")
_ITEM: Final = re.compile(r"^(?P<indent> *)(?P<marker>(?:[-*+]|\d+[.)]) +)(?=\S)")
_LINK: Final = re.compile(r"(?<=\]\()(?P<target>[^)#:\s]+/)(?=\))")
_PRINTS: Final = re.compile(r"^<!-- prints -->\n+```text$", re.MULTILINE)
_TABLE: Final = re.compile(r"(?<=\n)(?P<line>(?!\|)[^\n]+\n)(?=\|[^\n]*\n\| ?:?-)")
_COLUMNS: Final = 4


def adapt(page: str, *, path: str, pages: Container[str]) -> str:
    """Return a page as the site's renderer wants it.

    Args:
        page: Its Markdown.
        path: Where it lies in the repository.
        pages: The paths of all pages.
    """

    def readme(match: re.Match[str]) -> str:
        target = match["target"]
        is_page = normpath(join(dirname(path), target, "README.md")) in pages
        return f"{target}README.md" if is_page else target

    page = _TABLE.sub(r"\g<line>\n", _LINK.sub(readme, page))
    return "\n".join(_indent(_PRINTS.sub("``` { .text .output }", page)))


def _indent(page: str) -> Iterator[str]:
    """Yield the lines, those of an item four columns in for each list that it is in."""
    # where the text of each open item begins
    begins: list[int] = []
    fence = ""
    is_blank = True
    for line in page.splitlines():
        if not line.strip():
            is_blank = True
            yield ""
            continue
        column = len(line) - len(line.lstrip(" "))
        if not fence and is_blank:
            while begins and column < begins[-1]:
                begins.pop()
        item = None if fence else _ITEM.match(line)
        if item:
            while begins and column < begins[-1]:
                begins.pop()
            begins.append(item.end())
        depth = len(begins) - bool(item)
        inside = begins[depth - 1] if depth else 0
        yield " " * (_COLUMNS * depth + max(0, column - inside)) + line.lstrip(" ")
        if match := _FENCE.match(line):
            fence = "" if fence == match["fence"] else fence or match["fence"]
        is_blank = False
