"""What the pictures of the documentation are drawn with: SVG in the colours of `look/palette.py`.

The ground is opaque, so that a picture reads the same on any page; it is dark where the page, or
the reader's system, is.
"""

from collections.abc import Iterable
from html import escape
from typing import Final

from share_registry.look.palette import DARK, LIGHT, Theme

MARGIN: Final = 24
SERIES: Final = len(LIGHT.series)
_FONT: Final = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"
_MONO: Final = "ui-monospace, 'SF Mono', Consolas, 'DejaVu Sans Mono', monospace"
_TIP: Final = {
    "right": "l -9 -5 v 10 z",
    "left": "l 9 -5 v 10 z",
    "up": "l -5 9 h 10 z",
    "down": "l -5 -9 h 10 z",
}


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """Return a picture with a title for who cannot see it, on its ground."""
    ground = box(0.5, 0.5, width - 1, height - 1, "ground", rx=10)
    body = "\n  ".join([ground, *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">\n'
        f"  <title>{escape(title)}</title>\n  <style>{_style()}  </style>\n  {body}\n</svg>\n"
    )


def text(x: float, y: float, words: str, kind: str = "", *, anchor: str = "start") -> str:
    """Return words at a place; `kind` is one or several classes of the style."""
    place = f'x="{_round(x)}" y="{_round(y)}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(words)}</text>'


def box(
    x: float, y: float, width: float, height: float, kind: str = "card", *, rx: float = 6
) -> str:
    """Return a rectangle."""
    size = f'width="{_round(width)}" height="{_round(height)}"'
    return f'<rect class="{kind}" x="{_round(x)}" y="{_round(y)}" {size} rx="{_round(rx)}"/>'


def dot(x: float, y: float, radius: float, kind: str) -> str:
    """Return a circle."""
    return f'<circle class="{kind}" cx="{_round(x)}" cy="{_round(y)}" r="{_round(radius)}"/>'


def path(steps: str, kind: str = "line") -> str:
    """Return a line along the steps of a path."""
    return f'<path class="{kind}" d="{steps}"/>'


def arrow(x: float, y: float, length: float, way: str, kind: str = "") -> list[str]:
    """Return an arrow from a place: right, left, up or down."""
    sign = -1 if way in ("left", "up") else 1
    across = way in ("left", "right")
    end = (x + sign * length, y) if across else (x, y + sign * length)
    stop = end[0] - sign * 8 if across else end[1] - sign * 8
    line = f"M {_round(x)} {_round(y)} {'H' if across else 'V'} {_round(stop)}"
    tip = f"M {_round(end[0])} {_round(end[1])} {_TIP[way]}"
    return [path(line, f"line {kind}".strip()), path(tip, f"tip {kind}".strip())]


def kilobytes(size: float) -> str:
    """Return a number of bytes as it is written on a picture."""
    return f"{size / 1000:.0f} kB"


def _round(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _style() -> str:
    light = "\n".join(f"    {line}" for line in _rules(LIGHT))
    dark = "\n".join(f"      {line}" for line in _rules(DARK))
    return f"""
    text {{ font: 14px {_FONT}; }}
    .title {{ font-weight: 600; font-size: 16px; }}
    .quiet, .small {{ font-size: 13px; }}
    .code {{ font-family: {_MONO}; font-size: 13px; }}
    .shared, .band {{ opacity: .3; }}
    .bar {{ opacity: .55; }}
    .line, .before, .grid {{ fill: none; stroke-width: 1.5; }}
    .grid {{ stroke-width: 1; }}
    .dashed, .before {{ stroke-dasharray: 4 3; }}
    .thick {{ stroke-width: 2; }}
{light}
    @media (prefers-color-scheme: dark) {{
{dark}
    }}
"""


def _rules(theme: Theme) -> Iterable[str]:
    yield f"text {{ fill: {theme.ink}; }}"
    yield f".quiet {{ fill: {theme.muted}; }}"
    yield f".ground {{ fill: {theme.paper}; stroke: {theme.line}; }}"
    yield f".card {{ fill: {theme.panel}; stroke: {theme.line}; }}"
    yield f".grid {{ stroke: {theme.line}; }}"
    yield f".line {{ stroke: {theme.muted}; }}"
    yield f".tip, .bar {{ fill: {theme.muted}; }}"
    yield f".new, .shared {{ fill: {theme.accent}; }}"
    yield f".tip.live, .pill.live, .dot.live {{ fill: {theme.good}; }}"
    yield f".line.live, .before {{ stroke: {theme.good}; }}"
    yield f"text.on-live {{ fill: {theme.paper}; font-weight: 600; }}"
    yield f"text.on-before {{ fill: {theme.good}; }}"
    for number, colour in enumerate(theme.series):
        yield f".fill-{number} {{ fill: {colour}; }}"
        yield f".line.stroke-{number} {{ stroke: {colour}; }}"
