"""What the text says in tables is what the vectors and the clauses are."""

import re

from spec import references
from spec.transitions import CLAUSES
from tests.house.test_clauses import ID, RANGE, _defined, _span
from tests.house.tree import ROOT

SPEC = ROOT / "spec"


def _rows(chapter: str, head: str) -> list[list[str]]:
    """Return the rows of the table with this head."""
    text = (SPEC / chapter).read_text(encoding="utf-8")
    table = text.partition(f"\n{head}\n")[2].partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


def test_the_table_of_transitions_is_that_of_the_vectors() -> None:
    """Spec REC-20."""
    states = ("absent", "live", "dropped", "renamed")
    rows = _rows("03-records-and-notes.md", "| record | absent | live | dropped | renamed |")
    described = {
        (cells[0].strip("`"), state): cell if re.fullmatch(ID, cell) else None
        for cells in rows
        for state, cell in zip(states, cells[1:], strict=True)
    }
    assert described == CLAUSES


def test_every_clause_has_one_who_checks_it() -> None:
    listed: list[str] = []
    for _, clauses in _rows("13-who-checks.md", "| who | clauses |"):
        spans = RANGE.findall(clauses)
        listed += [clause for first, last in spans for clause in _span(first, last)]
        listed += re.findall(ID, RANGE.sub("", clauses))
    assert sorted(listed) == sorted(_defined())


def test_the_table_of_references_is_that_of_the_vectors() -> None:
    rows = _rows("09-names-and-references.md", "| reference | means |")
    meanings = dict(references.meanings())
    described = {reference.strip("`"): meaning.strip("`") for reference, meaning in rows}
    assert described == {reference: meanings[reference] for reference in described}
