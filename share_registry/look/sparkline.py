"""The versions of a task as a line of the height of a line of text."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

from share_registry.look.svg import drawing, element, path
from share_registry.look.units import count, measured, size, typed_percent

if TYPE_CHECKING:
    from share_registry.values.tasks import Task

_WIDTH, _HEIGHT, _MARGIN = 120.0, 28.0, 5.0
# Versions that a description names one by one
_MOST_NAMED: Final = 12
# Of the largest value, above it
_HEADROOM: Final = 1.1

Measure = Literal["error", "bytes"]


def sparkline(versions: "Sequence[Task]", *, measure: Measure = "error") -> str:
    """Draw the error of each version below its budget, or the bytes that each added.

    A line with a point for the newest version; a dashed line is the budget, and an error above it,
    as of a version that was refitted, is another colour and a ring.

    Args:
        versions: Of one task, in any order.
        measure: "error" or "bytes".
    """
    ordered = sorted(versions, key=lambda version: version.version)
    values = [_value(version, measure) for version in ordered]
    limits = [version.budget for version in ordered if measure == "error" and version.budget]
    place = _scale(values, limits)
    points = [(_x(index, len(values)), place(value)) for index, value in enumerate(values)]
    parts = [_budget_line([place(limit) for limit in limits])] if len(limits) == len(values) else []
    if len(points) > 1:
        steps = [step for x, y in points for step in ("L", x, y)]
        parts.append(path("line thin", "M", *steps[1:]))
    if points:
        x, y = points[-1]
        above = measure == "error" and _is_above(ordered[-1])
        parts.append(element("circle", class_="ring bad" if above else "dot", cx=x, cy=y, r=3.5))
    return drawing(
        "sparkline",
        *parts,
        title=f"{measure} of {count(len(ordered), 'version')}",
        description=_describe(ordered, measure),
        width=_WIDTH,
        height=_HEIGHT,
    )


def _budget_line(heights: Sequence[float]) -> str:
    """Return the budgets as a line of steps, each half-way to the next version."""
    half = (_x(1, len(heights)) - _x(0, len(heights))) / 2 if len(heights) > 1 else 0.0
    steps: list[str | float] = ["M", _MARGIN, heights[0]] if heights else []
    for index, height in enumerate(heights[1:], 1):
        steps += ["H", _x(index, len(heights)) - half, "V", height]
    return path("axis dashed", *steps, "H", _WIDTH - _MARGIN) if steps else ""


def _value(version: "Task", measure: Measure) -> float:
    return version.error if measure == "error" else float(version.bytes_added)


def _scale(values: Sequence[float], limits: Sequence[float]) -> Callable[[float], float]:
    """Return where a value stands: 0 at the bottom, the largest below the top."""
    largest = _HEADROOM * max([*values, *limits], default=0.0) or 1.0
    return lambda value: _HEIGHT - _MARGIN - value / largest * (_HEIGHT - 2 * _MARGIN)


def _x(index: int, versions: int) -> float:
    between = (_WIDTH - 2 * _MARGIN) / max(versions - 1, 1)
    return _WIDTH / 2 if versions == 1 else _MARGIN + index * between


def _is_above(version: "Task") -> bool:
    return version.budget is not None and version.error > version.budget


def _describe(versions: "Sequence[Task]", measure: Measure) -> str:
    """Return the newest versions with their values, and the budget of the last."""
    named = [f"v{version.version} {_text(version, measure)}" for version in versions[-_MOST_NAMED:]]
    more = len(versions) - len(named)
    said = ", ".join([f"{count(more, 'earlier version')} before", *named] if more else named)
    if measure == "error" and versions and versions[-1].budget is not None:
        said += f"; budget {typed_percent(versions[-1].budget)}"
    return f"{said}."


def _text(version: "Task", measure: Measure) -> str:
    if measure == "error":
        return measured(version.error, bound=version.bound)
    return size(version.bytes_added)
