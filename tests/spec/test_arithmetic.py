"""The vectors pin the arithmetic: a reader that computes otherwise gives other bytes."""

import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.house.tree import ROOT
from tests.spec import readers
from tests.spec.readers import VECTORS

DECODING = ROOT / "spec" / "reader" / "decoding.py"
SUM = "reduce(np.add, [*products, side.own.astype(np.float64)])"
SCALED = "* side.scales.astype(np.float64)[:, None]"
BEFORE = "before[which].astype(np.float64) + made"
MUTATIONS = {
    "own rows first": [(SUM, "reduce(np.add, [side.own.astype(np.float64), *products])")],
    "terms backwards": [
        (SUM, "reduce(np.add, [*reversed(products), side.own.astype(np.float64)])")
    ],
    "everything backwards": [
        (SUM, "reduce(np.add, [side.own.astype(np.float64), *reversed(products)])")
    ],
    "sums in binary32": [
        (SUM, "reduce(np.add, [x.astype(np.float32) for x in [*products, side.own]])")
    ],
    "a product in binary32": [(BEFORE, "before[which] + made.astype(np.float32)")],
    "a fused product": [
        (SUM, f"EXACT({SUM})"),
        (SCALED, "* EXACT(side.scales)[:, None]"),
        (BEFORE, "EXACT(before[which]) + made"),
    ],
    "bits of k rounded down": [("(k - 1).bit_length()", "k.bit_length()")],
}
"""What is written otherwise in the decoding of the reference reader."""


def _read(root: Path, changes: list[tuple[str, str]]) -> None:
    """Export every version with a reference reader whose decoding is changed."""
    text = DECODING.read_text(encoding="utf-8")
    for right, wrong in changes:
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    changed = types.ModuleType("changed")
    changed.__dict__["EXACT"] = np.vectorize(Fraction, otypes=[object])
    exec(compile(text, "changed", "exec"), changed.__dict__)
    store = readers.reference.Store(root)
    for task in store.log("tiny").tasks.values():
        for version in task.versions:
            adapter, _, tensors = changed.decode(store, version["adapter"])
            readers.reference.tensor_file(version, adapter, tensors)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_reader_that_computes_otherwise_is_found_out(name: str, tmp_path: Path) -> None:
    """Spec DEC-03, DEC-04, DEC-07."""
    root = readers.unpack(VECTORS / "good" / "arithmetic", tmp_path / "store")
    _read(root, [])
    with pytest.raises(readers.reference.DamagedError, match=r"^DEC-(12|03): "):
        _read(root, MUTATIONS[name])
