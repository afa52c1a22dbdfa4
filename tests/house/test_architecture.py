"""docs/architecture.md names files that are there."""

import re

from tests.house.tree import ROOT

PAGE = ROOT / "docs" / "architecture.md"
FILE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.py|(?:[\w.-]+/)+)`")
PLACES = (ROOT, ROOT / "share_registry", ROOT / "share_registry" / "registry")


def missing(page: str) -> list[str]:
    """Return the files and folders that a page names and that are nowhere in the tree."""
    return [
        path for path in FILE.findall(page) if not any((place / path).exists() for place in PLACES)
    ]


def test_every_file_of_the_page_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert len(FILE.findall(page)) > 40
    assert missing(page) == []


def test_a_file_that_is_gone_is_named() -> None:
    assert missing("`names.py`, `catalog/queries/`, `catalog/gone.py` and `gone/`") == [
        "catalog/gone.py",
        "gone/",
    ]
