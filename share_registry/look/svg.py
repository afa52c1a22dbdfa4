"""Drawings as inline SVG: text without a library, a script or a style.

Every text is escaped here. Looks are classes of the stylesheet, so that a drawing follows the theme
and a page may forbid inline styles. A drawing is as many CSS pixels wide as it says, and its text
12 of them high whatever the window: what is wider than a phone is put into a box that scrolls.
"""

from collections.abc import Callable
from typing import Final
from unicodedata import east_asian_width

from share_registry.escapes import html, one_line

# The address of what a reference names; None where it has none
Link = Callable[[str], str | None]

# Of a letter of the stylesheet's 12 pixels, on average, and of one that is as wide as high
_LETTER: Final = 6.7
_WIDE_LETTER: Final = 12.0
_ELLIPSIS: Final = "…"


def drawing(
    look: str,
    *parts: str,
    title: str,
    description: str,
    width: float,
    height: float,
    linked: bool = False,
) -> str:
    """Return a drawing that a screen reader speaks of as one picture.

    Args:
        look: Its class beside `drawing`.
        parts: Elements, in the order in which they are painted.
        title: Its name, in a few words.
        description: What there is to see, in sentences.
        width, height: In CSS pixels.
        linked: Whether it has links, which a picture would hide: it is a group then.
    """
    return element(
        "svg",
        element("title", one_line_html(title)),
        element("desc", html(description)),
        *parts,
        class_=f"drawing {look}",
        role="group" if linked else "img",
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
    )


def element(name: str, *parts: str, **attributes: str | float | None) -> str:
    """Return an element of parts that are escaped already; an attribute that is None is left out.

    An underscore at the end of a name is dropped: `class_`.
    """
    written = "".join(
        f' {key.rstrip("_")}="{html(value) if isinstance(value, str) else number(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{''.join(parts)}</{name}>" if parts else f"<{name}{written}/>"


def label(x: float, y: float, text: str, look: str = "", *, tip: str = "") -> str:
    """Return a text whose letters stand upon y, with a tip that says more."""
    more = [element("title", one_line_html(tip))] if tip else []
    return element("text", *more, one_line_html(text), class_=look or None, x=x, y=y)


def path(look: str, *steps: str | float) -> str:
    """Return a line: `path("grid", "M", 0, 10, "H", 100)`."""
    drawn = " ".join(step if isinstance(step, str) else number(step) for step in steps)
    return element("path", class_=look, d=drawn)


def tipped(tip: str, *parts: str, look: str | None = None) -> str:
    """Return parts that say more where a pointer rests on them."""
    return element("g", element("title", one_line_html(tip)), *parts, class_=look)


def linked_to(address: str | None, *parts: str) -> str:
    """Return parts as a link, or as they are where there is no address."""
    return "".join(parts) if address is None else element("a", *parts, href=address)


def number(value: float) -> str:
    """Return a coordinate with at most two decimals."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def width_of(text: str) -> float:
    """Return about how wide a text is; rather more than it is."""
    return sum(
        _WIDE_LETTER if east_asian_width(letter) in "WF" else _LETTER for letter in one_line(text)
    )


def ending(text: str, width: float) -> str:
    """Return a text that fits a width: of a longer one its end, which tells names apart."""
    if width_of(text) <= width:
        return text
    kept = one_line(text)
    while kept and width_of(_ELLIPSIS + kept) > width:
        kept = kept[1:]
    return _ELLIPSIS + kept


def one_line_html(text: str) -> str:
    """Return a text for the inside of an element, on one line."""
    return html(one_line(text))
