"""Schemas and tables say what the models say."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from spec.make_schemas import FOLDER, schemas, text
from tests.house.tree import ROOT
from tests.spec.readers import VECTORS, kind_of

SPEC = ROOT / "spec"
TABLE = re.compile(r"^### `([\w*#-]+)`\n\n\|.*\n\|.*\n((?:\|.*\n)+)", re.MULTILINE)
ROW = re.compile(r"^\| `(\w+)` \|[^|]*\| 1 \| (yes|no) \|", re.MULTILINE)
COMMON = "record-*"
SHARED = {
    "record-policy#PolicyBody": "record-create#PolicyBody",
    "record-expire#TaskVersionRef": "record-absorb#TaskVersionRef",
} | {
    f"record-{kind}#{part}": f"record-absorb#{part}"
    for kind in ("refit", "merge")
    for part in ("AbsorbedTask", "TaskVersionRef")
}
"""Definitions that one table describes for several schemas."""


def _documented() -> dict[str, dict[str, str]]:
    tables: dict[str, dict[str, str]] = {}
    for chapter in sorted(SPEC.glob("*.md")):
        for name, rows in TABLE.findall(chapter.read_text(encoding="utf-8")):
            assert name not in tables
            assert len(ROW.findall(rows)) == rows.count("\n")
            tables[name] = dict(ROW.findall(rows))
    return tables


def _objects() -> dict[str, dict[str, Any]]:
    """Return every object of every schema: `name` or `name#Definition`."""
    objects: dict[str, dict[str, Any]] = {}
    for name, schema in schemas().items():
        parts = {name: schema} | {
            f"{name}#{part}": value for part, value in schema.get("$defs", {}).items()
        }
        objects |= {part: value for part, value in parts.items() if value["type"] == "object"}
    return objects


def _kind(path: Path) -> str:
    name = kind_of(path).removesuffix(".json")
    return (
        f"record-{json.loads(path.read_text(encoding='utf-8'))['kind']}"
        if name == "record"
        else name
    )


GOOD = sorted(path for path in (VECTORS / "good").glob("*.*.json"))


def test_the_schema_files_are_those_of_the_models() -> None:
    assert {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()} == {
        name: text(schema) for name, schema in schemas().items()
    }


@pytest.mark.parametrize("name", sorted(_objects()))
def test_the_table_of_an_object_is_that_of_its_schema(name: str) -> None:
    schema, documented = _objects()[name], _documented()
    rows = dict(documented[SHARED.get(name, name)])
    if name.startswith("record-") and "#" not in name:
        rows |= documented[COMMON]
    expected = {
        member: "yes" if member in schema["required"] else "no" for member in schema["properties"]
    }
    assert rows == expected
    assert schema["additionalProperties"] is False


def test_no_table_is_of_nothing() -> None:
    assert sorted(_documented().keys() - {*_objects(), COMMON}) == []


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_good_objects_fit_their_schemas(path: Path) -> None:
    schema = schemas()[_kind(path)]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), schema)


def test_a_schema_is_closed() -> None:
    with pytest.raises(jsonschema.ValidationError, match="extra"):
        jsonschema.validate({"extra": 1}, schemas()["note"])
