"""The example in bytes is what both writers write and both readers read."""

import json
import re
from typing import Any

import numpy as np

from share_registry.format.adapter_object import decode, encode
from share_registry.format.adapter_table import AdapterTable, Lane
from share_registry.format.layout import Layout
from share_registry.format.object_file import description, pack
from share_registry.format.symbols import Group
from share_registry.names import Digest
from share_registry.stored import StoredAdapter, StoredModule, StoredSide
from spec.tiny import linear
from spec.writing import Side, canonical, draft, sha256
from tests.house.tree import ROOT
from tests.spec.readers import reference

TEXT = (ROOT / "spec" / "15-example.md").read_text(encoding="utf-8")
LAYOUT = canonical(linear(width=3, out=2, rank=1))
ROWS = ([[3, -1, 0]], [[2, -7]])
SCALES = (0.5, 1.0)
ERROR = 2.0**-6
DECODED = re.findall(r"A = ([-0-9. ]+) and B = ([-0-9. ]+) ", TEXT)[0]
STORED = StoredAdapter(
    layout=Digest(sha256(LAYOUT)),
    previous=None,
    sources=(),
    modules=(
        StoredModule(
            a=StoredSide(
                previous=False,
                terms=(),
                scales=np.array(SCALES[:1], np.float32),
                own=np.array(ROWS[0], np.int32),
            ),
            b=StoredSide(
                previous=False,
                terms=(),
                scales=np.array(SCALES[1:], np.float32),
                own=np.array(ROWS[1], np.int32),
            ),
            error=ERROR,
        ),
    ),
    verbatim={},
    external={},
)
"""The example as the library writes it: all but how it groups the rows is the same."""


def _rows() -> list[str]:
    return re.findall(r"^\| `([0-9a-f ]+|\.\.\.)` \|", TEXT, re.MULTILINE)


def _object() -> bytes:
    """Return the bytes of the example: those of the table, with the header that is shown."""
    header = re.findall(r'^    (\{"__metadata__".*)$', TEXT, re.MULTILINE)[0].encode()
    size = int.from_bytes(bytes.fromhex(_rows()[0]), "little")
    return b"".join(header.ljust(size) if row == "..." else bytes.fromhex(row) for row in _rows())


def _parts() -> dict[str, bytes]:
    """Return the parts of the example: its symbols are the first three rows behind the header."""
    contents = [bytes.fromhex(row) for row in _rows()[2:]]
    return {"planes": b"", "symbols": b"".join(contents[:3]), "table": b"".join(contents[3:])}


def _decoded(content: bytes) -> list[str]:
    """Return the factors that an object decodes to, as the text writes them."""
    adapter: Any = reference.parse_adapter(content, lambda *_: LAYOUT)
    sides = (
        reference.decode_side(side, i, [], None) for i, side in enumerate(adapter.modules["q"])
    )
    return [" ".join(f"{value:g}" for value in rows.reshape(-1)) for rows in sides]


def test_the_example_is_what_the_second_writer_writes() -> None:
    a, b = (Side(own=rows, scales=[scale]) for rows, scale in zip(ROWS, SCALES, strict=True))
    assert _object() == draft(json.loads(LAYOUT), [(a, b)], {}).to_bytes()
    assert LAYOUT.decode() in TEXT


def test_the_library_writes_the_table_and_the_file_of_the_example() -> None:
    table = AdapterTable(
        lanes=(Lane(coded=True),),
        terms=((), ()),
        scales=np.array(SCALES, np.float32),
        errors=np.array([ERROR], np.float32),
        groups_of_rows=np.array([1, 2], np.uint8),
        groups=(Group(packing=0, shift=0), Group(packing=1, shift=3)),
        pieces=(3, 1),
    )
    parts = _parts()
    assert table.to_bytes() == parts["table"]
    pieces: dict[str, list[bytes | memoryview]] = {key: [part] for key, part in parts.items()}
    assert pack(description(_object(), subject="example"), pieces) == _object()


def test_the_library_writes_what_decodes_to_the_example_whatever_groups_it_makes() -> None:
    """Spec ADP-13."""
    content = encode(STORED, Layout.from_bytes(LAYOUT))
    assert description(content, subject="own") == description(_object(), subject="example")
    assert _decoded(content) == _decoded(_object()) == list(DECODED)


def test_the_library_reads_the_rows_of_the_example() -> None:
    stored = decode(_object(), Layout.from_bytes(LAYOUT))
    assert encode(stored, Layout.from_bytes(LAYOUT)) == encode(STORED, Layout.from_bytes(LAYOUT))
