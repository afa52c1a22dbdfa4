"""Bad vectors of one file each, named by the clause that is broken.

A reader refuses every one of them, whatever else is right.
"""

import json
import struct
from collections.abc import Callable
from typing import Any

from spec import good
from spec.tiny import layout_of, linear, pair, spread
from spec.writing import (
    Draft,
    Side,
    binary,
    canonical,
    draft,
    frame,
    framed,
    packed,
    safetensors,
    sha256,
    tensor_object,
)

MIB = 1 << 20
TENSOR_BYTES = bytes(range(24))
"""The bad tensor objects stand for six F32 elements."""


def files() -> dict[str, bytes]:
    """Return every bad file by name."""
    return {
        **_json(),
        **_records(),
        **_notes(),
        **_layouts(),
        **_formats(),
        **_binary(),
        **_adapters(),
        **_tables(),
        **_symbols(),
        **_frames(),
        **_tensors(),
    }


def _json() -> dict[str, bytes]:
    deep = b'{"a":' + b"[" * 16 + b"1" + b"]" * 16 + b"}"
    texts = {
        "JSN-01-cut-short": b'{"a":1',
        "JSN-01-not-utf-8": b'{"a":"\xff"}',
        "JSN-01-byte-order-mark": b'\xef\xbb\xbf{"a":1}',
        "JSN-01-two-values": b'{"a":1}{}',
        "JSN-02-null": b'{"a":null}',
        "JSN-02-array": b"[]",
        "JSN-03-float": b'{"a":1.5}',
        "JSN-03-whole-float": b'{"a":1.0}',
        "JSN-03-exponent": b'{"a":1e2}',
        "JSN-03-nan": b'{"a":NaN}',
        "JSN-03-infinity": b'{"a":-Infinity}',
        "JSN-03-2-to-the-53": b'{"a":9007199254740992}',
        "JSN-03-many-digits": b'{"a":' + b"9" * 5000 + b"}",
        "JSN-04-name": '{"\u00e9":1}'.encode(),
        "JSN-05-blank": b'{"a": 1}',
        "JSN-05-newline": b'{"a":1}\n',
        "JSN-05-order": b'{"b":1,"a":2}',
        "JSN-05-twice": b'{"a":1,"a":2}',
        "JSN-05-escape": b'{"a":"\\u0041"}',
        "JSN-05-slash": b'{"a":"\\/"}',
        "JSN-05-upper-case-escape": b'{"a":"\\u001F"}',
        "JSN-05-minus-zero": b'{"a":-0}',
        "JSN-06-depth": deep,
        "JSN-06-long-text": b'{"a":"' + b"x" * ((64 << 10) + 1) + b'"}',
        "JSN-06-surrogate": b'{"a":"\\ud800"}',
    }
    return {f"{name}.json": content for name, content in texts.items()}


def _edited(content: bytes, **members: Any) -> bytes:
    """Return a canonical object with members changed, or left out where None."""
    value = {
        name: item for name, item in (json.loads(content) | members).items() if item is not None
    }
    return canonical(value)


def _records() -> dict[str, bytes]:
    found = good.objects()
    absorb, alias = found["absorb.record.json"], found["alias.record.json"]
    refit, merge, policy = (found[f"{kind}.record.json"] for kind in ("refit", "merge", "policy"))
    entry = json.loads(absorb)["tasks"][0]

    def task(**members: Any) -> bytes:
        return _edited(
            absorb,
            tasks=[{name: item for name, item in (entry | members).items() if item is not None}],
        )

    made = {
        "EVO-02-format-2": _edited(alias, format=2),
        "REC-01-kind": _edited(alias, kind="mint"),
        "REC-01-no-kind": _edited(alias, kind=None),
        "REC-01-unknown-member": _edited(alias, extra=1),
        "REC-01-member-of-a-task": task(extra="x"),
        "REC-01-missing": _edited(alias, alias=None),
        "REC-01-space": _edited(alias, space="../up"),
        "REC-01-task-65-characters": _edited(alias, task="a" * 65),
        "NAM-01-task-device": _edited(alias, task="con"),
        "NAM-01-task-device-with-a-suffix": _edited(alias, task="nul.txt"),
        "NAM-01-task-two-dots": _edited(alias, task="a..b"),
        "NAM-01-alias-dot-at-its-end": _edited(alias, alias="prod."),
        "NAM-01-space-device": _edited(alias, space="lpt0"),
        "NAM-01-task-in-a-list": task(task="com1.v2"),
        "NAM-01-parent": task(derived_from=[{"task": "aux", "version": 1}]),
        "REC-01-number-0": _edited(alias, number=0),
        "REC-01-number-true": _edited(alias, number=True),
        "REC-01-parent": _edited(alias, parent="A" * 64),
        "REC-01-time": _edited(alias, time="2026-01-01T00:00:00Z"),
        "REC-01-time-other-digits": _edited(
            alias, time="\u0662\u0660\u0662\u0666-01-01T00:00:00.000000Z"
        ),
        "REC-05-time-of-no-day": _edited(alias, time="2026-02-30T00:00:00.000000Z"),
        "REC-05-time-of-no-hour": _edited(alias, time="2026-01-01T24:00:00.000000Z"),
        "REC-05-time-of-a-leap-second": _edited(alias, time="2016-12-31T23:59:60.000000Z"),
        "REC-05-time-of-1899": _edited(alias, time="1899-12-31T23:59:59.999999Z"),
        "REC-05-time-of-9999": _edited(alias, time="9999-01-01T00:00:00.000000Z"),
        "REC-01-format-true": _edited(alias, format=True),
        "REC-01-format-text": _edited(alias, format="2"),
        "REC-01-key-129": _edited(alias, key="k" * 129),
        "REC-01-key-blank": _edited(alias, key="a b"),
        "REC-01-no-tasks": _edited(absorb, tasks=[]),
        "REC-01-error-float": task(error="0.5e-3"),
        "REC-01-error-negative": task(error="-0.5"),
        "REC-01-raw-bytes": task(raw_bytes=-1),
        "EVO-02-format-0": _edited(alias, format=0),
        "REC-01-budget-negative": task(budget="-0.5"),
        "REC-01-no-norm": task(norm=None),
        "REC-01-bound-false": task(bound=False),
        "REC-01-bound-1": task(bound=1),
        "REC-01-basis": _edited(absorb, basis="basis"),
        "REC-01-refit-no-basis": _edited(refit, basis=None),
        "REC-01-merge-method": _edited(merge, method="average"),
        "REC-01-merge-weight": _edited(merge, weights=["+1", "1", "1"]),
        "REC-01-merge-1025-weights": _edited(merge, weights=["1"] * 1025),
        "REC-01-merge-no-weights": _edited(merge, weights=[]),
        "REC-01-merge-two-tasks": _edited(merge, tasks=json.loads(merge)["tasks"] * 2),
        "REC-01-merge-seed": _edited(merge, seed=-1),
        "REC-01-policy-k-0": _edited(policy, policy=json.loads(policy)["policy"] | {"k": 0}),
        "REC-01-policy-k-65536": _edited(
            policy, policy=json.loads(policy)["policy"] | {"k": 65_536}
        ),
        "REC-14-requires": _edited(alias, requires=["arithmetic-coder"]),
    }
    return {f"{name}.record.json": content for name, content in (made | _removals(found)).items()}


def _removals(found: dict[str, bytes]) -> dict[str, bytes]:
    expire, purge = found["expire.record.json"], found["purge.record.json"]
    return {
        "REC-01-expire-no-versions": _edited(expire, versions=[]),
        "REC-01-expire-version-0": _edited(expire, versions=[{"task": "cola", "version": 0}]),
        "REC-01-purge-no-task": _edited(purge, task=None),
        "REC-01-purge-no-object": _edited(purge, notes=[{"by": "0" * 64}]),
        "REC-01-purge-basis-with-by": _edited(purge, bases=[{"object": "0" * 64}]),
        "NAM-01-expire-task": _edited(expire, versions=[{"task": "con", "version": 1}]),
    }


def _notes() -> dict[str, bytes]:
    note = good.objects()["absorb.note.json"]
    entry = json.loads(note)["tasks"][0]
    file = {"name": "a.txt", "object": "0" * 64, "size": 1}
    made = {
        "EVO-02-format-2": _edited(note, format=2),
        "NOT-01-format-true": _edited(note, format=True),
        "NOT-01-kind": _edited(note, kind="layout"),
        "NOT-01-unknown-member": _edited(note, ext={}),
        "NOT-01-author-257": _edited(note, author="a" * 257),
        "NOT-01-message-16385": _edited(note, message="m" * 16_385),
        "NOT-01-source": _edited(note, tasks=[entry | {"source": {"kind": "ftp", "location": ""}}]),
        "NOT-01-label-name-513": _edited(
            note, tasks=[entry | {"labels": [{"name": "n" * 513, "value": ""}]}]
        ),
        **{
            f"NOT-01-metric-{name}": _edited(
                note, tasks=[entry | {"metrics": [{"name": "n", "value": value}]}]
            )
            for name, value in (("no-number", "high"), ("blank", " 1"), ("underscore", "1_0"))
        },
        "NOT-01-file-name-256": _edited(
            note, tasks=[entry | {"attachments": [file | {"name": "n" * 256}]}]
        ),
        "NOT-01-file-name-up": _edited(
            note, tasks=[entry | {"attachments": [file | {"name": "../up"}]}]
        ),
        "NOT-01-file-name-parent": _edited(
            note, tasks=[entry | {"attachments": [file | {"name": ".."}]}]
        ),
        "NOT-01-file-name-drive": _edited(
            note, tasks=[entry | {"attachments": [file | {"name": "c:up"}]}]
        ),
        "NOT-01-file-name-backslash": _edited(
            note, tasks=[entry | {"original": [file | {"name": "a\\b"}]}]
        ),
        "NOT-01-file-name-nul": _edited(
            note, tasks=[entry | {"original": [file | {"name": "a\0"}]}]
        ),
        "NOT-01-file-size": _edited(
            note, tasks=[entry | {"original": [file | {"size": (1 << 40) + 1}]}]
        ),
    }
    return {f"{name}.note.json": content for name, content in made.items()}


def _formats() -> dict[str, bytes]:
    current = good.objects()["current.format.json"]
    made = {
        "EVO-02-version-0": _edited(current, version=0),
        "EVO-02-version-2": _edited(current, version=2),
        "STO-03-version-true": _edited(current, version=True),
        "STO-03-version-text": _edited(current, version="2"),
        "STO-03-magic": _edited(current, magic="share"),
        "EVO-02-read-feature": _edited(current, read=["arithmetic-coder"]),
        "STO-03-unknown-member": _edited(current, extra=1),
        "STO-03-store": _edited(current, store="here"),
    }
    return {f"{name}.format.json": content for name, content in made.items()}


def _layouts() -> dict[str, bytes]:
    def tensors(*found: tuple[str, str, list[int]], factors: Any = ()) -> bytes:
        return canonical(layout_of(found, factors))

    a, b = ("a", "F32", [2, 5]), ("b", "F32", [3, 2])
    pair_ = [("q", "linear", 0, 1, 1)]
    plain = canonical(linear())
    made = {
        "EVO-02-format-2": _edited(plain, format=2),
        "LAY-01-format-true": _edited(plain, format=True),
        "LAY-01-kind": _edited(plain, kind="note"),
        "LAY-01-unknown-member": _edited(plain, extra=1),
        "LAY-01-9-dimensions": tensors(("a", "F32", [1] * 9)),
        "LAY-01-dtype": tensors(("a", "F8_E4M3", [1])),
        "LAY-01-key-empty": tensors(("", "F32", [1])),
        "LAY-01-key-513": tensors(("k" * 513, "F32", [1])),
        "LAY-01-negative-size": tensors(("a", "F32", [-1])),
        "LAY-01-size-over-2-to-the-40": tensors(("a", "F32", [0, (1 << 40) + 1])),
        "LAY-01-form": tensors(a, b, factors=[("q", "tucker", 0, 1, 1)]),
        "LAY-05-key-twice": tensors(a, a),
        "LAY-05-metadata-tensor": tensors(("__metadata__", "F32", [1])),
        "LAY-05-metadata-twice": _edited(plain, metadata=[{"name": "format", "value": "pt"}] * 2),
        "LAY-06-tensor-twice": tensors(
            a, b, factors=[("q", "linear", 0, 1, 1), ("v", "linear", 0, 1, 1)]
        ),
        "LAY-06-no-such-tensor": tensors(a, b, factors=[("q", "linear", 0, 2, 1)]),
        "LAY-07-order": tensors(
            a,
            b,
            ("c", "F32", [1, 1]),
            ("d", "F32", [1, 1]),
            factors=[("v", "linear", 0, 1, 1), ("q", "linear", 2, 3, 1)],
        ),
        "LAY-07-name-of-an-expert": tensors(
            a,
            b,
            ("c", "F32", [1, 1]),
            ("d", "F32", [1, 1]),
            factors=[("q", "experts", 0, 1, 2), ("q#1", "linear", 2, 3, 1)],
        ),
        "LAY-08-ranks": tensors(a, ("b", "F32", [3, 3]), factors=pair_),
        "LAY-08-one-dimension": tensors(("a", "F32", [2]), b, factors=pair_),
        "LAY-08-empty": tensors(("a", "F32", [2, 0]), b, factors=pair_),
        "LAY-08-integers": tensors(("a", "I32", [2, 5]), b, factors=pair_),
        "LAY-08-experts": tensors(a, b, factors=[("q", "linear", 0, 1, 2)]),
        "LAY-08-odd-experts": tensors(
            ("a", "F32", [3, 5]), ("b", "F32", [3, 3]), factors=[("q", "experts", 0, 1, 2)]
        ),
        "LAY-08-linear-of-4-dimensions": tensors(
            ("a", "F32", [2, 5, 1, 1]), ("b", "F32", [3, 2, 1, 1]), factors=pair_
        ),
        "LAY-08-kernel-in-b": tensors(
            ("a", "F32", [2, 5, 3]), ("b", "F32", [3, 2, 3]), factors=[("q", "conv", 0, 1, 1)]
        ),
        "LAY-09-modules": tensors(
            *(
                (name, "F16", shape)
                for name, shape in (
                    ("a", [65_536, 1]),
                    ("b", [1, 65_536]),
                    ("c", [1, 1]),
                    ("d", [1, 1]),
                )
            ),
            factors=[("q", "experts", 0, 1, 65_536), ("v", "linear", 2, 3, 1)],
        ),
        "LAY-09-bytes": tensors(("a", "U8", [16 << 30]), ("b", "U8", [1])),
    }
    return {f"{name}.layout.json": content for name, content in made.items()}


def _plain(change: Callable[[Draft], object] | None = None, **options: Any) -> bytes:
    """Return the object of one plain pair, its draft changed."""
    made = draft(linear(), [pair("bad")], {}, **options)
    if change is not None:
        change(made)
    return made.to_bytes()


def _binary() -> dict[str, bytes]:
    whole = _plain()
    size = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + size])
    loose = json.dumps(header, ensure_ascii=False).encode()
    text = header["__metadata__"]["share_registry"]
    empty = [(key, "U8", [0], b"") for key in ("planes", "symbols", "table")]
    made = {
        "OBJ-04-9-bytes": whole[:9],
        "OBJ-04-cut-in-the-header": whole[:40],
        "OBJ-04-header-length": struct.pack("<Q", 1 << 62) + whole[8:],
        "OBJ-04-no-metadata": safetensors([], empty),
        "OBJ-04-other-key": safetensors([("shared", text)], empty),
        "OBJ-04-part-missing": safetensors([("share_registry", text)], empty[:2]),
        "OBJ-05-cut-short": whole[:-1],
        "OBJ-05-trailing": whole + b"\0",
        "OBJ-05-loose-header": struct.pack("<Q", len(loose)) + loose + whole[8 + size :],
        "OBJ-05-padding": struct.pack("<Q", size + 8)
        + whole[8 : 8 + size]
        + b" " * 8
        + whole[8 + size :],
        "OBJ-05-part-more": safetensors(
            [("share_registry", text)], [*empty, ("more", "U8", [0], b"")]
        ),
        "OBJ-05-order": safetensors([("share_registry", text)], [empty[1], empty[0], empty[2]]),
        "OBJ-05-dtype": safetensors(
            [("share_registry", text)], [("planes", "I8", [0], b""), *empty[1:]]
        ),
        "OBJ-05-shape": safetensors(
            [("share_registry", text)], [("planes", "U8", [0, 1], b""), *empty[1:]]
        ),
        "JSN-05-description": safetensors([("share_registry", text.replace(":", ": ", 1))], empty),
    }
    return {f"{name}.adapter.safetensors": content for name, content in made.items()}


def _adapters() -> dict[str, bytes]:
    digests = [sha256(bytes([number])) for number in range(65)]
    other = {"sources": digests[:1]}
    a, b = pair("terms")
    term = [(0, 0, spread("t", 2, 2, 3))]
    referring = (Side(own=a.own, scales=a.scales, terms=term), b)

    def with_terms(change: Callable[[Draft], object], sources: list[str]) -> bytes:
        made = draft(linear(), [referring], {}, sources=sources)
        change(made)
        return made.to_bytes()

    x = pair("x", width=4, out=3)
    some = draft(good.experts("F16"), [x, None, x], {})
    passengers = good.passengers()
    kept = dict.fromkeys((12, 13), b"")
    external = dict.fromkeys(range(10), digests[0])
    coded = draft(
        passengers, [pair("p")], {12: b"\0" * 4, 13: b""}, external={**external, 10: digests[0]}
    )
    unordered = draft(passengers, [pair("p")], {**kept, 12: b"\0" * 4}, external=external)
    unordered.header["external"].reverse()
    made = {
        "EVO-02-format-2": _plain(lambda made: made.header.update(format=2)),
        "ADP-01-format-true": _plain(lambda made: made.header.update(format=True)),
        "ADP-01-kind": _plain(lambda made: made.header.update(kind="tensor")),
        "ADP-01-unknown-member": _plain(lambda made: made.header.update(extra=1)),
        "ADP-01-no-sources": _plain(lambda made: made.header.pop("sources")),
        "ADP-01-65-sources": _plain(lambda made: made.header.update(sources=digests)),
        "ADP-01-513-external": _plain(
            lambda made: made.header.update(
                external=[{"object": digests[0], "tensor": i} for i in range(513)]
            )
        ),
        "ADP-05-unused-source": _plain(lambda made: made.header.update(other)),
        "ADP-05-source-twice": with_terms(
            lambda made: made.header.update(sources=digests[:1] * 2), digests[:1]
        ),
        "ADP-06-unused-previous": _plain(lambda made: made.header.update(previous=digests[0])),
        "ADP-06-no-previous": _plain(lambda made: made.lanes.__setitem__(0, 3)),
        "ADP-07-no-such-source": with_terms(
            lambda made: made.sources.__setitem__(0, 1), digests[:1]
        ),
        "ADP-07-order": _two_terms(digests[:2], [1, 0]),
        "ADP-07-source-twice": _two_terms(digests[:2], [1, 1]),
        "ADP-08-some-experts": some.to_bytes(),
        "ADP-10-coded": coded.to_bytes(),
        "ADP-10-order": unordered.to_bytes(),
    }
    return {f"{name}.adapter.safetensors": content for name, content in made.items()}


def _two_terms(sources: list[str], order: list[int]) -> bytes:
    a, b = pair("two")
    a.terms = [(source, 0, spread(f"t{place}", 2, 1, 3)) for place, source in enumerate(order)]
    return draft(linear(), [(a, b)], {}, sources=sources).to_bytes()


def _tables() -> dict[str, bytes]:
    def table(content: bytes) -> bytes:
        return draft(linear(), [pair("bad")], {}).to_bytes(table=content)

    plain = draft(linear(), [pair("bad")], {}).table()

    def many_terms(made: Draft) -> None:
        made.header["sources"] = [sha256(bytes([number])) for number in range(64)]
        made.terms, made.sources, made.exponents, made.ks = (
            [65, 0],
            [*range(64), 0],
            [0] * 65,
            [1] * 65,
        )
        made.groups_of_rows += [0] * 130

    def no_rows(made: Draft) -> None:
        made.header["sources"] = [sha256(b"0")]
        made.terms, made.sources, made.exponents, made.ks = [1, 0], [0], [0], [0]

    made = {
        "TAB-01-empty": table(b""),
        "TAB-01-kind": table(b"\2" + plain),
        "TAB-03-lane-2": _plain(lambda made: made.lanes.__setitem__(0, 2)),
        "TAB-03-lane-9": _plain(lambda made: made.lanes.__setitem__(0, 9)),
        "TAB-04-65-terms": _plain(many_terms),
        "TAB-04-no-rows": _plain(no_rows),
        "TAB-05-negative": _plain(lambda made: made.scales.__setitem__(0, 0x8001)),
        "TAB-05-infinite": _plain(lambda made: made.scales.__setitem__(0, 0x7F80)),
        "TAB-05-error-nan": _plain(lambda made: made.errors.__setitem__(0, 0x7FC0)),
        "TAB-06-no-such-group": _plain(
            lambda made: made.groups_of_rows.__setitem__(0, len(made.packings) + 1)
        ),
        "TAB-07-packing-8": _plain(lambda made: made.packings.__setitem__(0, 8)),
        "TAB-07-shift-17": _plain(lambda made: made.shifts.__setitem__(0, 17)),
        "TAB-08-length-missing": _plain(lambda made: made.lengths.pop()),
        "TAB-08-length-more": _plain(lambda made: made.lengths.append(0)),
        "TAB-08-length-cut-short": table(b"\0" + plain[:-1]),
        "TAB-09-cut-short": table(b"\0" + plain[:9]),
        "TAB-09-nothing": table(b"\0"),
    }
    return {f"{name}.adapter.safetensors": content for name, content in made.items()}


def _symbols() -> dict[str, bytes]:
    def one_group(packing: int, shift: int, high: bytes, low: bytes = b"") -> bytes:
        made = draft(linear(), [pair("bad")], {})
        made.groups_of_rows, made.packings, made.shifts, made.lengths, made.symbols = (
            [1, 0, 0, 0],
            [packing],
            [shift],
            [len(high)],
            high + low,
        )
        return made.to_bytes()

    made = {
        "SYM-05-byte-243": one_group(1, 0, b"\xf3"),
        "SYM-05-byte-225": one_group(7, 0, packed([1, 2], 7) + b"\xe1" + packed([0], 7)),
        "SYM-07-cut-short": one_group(0, 1, bytes(5)),
        "SYM-07-trailing": one_group(0, 1, bytes(5), bytes(2)),
        "SYM-08-2-to-the-23": one_group(0, 16, b"\0" * 5, bytes(16)),
        "SYM-09-more-than-frames-hold": _much_for_little(),
    }
    return {f"{name}.adapter.safetensors": content for name, content in made.items()}


def _much_for_little() -> bytes:
    """Return an object with one row of 200 Mi symbols and one frame that holds a tenth."""
    layout = good.long()
    width = layout["tensors"][0]["shape"][1]
    made = draft(layout, [(Side(own=[[0]], scales=[1.0]), Side(own=[[0]], scales=[1.0]))], {})
    piece = frame(0, 4 * MIB)
    made.groups_of_rows, made.packings, made.shifts = [1, 0], [1], [0]
    made.lengths, made.symbols = [len(piece)] * -(-width // (20 * MIB)), piece
    return made.to_bytes()


def _frames() -> dict[str, bytes]:
    """Return objects of a passenger of 300 U8 that bad frames stand for, and bad tables."""
    wide = good.wide()
    count = 300

    def kept(piece: bytes, planes: bytes | None = None) -> bytes:
        made = draft(wide, [], {0: bytes(count)})
        made.planes, made.lengths = piece if planes is None else planes, [len(piece)]
        return made.to_bytes()

    def in_table(piece: bytes) -> bytes:
        return draft(wide, [], {0: bytes(count)}).to_bytes(table=b"\1" + piece)

    skippable = b"\x50\x2a\x4d\x18" + struct.pack("<I", 2) + b"\0\0"
    plain = draft(wide, [], {0: bytes(count)}).table()
    made = {
        "FRM-03-no-frame": kept(b"\0" * 20),
        "FRM-03-declares-less": kept(frame(0, count, declared=count - 1)),
        "FRM-03-declares-more": kept(frame(0, count, declared=count + 1)),
        "FRM-03-no-size": kept(b"\x28\xb5\x2f\xfd\x00\x58" + frame(0, count)[9:]),
        "FRM-03-skippable": kept(skippable + frame(0, count)),
        "FRM-03-table-of-16-mib-and-1": in_table(frame(0, 16 * MIB + 1)),
        "FRM-04-window": kept(frame(0, count, window=14)),
        "FRM-04-window-just-over": kept(
            frame(0, count, window=13).replace(bytes([13 << 3]), bytes([13 << 3 | 1]), 1)
        ),
        "FRM-05-dictionary": kept(frame(0, count, flags=1, dictionary=b"\7")),
        "FRM-05-trailing": kept(frame(0, count) + b"\0"),
        "FRM-05-two-frames": kept(frame(0, count) * 2),
        "FRM-05-cut-short": kept(frame(0, count)[:-1]),
        "FRM-05-content-longer": kept(frame(0, count + 1, declared=count)),
        "FRM-05-content-shorter": kept(frame(0, count - 1, declared=count)),
        "FRM-08-cut-short": kept(bytes(count), bytes(count - 1)),
        "FRM-08-trailing": kept(bytes(count), bytes(count + 1)),
        **{f"{name}-in-table": in_table(piece) for name, piece in _of_table(plain).items()},
        "FRM-03-table-is-no-frame": in_table(plain),
    }
    return {f"{name}.adapter.safetensors": content for name, content in made.items()}


def _of_table(columns: bytes) -> dict[str, bytes]:
    """Return bad frames of columns that are right."""
    sound = framed(columns)
    return {
        "FRM-03-no-size": sound[:4] + b"\x00\x58" + sound[9:],
        "FRM-04-window": sound[:4] + b"\x80" + bytes([14 << 3]) + sound[5:],
        "FRM-05-dictionary": sound[:4] + b"\xa1\7" + sound[5:],
        "FRM-05-trailing": sound + b"\0",
        "FRM-05-cut-short": sound[:-1],
    }


def _tensors() -> dict[str, bytes]:
    planes = b"".join(TENSOR_BYTES[place::4] for place in range(4))
    described = {"format": 1, "kind": "tensor", "size": 24, "width": 4}
    table = struct.pack("<I", 6)[:3] * 4
    made = {
        "TEN-01-format-true": binary(
            described | {"format": True}, {"planes": planes, "table": table}
        ),
        "TEN-01-kind": binary(described | {"kind": "adapter"}, {"planes": planes, "table": table}),
        "TEN-01-unknown-member": binary(
            described | {"dtype": "F32"}, {"planes": planes, "table": table}
        ),
        "TEN-02-size": binary(described | {"size": 20}, {"planes": planes, "table": table}),
        "TEN-02-width": tensor_object(TENSOR_BYTES, 2),
        "TEN-03-length-missing": binary(described, {"planes": planes, "table": table[:-3]}),
        "TEN-03-length-cut-short": binary(described, {"planes": planes, "table": table[:-1]}),
        "TEN-04-cut-short": binary(described, {"planes": planes[:-1], "table": table}),
        "TEN-04-trailing": binary(described, {"planes": planes + b"\0", "table": table}),
    }
    return {f"{name}.tensor.safetensors": content for name, content in made.items()}
