"""The example in bytes is what a writer writes and both readers read."""

import re

import numpy as np

from share_registry.format.adapter_object import decode
from share_registry.format.layout import Layout
from spec.tiny import linear
from spec.writing import Side, canonical, draft
from tests.house.tree import ROOT
from tests.spec.readers import reference

TEXT = (ROOT / "spec" / "15-example.md").read_text(encoding="utf-8")
LAYOUT = linear(width=3, out=2, rank=1)


def _object() -> bytes:
    """Return the bytes of the example: those of the table, with the header that is shown."""
    rows = re.findall(r"^\| `([0-9a-f ]+|\.\.\.)` \|", TEXT, re.MULTILINE)
    header = re.findall(r'^    (\{"__metadata__".*)$', TEXT, re.MULTILINE)[0].encode()
    size = int.from_bytes(bytes.fromhex(rows[0]), "little")
    return b"".join(header.ljust(size) if row == "..." else bytes.fromhex(row) for row in rows)


def test_the_example_is_what_a_writer_writes() -> None:
    sides = Side(own=[[3, -1, 0]], scales=[0.5]), Side(own=[[2, -7]], scales=[1.0])
    assert _object() == draft(LAYOUT, [sides], {}).to_bytes()
    assert canonical(LAYOUT).decode() in TEXT


def test_both_readers_read_the_rows_of_the_example() -> None:
    stored = decode(_object(), Layout.from_bytes(canonical(LAYOUT)))
    parsed = reference.parse_adapter(_object(), lambda *_: canonical(LAYOUT))
    (pair,) = stored.modules
    assert pair is not None
    for side, rows in zip(parsed.modules["q"], ([[3, -1, 0]], [[2, -7]]), strict=True):
        assert np.array_equal(side.own, rows)
