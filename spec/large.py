"""Bad stores of a few kB that ask for more than a reader must spend.

Rows of zeros take no bytes: the terms of one small object can ask for any number of coefficients,
and of products with the rows of another.
"""

from typing import Any

from spec.tiny import Tiny, linear, pair
from spec.writing import BasisDraft, Draft, canonical, framed, sha256


def stores() -> dict[str, dict[str, bytes]]:
    """Return every such store as files by path."""
    return {
        "DEC-13-coefficients": _referring(rank=1 << 14, width=1, k=0xFFFF),
        "DEC-13-products": _referring(rank=256, width=1 << 20, k=256),
    }


def _referring(*, rank: int, width: int, k: int) -> dict[str, bytes]:
    """Return a store with a sound version, and one of zeros over the rows of a basis of zeros."""
    tiny = Tiny()
    entry = tiny.adapter("cola", 1, linear(), [pair("cola")])
    tiny.absorb(entry)
    layout = canonical(linear(width=width, out=1, rank=rank, module="zeros"))
    basis = BasisDraft(
        header={
            "format": 1,
            "kind": "basis",
            "modules": [{"module": "zeros", "in": width, "out": 1}],
        },
        lanes=[],
        ks=[k, 0],
        groups_of_rows=[0] * k,
    )
    header: dict[str, Any] = {
        "format": 1,
        "kind": "adapter",
        "layout": tiny.put(layout),
        "sources": [tiny.put(_framed(basis))],
        "external": [],
    }
    adapter = Draft(
        header=header,
        lanes=[1],
        terms=[1, 0],
        sources=[0],
        exponents=[0],
        ks=[k],
        scales=[0] * (2 * rank),
        errors=[0],
        groups_of_rows=[0] * (3 * rank),
    )
    members = {"adapter": tiny.put(_framed(adapter)), "layout": sha256(layout)}
    tiny.absorb(entry | {"task": "zeros", "source": sha256(b"zeros")} | members)
    return tiny.files


def _framed(draft: Draft) -> bytes:
    return draft.to_bytes(table=b"\1" + framed(draft.table()))
