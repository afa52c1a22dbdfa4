"""Clause ids of the specification: every cited one exists, every one is cited by code or a test."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house.tree import ROOT, files, name

SPEC = ROOT / "spec"
ID = r"[A-Z]{3}-\d{2}"
GAP = r"(?:\s+(?:# )?)"  # a citation may run on in the next line
CITED = re.compile(rf"spec{GAP}({ID}(?:(?:,?{GAP}(?:(?:and|to|spec){GAP})?){ID})*)")
RANGE = re.compile(rf"({ID}){GAP}to{GAP}({ID})")
DEFINED = re.compile(rf"^(?:[-*#|> ]*)\**`?({ID})`?\**\b", re.MULTILINE)


def _span(first: str, last: str) -> Iterator[str]:
    prefix = first[:4]
    yield from (f"{prefix}{number:02}" for number in range(int(first[4:]), int(last[4:]) + 1))


def _cited(text: str) -> set[str]:
    """Return the ids behind the word `spec`, ranges unrolled."""
    ids: set[str] = set()
    for match in CITED.finditer(text):
        ids |= set(re.findall(ID, match.group(1)))
        for first, last in RANGE.findall(match.group(1)):
            ids |= set(_span(first, last))
    return ids


def _quoted(text: str, defined: set[str]) -> set[str]:
    """Return the defined ids that a text mentions in any way, as errors and findings do."""
    return set(re.findall(rf"\b{ID}\b", text)) & defined


def _defined() -> set[str]:
    return {
        clause
        for path in files()
        if path.suffix == ".md" and SPEC in path.parents
        for clause in DEFINED.findall(path.read_text(encoding="utf-8"))
    }


def _texts(*folders: str) -> dict[Path, str]:
    return {
        path: path.read_text(encoding="utf-8")
        for path in files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders
    }


@pytest.mark.skipif(not SPEC.is_dir(), reason="there is no spec yet")
def test_every_cited_clause_exists() -> None:
    defined = _defined()
    unknown = {
        name(path): sorted(_cited(text) - defined)
        for path, text in _texts("share_registry", "migrations", "tests", "spec").items()
    }
    assert {path: ids for path, ids in unknown.items() if ids} == {}


@pytest.mark.skipif(not SPEC.is_dir(), reason="there is no spec yet")
def test_every_clause_is_cited_by_code_or_a_test() -> None:
    defined = _defined()
    cited = {
        clause
        for text in _texts("share_registry", "migrations", "tests").values()
        for clause in _cited(text) | _quoted(text, defined)
    }
    assert sorted(defined - cited) == []


def test_ranges_and_lists_are_unrolled() -> None:
    word = "spec"
    assert _cited(f"({word} ABC-01 to ABC-03, DEF-09)") == {"ABC-01", "ABC-02", "ABC-03", "DEF-09"}


def test_a_ticket_number_is_not_a_clause() -> None:
    assert _cited("reason='CAB-77'") == set()


def test_a_clause_is_defined_where_a_line_begins_with_it() -> None:
    assert DEFINED.findall("**ABC-01** The name.\n- DEF-02: x\n| GHI-03 | y\nsee JKL-04") == [
        "ABC-01",
        "DEF-02",
        "GHI-03",
    ]
