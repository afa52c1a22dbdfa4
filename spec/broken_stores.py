"""Bad vectors of whole stores, named by the clause that is broken.

Following the log or decoding a version must fail.
"""

import json
from collections.abc import Callable
from typing import Any

from spec import broken_floats, broken_removals, good_exports, references, transitions
from spec.good import chained, raw
from spec.tiny import SPACE, Tiny, linear, object_path, pair, spread
from spec.writing import Side, canonical, sha256, tensor_object

LOG = f"spaces/{SPACE}/log"


def stores() -> dict[str, dict[str, bytes]]:
    """Return every bad store as files by path."""
    made = {
        name: _made(change)
        for name, change in {
            **_CHAINS,
            **_HISTORIES,
            **_OBJECTS,
            **_DECODES,
            **broken_removals.CHANGES,
        }.items()
    }
    made["REC-14-after-names"] = references.store_of_a_later_release().files
    return dict(sorted((made | transitions.refused()).items()))


def _made(change: Callable[[Tiny, dict[str, Any]], None]) -> dict[str, bytes]:
    """Return a store of one task, `cola`, and what a change adds to it."""
    tiny = Tiny()
    entry = tiny.adapter("cola", 1, linear(), [pair("cola")])
    tiny.absorb(entry)
    change(tiny, entry)
    return tiny.files


def _last(tiny: Tiny, **members: Any) -> None:
    """Change members of the last record."""
    path = f"{LOG}/{tiny.number:020}.json"
    tiny.parent = tiny.write(path, canonical(json.loads(tiny.files[path]) | members))


def _tagged(**members: Any) -> Callable[[Tiny, dict[str, Any]], None]:
    """Add a tag record with members changed."""

    def change(tiny: Tiny, entry: dict[str, Any]) -> None:
        tiny.record("tag", tag="release", commit=1)
        _last(tiny, **members)

    return change


def _recorded(*records: dict[str, Any]) -> Callable[[Tiny, dict[str, Any]], None]:
    """Add records."""

    def change(tiny: Tiny, entry: dict[str, Any]) -> None:
        for record in records:
            tiny.record(**record)

    return change


def _absorbed(*tasks: dict[str, Any]) -> Callable[[Tiny, dict[str, Any]], None]:
    """Add an absorb record of the same adapter with members changed."""

    def change(tiny: Tiny, entry: dict[str, Any]) -> None:
        tiny.absorb(*(entry | task for task in tasks))

    return change


def _gap(tiny: Tiny, entry: dict[str, Any]) -> None:
    tiny.record("tag", tag="one", commit=1)
    del tiny.files[f"{LOG}/{2:020}.json"]


def _flipped(tiny: Tiny, entry: dict[str, Any]) -> None:
    path = object_path(entry["adapter"])
    tiny.files[path] = tiny.files[path][:-1] + bytes([tiny.files[path][-1] ^ 1])


def _missing(tiny: Tiny, entry: dict[str, Any]) -> None:
    del tiny.files[object_path(entry["adapter"])]


def _no_config(tiny: Tiny, entry: dict[str, Any]) -> None:
    told = {"task": "cola", "source": {"kind": "adapter", "location": ""}}
    _last(tiny, note=tiny.put(canonical({"format": 1, "kind": "note", "tasks": [told]})))


def _no_note(tiny: Tiny, entry: dict[str, Any]) -> None:
    note = json.loads(tiny.files[f"{LOG}/{tiny.number:020}.json"])["note"]
    del tiny.files[object_path(note)]


def _config(content: bytes) -> Callable[[Tiny, dict[str, Any]], None]:
    """Give the version another configuration."""

    def change(tiny: Tiny, entry: dict[str, Any]) -> None:
        told = {"task": "cola", "config": tiny.put(content)}
        _last(tiny, note=tiny.put(canonical({"format": 1, "kind": "note", "tasks": [told]})))

    return change


def _attachment_size(tiny: Tiny, entry: dict[str, Any]) -> None:
    file = {"name": "head.json", "object": tiny.put(b"{}"), "size": 3}
    told = {"task": "cola", "config": tiny.put(b"{}"), "attachments": [file]}
    _last(tiny, note=tiny.put(canonical({"format": 1, "kind": "note", "tasks": [told]})))


def _too_many_bits_of_3_rows(tiny: Tiny, entry: dict[str, Any]) -> None:
    """Make products of 22 + 22 + 2 bits: 3 rows take 2, not 1."""
    peak = (1 << 22) - 1
    big = tiny.adapter("large", 1, linear(rank=3), [pair("large", rank=3, peak=peak)])
    tiny.absorb(big)
    _referring(tiny, big, [[peak] * 3, [0, 0, 1]])


def _other_tensors(tiny: Tiny, entry: dict[str, Any]) -> None:
    _last(tiny, tasks=[entry | {"tensors": sha256(b"")}])


def _overflow(tiny: Tiny, entry: dict[str, Any]) -> None:
    big = Side(own=[[65_520, 1]], scales=[1.0]), Side(own=[[1]], scales=[1.0])
    tiny.absorb(tiny.adapter("big", 1, linear("F16", width=2, out=1, rank=1), [big]))


def _deep(tiny: Tiny, entry: dict[str, Any]) -> None:
    last = tiny.adapter(
        "chain", 1, linear("F16"), [None], kept={0: raw("k", 10, "F16"), 1: raw("l", 6, "F16")}
    )
    tiny.absorb(last)
    for version in range(2, 11):
        last = chained(tiny, version, last["adapter"])
        tiny.absorb(last)


def _referring(
    tiny: Tiny,
    entry: dict[str, Any],
    coefficients: list[list[int]],
    *,
    exponent: int = 0,
    module: str = "q",
    width: int = 5,
) -> None:
    a, b = pair("new", width=width)
    a.terms = [(0, exponent, coefficients)]
    tiny.absorb(
        tiny.adapter(
            "new", 1, linear(module=module, width=width), [(a, b)], sources=[entry["adapter"]]
        )
    )


def _too_many_bits(tiny: Tiny, entry: dict[str, Any]) -> None:
    big = tiny.adapter("large", 1, linear(), [pair("large", peak=(1 << 23) - 1)])
    tiny.absorb(big)
    _referring(tiny, big, [[(1 << 22) - 1, 1], [0, 1]])


def _lossless_block(tiny: Tiny, entry: dict[str, Any]) -> None:
    kept = tiny.adapter(
        "kept", 1, linear(), [None], kept={0: raw("k", 10, "F32"), 1: raw("l", 6, "F32")}
    )
    tiny.absorb(kept)
    _referring(tiny, kept, spread("C", 2, 2, 3))


def _continued(layout: dict[str, Any], **sizes: int) -> Callable[[Tiny, dict[str, Any]], None]:
    """Add a version of another layout that builds on one that does not have its factors."""

    def change(tiny: Tiny, entry: dict[str, Any]) -> None:
        tiny.absorb(tiny.adapter("other", 1, layout, [pair("other", previous=False, **sizes)]))
        sides = pair("other", previous=True, **sizes)
        tiny.absorb(tiny.adapter("other", 2, layout, [sides], previous=entry["adapter"]))

    return change


def _renamed_onto(tiny: Tiny, entry: dict[str, Any]) -> None:
    tiny.absorb(entry | {"task": "sst2"})
    tiny.record("rename", task="sst2", name="mnli")
    tiny.record("rename", task="cola", name="sst2")


def _refitted(*, live: bool = True, **members: Any) -> Callable[[Tiny, dict[str, Any]], None]:
    """Add a refit record of the same adapter with members changed."""

    def change(tiny: Tiny, entry: dict[str, Any]) -> None:
        if not live:
            tiny.record("drop", task="cola")
        found = entry | {"version": 2, "before": entry["error"]} | members
        tiny.refit(
            tiny.basis({"q": (spread("A", 2, 5, 9), [[1, 2, 3]])}),
            {name: item for name, item in found.items() if item is not None},
        )

    return change


def _merged(*, weights: list[str], **members: Any) -> Callable[[Tiny, dict[str, Any]], None]:
    """Add a merge record of the same adapter with members changed."""

    def change(tiny: Tiny, entry: dict[str, Any]) -> None:
        tiny.absorb(
            entry | {"version": 2, "derived_from": [{"task": "cola", "version": 1}]} | members,
            kind="merge",
            method="linear",
            weights=weights,
        )

    return change


def _over_basis(
    *, rows: int = 2, width: int = 5, k: int = 2, peak: int = 9, module: str = "q"
) -> Callable[[Tiny, dict[str, Any]], None]:
    """Add a version whose side `a` refers to a basis that has other rows than it says."""

    def change(tiny: Tiny, entry: dict[str, Any]) -> None:
        basis = tiny.basis(
            {module: (spread("A", rows, width, peak), [[1, 2, 3]])}, {module: (width, 3)}
        )
        _referring(tiny, {"adapter": basis}, [[(1 << 22) - 1] * k, [0] * k])

    return change


def _refitted_later(**members: Any) -> Callable[[Tiny, dict[str, Any]], None]:
    """Re-express a task once as it should be, then once more with members of the first version."""

    def change(tiny: Tiny, entry: dict[str, Any]) -> None:
        first: dict[str, Any] = {
            "version": 2,
            "before": entry["error"],
            "error": "0.03125",
            "bound": True,
        }
        _refitted(**first)(tiny, entry)
        second: dict[str, Any] = {
            "version": 3,
            "before": "0.03125",
            "error": "0.046875",
            "bound": True,
        }
        _refitted(**second | members)(tiny, entry)

    return change


def _alias(name: str) -> dict[str, Any]:
    return {"kind": "alias", "task": "cola", "alias": name, "version": 1}


def _tag(name: str) -> dict[str, Any]:
    return {"kind": "tag", "tag": name, "commit": 1}


def _neither(tiny: Tiny, entry: dict[str, Any]) -> None:
    """Refer to the rows of an object that is neither an adapter nor a basis."""
    found = tiny.put(tensor_object(bytes(24), 4))
    tiny.blocks[found] = {}
    _referring(tiny, {"adapter": found}, [[1, 1]] * 2)


_CHAINS = {
    "EVO-02-record-format": _tagged(format=2),
    "REC-01-kind": _tagged(kind="mint"),
    "REC-02-space": _tagged(space="large"),
    "REC-02-number": _tagged(number=4),
    "REC-03-parent": _tagged(parent="0" * 64),
    "REC-03-gap": _gap,
    "REC-05-time": _tagged(time="2025-12-31T23:59:59.999999Z"),
    "REC-06-key": _tagged(key="key-1"),
    "REC-07-create": _recorded(
        {
            "kind": "create",
            "base_model": {"label": "x"},
            "policy": {"budget": "0.05", "keep_original": False},
        }
    ),
    "REC-14-requires": _tagged(requires=["arithmetic-coder"]),
}
_HISTORIES = {
    "REC-08-version-again": _absorbed({"version": 1}),
    "REC-08-version-skipped": _absorbed({"version": 3}),
    "REC-08-order": _absorbed({"task": "sst2"}, {"task": "mnli"}),
    "REC-08-twice": _absorbed({"task": "sst2"}, {"task": "sst2", "version": 2}),
    "REC-08-layout-of-another": lambda tiny, entry: _last(
        tiny, tasks=[entry | {"layout": tiny.put(canonical(linear(width=4)))}]
    ),
    "REC-09-error": _absorbed({"version": 2, "error": "0.051"}),
    "REC-08-parent-of-no-task": _absorbed(
        {"version": 2, "derived_from": [{"task": "mnli", "version": 1}]}
    ),
    "REC-08-merge-version": _merged(weights=["1"], version=3),
    "REC-09-merge-error": _merged(weights=["1"], error="0.051"),
    "REC-09-refit-error": _refitted(error="0.051", bound=True),
    "REC-16-version": _refitted(version=3),
    "REC-16-no-before": _refitted(before=None),
    "REC-16-source": _refitted(source=sha256(b"another")),
    "REC-16-before": _refitted(before="0.0078125"),
    "REC-16-before-of-another-version": _refitted_later(before="0.015625"),
    "REC-16-norm": _refitted(norm="3"),
    "REC-16-raw-bytes": _refitted(raw_bytes=1),
    "REC-16-layout": _refitted(layout=sha256(b"another")),
    "REC-11-name-that-it-has": _recorded({"kind": "rename", "task": "cola", "name": "cola"}),
    "REC-08-parent-of-the-same-record": _absorbed(
        {"version": 2},
        {"task": "sst2", "version": 1, "derived_from": [{"task": "cola", "version": 2}]},
    ),
    "REC-17-before-in-absorb": _absorbed({"version": 2, "before": "0"}),
    "REC-17-before-in-merge": _merged(weights=["1"], before="0"),
    "REC-18-weights": _merged(weights=["1", "-1"]),
    "REC-18-no-parents": _merged(weights=["1"], derived_from=[]),
    "REC-10-version": _recorded({"kind": "restore", "task": "cola", "version": 3, "of": 1}),
    "REC-10-of": _recorded({"kind": "restore", "task": "cola", "version": 2, "of": 2}),
    "REC-11-name-of-another": _renamed_onto,
    "REC-12-alias": _recorded({"kind": "alias", "task": "cola", "alias": "prod", "version": 2}),
    "REC-12-alias-removed-twice": _recorded(
        _alias("prod"), _alias("prod") | {"version": None}, _alias("prod") | {"version": None}
    ),
    "REC-12-alias-of-another-task-removed": _recorded(
        _alias("prod"),
        {"kind": "rename", "task": "cola", "name": "cold"},
        {"kind": "alias", "task": "cold", "alias": "staging"},
    ),
    "REC-12-tag-of-itself": _recorded({"kind": "tag", "tag": "one", "commit": 3}),
    "REC-12-tag-twice": _recorded(
        {"kind": "tag", "tag": "one", "commit": 1}, {"kind": "tag", "tag": "one", "commit": 2}
    ),
    "NAM-03-alias-version": _recorded(_alias("v2")),
    "NAM-03-alias-commit": _recorded(_alias("c3")),
    "NAM-03-alias-leading-zero": _recorded(_alias("v007")),
    "NAM-03-alias-latest": _recorded(_alias("latest")),
    "NAM-03-alias-head": _recorded(_alias("head")),
    "NAM-03-alias-date": _recorded(_alias("2026-01-01")),
    "NAM-03-alias-begins-as-a-date": _recorded(_alias("2026-01-01-prod")),
    "NAM-03-alias-8-hex": _recorded(_alias("deadbeef")),
    "NAM-03-tag-version": _recorded(_tag("v2")),
    "NAM-03-tag-latest": _recorded(_tag("latest")),
    "NAM-03-tag-date": _recorded(_tag("2026-01-01")),
    "NAM-03-tag-9-hex": _recorded(_tag("0123abcde")),
    "NAM-03-alias-and-tag": _recorded(_alias("prod"), _tag("prod")),
    "NAM-03-tag-and-alias": _recorded(_tag("prod"), _alias("prod")),
    "NAM-03-removed-alias-and-tag": _recorded(
        _alias("prod"), _alias("prod") | {"version": None}, _tag("prod")
    ),
    "REC-13-annotate": _recorded({"kind": "annotate", "task": "cola", "version": 2}),
    "REC-24-no-version": _recorded(
        {"kind": "export", "task": "cola", "version": 2} | good_exports.EXPORT
    ),
    "REC-24-not-said": _recorded(
        {"kind": "export", "task": "cola", "version": 1} | good_exports.EXPORT | {"requires": []}
    ),
    "NAM-02-no-task": _recorded({"kind": "drop", "task": "mnli"}),
    "NAM-02-old-name": _recorded(
        {"kind": "rename", "task": "cola", "name": "cold"}, {"kind": "drop", "task": "cola"}
    ),
}
_OBJECTS = {
    "OBJ-01-flipped": _flipped,
    "OBJ-02-missing": _missing,
    "NOT-04-no-config": _no_config,
    "NOT-04-size": _attachment_size,
    "EXP-02-config-is-no-json": _config(b"r: 8"),
    "EXP-02-config-is-an-array": _config(b"[]"),
    "EXP-02-config-is-not-utf-8": _config(b'{"a":"\xff"}'),
    "NOT-06-no-note": _no_note,
}
_DECODES = {
    "DEC-02-no-module": lambda tiny, entry: _referring(
        tiny, entry, spread("C", 2, 2, 3), module="v"
    ),
    "DEC-02-rows": lambda tiny, entry: _referring(tiny, entry, spread("C", 2, 3, 3)),
    "DEC-02-width": lambda tiny, entry: _referring(tiny, entry, spread("C", 2, 2, 3), width=4),
    "DEC-02-lossless": _lossless_block,
    "DEC-02-basis-rows": _over_basis(rows=3),
    "DEC-02-basis-no-rows": _over_basis(rows=0),
    "DEC-02-basis-width": _over_basis(width=4),
    "DEC-02-basis-no-module": _over_basis(module="v"),
    "DEC-03-46-bits": _too_many_bits,
    "DEC-03-46-bits-of-3-rows": _too_many_bits_of_3_rows,
    "DEC-03-46-bits-over-a-basis": _over_basis(peak=(1 << 23) - 1),
    "OBJ-04-source-of-another-kind": _neither,
    "ADP-15-not-said": broken_floats.not_said,
    "DEC-05-no-module": _continued(linear(module="v")),
    "DEC-05-shape": _continued(linear(rank=1), rank=1),
    "DEC-08-overflow": _overflow,
    "DEC-09-chain-of-9": _deep,
    "DEC-12-tensors": _other_tensors,
}
