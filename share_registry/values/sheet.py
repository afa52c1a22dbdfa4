"""How results look: text for terminals and `str`, HTML for notebooks and pages.

Every result has one `Sheet` (a title, facts, tables, notes); a sheet becomes text or HTML. Tables
are made to fit a terminal: what says least goes first, references and messages stay.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import (
    Any,
    ClassVar,
    Final,
    Protocol,
    SupportsIndex,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from share_registry.escapes import html, indented, one_line, printable
from share_registry.look.stylesheet import notebook_style
from share_registry.look.units import percent

# What stands in a cell that has nothing to say
NOTHING: Final = "-"
_GAP: Final = 2
_SHORTEST: Final = 8
# Of a terminal, that the first column may take where not everything fits
_MOST_OF_WIDTH: Final = 0.7
# Letters of a cell that it should keep while there are columns to spare
_READABLE: Final = 16
_FEWEST: Final = 2
# Of an HTML cell that is one line; a longer one is broken between words
_MOST_LETTERS: Final = 48
_LONG: Final = ' class="long"'
# May be wider than the window: it is reached by the keyboard
_BOX: Final = '<div class="scroll" role="group" aria-label="table" tabindex="0">'
_MINUTES: Final = len("2026-11-16 20:38")
ELLIPSIS: Final = "…"

_DIGEST: Final = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{40})\b")

_T = TypeVar("_T")
# A header, then its cells
Column = list[str]
# What a text is, and the text; returns it with its colours
Paint = Callable[[str, str], str]
_NOTE: Final = "note: "


def _plain(_: str, text: str) -> str:
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
        return _notebook_html(self.sheet())


class Listed:
    """A result that lists are made of; alone, a notebook shows it as a table of one row."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return _notebook_html(sheet_of([self]))


class Listing(list[_T]):
    """A list that a notebook shows as a table, and so its slices."""

    @overload
    def __getitem__(self, position: SupportsIndex) -> _T: ...
    @overload
    def __getitem__(self, position: slice) -> "Listing[_T]": ...
    def __getitem__(self, position: SupportsIndex | slice) -> "_T | Listing[_T]":
        if isinstance(position, slice):
            return Listing(super().__getitem__(position))
        return super().__getitem__(position)

    def _repr_html_(self) -> str:
        return _notebook_html(sheet_of(self) if self else Sheet(notes=("none",)))


def sheet_of(value: Any) -> Sheet:
    """Return what is shown of a result, or of a list of results of one type."""
    if isinstance(value, list | tuple) and value and hasattr(value[0], "listing"):
        listing: Sheet = value[0].listing(value)
        return listing
    return value.sheet() if hasattr(value, "sheet") else Sheet(title=str(value))


def with_note(sheet: Sheet, note: str) -> Sheet:
    """Return a sheet with one more note, where there is one."""
    return replace(sheet, notes=(*sheet.notes, note)) if note else sheet


def as_text(sheet: Sheet, *, width: int | None = None, paint: Paint = _plain) -> str:
    """Return a sheet as aligned text.

    Args:
        sheet: What is shown.
        width: Where it is given, tables and sentences fit it.
        paint: Gives a text its colours, by what it is: title, name, header or note.
    """
    parts = [paint("title", printable(sheet.title))] if sheet.title else []
    parts += [_wrapped(paragraph, width) for paragraph in sheet.text]
    longest = max((len(name) for name, _ in sheet.facts), default=0)
    parts += [
        _fact(f"  {name:<{longest}}  ", value, width, paint=paint) for name, value in sheet.facts
    ]
    parts += [align(table, width=width, paint=paint) for table in sheet.tables if table.rows]
    parts += [printable(sheet.total)] if sheet.total else []
    for note in sheet.notes:
        text = _wrapped(f"{_NOTE}{note}", width)
        parts.append(paint("note", _NOTE) + text.removeprefix(_NOTE))
    return "\n".join(parts)


def as_html(sheet: Sheet) -> str:
    """Return a sheet as HTML for a page that has the stylesheet.

    Everything that came from a user is escaped; looks are classes alone.
    """
    facts = "".join(
        f'<tr><th scope="row">{html(name)}</th>{_html_cells([value], [""])}</tr>'
        for name, value in sheet.facts
    )
    parts = [_paragraph("title", sheet.title)] if sheet.title else []
    parts += [_paragraph("text", paragraph) for paragraph in sheet.text]
    parts += [f"{_BOX}<table><tbody>{facts}</tbody></table></div>"] if facts else []
    parts += [_html_table(table) for table in sheet.tables if table.rows]
    parts += [_paragraph("total", sheet.total)] if sheet.total else []
    parts += [_paragraph("note", note) for note in sheet.notes]
    return f'<div class="share-registry">{"".join(parts)}</div>'


def align(table: Table, *, width: int | None = None, paint: Paint = _plain) -> str:
    """Return a table as text with a line of headers; where a width is given, no line is longer."""
    columns = [[*map(one_line, column)] for column in zip(table.headers, *table.rows, strict=True)]
    if width is not None and table.stacked and _excess(columns, width) > 0:
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


def optional_percent(part: float | None) -> str:
    """Return a fraction as a percentage, or that there is none."""
    return NOTHING if part is None else percent(part)


def short_ids(text: str) -> str:
    """Return text with the first digits of each sha256."""
    return _DIGEST.sub(lambda digest: digest[0][:8], text)


def pairs(values: Mapping[str, object]) -> str:
    """Return labels or metrics as `name=value, ...`, a sha by its first digits."""
    return ", ".join(f"{name}={short_ids(str(value))}" for name, value in sorted(values.items()))


def metric_pairs(metrics: Mapping[str, float]) -> str:
    """Return metrics as `name=number, ...`, with as many digits as people read."""
    return pairs({name: f"{value:.6g}" for name, value in metrics.items()})


def first_line(message: str) -> str:
    """Return the first line of a text."""
    return message.strip().partition("\n")[0]


def _notebook_html(sheet: Sheet) -> str:
    return f"<style>{notebook_style()}</style>{as_html(sheet)}"


def _paragraph(look: str, text: str) -> str:
    return f'<p class="{look}">{html(text)}</p>'


def _html_table(table: Table) -> str:
    looks = [' class="number"' if header.endswith(">") else "" for header in table.headers]
    names = [html(header.removesuffix(">")) for header in table.headers]
    head = "".join(
        f'<th scope="col"{look}>{name}</th>' for look, name in zip(looks, names, strict=True)
    )
    rows = "".join(f"<tr>{_html_cells(row, looks)}</tr>" for row in table.rows)
    return f"{_BOX}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _html_cells(cells: Sequence[str], looks: Sequence[str]) -> str:
    return "".join(
        f"<td{_LONG if len(cell) > _MOST_LETTERS else look}>{html(cell)}</td>"
        for look, cell in zip(looks, cells, strict=True)
    )


def _fit(columns: list[Column], width: int, table: Table) -> list[Column]:
    """Make columns fit: what says least goes first.

    Empty columns, then ids, then seconds; of a first column that leaves no room for others the
    middles of its longest cells; then columns to spare, until what is left is readable;
    then the longest cells are shortened, while they stay readable those of the last column first
    and then like any other; then columns before the last are left out.
    """
    if _excess(columns, width) > 0:
        columns = [column for column in columns if not {*column[1:]} <= {"", NOTHING}]
    if _excess(columns, width) > 0:
        columns = [column for column in columns if column[0] != "id"]
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
        gone = [i for i, column in enumerate(columns) if column[0] in table.spare[:dropped]]
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
        lines += [_fact(f"  {name:<{longest}}  ", cell, width, paint=paint) for name, cell in pairs]
    return "\n".join(lines)


def _fact(name: str, value: str, width: int | None, *, paint: Paint) -> str:
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
