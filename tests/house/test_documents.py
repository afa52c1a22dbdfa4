"""The JSON documents of the command line are those of docs/cli.md."""

import dataclasses
import inspect
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from share_registry.values import commits, imports
from share_registry.values.documents import document
from tests.house.tree import ROOT

PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
DOCUMENTED = dict(re.findall(r"^\| ([A-Z]\w+) \| (.+) \|$", PAGE, re.MULTILINE))
MODULES = [
    "analyses",
    "audits",
    "changes",
    "checks",
    "commits",
    "cost_reports",
    "garbage",
    "imports",
    "lints",
    "references",
    "removals",
    "repairs",
    "sync_reports",
    "tasks",
    "transfers",
    "uploads",
]
VALUES = {
    name: kind
    for module in (import_module(f"share_registry.values.{name}") for name in MODULES)
    for name, kind in inspect.getmembers(module, inspect.isclass)
    if dataclasses.is_dataclass(kind)
    and kind.__module__ == module.__name__
    and kind not in (commits.Log, imports.ImportSource)
}
EXAMPLE: dict[str, Any] = {
    "number": 2,
    "time": datetime(2026, 1, 2, tzinfo=UTC),
    "refs": {"cola": "s/cola@v1"},
    "versions": {"cola": 1},
}


def _example(kind: type) -> Any:
    """Return a value with something in every required field."""
    required = [
        field
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    empty = {
        field.name: ()
        if "tuple" in str(field.type)
        else {}
        if "Mapping" in str(field.type)
        else "0" * 64
        for field in required
    }
    # no example is a tuple
    others = {field.name for field in dataclasses.fields(kind) if "tuple" not in str(field.type)}
    return kind(**empty | {name: EXAMPLE[name] for name in others.intersection(EXAMPLE)})


def test_every_document_is_compared_with_its_value() -> None:
    assert set(DOCUMENTED) == set(VALUES)


def test_the_documentation_lists_every_kind_of_commit() -> None:
    paragraph = next(part for part in PAGE.split("\n\n") if part.startswith("The `kind` of"))
    assert set(re.findall(r"`(\w+)`", paragraph)) - {"kind"} == {*commits.KINDS}


@pytest.mark.parametrize("name", sorted(VALUES))
def test_the_documentation_lists_every_member(name: str) -> None:
    shown = document(_example(VALUES[name]))
    assert isinstance(shown, dict)
    assert re.findall(r"`(\w+)`", DOCUMENTED[name]) == list(shown)
    json.dumps(shown, allow_nan=False)


def test_times_paths_and_numbers_become_what_json_can_hold() -> None:
    east = timezone(timedelta(hours=2))
    assert document(datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=east)) == "2026-01-02T01:04:05.000006Z"
    assert document(Path("a/b")) == "a/b"
    assert document(float("nan")) is None
    assert document([float("inf"), 1.5, True, None, {1: (2,)}]) == [
        None,
        1.5,
        True,
        None,
        {"1": [2]},
    ]
