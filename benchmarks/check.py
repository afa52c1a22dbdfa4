"""Compare two files of results: a slowdown, a larger file or a lost figure shows.

    python -m benchmarks.check OLD.md NEW.md [--times 1.2] [--all]

A file of results is what the benchmarks print: Markdown with tables, such as benchmarks/RESULTS.md
or the output of `make bench`. Tables are matched by section and headers, rows by their cells
without figures, figures by their column. Whatever grew or shrank by more than the factor is listed,
larger changes first; what only one file has is named. It exits with 1 where something changed by
more than the factor and 0 otherwise; whether more is worse is for the reader to say: times of two
machines do not compare, ratios to a floor or peer of the same run do.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from math import inf
from pathlib import Path
from typing import Final

_FIGURE: Final = re.compile(
    r"^[<>~=* ]*(-?[\d,]*\.?\d+(?:e[-+]?\d+)?)\s*(%|x|ms|s|us|kB|MB|GB|B)?[* ]*$"
)
_RULE: Final = re.compile(r"^\|[\s:|-]+\|$")
_TIMES: Final = 1.2

Place = tuple[str, ...]
"""Section, table headers, the row's cells that are no figures, its number among equals, column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A figure in both files."""

    place: Place
    old: float
    new: float

    @property
    def times(self) -> float:
        """The larger of the two over the smaller.

        Infinite where one is 0 or they differ in sign.
        """
        if self.old == self.new:
            return 1.0
        if self.old * self.new <= 0:
            return inf
        return max(self.old / self.new, self.new / self.old)


def main() -> None:
    """Print the changes as a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--times", type=float, default=_TIMES, help="list what changed by more than this factor"
    )
    parser.add_argument("--all", action="store_true", help="list every figure")
    options = parser.parse_args()
    old, new = (figures(path.read_text(encoding="utf-8")) for path in (options.old, options.new))
    changes = [
        Change(place=place, old=old[place], new=value)
        for place, value in new.items()
        if place in old
    ]
    large = [change for change in changes if change.times > options.times]
    shown = sorted(changes if options.all else large, key=lambda change: -change.times)
    print(
        f"{len(changes)} figures in both, {len(large)} of them changed by more than "
        f"{options.times:g} times\n"
    )
    if shown:
        print(
            "| section | row | column | old | new | new / old |\n"
            "| --- | --- | --- | --- | --- | --- |"
        )
    for change in shown:
        section, _, row, number, column = change.place
        ratio = f"{change.new / change.old:.2f}" if change.old else "-"
        print(
            f"| {section} | {row}{f' ({number})' if number != '1' else ''} | {column} | "
            f"{change.old:g} | {change.new:g} | {ratio} |"
        )
    for name, mine, theirs in (("old", old, new), ("new", new, old)):
        for (section, headers), places in groupby(
            sorted(place for place in mine if place not in theirs), key=lambda place: place[:2]
        ):
            print(f"\nonly in {name}: {len(list(places))} figures of {section!r} ({headers})")
    sys.exit(1 if large else 0)


def figures(text: str) -> dict[Place, float]:
    """Return every figure of a file of results by its place."""
    by_place: dict[Place, float] = {}
    for section, headers, rows in _tables(text):
        seen: dict[str, int] = {}
        for cells in rows:
            values = {column: _figure(cell) for column, cell in zip(headers, cells, strict=False)}
            named = " / ".join(
                cell
                for column, cell in zip(headers, cells, strict=False)
                if values[column] is None and cell
            )
            key = named or cells[0]
            seen[key] = seen.get(key, 0) + 1
            for column, value in values.items():
                if value is not None:
                    by_place[section, " | ".join(headers), key, str(seen[key]), column] = value
    return by_place


def _tables(text: str) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield section, headers and rows of every table."""
    section = ""
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        if lines[at].startswith("#"):
            section = lines[at].lstrip("# ")
        if at + 1 < len(lines) and lines[at].startswith("|") and _RULE.match(lines[at + 1].strip()):
            headers, at, rows = _cells(lines[at]), at + 2, []
            while at < len(lines) and lines[at].startswith("|"):
                rows.append(_cells(lines[at]))
                at += 1
            yield section, headers, rows
        else:
            at += 1


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _figure(cell: str) -> float | None:
    match = _FIGURE.match(cell)
    return float(match[1].replace(",", "")) if match else None


if __name__ == "__main__":
    main()
