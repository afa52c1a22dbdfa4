"""JSON Schemas of every JSON object of the format, from the models of the library.

pydantic's schemas are brought into the plain form that the reference reader understands: one `type`
everywhere, no `null`, closed bounds, no titles. What the models fill in when it is missing, but
what every writer writes, is required here (`REQUIRED`).
"""

import json
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from share_registry.format import (
    adapter_object,
    basis_object,
    format_file,
    layout,
    notes,
    records,
    tensor_object,
)

FOLDER: Final = Path(__file__).parent / "schemas"
MODELS: Final[dict[str, type[BaseModel]]] = {
    "format": format_file.StoreFormat,
    "record-create": records.CreateRecord,
    "record-absorb": records.AbsorbRecord,
    "record-refit": records.RefitRecord,
    "record-merge": records.MergeRecord,
    "record-restore": records.RestoreRecord,
    "record-drop": records.DropRecord,
    "record-rename": records.RenameRecord,
    "record-policy": records.PolicyRecord,
    "record-alias": records.AliasRecord,
    "record-tag": records.TagRecord,
    "record-annotate": records.AnnotateRecord,
    "record-export": records.ExportRecord,
    "record-expire": records.ExpireRecord,
    "record-purge": records.PurgeRecord,
    "note": notes.Note,
    "layout": layout.Layout,
    "adapter": adapter_object.Header,
    "basis": basis_object.BasisHeader,
    "tensor": tensor_object.TensorHeader,
}
REQUIRED: Final = {
    "format": {"magic", "version", "read", "write", "gc"},
    "layout": {"format", "kind", "factors.experts"},
    "note": {"format", "kind"},
    "adapter": {"format", "kind", "sources", "external"},
}
"""Members with a default in the model that a writer always writes.

Beside `format` and `kind` of records.
"""


def schemas() -> dict[str, dict[str, Any]]:
    """Return every schema by name."""
    made = {name: _schema(name, model) for name, model in MODELS.items()}
    return {
        name: {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        for name, schema in made.items()
    }


def text(schema: dict[str, Any]) -> str:
    """Return a schema as its file holds it."""
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


def _schema(name: str, model: type[BaseModel]) -> dict[str, Any]:
    schema: dict[str, Any] = _plain(TypeAdapter(model).json_schema())
    required = REQUIRED.get(name, {"format", "kind"})
    schema["required"] = sorted(
        {*schema.get("required", ()), *(member for member in required if "." not in member)}
    )
    if name == "layout":
        factor = schema["$defs"]["FactorSpec"]
        factor["required"] = sorted({*factor["required"], "experts"})
    return schema


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    options = [option for option in value.get("anyOf", ()) if option != {"type": "null"}]
    if options:
        (option,) = options
        return _plain(
            {name: item for name, item in value.items() if name not in ("anyOf", "default")}
            | option
        )
    made = {
        name: _plain(item)
        for name, item in value.items()
        if name not in ("title", "default", "description") or isinstance(item, dict)
    }
    for bound, name, step in (
        ("exclusiveMaximum", "maximum", -1),
        ("exclusiveMinimum", "minimum", 1),
    ):
        if isinstance(made.get(bound), int):
            made[name] = made.pop(bound) + step
    return made


def write() -> None:
    """Write every schema file, and remove files of schemas that are gone."""
    FOLDER.mkdir(exist_ok=True)
    made = schemas()
    for path in FOLDER.glob("*.json"):
        if path.stem not in made:
            path.unlink()
    for name, schema in made.items():
        (FOLDER / f"{name}.json").write_text(text(schema), encoding="utf-8")
