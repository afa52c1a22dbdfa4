"""Tables as text: aligned, and made to fit a terminal, where what says least goes first."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict, Unpack

from share_registry.escapes import indented, one_line, printable

# What stands in a cell that has nothing to say
NOTHING: Final = "-"
_GAP: Final = 2
_SHORTEST: Final = 8
# Of a terminal, that the first column may take where not everything fits
_MOST_OF_WIDTH: Final = 0.7
# Letters of a cell that it should keep while there are columns to spare
_READABLE: Final = 16
# Columns that stay where nothing else helps: the first and the last
_FEWEST: Final = 2
_MINUTES: Final = len("2026-11-16 20:38")
ELLIPSIS: Final = "…"
# A header, then its cells
Column = list[str]
# What a text is, and the text; returns it with its colours
Paint = Callable[[str, str], str]


def plain(_: str, text: str) -> str:
    """Return a text without colours: a `Paint`."""
    return text


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


def align(table: Table, *, width: int | None = None, paint: Paint = plain) -> str:
    """Return a table as text with a line of headers; where a width is given, no line is longer.

    Without headers there is no line.
    """
    if not table.headers:
        return ""
    columns = [[*map(one_line, column)] for column in zip(table.headers, *table.rows, strict=True)]
    stackable = table.stacked and len(columns) > _FEWEST
    if width is not None and stackable and _excess(columns, width) > 0:
        return _stack(columns, width, paint)
    if width is not None:
        columns = _fit(columns, width, table)
    rows = zip(*map(_pad, columns), strict=True)
    head, *lines = (shorten("  ".join(row).rstrip(), width) for row in rows)
    return "\n".join([paint("header", head), *lines])


def shorten(text: str, width: int | None) -> str:
    """Return text of at most so many letters; an ellipsis stands for the rest."""
    if width is None or len(text) <= width:
        return text
    return f"{text[: max(width - 1, 0)]}{ELLIPSIS}"


def first_line(message: str) -> str:
    """Return the first line of a text."""
    return message.strip().partition("\n")[0]


def fact_line(name: str, value: str, width: int | None, *, paint: Paint) -> str:
    """Return a named value; where a width is given, its lines stand below each other."""
    from textwrap import fill

    name = one_line(name)
    line = f"{name}{indented(value, len(name))}"
    if width is not None and len(line) > width:
        line = fill(
            line,
            max(width, len(name) + _READABLE),
            subsequent_indent=" " * len(name),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return paint("name", name) + line.removeprefix(name)


def wrap(paragraph: str, width: int | None) -> str:
    """Return a paragraph, broken between words where a width is given."""
    from textwrap import fill

    text = printable(paragraph)
    if width is None:
        return text
    return fill(text, max(width, _READABLE), break_long_words=False, break_on_hyphens=False)


def _fit(columns: list[Column], width: int, table: Table) -> list[Column]:
    """Make columns fit: what says least goes first, but the first column stays.

    Empty columns, then ids, then seconds; of a first column that leaves no room for others the
    middles of its longest cells; then columns to spare, until what is left is readable;
    then the longest cells are shortened, while they stay readable those of the last column first
    and then like any other; then columns before the last are left out.
    """
    if _excess(columns, width) > 0:
        says = (column for column in columns[1:] if not {*column[1:]} <= {"", NOTHING})
        columns = [columns[0], *says]
    if _excess(columns, width) > 0:
        columns = [columns[0], *(column for column in columns[1:] if column[0] != "id")]
    if _excess(columns, width) > 0:
        columns = [*map(_without_seconds, columns)]
    if _excess(columns, width) > 0 and not table.by_ending and len(columns) > 1:
        columns = [_shorten_middle(columns[0], int(width * _MOST_OF_WIDTH)), *columns[1:]]
    columns = _without_spare(columns, width, table)
    if table.by_ending:
        columns = [_shorten_front(columns[0], _excess(columns, width)), *columns[1:]]
    short = [index for index, column in enumerate(columns) if column[0] in table.short]
    columns = _shorten_widest(columns, width, short)
    columns = _shorten_widest(columns, width, range(1, len(columns))[-1:], least=_READABLE)
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
        spare = table.spare[:dropped]
        gone = [i for i, column in enumerate(columns) if i > 0 and column[0] in spare]
        left = [column for i, column in enumerate(columns) if i not in gone]
        if table.elided and gone:
            left.insert(gone[0], [ELLIPSIS] * len(columns[0]))
    return left


def _stack(columns: list[Column], width: int, paint: Paint) -> str:
    """Return each row as a line of its first two cells and a paragraph of each other cell."""
    names, *others = zip(*columns, strict=True)
    lines = []
    for first, second, *cells in others:
        lines.append(shorten(f"{first}  {second}".rstrip(), width))
        longest = max(map(len, names[2:]))
        pairs = zip(names[2:], cells, strict=True)
        lines += [
            fact_line(f"  {name:<{longest}}  ", cell, width, paint=paint) for name, cell in pairs
        ]
    return "\n".join(lines)


def _pad(column: Column) -> Column:
    header, *cells = column
    side = ">" if header.endswith(">") else "<"
    return [f"{cell:{side}{_width(column)}}" for cell in (header.removesuffix(">"), *cells)]


def _width(column: Column) -> int:
    header, *cells = column
    return max(map(len, (header.removesuffix(">"), *cells)))


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


def _shorten_middle(column: Column, most: int) -> Column:
    """Shorten cells in their middle: references differ at both ends."""
    most = max(most, _READABLE)
    head = most * 2 // 3
    return [
        cell
        if len(cell) <= most
        else f"{cell[:head]}{ELLIPSIS}{cell[len(cell) - (most - head - 1) :]}"
        for cell in column
    ]


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
