"""Ids of clauses: where the specification defines them, and who speaks of them."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.house.tree import ROOT, files

SPEC = ROOT / "spec"
ID = r"[A-Z]{3}-\d{2}"
GAP = r"(?:\s+(?:# )?)"  # a citation may run on in the next line
CITED = re.compile(rf"spec{GAP}({ID}(?:(?:,?{GAP}(?:(?:and|to|spec){GAP})?){ID})*)")
RANGE = re.compile(rf"({ID}){GAP}to{GAP}({ID})")
DEFINED = re.compile(rf"^(?:[-*#|> ]*)\**`?({ID})`?\**\b", re.MULTILINE)


def span(first: str, last: str) -> Iterator[str]:
    prefix = first[:4]
    yield from (f"{prefix}{number:02}" for number in range(int(first[4:]), int(last[4:]) + 1))


def cited_ids(text: str) -> set[str]:
    """Return the ids behind the word `spec`, ranges unrolled."""
    ids: set[str] = set()
    for match in CITED.finditer(text):
        ids |= set(re.findall(ID, match.group(1)))
        for first, last in RANGE.findall(match.group(1)):
            ids |= set(span(first, last))
    return ids


def quoted_ids(text: str, defined: set[str]) -> set[str]:
    """Return the defined ids that a text mentions in any way, as errors and findings do."""
    return set(re.findall(rf"\b{ID}\b", text)) & defined


def defined_ids() -> set[str]:
    return {
        clause
        for path in files()
        if path.suffix == ".md" and SPEC in path.parents
        for clause in DEFINED.findall(path.read_text(encoding="utf-8"))
    }


def texts_below(*folders: str) -> dict[Path, str]:
    return {
        path: path.read_text(encoding="utf-8")
        for path in files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders
    }
