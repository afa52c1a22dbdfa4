"""What the text says in tables is what the vectors and the clauses are."""

import json
import re

from spec import references
from spec.transitions import CLAUSES
from tests.house.clauses import ID, RANGE, defined_ids, span
from tests.house.tree import ROOT

SPEC = ROOT / "spec"
LIMITS = "| clause | what | at most | see | bad vectors |"
REFERENCES = "REF-01"
"""Its vectors are references, and lie among the good ones."""


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
    listed = [
        clause
        for _, clauses in _rows("13-who-checks.md", "| who | clauses |")
        for clause in _unrolled(clauses)
    ]
    assert sorted(listed) == sorted(defined_ids())


def test_every_clause_that_a_reader_refuses_has_a_bad_vector() -> None:
    """Of its name, or of another that the text tells."""
    refused = _unrolled(dict(_rows("13-who-checks.md", "| who | clauses |"))["a reader refuses"])
    named = {vector[:6] for vector in _bad_vectors()}
    shown = [*_shown_elsewhere(), REFERENCES]
    assert sorted({*refused} - named) == sorted(shown)


def test_a_vector_that_the_text_tells_of_is_there() -> None:
    told = {vector for vectors in _shown_elsewhere().values() for vector in vectors}
    assert told
    assert sorted(told - _bad_vectors()) == []


def test_every_limit_has_a_bad_vector_of_the_clause_that_says_it() -> None:
    """For spec LIM-01 to LIM-25."""
    rows = {row[0]: row for row in _rows("11-limits.md", LIMITS)}
    assert sorted(rows) == sorted(clause for clause in defined_ids() if clause.startswith("LIM"))
    for clause, _, _, see, vectors in rows.values():
        clauses = {vector[:6] for vector in _quoted(vectors)}
        assert clauses, clause
        assert clauses <= set(re.findall(ID, see)), clause


def _shown_elsewhere() -> dict[str, list[str]]:
    """Return the vectors of clauses that none is named by."""
    rows = [
        *_rows("13-who-checks.md", "| clause | bad vectors |"),
        *_rows("11-limits.md", LIMITS),
    ]
    return {row[0]: _quoted(row[-1]) for row in rows}


def _quoted(cell: str) -> list[str]:
    return re.findall(rf"`({ID}-[^`]+)`", cell)


def _bad_vectors() -> set[str]:
    """Return the names of all bad vectors, without what kind of thing they are."""
    folder = SPEC / "vectors" / "bad"
    recipes = json.loads((folder / "recipes.json").read_text(encoding="utf-8"))
    files = {path.name for path in folder.iterdir()} - {"recipes.json", "references.json"}
    return {name.partition(".")[0] for name in (*files, *recipes)}


def _unrolled(clauses: str) -> list[str]:
    spans = [clause for first, last in RANGE.findall(clauses) for clause in span(first, last)]
    return spans + re.findall(ID, RANGE.sub("", clauses))


def test_the_table_of_references_is_that_of_the_vectors() -> None:
    rows = _rows("09-names-and-references.md", "| reference | means |")
    meanings = dict(references.meanings())
    described = {reference.strip("`"): meaning.strip("`") for reference, meaning in rows}
    assert described == {reference: meanings[reference] for reference in described}
