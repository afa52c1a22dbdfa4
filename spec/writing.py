"""A second writer of the format, from the text of the specification alone.

Plain Python integers and lists, no library, no compressor.

It makes what the library would never write as easily as what it writes: a `Draft` is an adapter
object with every column open to change.
"""

import hashlib
import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PACKINGS = ((256, 1), (3, 5), (3, 4), (5, 3), (7, 2), (9, 2), (11, 2), (15, 2))
WIDTHS = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
Rows = list[list[int]]


def sha256(content: bytes) -> str:
    """Return the digest of bytes."""
    return hashlib.sha256(content).hexdigest()


def canonical(value: Any) -> bytes:
    """Return canonical JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def safetensors(
    metadata: Sequence[tuple[str, str]], tensors: Sequence[tuple[str, str, Sequence[int], bytes]]
) -> bytes:
    """Return the canonical file of tensors (key, dtype, shape, bytes)."""
    members = (
        []
        if not metadata
        else [
            '"__metadata__":{'
            + ",".join(f"{_text(name)}:{_text(value)}" for name, value in metadata)
            + "}"
        ]
    )
    position = 0
    for key, dtype, shape, content in tensors:
        sizes = ",".join(str(size) for size in shape)
        members.append(
            f'{_text(key)}:{{"dtype":"{dtype}","shape":[{sizes}],"data_offsets":[{position},{position + len(content)}]}}'
        )
        position += len(content)
    header = ("{" + ",".join(members) + "}").encode()
    header += b" " * (-len(header) % 8)
    return (
        struct.pack("<Q", len(header)) + header + b"".join(content for _, _, _, content in tensors)
    )


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def binary(described: Mapping[str, Any], parts: Mapping[str, bytes]) -> bytes:
    """Return a binary object."""
    return safetensors(
        [("share_registry", canonical(described).decode())],
        [(key, "U8", [len(part)], part) for key, part in parts.items()],
    )


def frame(
    byte: int,
    size: int,
    *,
    declared: int | None = None,
    window: int | None = None,
    flags: int = 0,
    dictionary: bytes = b"",
) -> bytes:
    """Return a zstd frame of one byte repeated, in run-length blocks.

    `window` as the exponent of a window descriptor instead of a single segment.
    """
    found = bytes([0x80 | (0x20 if window is None else 0) | flags]) + (
        b"" if window is None else bytes([window << 3])
    )
    header = (
        b"\x28\xb5\x2f\xfd"
        + found
        + dictionary
        + struct.pack("<I", size if declared is None else declared)
    )
    blocks, left = b"", size
    while True:
        piece = min(left, 1 << 17)
        left -= piece
        blocks += struct.pack("<I", (left == 0) | 1 << 1 | piece << 3)[:3] + bytes([byte])
        if left == 0:
            return header + blocks


def framed(content: bytes) -> bytes:
    """Return bytes as one zstd frame, in which only long runs of one byte are shortened."""
    blocks: list[tuple[int, int, bytes]] = []
    for run in re.finditer(rb"(?s)(.)\1{31,}|(?:(?!(.)\2{31}).)+", content):
        for start in range(run.start(), run.end(), 1 << 17):
            piece = content[start : min(start + (1 << 17), run.end())]
            blocks.append((1, len(piece), piece[:1]) if run[1] else (0, len(piece), piece))
    header = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(content))
    return header + b"".join(
        struct.pack("<I", (number == len(blocks)) | kind << 1 | size << 3)[:3] + stored
        for number, (kind, size, stored) in enumerate(blocks, start=1)
    )


PIECE = 4 << 20


@dataclass(kw_only=True)
class Side:
    """One factor as integers."""

    own: Rows
    scales: list[float]
    terms: list[tuple[int, int, Rows]] = field(default_factory=list)
    previous: bool = False


@dataclass(kw_only=True)
class Floats:
    """What the table says of tensors whose floats are split."""

    groups: list[int]
    bases: list[int]
    escapes: list[int]
    count: int | None = None

    def columns(self) -> tuple[tuple[list[int], int], ...]:
        """Return the columns, each with its width."""
        count = len(self.escapes) if self.count is None else self.count
        return ([count], 1), (self.groups, 1), (self.bases, 2), (self.escapes, 5)


@dataclass(kw_only=True)
class Draft:
    """An adapter object, column by column; lists of integers throughout."""

    header: dict[str, Any]
    lanes: list[int]
    terms: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    exponents: list[int] = field(default_factory=list)
    ks: list[int] = field(default_factory=list)
    scales: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    groups_of_rows: list[int] = field(default_factory=list)
    packings: list[int] = field(default_factory=list)
    shifts: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    symbols: bytes = b""
    planes: bytes = b""
    count: int | None = None
    floats: Floats | None = None

    def table(self) -> bytes:
        """Return the plain columns."""
        columns = (
            (self.lanes, 1),
            (self.terms, 1),
            (self.sources, 1),
            ([e & 0xFF for e in self.exponents], 1),
            (self.ks, 2),
            (self.scales, 2),
            (self.errors, 2),
        )
        more = (
            (self.groups_of_rows, 1),
            (self.packings, 1),
            (self.shifts, 1),
            *(() if self.floats is None else self.floats.columns()),
            (self.lengths, 3),
        )
        count = bytes([len(self.packings) if self.count is None else self.count])
        return count + b"".join(column(values, width) for values, width in (*columns, *more))

    def to_bytes(self, *, table: bytes | None = None) -> bytes:
        """Return the object, with another table where one is given."""
        return binary(
            self.header,
            {
                "planes": self.planes,
                "symbols": self.symbols,
                "table": b"\0" + self.table() if table is None else table,
            },
        )


@dataclass(kw_only=True)
class BasisDraft(Draft):
    """A basis object: of the columns of a `Draft` those of the groups, and `ks` of its sides."""

    def table(self) -> bytes:
        """Return the plain columns."""
        columns = (
            (self.ks, 2),
            (self.groups_of_rows, 1),
            (self.packings, 1),
            (self.shifts, 1),
            (self.lengths, 3),
        )
        return bytes([len(self.packings) if self.count is None else self.count]) + b"".join(
            column(values, width) for values, width in columns
        )

    def to_bytes(self, *, table: bytes | None = None) -> bytes:
        """Return the object, with another table where one is given."""
        return binary(
            self.header,
            {"symbols": self.symbols, "table": b"\0" + self.table() if table is None else table},
        )


def basis_draft(
    modules: Mapping[str, tuple[Rows, Rows]], widths: Mapping[str, tuple[int, int]]
) -> BasisDraft:
    """Return a basis object of rows by module."""
    described = [
        {"module": name, "in": widths[name][0], "out": widths[name][1]} for name in sorted(modules)
    ]
    blocks = [block for name in sorted(modules) for block in modules[name]]
    made = BasisDraft(
        header={"format": 1, "kind": "basis", "modules": described},
        lanes=[],
        ks=[len(block) for block in blocks],
    )
    _add_rows(made, [row for block in blocks for row in block])
    return made


def column(values: Sequence[int], width: int) -> bytes:
    """Return numbers as planes, high byte first."""
    return b"".join(
        bytes(value >> 8 * place & 0xFF for value in values) for place in reversed(range(width))
    )


def draft(
    layout: Mapping[str, Any],
    modules: Sequence[tuple[Side, Side] | None],
    kept: Mapping[int, bytes],
    *,
    previous: str | None = None,
    sources: Sequence[str] = (),
    external: Mapping[int, str] | None = None,
) -> Draft:
    """Return an adapter object; rows take turns at the packings, so that each is there."""
    header: dict[str, Any] = {
        "format": 1,
        "kind": "adapter",
        "layout": sha256(canonical(layout)),
        "sources": list(sources),
    }
    header["external"] = [
        {"object": digest, "tensor": index} for index, digest in sorted((external or {}).items())
    ]
    header |= {} if previous is None else {"previous": previous}
    made = Draft(
        header=header,
        lanes=[
            0 if pair is None else 1 | pair[0].previous << 1 | pair[1].previous << 2
            for pair in modules
        ],
    )
    sides = [side for pair in modules if pair is not None for side in pair]
    for side in sides:
        made.terms.append(len(side.terms))
        made.sources += [source for source, _, _ in side.terms]
        made.exponents += [exponent for _, exponent, _ in side.terms]
        made.ks += [len(coefficients[0]) for _, _, coefficients in side.terms]
        made.scales += [bfloat16(scale) for scale in side.scales]
    made.errors = [bfloat16(0.015625)] * (len(sides) // 2)
    rows = [row for side in sides for row in side.own] + [
        row for side in sides for _, _, coefficients in side.terms for row in coefficients
    ]
    _add_rows(made, rows)
    for index in sorted(kept):
        width = WIDTHS[layout["tensors"][index]["dtype"]]
        for plane in range(width):
            content = kept[index][plane::width]
            for start in range(0, len(content), PIECE):
                _add_piece(made, content[start : start + PIECE])
    return made


def _add_rows(made: Draft, rows: Rows) -> None:
    groups: dict[tuple[int, int], list[list[int]]] = {}
    keys = []
    for number, row in enumerate(rows):
        key = _group(row, number % len(PACKINGS)) if any(row) else None
        keys.append(key)
        if key is not None:
            groups.setdefault(key, []).append(row)
    order = sorted(groups)
    made.groups_of_rows = [0 if key is None else order.index(key) + 1 for key in keys]
    for packing, shift in order:
        values = [value for row in groups[packing, shift] for value in row]
        made.packings.append(packing)
        made.shifts.append(shift)
        high = packed([value >> shift for value in values], packing)
        made.lengths.append(len(high))
        made.symbols += high + b"".join(
            plane([value >> bit & 1 for value in values]) for bit in range(shift)
        )


def _group(row: Sequence[int], packing: int) -> tuple[int, int]:
    shift = 0
    while not all(
        -(PACKINGS[packing][0] // 2) <= value >> shift <= (PACKINGS[packing][0] - 1) // 2
        for value in row
    ):
        shift += 1
    return (packing, shift) if shift <= 16 else _group(row, 0)


def _add_piece(made: Draft, content: bytes) -> None:
    """Add one stream of at most 4 MiB to the tensors kept bit for bit.

    A frame where all its bytes are equal and that is shorter.
    """
    framed = frame(content[0], len(content)) if len(set(content)) == 1 else content
    stored = min(framed, content, key=len)
    made.planes += stored
    made.lengths += [len(stored)] if content else []


def packed(values: Sequence[int], packing: int) -> bytes:
    """Return small integers packed into bytes."""
    base, per = PACKINGS[packing]
    digits = [value + base // 2 for value in values] + [base // 2] * (-len(values) % per)
    made = bytearray()
    for start in range(0, len(digits), per):
        number = 0
        for digit in digits[start : start + per]:
            number = number * base + digit
        made.append(number)
    return bytes(made)


def plane(bits: Sequence[int]) -> bytes:
    """Return bits as bytes, lowest first."""
    padded = [*bits, *([0] * (-len(bits) % 8))]
    return bytes(
        sum(bit << place for place, bit in enumerate(padded[start : start + 8]))
        for start in range(0, len(padded), 8)
    )


HEADS = {"F32": (32, 20), "BF16": (16, 4), "F16": (16, 8)}


def with_groups(
    made: Draft,
    layout: Mapping[str, Any],
    kept: Mapping[int, bytes],
    groups: Sequence[Mapping[int, int]],
) -> Draft:
    """Put floats of a draft in groups instead of planes: of each its tensors with their bases."""
    dtypes = {index: layout["tensors"][index]["dtype"] for index in kept}
    number_of = {index: number for number, group in enumerate(groups, 1) for index in group}
    base_of = {index: base for group in groups for index, base in group.items()}
    made.header["heads"] = True
    made.planes, lengths = (
        b"",
        len(made.lengths)
        - sum(
            -(-len(kept[index][plane :: WIDTHS[dtypes[index]]]) // PIECE)
            for index in kept
            for plane in range(WIDTHS[dtypes[index]])
        ),
    )
    del made.lengths[lengths:]
    streams = [
        kept[index][plane :: WIDTHS[dtypes[index]]]
        for index in sorted(kept)
        if index not in number_of
        for plane in range(WIDTHS[dtypes[index]])
    ]
    escapes = []
    for group in groups:
        indices = sorted(group)
        parts = float_streams(
            [kept[index] for index in indices],
            [group[index] for index in indices],
            dtypes[indices[0]],
        )
        streams += parts
        escapes.append(len(parts[1]) // 2)
    for stream in streams:
        if stream:
            _add_piece(made, stream)
    made.floats = Floats(
        groups=[number_of.get(index, 0) for index in sorted(kept)],
        bases=[base_of[index] for index in sorted(base_of)],
        escapes=escapes,
    )
    return made


def float_streams(tensors: Sequence[bytes], bases: Sequence[int], dtype: str) -> list[bytes]:
    """Return the streams of a group of floats, number by number."""
    bits, tail = HEADS[dtype]
    width, heads = bits // 8, 1 << bits - tail
    codes, escapes, halves = bytearray(), bytearray(), bytearray()
    tails = [bytearray() for _ in range(tail // 8)]
    for content, base in zip(tensors, bases, strict=True):
        nibbles = []
        for start in range(0, len(content), width):
            number = int.from_bytes(content[start : start + width], "little")
            turned = number << 1 & (1 << bits) - 1 | number >> bits - 1
            head, rest = divmod(turned, 1 << tail)
            code = (head - base) % heads
            codes.append(min(code, 255))
            escapes += head.to_bytes(2, "little") if code >= 255 else b""
            for byte, plane in enumerate(tails):
                plane.append(rest >> 8 * byte & 255)
            nibbles.append(rest >> tail // 8 * 8)
        nibbles += [0] * (len(nibbles) % 2)
        halves += bytes(
            low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True)
        )
    whole = [bytes(codes), bytes(escapes), *map(bytes, tails)]
    return [*whole, bytes(halves)] if tail % 8 else whole


def split_tensor_object(
    content: bytes, dtype: str, base: int, members: Mapping[str, Any] | None = None
) -> bytes:
    """Return the object of an external tensor whose floats are split; `members` of `heads`."""
    streams = float_streams([content], [base], dtype)
    heads: dict[str, Any] = {"dtype": dtype, "base": base, "escapes": len(streams[1]) // 2}
    described = {"format": 1, "kind": "tensor", "size": len(content), "width": WIDTHS[dtype]}
    table = b"".join(struct.pack("<I", len(stream))[:3] for stream in streams if stream)
    heads |= members or {}
    return binary(described | {"heads": heads}, {"planes": b"".join(streams), "table": table})


def tensor_object(content: bytes, width: int) -> bytes:
    """Return the object of an external tensor."""
    planes = [content[place::width] for place in range(width)]
    table = b"".join(struct.pack("<I", len(plane))[:3] for plane in planes if plane)
    return binary(
        {"format": 1, "kind": "tensor", "size": len(content), "width": width},
        {"planes": b"".join(planes), "table": table},
    )


def bfloat16(value: float) -> int:
    """Return the two bytes of a bfloat16 value as a number."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    assert bits & 0xFFFF == 0, f"{value} is no bfloat16 value"
    return int(bits) >> 16
