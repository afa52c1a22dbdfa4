"""Clause ids of the specification: every cited one exists, every one is cited by code or a test."""

import pytest

from tests.house.clauses import DEFINED, SPEC, cited_ids, defined_ids, quoted_ids, texts_below
from tests.house.tree import name


@pytest.mark.skipif(not SPEC.is_dir(), reason="there is no spec yet")
def test_every_cited_clause_exists() -> None:
    defined = defined_ids()
    unknown = {
        name(path): sorted(cited_ids(text) - defined)
        for path, text in texts_below("share_registry", "migrations", "tests", "spec").items()
    }
    assert {path: ids for path, ids in unknown.items() if ids} == {}


@pytest.mark.skipif(not SPEC.is_dir(), reason="there is no spec yet")
def test_every_clause_is_cited_by_code_or_a_test() -> None:
    defined = defined_ids()
    cited = {
        clause
        for text in texts_below("share_registry", "migrations", "tests").values()
        for clause in cited_ids(text) | quoted_ids(text, defined)
    }
    assert sorted(defined - cited) == []


def test_ranges_and_lists_are_unrolled() -> None:
    word = "spec"
    assert cited_ids(f"({word} ABC-01 to ABC-03, DEF-09)") == {
        "ABC-01",
        "ABC-02",
        "ABC-03",
        "DEF-09",
    }


def test_a_ticket_number_is_not_a_clause() -> None:
    assert cited_ids("reason='CAB-77'") == set()


def test_a_clause_is_defined_where_a_line_begins_with_it() -> None:
    assert DEFINED.findall("**ABC-01** The name.\n- DEF-02: x\n| GHI-03 | y\nsee JKL-04") == [
        "ABC-01",
        "DEF-02",
        "GHI-03",
    ]
