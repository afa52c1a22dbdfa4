"""How results look: text for terminals and `str`, HTML for notebooks.

Every result has one `Sheet` (a title, facts, tables, notes); a sheet becomes text or HTML. Tables
are made to fit a terminal: what says least goes first, references and messages stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

NOTHING: Final = "-"
"""What stands in a cell that has nothing to say."""
_GAP: Final = 2
_SHORTEST: Final = 8
_FEWEST: Final = 2
_MINUTES: Final = len("2026-11-16 20:38")
_ELLIPSIS: Final = "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headers; a header that ends in `>` is of a column aligned to the right."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What is shown of one result."""

    title: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


class Shown(Protocol):
    """A result that can be shown."""

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        ...


def text_of(value: Shown) -> str:
    """Return a result as text: its `__str__`."""
    return text(value.sheet())


def line_of(value: Shown) -> str:
    """Return a result as one line: its `__repr__`."""
    return f"<{type(value).__name__} {value.sheet().title}>"


def html_of(value: Shown) -> str:
    """Return a result as HTML: its `_repr_html_`."""
    return html(value.sheet())


def sheet_of(value: Any) -> Sheet:
    """Return what is shown of a result, or of a list of results of one type."""
    if isinstance(value, list | tuple):
        if value and hasattr(value[0], "table"):
            return Sheet(tables=(value[0].table(value),))
        return Sheet(title="\n".join(map(str, value)))
    return value.sheet() if hasattr(value, "sheet") else Sheet(title=str(value))


def text(sheet: Sheet, *, width: int | None = None) -> str:
    """Return a sheet as aligned text; where a width is given, its tables fit it."""
    parts = [printable(sheet.title)] if sheet.title else []
    longest = max((len(name) for name, _ in sheet.facts), default=0)
    parts += [f"  {name:<{longest}}  {printable(value)}" for name, value in sheet.facts]
    parts += [aligned(table, width=width) for table in sheet.tables if table.rows]
    parts += [f"note: {printable(note)}" for note in sheet.notes]
    return "\n".join(parts)


def html(sheet: Sheet) -> str:
    """Return a sheet as HTML; everything that came from a user is escaped."""
    from html import escape

    parts = [f"<p><strong>{escape(sheet.title)}</strong></p>"] if sheet.title else []
    if sheet.facts:
        parts.append(_html_table(Table(headers=(), rows=sheet.facts)))
    parts += [_html_table(table) for table in sheet.tables if table.rows]
    parts += [f"<p>{escape(note)}</p>" for note in sheet.notes]
    return f"<div>{''.join(parts)}</div>"


def _html_table(table: Table) -> str:
    from html import escape

    right = [' style="text-align: right"' * header.endswith(">") for header in table.headers]
    right = right or [""] * 2
    head = "".join(f"<th>{escape(header.removesuffix('>'))}</th>" for header in table.headers)
    rows = [
        "".join(f"<td{style}>{escape(cell)}</td>" for cell, style in zip(row, right, strict=True))
        for row in table.rows
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>{head and f'<thead><tr>{head}</tr></thead>'}<tbody>{body}</tbody></table>"


def aligned(table: Table, *, width: int | None = None) -> str:
    """Return a table as text with a line of headers; where a width is given, no line is longer."""
    shown = Table(
        headers=table.headers, rows=tuple(tuple(map(printable, row)) for row in table.rows)
    )
    if width is not None:
        shown = _fitted(shown, width)
    lines = []
    for row in (tuple(header.removesuffix(">") for header in shown.headers), *shown.rows):
        cells = (
            f"{cell:>{wide}}" if header.endswith(">") else f"{cell:<{wide}}"
            for cell, wide, header in zip(row, _widths(shown), shown.headers, strict=True)
        )
        lines.append(shortened("  ".join(cells).rstrip(), width))
    return "\n".join(lines)


def shortened(text: str, width: int | None) -> str:
    """Return text of at most so many letters; an ellipsis stands for the rest."""
    return (
        text if width is None or len(text) <= width else f"{text[: max(width - 1, 0)]}{_ELLIPSIS}"
    )


def printable(shown: str) -> str:
    """Replace what could drive a terminal: whoever may commit must not."""
    return (
        shown
        if shown.isprintable()
        else "".join(
            letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}"
            for letter in shown
        )
    )


def _fitted(table: Table, width: int) -> Table:
    """Make a table fit: what says least goes first.

    Empty columns, then ids, then seconds; then the longest cells are shortened; then columns
    before the last are left out.
    """
    for smaller in (_without_empty, _without_ids, _without_seconds):
        if _too_wide(table, width) > 0:
            table = smaller(table)
    for kept in ({0, len(table.headers) - 1}, {0}):
        table = _with_short_cells(table, width, kept)
    while _too_wide(table, width) > 0 and len(table.headers) > _FEWEST:
        table = _only(
            table,
            [column for column in range(len(table.headers)) if column != len(table.headers) - 2],
        )
    return table


def _widths(table: Table) -> list[int]:
    return [
        max(len(header.removesuffix(">")), *(len(row[column]) for row in table.rows))
        for column, header in enumerate(table.headers)
    ]


def _too_wide(table: Table, width: int) -> int:
    """Return by how many letters a table is too wide."""
    widths = _widths(table)
    return sum(widths) + _GAP * (len(widths) - 1) - width


def _without_empty(table: Table) -> Table:
    return _only(
        table,
        [
            column
            for column in range(len(table.headers))
            if any(row[column] not in ("", NOTHING) for row in table.rows)
        ],
    )


def _without_ids(table: Table) -> Table:
    return _only(table, [column for column, header in enumerate(table.headers) if header != "id"])


def _without_seconds(table: Table) -> Table:
    times = {column for column, header in enumerate(table.headers) if header.endswith("(UTC)")}
    return replace(
        table,
        rows=tuple(
            tuple(cell[:_MINUTES] if column in times else cell for column, cell in enumerate(row))
            for row in table.rows
        ),
    )


def _with_short_cells(table: Table, width: int, kept: set[int]) -> Table:
    """Shorten the widest column but those kept until the table fits or none can be shorter."""
    limits = _widths(table)
    least = [max(len(header.removesuffix(">")), _SHORTEST) for header in table.headers]
    free = [
        column
        for column, header in enumerate(table.headers)
        if column not in kept and not header.endswith((">", "(UTC)"))
    ]
    for _ in range(max(_too_wide(table, width), 0)):
        widest = max(
            (column for column in free if limits[column] > least[column]),
            key=lambda column: limits[column],
            default=None,
        )
        if widest is None:
            break
        limits[widest] -= 1
    return replace(table, rows=tuple(tuple(map(shortened, row, limits)) for row in table.rows))


def _only(table: Table, columns: Sequence[int]) -> Table:
    return Table(
        headers=tuple(table.headers[column] for column in columns),
        rows=tuple(tuple(row[column] for column in columns) for row in table.rows),
    )
