"""Tiny whole stores, made by the second writer.

Every exported file is computed by plain arithmetic: Python floats are IEEE double precision.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from spec.writing import (
    HEADS,
    WIDTHS,
    Draft,
    Rows,
    Side,
    basis_draft,
    canonical,
    draft,
    safetensors,
    sha256,
    split_tensor_object,
    tensor_object,
    with_groups,
)

STORE = "00000000-0000-4000-8000-000000000000"
SPACE = "tiny"
Floats = list[list[float]]
CONFIG = json.dumps(
    {
        "peft_type": "LORA",
        "base_model_name_or_path": "tiny/base",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q", "v"],
        "bias": "none",
    },
    indent=2,
).encode()


class Tiny:
    """A store in memory: files by path, and what its adapters decode to."""

    def __init__(self, *, space: str = SPACE) -> None:
        self.space = space
        self.files: dict[str, bytes] = {}
        self.parent = self.write(
            "FORMAT",
            canonical(
                {
                    "gc": [],
                    "magic": "share_registry",
                    "read": [],
                    "store": STORE,
                    "version": 1,
                    "write": [],
                }
            ),
        )
        self.number = 0
        self.decoded: dict[str, dict[str, tuple[Floats, Floats]]] = {}
        self.blocks: dict[str, dict[str, tuple[Rows, Rows]]] = {}
        self.record(
            "create",
            base_model={"label": "tiny/base", "labels": []},
            policy={"budget": "0.05", "keep_original": False, "references": True},
        )

    def write(self, path: str, content: bytes) -> str:
        """Add a file; return its digest."""
        self.files[path] = content
        return sha256(content)

    def put(self, content: bytes) -> str:
        """Add an object; return its digest."""
        return self.write(object_path(sha256(content)), content)

    def record(self, kind: str, **members: Any) -> None:
        """Add a record; a member given as None is left out."""
        self.number += 1
        common = {
            "format": 1,
            "kind": kind,
            "space": self.space,
            "number": self.number,
            "parent": self.parent,
            "requires": [],
        }
        common |= {
            "time": f"2026-01-01T00:{self.number // 60:02}:{self.number % 60:02}.000000Z",
            "key": f"key-{self.number}",
        }
        record = {name: value for name, value in (common | members).items() if value is not None}
        self.parent = self.write(
            f"spaces/{self.space}/log/{self.number:020}.json", canonical(record)
        )

    def absorb(self, *tasks: Mapping[str, Any], kind: str = "absorb", **members: Any) -> None:
        """Add an absorb or merge record and its note."""
        told = [
            {
                "task": task["task"],
                "config": self.put(CONFIG),
                "source": {"kind": "adapter", "location": ""},
            }
            for task in tasks
        ]
        note = self.put(
            canonical(
                {
                    "format": 1,
                    "kind": "note",
                    "author": "Ada",
                    "message": "\u00e9t\u00e9 \U0001f600",
                    "tasks": told,
                }
            )
        )
        self.record(kind, note=note, tasks=list(tasks), **members)

    def refit(self, basis: str, *tasks: Mapping[str, Any], **members: Any) -> None:
        """Add a refit record and its note, which says nothing of the tasks."""
        note = self.put(canonical({"format": 1, "kind": "note", "message": "again"}))
        self.record("refit", **({"basis": basis, "note": note, "tasks": list(tasks)} | members))

    def adapter(
        self,
        task: str,
        version: int,
        layout: dict[str, Any],
        modules: Sequence[tuple[Side, Side] | None],
        *,
        kept: Mapping[int, bytes] | None = None,
        previous: str | None = None,
        sources: Sequence[str] = (),
        external: Mapping[int, bytes] | None = None,
        groups: Sequence[Mapping[int, int]] | None = None,
        change: "Any" = None,
        members: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Add an adapter object; return its entry in an absorb record.

        `groups` are of floats that are split: of each its tensors with their bases; where they are
        given, floats outside are split too. `change` edits the draft before it is written.
        """
        outside = {
            index: self.put(_outside(content, layout["tensors"][index]["dtype"], groups))
            for index, content in (external or {}).items()
        }
        made: Draft = draft(
            layout, modules, kept or {}, previous=previous, sources=sources, external=outside
        )
        if groups is not None:
            with_groups(made, layout, kept or {}, groups)
        if change is not None:
            change(made)
        digest, layout_digest = self.put(made.to_bytes()), self.put(canonical(layout))
        whole = {**(kept or {}), **(external or {})}
        content = self._file(
            digest,
            layout,
            modules,
            whole,
            self.decoded.get(previous or "", {}),
            [self.blocks[source] for source in sources],
        )
        entry = {
            "task": task,
            "version": version,
            "adapter": digest,
            "layout": layout_digest,
            "tensors": sha256(content),
            "source": sha256(task.encode()),
        }
        entry |= {
            "budget": "0.05",
            "error": "0.015625",
            "norm": "1.5",
            "raw_bytes": len(content),
            "added_bytes": len(made.to_bytes()),
            "derived_from": [],
        }
        return {
            name: value
            for name, value in (entry | dict(members or {})).items()
            if value is not None
        }

    def basis(
        self,
        modules: Mapping[str, tuple[Rows, Rows]],
        widths: Mapping[str, tuple[int, int]] | None = None,
    ) -> str:
        """Add a basis object; return its digest. Widths are needed where a side has no rows."""
        sizes = {
            name: (len(a[0]) if a else 0, len(b[0]) if b else 0) for name, (a, b) in modules.items()
        } | dict(widths or {})
        digest = self.put(basis_draft(modules, sizes).to_bytes())
        self.blocks[digest] = dict(modules)
        return digest

    def _file(
        self,
        digest: str,
        layout: dict[str, Any],
        modules: Sequence[tuple[Side, Side] | None],
        whole: dict[int, bytes],
        before: Mapping[str, tuple[Floats, Floats]],
        blocks: Sequence[Mapping[str, tuple[Rows, Rows]]],
    ) -> bytes:
        """Return adapter_model.safetensors, and remember what the modules decode to."""
        decoded = self.decoded.setdefault(digest, {})
        own = self.blocks.setdefault(digest, {})
        tensors, places = dict(whole), iter(modules)
        for factor in layout["factors"]:
            names = (
                [f"{factor['module']}#{e}" for e in range(factor["experts"])]
                if factor["form"] == "experts"
                else [factor["module"]]
            )
            pairs = [next(places) for _ in names]
            for e, (name, pair) in enumerate(zip(names, pairs, strict=True)):
                if pair is None:
                    decoded[name] = _kept_rows(layout, factor, tensors, e)
                else:
                    own[name] = (pair[0].own, pair[1].own)
                    sides = [
                        _rows(
                            side,
                            [block[name][i] if name in block else [] for block in blocks],
                            before.get(name, ((), ()))[i],
                        )
                        for i, side in enumerate(pair)
                    ]
                    decoded[name] = (sides[0], sides[1])
            if pairs[0] is not None:
                a, b = (layout["tensors"][factor[side]]["dtype"] for side in "ab")
                rows = [decoded[name] for name in names]
                tensors[factor["a"]] = b"".join(
                    number(value, a) for left, _ in rows for row in left for value in row
                )
                columns = [right[j] for j in range(len(rows[0][1])) for _, right in rows]
                tensors[factor["b"]] = b"".join(
                    number(row[i], b) for i in range(len(columns[0])) for row in columns
                )
        metadata = [(entry["name"], entry["value"]) for entry in layout["metadata"]]
        return safetensors(
            metadata,
            [
                (spec["key"], spec["dtype"], spec["shape"], tensors[i])
                for i, spec in enumerate(layout["tensors"])
            ],
        )


def _outside(content: bytes, dtype: str, groups: object) -> bytes:
    if groups is not None and dtype in HEADS:
        return split_tensor_object(content, dtype, 1 if dtype == "F16" else 1600)
    return tensor_object(content, WIDTHS[dtype])


def object_path(digest: str) -> str:
    """Return where an object lies in a store."""
    return f"objects/{digest[:2]}/{digest[2:]}"


def _rows(side: Side, blocks: Sequence[Rows], before: Sequence[Sequence[float]]) -> Floats:
    """Return one decoded factor.

    Every operation of the formula in double precision, then once to single.
    """
    made = []
    for i, row in enumerate(side.own):
        values = []
        for j, own in enumerate(row):
            total = None
            for source, exponent, coefficients in side.terms:
                product = (
                    float(
                        sum(
                            c * line[j]
                            for c, line in zip(coefficients[i], blocks[source], strict=False)
                            if j < len(line)
                        )
                    )
                    * 2.0**exponent
                )
                total = product if total is None else total + product
            scaled = (float(own) if total is None else total + float(own)) * side.scales[i]
            values.append(single(before[i][j] + scaled if side.previous and before else scaled))
        made.append(values)
    return made


def _kept_rows(
    layout: Mapping[str, Any], factor: Mapping[str, Any], tensors: Mapping[int, bytes], expert: int
) -> tuple[Floats, Floats]:
    a, b = layout["tensors"][factor["a"]], layout["tensors"][factor["b"]]
    left, right = (
        numbers(tensors[factor["a"]], a["dtype"]),
        numbers(tensors[factor["b"]], b["dtype"]),
    )
    rank, experts, out = a["shape"][0] // factor["experts"], factor["experts"], b["shape"][0]
    width, columns = len(left) // a["shape"][0], len(right) // out
    rows = [left[(expert * rank + i) * width :][:width] for i in range(rank)]
    return rows, [
        [right[o * columns + i * experts + expert] for o in range(out)] for i in range(rank)
    ]


def single(value: float) -> float:
    """Return a value rounded to single precision, to nearest even; one that is too large stays."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return value


def number(value: float, dtype: str) -> bytes:
    """Return a single precision value in an element type, to nearest even.

    Zero where it does not fit.
    """
    try:
        if dtype != "BF16":
            return struct.pack({"F64": "<d", "F32": "<f", "F16": "<e"}[dtype], value)
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
    except OverflowError:
        return bytes(WIDTHS[dtype])
    return struct.pack("<H", (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


def numbers(content: bytes, dtype: str) -> list[float]:
    """Return the values of a tensor in single precision."""
    width = WIDTHS[dtype]
    parts = [content[start : start + width] for start in range(0, len(content), width)]
    if dtype == "BF16":
        return [float(struct.unpack("<f", b"\0\0" + part)[0]) for part in parts]
    return [
        single(struct.unpack({"F64": "<d", "F32": "<f", "F16": "<e"}[dtype], part)[0])
        for part in parts
    ]


def spread(seed: str, rows: int, width: int, peak: int) -> Rows:
    """Return integers of at most `peak` in absolute value: they look random, and never change."""
    made = []
    for i in range(rows):
        digests = [sha256(f"{seed} {i} {j}".encode()) for j in range(width)]
        made.append([int(digest[:12], 16) % (2 * peak + 1) - peak for digest in digests])
    return made


def layout_of(
    tensors: Sequence[tuple[str, str, list[int]]], factors: Sequence[tuple[str, str, int, int, int]]
) -> dict[str, Any]:
    """Return a layout of (key, dtype, shape) and (module, form, a, b, experts)."""
    return {
        "format": 1,
        "kind": "layout",
        "metadata": [
            {"name": "format", "value": "pt"},
            {"name": "note", "value": 'a "quoted" \u00fc\u2028\\'},
        ],
        "tensors": [{"key": key, "dtype": dtype, "shape": shape} for key, dtype, shape in tensors],
        "factors": [
            {"module": module, "form": form, "a": a, "b": b, "experts": experts}
            for module, form, a, b, experts in factors
        ],
    }


def linear(
    dtype: str = "F32", *, width: int = 5, out: int = 3, rank: int = 2, module: str = "q"
) -> dict[str, Any]:
    """Return the layout of one plain pair."""
    prefix = f"base_model.model.{module}"
    return layout_of(
        [
            (f"{prefix}.lora_A.weight", dtype, [rank, width]),
            (f"{prefix}.lora_B.weight", dtype, [out, rank]),
        ],
        [(module, "linear", 0, 1, 1)],
    )


def pair(
    seed: str,
    *,
    width: int = 5,
    out: int = 3,
    rank: int = 2,
    peak: int = 40,
    scale: float = 0.0078125,
    previous: bool = False,
) -> tuple[Side, Side]:
    """Return both sides of a module, without terms."""
    scales = [scale * (1 + i) for i in range(rank)]
    return (
        Side(own=spread(seed + "a", rank, width, peak), scales=scales, previous=previous),
        Side(own=spread(seed + "b", rank, out, peak), scales=scales, previous=previous),
    )
