"""The colours of everything that is looked at: pages, drawings, notebooks and plots.

One palette in two themes. Text has at least 4.5 times the luminance of what it stands on, or the
inverse (WCAG 2.2, 1.4.3), marks 3 times (1.4.11), on `paper` and on `panel`. Series, and the
colours of states, stay apart for colour-blind eyes; the scale goes by lightness, away from the
paper, so that it reads the same in print. Tests compute all of this.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """The colours of one theme, each as `#rrggbb`.

    Attributes:
        paper: The ground of a page.
        panel: The ground of what stands out on it: heads of tables, code.
        ink: Text.
        muted: Text of less weight, axes.
        line: Rules and borders that nothing depends on.
        accent: Links, what is selected, the one line of a drawing.
        good, warn, bad: States; a word or a shape says the same.
        series: Things of one kind that are told apart, such as the aliases of a task.
        scale: From little to much, in nine steps.
        over: What is legible on each step of the scale.
    """

    paper: str
    panel: str
    ink: str
    muted: str
    line: str
    accent: str
    good: str
    warn: str
    bad: str
    series: tuple[str, ...]
    scale: tuple[str, ...]
    over: tuple[str, ...]


_BLACK, _WHITE = "#000000", "#ffffff"

LIGHT: Final = Theme(
    paper="#ffffff",
    panel="#f6f7f9",
    ink="#1b2027",
    muted="#596270",
    line="#d5dae1",
    accent="#0062d9",
    good="#087958",
    warn="#875700",
    bad="#d52250",
    series=("#0072d3", "#d45a07", "#137259", "#8a3fa0", "#79865c"),
    scale=(
        *("#f6f9c0", "#c1e6a0", "#7fd495", "#20be99", "#049e9b"),
        *("#037f93", "#006288", "#25446b", "#272c44"),
    ),
    over=(_BLACK,) * 5 + (_WHITE,) * 4,
)
DARK: Final = Theme(
    paper="#14171c",
    panel="#1b1f26",
    ink="#e8ebef",
    muted="#a3acb9",
    line="#3a414c",
    accent="#9ca9f3",
    good="#43c9a0",
    warn="#f0c050",
    bad="#ff7a61",
    series=("#71abf8", "#ff9a57", "#23d9ab", "#c88bc2", "#e9d565"),
    scale=(
        *("#1d2249", "#0b3c6f", "#025a7b", "#017888", "#009791"),
        *("#26b68e", "#85cb8e", "#c4dda0", "#f3f1c7"),
    ),
    over=(_WHITE,) * 4 + (_BLACK,) * 5,
)
STEPS: Final = len(LIGHT.scale)
SERIES: Final = len(LIGHT.series)


def declarations(theme: Theme, names: Container[str] | None = None) -> str:
    """Return a theme, or some of it, as declarations: `--paper: #ffffff; --panel: #f6f7f9; ...`."""
    return " ".join(
        f"--{name}: {colour};"
        for name, colour in _variables(theme)
        if names is None or name in names
    )


def custom_properties() -> str:
    """Return the variables of both themes for a page.

    The theme is the reader's, unless `data-theme` of the root element says "light" or "dark".
    """
    dark = f"color-scheme: dark; {declarations(DARK)}"
    return "\n".join(
        [
            f":root {{ color-scheme: light; {declarations(LIGHT)} }}",
            "@media (prefers-color-scheme: dark) {",
            f'  :root:not([data-theme="light"]) {{ {dark} }}',
            "}",
            f':root[data-theme="dark"] {{ {dark} }}',
        ]
    )


def step_of(value: float, low: float, high: float) -> int:
    """Return the step of the scale for a value; what lies beyond an end has its step."""
    if not high > low:
        return 0
    share = (value - low) / (high - low)
    return min(max(int(share * STEPS), 0), STEPS - 1)


def _variables(theme: Theme) -> Iterator[tuple[str, str]]:
    for field in fields(theme):
        colours = getattr(theme, field.name)
        if isinstance(colours, str):
            yield field.name, colours
        else:
            yield from ((f"{field.name}-{step}", colour) for step, colour in enumerate(colours))
