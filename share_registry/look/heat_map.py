"""A table of numbers as colours, and as numbers where there is room."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from share_registry.look.palette import STEPS, step_of
from share_registry.look.svg import drawing, element, ending, label, number, path, tipped, width_of

# Of the ends of colours, about the middle: errors under one budget are nearly alike
LEAST_SPREAD: Final = 0.1
# Cells that still have room for their number, and columns up to which they are wide enough for it
_MOST_NUMBERS: Final = 600
_MOST_WIDE: Final = 24
_SMALL: Final = (14.0, 13.0)
_LARGE_HEIGHT: Final = 20.0
_PAD: Final = 10.0
_LONGEST_NAME: Final = 190.0
_LINE: Final = 14.0
_GAP: Final = 8.0
_LEGEND_STEP: Final = 16.0
_CORNER: Final = 6.0
# Of names side by side
_BETWEEN: Final = 10.0
# Up to here columns are as wide as their names
_NARROW: Final = 280.0
# How far a name stands above its column where it leans
_LEAN: Final = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatCell:
    """One cell.

    Attributes:
        value: What its colour says.
        text: The number, as read.
        tip: The whole of it, in a sentence.
        bound: Whether the value is an upper bound: it has a corner.
        marked: Whether it stands out.
    """

    value: float
    text: str
    tip: str
    bound: bool = False
    marked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Cells by rows and columns; None where there is nothing.

    Attributes:
        corner: What the rows are, above their names.
        unit: What the numbers are, beside the colours.
        low, high: The values at the ends of the colours.
        ends: These two as read.
        notes: What a corner or a frame means, and what is left out.
    """

    title: str
    description: str
    corner: str
    unit: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[HeatCell | None]]
    low: float
    high: float
    ends: tuple[str, str]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Grid:
    left: float
    top: float
    width: float
    height: float
    has_numbers: bool

    def at(self, row: int, column: int) -> tuple[float, float]:
        return self.left + column * self.width, self.top + row * self.height


def ends_of(values: Sequence[float], *, least: float = 0.0) -> tuple[float, float]:
    """Return the ends of the colours for values: their own, and never so near that noise has some.

    Under a budget all errors are nearly it: from 0 on they would be one colour.

    Args:
        values: At least one.
        least: How far either end is from the middle at least, as a share of that.
    """
    low, high = min(values), max(values)
    half = max((high - low) / 2, abs(high + low) / 2 * least) or 0.5
    return (low + high) / 2 - half, (low + high) / 2 + half


def without_shared_beginning(paths: Sequence[str]) -> list[str]:
    """Return dotted paths without the parts that all of them begin with."""
    parts = [path.split(".") for path in paths]
    same = 0
    while parts and all(len(each) > same + 1 and each[same] == parts[0][same] for each in parts):
        same += 1
    return [".".join(each[same:]) for each in parts]


def draw_heat_map(heat_map: HeatMap, *, look: str) -> str:
    """Return the drawing of a heat map; `look` is its class."""
    grid = _grid(heat_map)
    cells = [
        _cell(cell, heat_map, grid, row, column)
        for row, listed in enumerate(heat_map.cells)
        for column, cell in enumerate(listed)
        if cell is not None
    ]
    ground = element(
        "rect",
        class_="empty",
        x=grid.left,
        y=grid.top,
        width=grid.width * len(heat_map.columns),
        height=grid.height * len(heat_map.rows),
    )
    bottom = grid.top + grid.height * len(heat_map.rows) + 2 * _GAP
    legend, legend_width = _legend(heat_map, bottom)
    right = grid.left + grid.width * len(heat_map.columns) + _overhang(heat_map, grid)
    return drawing(
        look,
        *_row_names(heat_map, grid),
        *_column_names(heat_map, grid),
        ground,
        *cells,
        *legend,
        title=heat_map.title,
        description=heat_map.description,
        width=max(right, legend_width),
        height=bottom + _LEGEND_STEP + _LINE * (1 + len(heat_map.notes)) + 4,
    )


def _grid(heat_map: HeatMap) -> _Grid:
    texts = [cell.text for listed in heat_map.cells for cell in listed if cell is not None]
    widest = max(map(width_of, texts), default=0.0) + _PAD
    has_numbers = (
        len(heat_map.rows) * len(heat_map.columns) <= _MOST_NUMBERS
        and len(heat_map.columns) <= _MOST_WIDE
    )
    width, height = (max(widest, 24.0), _LARGE_HEIGHT) if has_numbers else _SMALL
    upright = max(map(width_of, heat_map.columns), default=0.0) + _BETWEEN
    if has_numbers and upright * len(heat_map.columns) <= _NARROW:
        width = max(width, upright)
    names = [ending(name, _LONGEST_NAME) for name in (*heat_map.rows, heat_map.corner)]
    left = max(map(width_of, names)) + _GAP
    tallest = max(map(width_of, heat_map.columns), default=0.0)
    leans = _leans(heat_map.columns, width)
    top = min(tallest, _LONGEST_NAME) * _LEAN + _LINE if leans else _LINE + _GAP
    return _Grid(left, top, width, height, has_numbers)


def _leans(names: Sequence[str], width: float) -> bool:
    """Tell whether names are wider than their columns, so that they lean above them."""
    return any(width_of(name) + _BETWEEN > width for name in names)


def _overhang(heat_map: HeatMap, grid: _Grid) -> float:
    """Return how far the last leaning name stands out to the right."""
    if not heat_map.columns or not _leans(heat_map.columns, grid.width):
        return 0.0
    return min(width_of(heat_map.columns[-1]), _LONGEST_NAME) * _LEAN


def _row_names(heat_map: HeatMap, grid: _Grid) -> list[str]:
    names = [label(grid.left - _GAP, grid.top - _GAP, heat_map.corner, "muted end")]
    every = 1 if grid.height >= _LINE - 1 else 2
    for row in range(0, len(heat_map.rows), every):
        _, y = grid.at(row, 0)
        name = heat_map.rows[row]
        short = ending(name, _LONGEST_NAME)
        tip = name if short != name else ""
        names.append(label(grid.left - _GAP, y + grid.height / 2 + 4, short, "end", tip=tip))
    return names


def _column_names(heat_map: HeatMap, grid: _Grid) -> list[str]:
    leans = _leans(heat_map.columns, grid.width)
    names = []
    for column, name in enumerate(heat_map.columns):
        x, y = grid.at(0, column)
        x, y = x + grid.width / 2, y - _GAP
        if not leans:
            names.append(label(x, y, name, "middle"))
            continue
        short = ending(name, _LONGEST_NAME)
        turned = f"translate({number(x)} {number(y)}) rotate(-45)"
        names.append(element("g", label(0, 4, short, tip=name), transform=turned))
    return names


def _cell(cell: HeatCell, heat_map: HeatMap, grid: _Grid, row: int, column: int) -> str:
    x, y = grid.at(row, column)
    step = step_of(cell.value, heat_map.low, heat_map.high)
    parts = [
        element(
            "rect",
            class_=f"cell step-{step}",
            x=x,
            y=y,
            width=grid.width,
            height=grid.height,
        )
    ]
    if cell.bound:
        parts.append(path(f"over-{step}", "M", x, y, "h", _CORNER, "l", -_CORNER, _CORNER, "z"))
    if grid.has_numbers:
        look = f"middle over-{step}"
        parts.append(label(x + grid.width / 2, y + grid.height / 2 + 4, cell.text, look))
    if cell.marked:
        parts.append(
            element(
                "rect",
                class_=f"marked on-{step}",
                x=x + 1,
                y=y + 1,
                width=grid.width - 2,
                height=grid.height - 2,
            )
        )
    return tipped(cell.tip, *parts)


def _legend(heat_map: HeatMap, top: float) -> tuple[list[str], float]:
    """Return the colours from low to high with what they are, and how wide that is."""
    low, high = heat_map.ends
    x = width_of(low) + _GAP
    parts = [label(0, top + 12, low)]
    parts += [
        element(
            "rect",
            class_=f"cell step-{step}",
            x=x + step * _LEGEND_STEP,
            y=top,
            width=_LEGEND_STEP,
            height=_LEGEND_STEP,
        )
        for step in range(STEPS)
    ]
    end = x + STEPS * _LEGEND_STEP + _GAP
    unit_x = end + width_of(high) + _GAP
    parts += [label(end, top + 12, high), label(unit_x, top + 12, heat_map.unit, "muted")]
    widths = [unit_x + width_of(heat_map.unit)]
    for line, note in enumerate(heat_map.notes):
        parts.append(label(0, top + _LEGEND_STEP + _LINE * (line + 1) + 2, note, "muted"))
        widths.append(width_of(note))
    return parts, max(widths)
