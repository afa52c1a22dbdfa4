"""How results look: text for terminals and `str`, HTML for notebooks, numbers as people read them.

Every result has one `Sheet` (a title, facts, tables, notes); a sheet becomes text or HTML. Tables
are made to fit a terminal: what says least goes first, references and messages stay.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from typing import Any, ClassVar, Final, Protocol, TypedDict, TypeVar, Unpack

from share_registry.escapes import html, indented, one_line, printable

# What stands in a cell that has nothing to say
NOTHING: Final = "-"
_GAP: Final = 2
_SHORTEST: Final = 8
# Letters of a cell that it should keep while there are columns to spare
_READABLE: Final = 16
_FEWEST: Final = 2
_MINUTES: Final = len("2026-11-16 20:38")
ELLIPSIS: Final = "…"
_UNITS: Final = ("kB", "MB", "GB", "TB")

_DIGEST: Final = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{40})\b")

# Percentages below it have no digit among two decimals
_SMALLEST: Final = Decimal("0.01")

_T = TypeVar("_T")
# A header, then its cells
Column = list[str]


class _TableOptions(TypedDict, total=False):
    spare: tuple[str, ...]
    elided: bool
    short: tuple[str, ...]
    stacked: bool
    by_ending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headers; a header that ends in `>` is of a column aligned to the right.

    Attributes:
        spare: Headers of columns that a narrow terminal goes without, the first of them first.
        elided: Whether an ellipsis stands where columns to spare are left out.
        short: Headers of columns that are shortened before any other.
        stacked: Whether cells that do not fit stand below their row, whole: all but the first two.
        by_ending: Whether the first column tells its rows apart by their endings.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    spare: tuple[str, ...] = ()
    elided: bool = False
    short: tuple[str, ...] = ()
    stacked: bool = False
    by_ending: bool = False

    @classmethod
    def of(
        cls,
        rows: Iterable[Mapping[str, str]],
        **options: Unpack[_TableOptions],
    ) -> "Table":
        """Return the table of rows that map header to cell, all in one order."""
        listed = [*rows]
        return cls(
            headers=tuple(listed[0]) if listed else (),
            rows=tuple(tuple(row.values()) for row in listed),
            **options,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What is shown of one result.

    Attributes:
        title: First line, or several.
        text: Paragraphs, which a terminal breaks between words.
        facts: (name, value) pairs.
        total: A line beneath the tables: what they come to.
        refs: References in the result: what `share-registry -q` prints of it.
    """

    title: str = ""
    text: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    tables: tuple[Table, ...] = ()
    total: str = ""
    notes: tuple[str, ...] = ()
    refs: tuple[str, ...] = ()


class Shown(Protocol):
    """A result that can be shown: as text, on one line, and in a notebook.

    Attributes:
        derived: Properties that its JSON document has beside the fields.
    """

    __slots__ = ()
    derived: ClassVar[tuple[str, ...]] = ()

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        ...

    def __str__(self) -> str:
        return as_text(self.sheet())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {printable(self.sheet().title)}>"

    def _repr_html_(self) -> str:
        return as_html(self.sheet())


class Listing(list[_T]):
    """A list that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        return as_html(sheet_of(self)) if self else "<p>none</p>"


def sheet_of(value: Any) -> Sheet:
    """Return what is shown of a result, or of a list of results of one type."""
    if isinstance(value, list | tuple) and value and hasattr(value[0], "listing"):
        listing: Sheet = value[0].listing(value)
        return listing
    return value.sheet() if hasattr(value, "sheet") else Sheet(title=str(value))


def with_note(sheet: Sheet, note: str) -> Sheet:
    """Return a sheet with one more note, where there is one."""
    return replace(sheet, notes=(*sheet.notes, note)) if note else sheet


def as_text(sheet: Sheet, *, width: int | None = None) -> str:
    """Return a sheet as aligned text; where a width is given, tables and sentences fit it."""
    parts = [printable(sheet.title)] if sheet.title else []
    parts += [_wrapped(paragraph, width) for paragraph in sheet.text]
    longest = max((len(name) for name, _ in sheet.facts), default=0)
    parts += [_fact(f"  {name:<{longest}}  ", value, width) for name, value in sheet.facts]
    parts += [align(table, width=width) for table in sheet.tables if table.rows]
    parts += [printable(sheet.total)] if sheet.total else []
    parts += [_wrapped(f"note: {note}", width) for note in sheet.notes]
    return "\n".join(parts)


def as_html(sheet: Sheet) -> str:
    """Return a sheet as HTML; everything that came from a user is escaped."""
    parts = [f"<p><strong>{html(sheet.title)}</strong></p>"] if sheet.title else []
    parts += [f"<p>{html(paragraph)}</p>" for paragraph in sheet.text]
    tables = (Table(headers=("", ""), rows=sheet.facts), *sheet.tables)
    parts += [_html_table(table) for table in tables if table.rows]
    parts += [f"<p>{html(sheet.total)}</p>"] if sheet.total else []
    parts += [f"<p>{html(note)}</p>" for note in sheet.notes]
    return f"<div>{''.join(parts)}</div>"


def align(table: Table, *, width: int | None = None) -> str:
    """Return a table as text with a line of headers; where a width is given, no line is longer."""
    columns = [[*map(one_line, column)] for column in zip(table.headers, *table.rows, strict=True)]
    if width is not None and table.stacked and _excess(columns, width) > 0:
        return _stack(columns, width)
    if width is not None:
        columns = _fit(columns, width, table)
    rows = zip(*map(_pad, columns), strict=True)
    return "\n".join(shorten("  ".join(row).rstrip(), width) for row in rows)


def shorten(text: str, width: int | None) -> str:
    """Return text of at most so many letters; an ellipsis stands for the rest."""
    if width is None or len(text) <= width:
        return text
    return f"{text[: max(width - 1, 0)]}{ELLIPSIS}"


def size(count: int) -> str:
    """Return a number of bytes with a decimal unit: `33 kB`."""
    if count < 1000:
        return f"{count} B"
    value = count / 1000
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.{1 if value < 9.95 else 0}f} {unit}"


def percent(part: float, *, up: bool = False) -> str:
    """Return a fraction as a percentage: `4.93 %`, `12.3 %`, `1e-05 %`.

    It is cut and not rounded: an error below its budget never looks as if it had reached it. An
    upper bound goes `up`: it must not look smaller than it is.
    """
    value = 100 * Decimal(repr(part))
    if not value.is_finite() or value == 0:
        return f"{100 * part:g} %"
    if value < _SMALLEST:
        return f"{float(_cut(value, value.adjusted(), up=up)):.0e} %"
    return f"{_cut(value, -2 if value < 10 else min(value.adjusted() - 2, 0), up=up):f} %"


def measured(error: float, *, bound: bool) -> str:
    """Return an error as a percentage: `4.93 %`, or `<= 4.93 %` where it is an upper bound."""
    return f"{'<= ' if bound else ''}{percent(error, up=bound)}"


def optional_percent(part: float | None) -> str:
    """Return a fraction as a percentage, or that there is none."""
    return NOTHING if part is None else percent(part)


def typed_percent(part: float) -> str:
    """Return a fraction that somebody chose as a percentage, the way it was chosen: `2.5 %`."""
    return f"{100 * part:.12g} %"


def time_text(time: datetime) -> str:
    """Return a time in UTC to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def short_ids(text: str) -> str:
    """Return text with the first digits of each sha256."""
    return _DIGEST.sub(lambda digest: digest[0][:8], text)


def pairs(values: Mapping[str, object]) -> str:
    """Return labels or metrics as `name=value, ...`, a sha by its first digits."""
    return ", ".join(f"{name}={short_ids(str(value))}" for name, value in sorted(values.items()))


def metric_pairs(metrics: Mapping[str, float]) -> str:
    """Return metrics as `name=number, ...`, with as many digits as people read."""
    return pairs({name: f"{value:.6g}" for name, value in metrics.items()})


def count(number: int, singular: str, plural: str = "") -> str:
    """Return a number of things: `1 task`, `2 tasks`."""
    return f"{number} {singular if number == 1 else plural or f'{singular}s'}"


def first_line(message: str) -> str:
    """Return the first line of a text."""
    return message.strip().partition("\n")[0]


def _html_table(table: Table) -> str:
    right = [' style="text-align: right"' * header.endswith(">") for header in table.headers]
    head = ""
    if any(table.headers):
        names = (html(header.removesuffix(">")) for header in table.headers)
        head = f"<thead><tr>{''.join(f'<th>{name}</th>' for name in names)}</tr></thead>"
    rows = [
        "".join(f"<td{style}>{html(cell)}</td>" for cell, style in zip(row, right, strict=True))
        for row in table.rows
    ]
    return f"<table>{head}<tbody>{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody></table>"


def _fit(columns: list[Column], width: int, table: Table) -> list[Column]:
    """Make columns fit: what says least goes first.

    Empty columns, then ids, then seconds; then columns to spare, until what is left is readable;
    then the longest cells are shortened, while they stay readable the last column like any other;
    then columns before the last are left out.
    """
    if _excess(columns, width) > 0:
        columns = [column for column in columns if not {*column[1:]} <= {"", NOTHING}]
    if _excess(columns, width) > 0:
        columns = [column for column in columns if column[0] != "id"]
    if _excess(columns, width) > 0:
        columns = [*map(_without_seconds, columns)]
    columns = _without_spare(columns, width, table)
    if table.by_ending:
        columns = [_shorten_front(columns[0], _excess(columns, width)), *columns[1:]]
    short = [index for index, column in enumerate(columns) if column[0] in table.short]
    columns = _shorten_widest(columns, width, short)
    columns = _shorten_widest(columns, width, range(1, len(columns)), least=_READABLE)
    columns = _shorten_widest(columns, width, range(1, len(columns) - 1))
    columns = _shorten_widest(columns, width, range(1, len(columns)))
    while _excess(columns, width) > 0 and len(columns) > _FEWEST:
        del columns[-2]
    return columns


def _without_spare(columns: list[Column], width: int, table: Table) -> list[Column]:
    """Leave out columns to spare until the others are readable."""
    left = columns
    for dropped in range(1, len(table.spare) + 1):
        if _least_width(left, table.short) <= width:
            break
        gone = [i for i, column in enumerate(columns) if column[0] in table.spare[:dropped]]
        left = [column for i, column in enumerate(columns) if i not in gone]
        if table.elided and gone:
            left.insert(gone[0], [ELLIPSIS] * len(columns[0]))
    return left


def _stack(columns: list[Column], width: int) -> str:
    """Return each row as a line of its first two cells and a paragraph of each other cell."""
    names, *others = zip(*columns, strict=True)
    lines = []
    for first, second, *cells in others:
        lines.append(shorten(f"{first}  {second}".rstrip(), width))
        longest = max(map(len, names[2:]))
        pairs = zip(names[2:], cells, strict=True)
        lines += [_fact(f"  {name:<{longest}}  ", cell, width) for name, cell in pairs]
    return "\n".join(lines)


def _fact(name: str, value: str, width: int | None) -> str:
    """Return a named value; where a width is given, its lines stand below each other."""
    from textwrap import fill

    name = one_line(name)
    line = f"{name}{indented(value, len(name))}"
    if width is None or len(line) <= width:
        return line
    return fill(
        line,
        max(width, len(name) + _READABLE),
        subsequent_indent=" " * len(name),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _pad(column: Column) -> Column:
    header, *cells = column
    side = ">" if header.endswith(">") else "<"
    return [f"{cell:{side}{_width(column)}}" for cell in (header.removesuffix(">"), *cells)]


def _width(column: Column) -> int:
    header, *cells = column
    return max(len(header.removesuffix(">")), *map(len, cells))


def _excess(columns: list[Column], width: int) -> int:
    return sum(map(_width, columns)) + _GAP * (len(columns) - 1) - width


def _least_width(columns: list[Column], short: Sequence[str]) -> int:
    """Return the width of columns whose texts, but for the first, are as short as is readable."""
    first, *others = columns
    widths = [
        min(_width(column), _SHORTEST if column[0] in short else _READABLE)
        if _is_text(column)
        else _width(column)
        for column in others
    ]
    return _width(first) + sum(widths) + _GAP * len(others)


def _is_text(column: Column) -> bool:
    return not column[0].endswith((">", "(UTC)"))


def _shorten_front(column: Column, excess: int) -> Column:
    """Shorten cells at their beginning, by so many letters of the longest."""
    if excess <= 0:
        return column
    most = max(_width(column) - excess, _READABLE)
    return [
        cell if len(cell) <= most else f"{ELLIPSIS}{cell[len(cell) - most + 1 :]}"
        for cell in column
    ]


def _wrapped(paragraph: str, width: int | None) -> str:
    from textwrap import fill

    text = printable(paragraph)
    if width is None:
        return text
    return fill(text, max(width, _READABLE), break_long_words=False, break_on_hyphens=False)


def _without_seconds(column: Column) -> Column:
    if not column[0].endswith("(UTC)"):
        return column
    return [column[0], *(cell[:_MINUTES] for cell in column[1:])]


def _shorten_widest(
    columns: list[Column], width: int, free: Sequence[int], *, least: int = _SHORTEST
) -> list[Column]:
    """Shorten the widest of the free columns of text until all fit or none can be shorter."""
    limits = [*map(_width, columns)]
    texts = [index for index in free if _is_text(columns[index])]
    for _ in range(_excess(columns, width)):
        longer = [index for index in texts if limits[index] > max(len(columns[index][0]), least)]
        if not longer:
            break
        limits[max(longer, key=lambda index: limits[index])] -= 1
    return [
        [column[0], *(shorten(cell, limit) for cell in column[1:])]
        for column, limit in zip(columns, limits, strict=True)
    ]


def _cut(value: Decimal, exponent: int, *, up: bool) -> Decimal:
    return value.quantize(Decimal((0, (1,), exponent)), rounding=ROUND_UP if up else ROUND_DOWN)
