"""Good vectors: tiny stores and values in canonical form.

Between them the stores have every element type, form, lane, packing and kind of record.
"""

from typing import Any

from spec import (
    good_arithmetic,
    good_exports,
    good_floats,
    good_policies,
    good_removals,
    good_shapes,
    references as reference_vectors,
    transitions,
)
from spec.tiny import Tiny, layout_of, linear, number, pair, spread
from spec.writing import Rows, Side, basis_draft, canonical

PREFIX = "base_model.model"
CANONICAL = [
    ["{}", "{}"],
    ['{ "b" : 1, "a" : [ true , false ] }', '{"a":[true,false],"b":1}'],
    [
        '{"A":"\\u0041","_":"","a":-9007199254740991,"aa":9007199254740991}',
        '{"A":"A","_":"","a":-9007199254740991,"aa":9007199254740991}',
    ],
    [
        '{"s":"\\u0000\\u0008\\u0009\\u000a\\u000b\\u000c\\u000d\\u001f\\"\\\\\\/\\u007f"}',
        '{"s":"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\\"\\\\/\x7f"}',
    ],
    [
        '{"s":"\\u2028\\u2029\\ud83d\\ude00\\ufb33\\u00e9"}',
        '{"s":"\u2028\u2029\U0001f600\ufb33\u00e9"}',
    ],
    ['{"a": ' + "[" * 15 + "]" * 15 + "}", '{"a":' + "[" * 15 + "]" * 15 + "}"],
]
"""Any JSON text of a value of the profile, and the canonical one."""


def stores() -> dict[str, dict[str, bytes]]:
    """Return the good stores as files by path."""
    return {
        "lanes": lanes().files,
        "references": references().files,
        "history": history().files,
        "sharing": sharing().files,
        "arithmetic": good_arithmetic.arithmetic().files,
        "exports": good_exports.exports().files,
        "recorded-exports": good_exports.recorded().files,
        "policies": good_policies.policies().files,
        "shapes": good_shapes.shapes().files,
        "floats": good_floats.floats().files,
        "names": reference_vectors.store().files,
        "transitions": transitions.accepted(transitions.KINDS),
        "transitions-of-removals": transitions.accepted(transitions.REMOVALS),
        "removals": good_removals.removals(),
    }


def objects() -> dict[str, bytes]:
    """Return records, notes, layouts and the FORMAT of the good stores, one of each kind."""
    found: dict[str, bytes] = {}
    tiny, bases = history(), sharing()
    for path, content in (*tiny.files.items(), *bases.files.items()):
        if path.startswith("spaces/"):
            kind = content.split(b'"kind":"')[1].split(b'"')[0].decode()
            found.setdefault(f"{kind}.record.json", content)
        elif path in tiny.files and (
            content.startswith(b'{"author"') or b'"kind":"note"' in content
        ):
            found[f"{'annotate' if b'removed' in content else 'absorb'}.note.json"] = content
    for content in good_exports.recorded().files.values():
        if b'"kind":"export"' in content:
            found.setdefault("export.record.json", content)
        elif b"CAB-77" in content:
            found["export.note.json"] = content
    for path, content in good_removals.removals().items():
        for kind in ("expire", "purge"):
            if path.startswith("spaces/") and f'"kind":"{kind}"'.encode() in content:
                found.setdefault(f"{kind}.record.json", content)
    found["rows.basis.safetensors"] = basis_draft(ROWS, WIDE).to_bytes()
    found["long-description.basis.safetensors"] = _long_description()
    found["current.format.json"] = tiny.files["FORMAT"]
    layouts = {
        "linear": linear(),
        "conv": conv(),
        "experts": experts("F16"),
        "passengers": passengers(),
        "wide": wide(),
        "long": long(),
        "nothing": layout_of([], []),
        "mixed": good_floats.mixed(),
    }
    for name, layout in layouts.items():
        found[f"{name}.layout.json"] = canonical(layout)
    return found


def conv() -> dict[str, Any]:
    """Return the layout of a convolution, an embedding, and a pair of two element types."""
    tensors = [
        (f"{PREFIX}.c.lora_A.weight", "F32", [2, 3, 2, 2]),
        (f"{PREFIX}.c.lora_B.weight", "F32", [4, 2, 1, 1]),
        (f"{PREFIX}.e.lora_embedding_A", "BF16", [2, 6]),
        (f"{PREFIX}.e.lora_embedding_B", "F16", [3, 2]),
    ]
    return layout_of(tensors, [("c", "conv", 0, 1, 1), ("e", "embedding", 2, 3, 1)])


def experts(dtype: str) -> dict[str, Any]:
    """Return the layout of three experts of rank 2."""
    tensors = [
        (f"{PREFIX}.x.lora_A.weight", dtype, [6, 4]),
        (f"{PREFIX}.x.lora_B.weight", dtype, [3, 6]),
    ]
    return layout_of(tensors, [("x", "experts", 0, 1, 3)])


def passengers() -> dict[str, Any]:
    """Return the layout of a pair and a passenger of every element type.

    One has no dimensions, one no elements.
    """
    pair_ = [
        (f"{PREFIX}.q.lora_B.weight", "F32", [3, 2]),
        (f"{PREFIX}.q.lora_A.weight", "F32", [2, 5]),
    ]
    others = [
        (f"{PREFIX}.head.{dtype.lower()}", dtype, [2, 3])
        for dtype in ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
    ]
    return layout_of(
        [*others, *pair_, (f"{PREFIX}.scalar", "F32", []), (f"{PREFIX}.empty", "F32", [0, 4])],
        [("q", "linear", 11, 10, 1)],
    )


def wide() -> dict[str, Any]:
    """Return the layout of one passenger of 300 bytes."""
    return layout_of([("p", "U8", [300])], [])


def long() -> dict[str, Any]:
    """Return the layout of a pair with one row of 200 Mi numbers."""
    return linear(width=200 << 20, out=1, rank=1)


def lanes() -> Tiny:
    """Every element type, form and lane, and the values at which rounding shows."""
    tiny = Tiny()
    kinds = [
        tiny.adapter(f"factor-{dtype.lower()}", 1, linear(dtype), [pair(dtype)])
        for dtype in ("F32", "F16", "BF16", "F64")
    ]
    tiny.absorb(*sorted(kinds, key=lambda entry: str(entry["task"])))
    tiny.absorb(
        tiny.adapter("conv", 1, conv(), [pair("c", width=12, out=4), pair("e", width=6, out=3)])
    )
    tiny.absorb(
        tiny.adapter(
            "experts", 1, experts("F16"), [pair(f"x{e}", width=4, out=3) for e in range(3)]
        )
    )
    whole = {0: raw("A", 24, "BF16"), 1: raw("B", 18, "BF16")}
    tiny.absorb(tiny.adapter("lossless", 1, experts("BF16"), [None] * 3, kept=whole))
    spec = passengers()["tensors"]
    kept = {
        i: bytes(
            (i * 37 + j) % 251 % 2 if spec[i]["dtype"] == "BOOL" else (i * 37 + j) % 251
            for j in range(size)
        )
        for i, size in _sizes(spec)
        if i < 10
    }
    tiny.absorb(
        tiny.adapter(
            "passengers",
            1,
            passengers(),
            [pair("p")],
            kept={**kept, 7: b"\7" * 6, 12: raw("s", 1, "F32"), 13: b""},
        )
    )
    del kept[4]
    tiny.absorb(
        tiny.adapter(
            "external",
            1,
            passengers(),
            [pair("p")],
            kept={**kept, 12: b"\0" * 4, 13: b""},
            external={4: bytes(range(48))},
        )
    )
    tiny.absorb(
        *(
            tiny.adapter(f"rounding-{dtype.lower()}", 1, linear(dtype), [rounding(dtype)])
            for dtype in ("BF16", "F16", "F32")
        )
    )
    wide = (
        Side(own=[[*range(-60, 61)], [0] * 121], scales=[0.5, 0.0]),
        Side(own=spread("w", 2, 3, (1 << 23) - 1), scales=[2.0**-20, 2.0**-21]),
    )
    tiny.absorb(tiny.adapter("wide", 1, linear(width=121, module="w"), [wide]))
    return tiny


def rounding(dtype: str) -> tuple[Side, Side]:
    """Return a module whose values are hard to round.

    Between two of an element type, at its smallest and its largest, and at signed zeros.
    """
    ties = {
        "BF16": [257, -259, 385, -(1 << 16) - 256, 3],
        "F16": [2049, -2051, 65519, -4098, 1],
        "F32": [(1 << 23) - 1, -1, 5, 1 << 20, -3],
    }[dtype]
    small = {"BF16": 2.0**-133, "F16": 2.0**-26, "F32": 2.0**-133}[dtype]
    return Side(own=[ties, [-1, 1, 2, 3, -5]], scales=[1.0, small]), Side(
        own=[[-7, 0, 7], [1, -2, 3]], scales=[0.0, small]
    )


def references() -> Tiny:
    """Rows of earlier adapters, previous versions up to eight deep, and both at once."""
    tiny = Tiny()
    first = tiny.adapter("base", 1, linear(rank=3), [pair("one", rank=3, peak=500)])
    tensors = [
        ("a", "F32", [2, 5]),
        ("b", "F32", [3, 2]),
        ("c", "F16", [1, 4]),
        ("d", "F16", [4, 1]),
    ]
    two = layout_of(tensors, [("q", "linear", 0, 1, 1), ("v", "linear", 2, 3, 1)])
    second = tiny.adapter("other", 1, two, [pair("two"), pair("three", rank=1, width=4, out=4)])
    tiny.absorb(first, second)
    a, b = pair("four", peak=3)
    a.terms = [(0, -3, spread("C", 2, 3, 100)), (1, 2, spread("D", 2, 2, 9))]
    b.terms = [(1, -128, spread("E", 2, 2, 900))]
    tiny.absorb(
        tiny.adapter(
            "shared", 1, linear("BF16"), [(a, b)], sources=[first["adapter"], second["adapter"]]
        )
    )
    left, right = pair("five", peak=2, previous=True)
    right.previous = False
    left.terms = [(0, 0, spread("F", 2, 2, 3))]
    third = tiny.adapter(
        "other",
        2,
        linear(),
        [(left, right)],
        previous=second["adapter"],
        sources=[second["adapter"]],
    )
    tiny.absorb(third)
    kept = tiny.adapter(
        "chain", 1, linear("F16"), [None], kept={0: raw("k", 10, "F16"), 1: raw("l", 6, "F16")}
    )
    tiny.absorb(kept)
    for version in range(2, 10):
        kept = chained(tiny, version, kept["adapter"])
        tiny.absorb(kept)
    tiny.absorb(tiny.adapter("same", 1, linear(), [zero()], previous=third["adapter"]))
    return tiny


def chained(tiny: Tiny, version: int, previous: str) -> dict[str, Any]:
    """Return the next version of a chain."""
    return tiny.adapter(
        "chain",
        version,
        linear("F16"),
        [pair(f"n{version}", peak=2, scale=2.0**-9, previous=True)],
        previous=previous,
    )


def zero() -> tuple[Side, Side]:
    """Return a module that is the previous one over again: all own rows are zero."""
    return Side(own=[[0] * 5] * 2, scales=[1.0, 0.0], previous=True), Side(
        own=[[0] * 3] * 2, scales=[1.0, 1.0], previous=True
    )


def history() -> Tiny:
    """Every kind of record."""
    tiny = Tiny()
    one = tiny.adapter("cola", 1, linear(), [pair("cola")])
    two = tiny.adapter("sst2", 1, linear(), [pair("sst2")])
    tiny.absorb(one, two)
    tiny.record("alias", task="cola", alias="prod", version=1)
    tiny.absorb(
        tiny.adapter(
            "cola",
            2,
            linear(),
            [pair("next", previous=True)],
            previous=one["adapter"],
            members={"error": "0", "budget": "1e-5"},
        )
    )
    tiny.record("alias", task="cola", alias="prod", version=2)
    tiny.record("tag", tag="release", commit=4)
    said = {
        "task": "cola",
        "labels": [{"name": "team", "value": "search"}],
        "metrics": [{"name": "f1", "value": "0.5"}],
        "removed": ["old"],
    }
    tiny.record(
        "annotate",
        task="cola",
        version=1,
        note=tiny.put(canonical({"format": 1, "kind": "note", "message": "why", "tasks": [said]})),
    )
    tiny.record("policy", policy={"budget": "0.025", "keep_original": True, "references": False})
    tiny.record("drop", task="cola")
    tiny.record("restore", task="cola", version=3, of=1)
    tiny.record("rename", task="sst2", name="sentiment")
    tiny.absorb(
        tiny.adapter(
            "sentiment",
            2,
            linear("BF16"),
            [pair("new")],
            members={"derived_from": [{"task": "cola", "version": 2}]},
        )
    )
    tiny.record("rename", task="sentiment", name="sst2")
    tiny.record("restore", task="sst2", version=3, of=2)
    tiny.record("alias", task="cola", alias="prod")
    return tiny


ROWS: dict[str, tuple[Rows, Rows]] = {
    "k": ([], [[0, 0, 0]]),
    "q": (spread("A", 3, 5, 900), spread("B", 2, 3, 70_000)),
    "q#1": (spread("C", 1, 4, 1), []),
}
WIDE = {"k": (1 << 24, 3), "q": (5, 3), "q#1": (4, 1)}
"""Rows by module and the widths of its sides: a module with one side, a row of zeros, an expert."""


def sharing() -> Tiny:
    """Fitted bases, tasks that are coefficients over them alone, a bound, a merge."""
    tiny = Tiny()
    first = tiny.basis(ROWS, WIDE)
    one, two = (
        tiny.adapter(task, 1, linear(), [over(task)], sources=[first]) for task in ("cola", "mnli")
    )
    tiny.absorb(one, two, basis=first)
    other = tiny.adapter(
        "sst2", 1, linear("F16"), [pair("sst2")], members={"budget": None, "error": "1.25"}
    )
    tiny.absorb(other)
    tiny.record(
        "policy",
        policy={
            "budget": "0.05",
            "keep_original": False,
            "refit": False,
            "pseudo_rank": 2,
            "k": 3,
            "phi": 1,
        },
    )
    tiny.record("rename", task="sst2", name="film")
    second = tiny.basis({"q": (spread("D", 2, 5, 900), spread("E", 4, 3, 300))})
    bound = {
        "source": other["source"],
        "before": "1.25",
        "error": "1.375",
        "bound": True,
        "budget": None,
    }
    tiny.refit(
        second,
        tiny.adapter(
            "film", 2, linear("F16"), [over("film", sizes=(2, 4))], sources=[second], members=bound
        ),
    )
    exact = {"before": "0.015625", "error": "1e-16", "budget": "1e-5"}
    a, b = over("cola", sizes=(2, 4))
    a.terms, a.own = (
        [(0, -2, spread("F", 2, 3, 9)), (1, 3, spread("G", 2, 2, 9)), (2, 0, spread("H", 2, 2, 9))],
        spread("I", 2, 5, 4),
    )
    b.terms = [(1, 0, spread("J", 2, 4, 9))]
    mixed = tiny.adapter(
        "cola", 2, linear(), [(a, b)], sources=[first, second, other["adapter"]], members=exact
    )
    tiny.refit(second, mixed)
    tiny.refit(first)
    parents = [
        {"task": "cola", "version": 1},
        {"task": "film", "version": 2},
        {"task": "mnli", "version": 1},
    ]
    merged = tiny.adapter(
        "both", 1, linear(), [over("both")], sources=[first], members={"derived_from": parents}
    )
    tiny.absorb(
        merged, kind="merge", method="dare", weights=["0.5", "-0.25", "1e16"], density="0.5", seed=7
    )
    twice = tiny.adapter(
        "both",
        2,
        linear(),
        [nothing()],
        previous=merged["adapter"],
        members={"derived_from": parents[:1], "norm": "0", "error": "0"},
    )
    tiny.absorb(twice, kind="merge", method="linear", weights=["2"])
    tiny.record("restore", task="film", version=3, of=2)
    return tiny


def over(seed: str, *, sizes: tuple[int, int] = (3, 2)) -> tuple[Side, Side]:
    """Return a module that is coefficients alone, over so many rows of a basis for each side."""
    widths = (5, 3)
    terms = [
        (0, exponent, spread(seed + side, 2, k, 200))
        for side, exponent, k in zip("ab", (-4, 1), sizes, strict=True)
    ]
    a, b = (
        Side(own=[[0] * width] * 2, scales=[2.0**-8, 2.0**-10], terms=[term])
        for width, term in zip(widths, terms, strict=True)
    )
    return a, b


def _long_description() -> bytes:
    """Return a basis object whose description is longer than any other string may be."""
    names = [f"model.layers.{n // 24}.mlp.experts.{n % 24}.down_proj" for n in range(1100)]
    made = basis_draft(
        {name: ([[number % 3 - 1]], [[1]]) for number, name in enumerate(names)},
        dict.fromkeys(names, (1, 1)),
    )
    assert len(canonical(made.header)) > 65_536
    return made.to_bytes()


def nothing() -> tuple[Side, Side]:
    """Return a module whose dW is 0: an A upon the previous one, and a B of zeros."""
    a, _ = pair("twice", previous=True)
    return a, Side(own=[[0] * 3] * 2, scales=[1.0, 1.0])


def raw(seed: str, count: int, dtype: str) -> bytes:
    """Return the bytes of small numbers in an element type."""
    return b"".join(number(value / 64, dtype) for value in spread(seed, 1, count, 200)[0])


def _sizes(tensors: list[dict[str, Any]]) -> list[tuple[int, int]]:
    widths = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
    return [(i, widths.get(tensor["dtype"], 1) * 6) for i, tensor in enumerate(tensors)]
