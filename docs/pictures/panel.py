"""A panel of a plot: two axes, and lines of points on them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log10

from docs.pictures.drawing import dot, path, text

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Where a panel lies on a picture, and what its edges stand for.

    Attributes:
        left, right, top, bottom: Its edges on the picture.
        x, y: The values at left and right, and at bottom and top.
        log_x, log_y: Whether the axis is logarithmic.
    """

    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]
    log_x: bool = False
    log_y: bool = False

    def across(self, value: float) -> float:
        """Return where a value of x is on the picture."""
        return self.left + (self.right - self.left) * _share(value, self.x, log=self.log_x)

    def up(self, value: float) -> float:
        """Return where a value of y is on the picture."""
        return self.bottom - (self.bottom - self.top) * _share(value, self.y, log=self.log_y)

    def axes(self, xs: Mapping[float, str], ys: Mapping[float, str], name: str) -> Iterable[str]:
        """Draw the marks of both axes, and what x is."""
        for value, words in ys.items():
            yield path(f"M {self.left} {self.up(value):.1f} H {self.right}", "grid")
            yield text(self.left - 10, self.up(value) + 5, words, "quiet", anchor="end")
        for value, words in xs.items():
            yield text(self.across(value), self.bottom + 20, words, "quiet", anchor="middle")
        middle = (self.left + self.right) / 2
        yield text(middle, self.bottom + 42, name, "quiet", anchor="middle")

    def level(self, value: float, words: str) -> Iterable[str]:
        """Draw a level that lines are compared with; its name stands beside the panel."""
        yield path(f"M {self.left} {self.up(value):.1f} H {self.right}", "line dashed")
        yield text(self.right + 16, self.up(value) + 5, words, "quiet")

    def line(self, points: Sequence[Point], number: int) -> Iterable[str]:
        """Draw points and the line through them, in the colour of a series."""
        steps = " L ".join(f"{self.across(x):.1f} {self.up(y):.1f}" for x, y in points)
        yield path(f"M {steps}", f"line thick stroke-{number}")
        for x, y in points:
            yield dot(self.across(x), self.up(y), 4, f"fill-{number}")


def legend(x: float, y: float, names: Iterable[str]) -> Iterable[str]:
    """Draw the names of the series, one below another."""
    for number, name in enumerate(names):
        row = y + 26 * number
        yield path(f"M {x} {row - 5} h 24", f"line thick stroke-{number}")
        yield dot(x + 12, row - 5, 4, f"fill-{number}")
        yield text(x + 34, row, name)


def _share(value: float, ends: tuple[float, float], *, log: bool) -> float:
    first, last = (log10(end) for end in ends) if log else ends
    return ((log10(value) if log else value) - first) / (last - first)
