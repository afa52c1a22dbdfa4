"""A name says what it names: it occurs once where it defines, and never just fills a place."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.house.tree import name, sources

FILLERS: Final = {
    *("found", "made", "wanted", "known", "given", "held"),
    *("taken", "handed", "sealed", "one", "other", "what"),
}
"""Names that say nothing of what they hold, in any spelling: `found`, `_found`, `FOUND`, `Found`."""
MEMBERS: Final = {
    ("share_registry/values/analyses.py", "made"): "RetentionCell.made, a member of its JSON",
    ("share_registry/values/checks.py", "what"): "Finding.what, a member of its JSON",
}


def _parsed(*folders: str) -> Mapping[str, ast.AST]:
    return {name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sources(*folders)}


def _defined_names(tree: ast.AST) -> Iterator[str]:
    """Yield every name that a module gives to something of its own."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=defined) | ast.FunctionDef(name=defined):
                yield defined
            case ast.AsyncFunctionDef(name=defined) | ast.arg(arg=defined):
                yield defined
            case ast.Name(id=defined, ctx=ast.Store()):
                yield defined
            case ast.Attribute(attr=defined, ctx=ast.Store()):
                yield defined
            case ast.alias(asname=str(defined)) | ast.ExceptHandler(name=str(defined)):
                yield defined
            case ast.MatchAs(name=str(defined)) | ast.MatchStar(name=str(defined)):
                yield defined
            case ast.MatchMapping(rest=str(defined)):
                yield defined


def _fillers(tree: ast.AST) -> set[str]:
    return {filler.strip("_").lower() for filler in _defined_names(tree)} & FILLERS


def _repeated(places: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names that have several places."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for defined, place in places:
        by_name[defined].append(place)
    return {defined: where for defined, where in by_name.items() if len(where) > 1}


def _classes(trees: Mapping[str, ast.AST]) -> Iterator[tuple[str, str]]:
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield node.name.lstrip("_"), path


def _modules(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    for path in paths:
        if (stem := Path(path).stem) != "__init__":
            yield stem.lstrip("_"), path


def test_a_class_name_occurs_once_in_the_package() -> None:
    assert _repeated(_classes(_parsed("share_registry"))) == {}


def test_a_planted_second_class_is_seen() -> None:
    trees = {"a.py": ast.parse("class Report: ..."), "b.py": ast.parse("class _Report: ...")}
    assert _repeated(_classes(trees)) == {"Report": ["a.py", "b.py"]}


def test_a_module_name_occurs_once_in_the_package() -> None:
    assert _repeated(_modules(_parsed("share_registry"))) == {}


def test_a_planted_second_module_is_seen() -> None:
    paths = ["store/table.py", "store/__init__.py", "values/table.py", "values/__init__.py"]
    assert _repeated(_modules(paths)) == {"table": ["store/table.py", "values/table.py"]}


def test_no_name_is_a_filler() -> None:
    filled = {
        (path, filler)
        for path, tree in _parsed("share_registry").items()
        for filler in _fillers(tree)
    }
    assert filled - set(MEMBERS) == set()


@pytest.mark.parametrize(
    "planted",
    [
        "found = 1",
        "FOUND = 1",
        "found: int",
        "a, *found = 1, 2",
        "self._found = 1",
        "for found in (): ...",
        "[found for found in ()]",
        "if (found := 1): ...",
        "with open('x') as found: ...",
        "def f(found): ...",
        "def f(*, _found=1): ...",
        "def f(*found): ...",
        "lambda found: 1",
        "def found(): ...",
        "async def _found(): ...",
        "class Found: ...",
        "from re import search as found",
        "try: ...\nexcept OSError as found: ...",
        "match 1:\n    case found: ...",
        "match 1:\n    case [*found]: ...",
        "match 1:\n    case {**found}: ...",
        "match 1:\n    case int() as found: ...",
    ],
)
def test_a_planted_filler_is_seen(planted: str) -> None:
    assert _fillers(ast.parse(planted)) == {"found"}


def test_what_others_named_is_no_filler() -> None:
    used = "from re import found\nfound()\nmodule.found(found=found)\nfoundation = other.known"
    assert _fillers(ast.parse(used)) == set()
