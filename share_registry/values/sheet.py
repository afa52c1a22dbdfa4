"""How results look: text for terminals and `str`, HTML for notebooks and pages.

Every result has one `Sheet` (a title, facts, tables, notes); a sheet becomes text or HTML.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Protocol, SupportsIndex, TypeVar, overload

from share_registry.escapes import html, printable
from share_registry.look.stylesheet import notebook_style
from share_registry.look.units import percent
from share_registry.values.text_table import NOTHING, Paint, Table, align, fact_line, plain, wrap

# Of an HTML cell that is one line; a longer one is broken between words
_MOST_LETTERS: Final = 48
_LONG: Final = ' class="long"'
# May be wider than the window: it is reached by the keyboard
_BOX: Final = '<div class="scroll" role="group" aria-label="table" tabindex="0">'

_DIGEST: Final = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{40})\b")

_T = TypeVar("_T")
_NOTE: Final = "note: "


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


def as_text(sheet: Sheet, *, width: int | None = None, paint: Paint = plain) -> str:
    """Return a sheet as aligned text.

    Args:
        sheet: What is shown.
        width: Where it is given, tables and sentences fit it.
        paint: Gives a text its colours, by what it is: title, name, header or note.
    """
    parts = [paint("title", printable(sheet.title))] if sheet.title else []
    parts += [wrap(paragraph, width) for paragraph in sheet.text]
    longest = max((len(name) for name, _ in sheet.facts), default=0)
    parts += [
        fact_line(f"  {name:<{longest}}  ", value, width, paint=paint)
        for name, value in sheet.facts
    ]
    parts += [align(table, width=width, paint=paint) for table in sheet.tables if table.rows]
    parts += [printable(sheet.total)] if sheet.total else []
    for note in sheet.notes:
        text = wrap(f"{_NOTE}{note}", width)
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
