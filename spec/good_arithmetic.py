"""Good vectors of arithmetic: each value comes out right in one order of rounding alone.

A reader that sums in another order, rounds early or fuses a product with a sum gives other bytes.
"""

from typing import Any, Final

from spec.tiny import Tiny, layout_of, linear, pair, spread
from spec.writing import Side

PIECE: Final = 4 << 20


def arithmetic() -> Tiny:
    """Return a store whose versions differ from what any other order of DEC-04 gives."""
    tiny = Tiny()
    blocks = [_block(tiny, number) for number in range(3)]
    tiny.absorb(*(entry for entry in blocks))
    sources = [entry["adapter"] for entry in blocks]
    tiny.absorb(tiny.adapter("order", 1, _row(), [_order()], sources=sources))
    before = tiny.adapter("fused", 1, _row(), [(_own(-129, 2.0**39), _own(1, 1.0))])
    tiny.absorb(before)
    tiny.absorb(
        tiny.adapter(
            "fused", 2, _row(), [_fused()], previous=before["adapter"], sources=sources[:1]
        )
    )
    for rows in (3, 4):
        tiny.absorb(*_most_bits(tiny, rows))
    lane_5 = pair("lane")
    first = tiny.adapter("lane-5", 1, linear(), [lane_5])
    tiny.absorb(first)
    a, b = pair("next", previous=True)
    a.previous = False
    tiny.absorb(tiny.adapter("lane-5", 2, linear(), [(a, b)], previous=first["adapter"]))
    _experts(tiny)
    long = bytes([1]) * PIECE + bytes([2]) * 5
    tiny.absorb(
        tiny.adapter("two-pieces", 1, layout_of([("p", "U8", [len(long)])], []), [], kept={0: long})
    )
    return tiny


def _row() -> dict[str, Any]:
    return linear(width=1, out=1, rank=1, module="one")


def _own(value: int, scale: float) -> Side:
    return Side(own=[[value]], scales=[scale])


def _block(tiny: Tiny, number: int) -> dict[str, Any]:
    return tiny.adapter(f"block-{number}", 1, _row(), [(_own(1, 2.0**number), _own(1, 1.0))])


def _order() -> tuple[Side, Side]:
    """Return 2**53 + 1 - 2**53 + 5, which is 5 from left to right; and what binary32 loses."""
    a, b = _own(5, 1.0), _own(3, 1.0)
    a.terms = [(0, 53, [[1]]), (1, 0, [[1]]), (2, 53, [[-1]])]
    b.terms = [(0, 30, [[1]]), (1, 0, [[1]]), (2, 30, [[-1]])]
    return a, b


def _fused() -> tuple[Side, Side]:
    """Return -129 * 2**39 + 129/128 * (2**46 + 1): 1 if the product is rounded, else 1 + 2**-7."""
    a, b = _own(1, 1 + 2.0**-7), _own(1, 1.0)
    a.terms, a.previous = [(0, 46, [[1]])], True
    return a, b


def _most_bits(tiny: Tiny, rows: int) -> list[dict[str, Any]]:
    """Return an adapter over so many rows whose products have just the 45 bits of DEC-03."""
    large = tiny.adapter(
        f"rows-{rows}",
        1,
        linear(rank=rows),
        [pair(f"rows{rows}", rank=rows, peak=(1 << 21) - 1)],
    )
    rows_of_a = tiny.blocks[large["adapter"]]["q"][0]
    assert max(abs(value) for row in rows_of_a for value in row) >= 1 << 20
    a, b = pair("most")
    a.terms = [(0, -30, [[(1 << 22) - 1] * rows, spread("most", 1, rows, (1 << 22) - 1)[0]])]
    most = tiny.adapter(f"most-{rows}", 1, linear(), [(a, b)], sources=[large["adapter"]])
    return [most, large]


def _experts(tiny: Tiny) -> None:
    """Add experts kept bit for bit, and a version that is coded upon them."""
    from spec.good import experts, raw

    whole = {0: raw("A", 24, "BF16"), 1: raw("B", 18, "BF16")}
    first = tiny.adapter("experts", 1, experts("BF16"), [None] * 3, kept=whole)
    tiny.absorb(first)
    upon = [pair(f"e{e}", width=4, out=3, peak=2, previous=True) for e in range(3)]
    tiny.absorb(tiny.adapter("experts", 2, experts("BF16"), upon, previous=first["adapter"]))
