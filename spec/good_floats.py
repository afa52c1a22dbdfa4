"""Good vectors of floats kept as heads and tails (ADP-15, TAB-10, FRM-09 to FRM-12, TEN-05)."""

from typing import Any

from spec.tiny import Tiny, layout_of, linear, number, pair, spread
from spec.writing import Side

FEATURE = ["float-heads"]
PATTERNS = (0x0000, 0x8000, 0x7F80, 0xFF80, 0x7FC0, 0x7FA5, 0xFFFF, 0x0001, 0x807F, 0x3F80)
"""Zeros, infinities, NaNs with what they carry, the smallest numbers, and one, as BF16."""


def floats() -> Tiny:
    """Return a store of every split type, inside and outside, and of what is decoded from it."""
    tiny = Tiny()
    for dtype, base in (("BF16", 1900), ("F16", 70), ("F32", 1900)):
        layout = linear(dtype)
        kept = {0: small(f"A{dtype}", 10, dtype), 1: small(f"B{dtype}", 6, dtype)}
        entry = tiny.adapter(
            f"lossless-{dtype.lower()}", 1, layout, [None], kept=kept, groups=[{0: base, 1: base}]
        )
        tiny.absorb(entry, requires=FEATURE)
    tiny.absorb(_patterns(tiny), _passengers(tiny), requires=FEATURE)
    first = tiny.adapter(
        "continued",
        1,
        linear(),
        [None],
        kept={0: small("A", 10, "F32"), 1: small("B", 6, "F32")},
        groups=[{0: 1900}, {1: 1850}],
    )
    tiny.absorb(first, requires=FEATURE)
    a, b = pair("continued")
    sides = [Side(own=side.own, scales=side.scales, previous=True) for side in (a, b)]
    second = tiny.adapter(
        "continued", 2, linear(), [(sides[0], sides[1])], previous=first["adapter"]
    )
    tiny.absorb(second, requires=FEATURE)
    tiny.absorb(tiny.adapter("plain", 1, linear(), [pair("plain")]))
    return tiny


def small(seed: str, count: int, dtype: str) -> bytes:
    """Return the bytes of small numbers in an element type."""
    return b"".join(number(value / 64, dtype) for value in spread(seed, 1, count, 200)[0])


def mixed() -> dict[str, Any]:
    """Return the layout of passengers of every split type, of odd sizes, and of two others."""
    tensors = [
        ("p.f32", "F32", [3]),
        ("p.i32", "I32", [2]),
        ("p.bf16", "BF16", [5]),
        ("p.f64", "F64", [2]),
        ("p.f16", "F16", [7]),
        ("p.more", "F32", []),
        ("p.none", "BF16", [0]),
        ("p.out", "BF16", [9]),
    ]
    return layout_of(tensors, [])


def kept_of_mixed() -> dict[int, bytes]:
    """Return the tensors of `mixed` but the last."""
    return {
        0: small("f32", 3, "F32"),
        1: bytes(range(8)),
        2: small("bf16", 5, "BF16"),
        3: bytes(range(100, 116)),
        4: small("f16", 7, "F16"),
        5: small("more", 1, "F32"),
        6: b"",
    }


GROUPS_OF_MIXED: list[dict[int, int]] = [{2: 1900, 6: 0}, {0: 1900, 5: 4095}, {4: 255}]
"""The first tensors of groups 1 to 3 are not in their order; one base leads past the last head."""


def _patterns(tiny: Tiny) -> dict[str, Any]:
    layout = layout_of([("p", "BF16", [len(PATTERNS)]), ("one", "F32", [1])], [])
    content = b"".join(pattern.to_bytes(2, "little") for pattern in PATTERNS)
    kept = {0: content, 1: b"\xa5\x00\x80\xff"}
    return tiny.adapter("a-patterns", 1, layout, [], kept=kept, groups=[{0: 2000}, {1: 0}])


def _passengers(tiny: Tiny) -> dict[str, Any]:
    return tiny.adapter(
        "b-passengers",
        1,
        mixed(),
        [],
        kept=kept_of_mixed(),
        external={7: small("out", 9, "BF16")},
        groups=GROUPS_OF_MIXED,
    )
