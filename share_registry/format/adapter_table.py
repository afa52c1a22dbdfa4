"""The table of an adapter object: everything small, as columns of bytes (spec TAB-01 to TAB-09).

Columns in order, all unsigned unless said: number of groups (1 byte); lane of each module; number
of terms of each coded factor; of each term source, exponent (signed) and k (2 bytes); scales and
then module errors as bfloat16, high bytes before low bytes; group of each row; packing and shift of
each group; stored length (3 bytes) of every piece, of `symbols`, then of `planes`. Where floats are
split into heads and tails, four columns on them come before the lengths (spec TAB-10). Numbers of
more than one byte lie as planes, high byte first: like stands by like. All of it is one zstd frame
where that is shorter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from share_registry.format.canonical import require
from share_registry.format.frames import (
    MAX_FRAME_BYTES,
    compress_small,
    declared_size,
    expand,
)
from share_registry.format.heads import SPLITS
from share_registry.format.layout import DType
from share_registry.format.symbols import MAX_SHIFT, PACKINGS, Group

MAX_TERMS: Final = 64
MAX_K: Final = 0xFFFF
_BASE_BYTES: Final = 2
_ESCAPES_BYTES: Final = 5
_RAW: Final = b"\x00"
_ZSTD: Final = b"\x01"
_SUBJECT: Final = "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """How a module is kept: its tensors verbatim, or coded with or without the previous version."""

    coded: bool
    previous_a: bool = False
    previous_b: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TermHead:
    """What the table says about one term: its coefficients are (r, k)."""

    source: int
    exponent: int
    k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatTable:
    """What the table says of tensors kept bit for bit whose floats are split (spec TAB-10).

    Attributes:
        groups: Per tensor kept in the object; 0: in byte planes.
        bases: Per tensor that is in a group.
        escapes: Per group, group 1 onwards.
    """

    groups: tuple[int, ...]
    bases: tuple[int, ...]
    escapes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterTable:
    """The small numbers of one adapter object.

    Attributes:
        lanes: Per module.
        terms: Per coded factor, A before B.
        scales: float32, bfloat16 values: per row of every coded factor.
        errors: float32, bfloat16 values: per coded module.
        groups_of_rows: Per row of every coded factor, then per coefficient row of every term.
        groups: Group 1 onwards.
        pieces: Stored lengths, of `symbols` and then of `planes`.
        floats: Where floats kept bit for bit are split.
    """

    lanes: tuple[Lane, ...]
    terms: tuple[tuple[TermHead, ...], ...]
    scales: NDArray[np.float32]
    errors: NDArray[np.float32]
    groups_of_rows: NDArray[np.uint8]
    groups: tuple[Group, ...]
    pieces: tuple[int, ...]
    floats: FloatTable | None = None

    def to_bytes(self) -> bytes:
        """Return the table's bytes. Raises IntegrityError where a number does not fit."""
        heads = [head for terms in self.terms for head in terms]
        lanes = [lane.coded | lane.previous_a << 1 | lane.previous_b << 2 for lane in self.lanes]
        exponents = [head.exponent & 0xFF if -128 <= head.exponent < 128 else 256 for head in heads]
        columns = (
            column([len(self.groups)], 1),
            column(lanes, 1),
            column([len(terms) for terms in self.terms], 1),
            column([head.source for head in heads], 1),
            column(exponents, 1),
            column([head.k for head in heads], 2),
            column(_from_bfloat16(self.scales), 2),
            column(_from_bfloat16(self.errors), 2),
            self.groups_of_rows.tobytes(),
            column([group.packing for group in self.groups], 1),
            column([group.shift for group in self.groups], 1),
            *_float_columns(self.floats),
            column(self.pieces, 3),
        )
        return deflate(b"".join(columns))

    @classmethod
    def from_bytes(
        cls,
        content: memoryview,
        ranks: Sequence[int],
        split_types: Callable[[Sequence[Lane]], Sequence[DType]] | None = None,
    ) -> "AdapterTable":
        """Parse a table.

        Args:
            content: Its bytes.
            ranks: Of every module.
            split_types: Where floats are split, returns the element types of the tensors kept in
                the object.

        Raises:
            IntegrityError: any departure from the format.
        """
        cursor = Cursor(inflate(content))
        count = int(cursor.column(1, 1)[0])
        lanes = tuple(_lane(value) for value in cursor.column(len(ranks), 1).tolist())
        coded = [rank for lane, rank in zip(lanes, ranks, strict=True) if lane.coded]
        terms = _terms(cursor, 2 * len(coded))
        sides = [rank for rank in coded for _ in range(2)]
        rows = sum(rank * (1 + len(heads)) for rank, heads in zip(sides, terms, strict=True))
        # columns are taken in their order
        return cls(
            lanes=lanes,
            terms=terms,
            scales=cursor.bfloat16(2 * sum(coded)),
            errors=cursor.bfloat16(len(coded)),
            groups_of_rows=cursor.column(rows, 1).astype(np.uint8),
            groups=cursor.groups(count),
            floats=None if split_types is None else cursor.floats(split_types(lanes)),
            pieces=tuple(cursor.rest(3).tolist()),
        )

    def split_pieces(self, *, symbols: int, planes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the stored lengths of the pieces of `symbols` and of `planes`.

        Raises IntegrityError where there are not so many.
        """
        count = len(self.pieces)
        require(
            count == symbols + planes,
            f"{_SUBJECT} has the lengths of {count} pieces, expected {symbols + planes}.",
        )
        return self.pieces[:symbols], self.pieces[symbols:]


class Cursor:
    """Reads columns from the front of a buffer."""

    def __init__(self, content: bytes) -> None:
        self._left = np.frombuffer(content, np.uint8)

    def column(self, count: int, width: int) -> NDArray[np.int64]:
        """Take `count` numbers of `width` bytes."""
        size = count * width
        require(
            size <= len(self._left),
            f"{_SUBJECT} ends early: {len(self._left)} bytes left, {size} needed.",
        )
        planes, self._left = self._left[:size], self._left[size:]
        values = np.zeros(count, np.int64)
        for plane in planes.reshape(width, count):
            values = values << 8 | plane
        return values

    def bfloat16(self, count: int) -> NDArray[np.float32]:
        """Take `count` finite bfloat16 numbers, none negative."""
        values = self.column(count, 2)
        require(
            int(values.max(initial=0)) < 0x7F80,
            f"{_SUBJECT} has a scale or error that is negative or not finite.",
        )
        return (values.astype(np.uint32) << 16).view(np.float32)

    def groups(self, count: int) -> tuple[Group, ...]:
        """Take `count` packings and as many shifts (spec TAB-07)."""
        packings, shifts = self.column(count, 1).tolist(), self.column(count, 1).tolist()
        for packing, shift in zip(packings, shifts, strict=True):
            require(
                packing < len(PACKINGS) and shift <= MAX_SHIFT,
                f"a group has packing {packing} and shift {shift}, "
                f"expected below {len(PACKINGS)} and at most {MAX_SHIFT}.",
            )
        return tuple(
            Group(packing=packing, shift=shift)
            for packing, shift in zip(packings, shifts, strict=True)
        )

    def floats(self, dtypes: Sequence[DType]) -> FloatTable:
        """Take the columns on tensors of these element types, kept in the object (spec TAB-10)."""
        count = int(self.column(1, 1)[0])
        groups = self.column(len(dtypes), 1).tolist()
        types = {(group, dtype) for group, dtype in zip(groups, dtypes, strict=True) if group}
        require(
            sorted(group for group, _ in types) == list(range(1, count + 1))
            and all(dtype in SPLITS for _, dtype in types),
            f"{_SUBJECT} has {count} groups of floats, expected each of one element type that is "
            "split, and used.",
        )
        bases = self.column(sum(map(bool, groups)), _BASE_BYTES).tolist()
        heads = [SPLITS[dtype].heads for group, dtype in zip(groups, dtypes, strict=True) if group]
        require(
            all(base < limit for base, limit in zip(bases, heads, strict=True)),
            f"{_SUBJECT} has a base that is no head.",
        )
        escapes = self.column(count, _ESCAPES_BYTES).tolist()
        return FloatTable(groups=tuple(groups), bases=tuple(bases), escapes=tuple(escapes))

    def rest(self, width: int) -> NDArray[np.int64]:
        """Take all that is left as numbers of `width` bytes."""
        size = len(self._left)
        require(
            size % width == 0, f"{_SUBJECT} ends with {size} bytes, expected a multiple of {width}."
        )
        return self.column(len(self._left) // width, width)


def deflate(raw: bytes) -> bytes:
    """Compress the columns of a table to one frame where that is shorter (spec TAB-01).

    Raises IntegrityError where they are too many.
    """
    require(
        len(raw) <= MAX_FRAME_BYTES,
        f"{_SUBJECT} would have {len(raw)} bytes, more than the limit of {MAX_FRAME_BYTES}.",
    )
    frame = compress_small(raw)
    return _ZSTD + frame if len(frame) < len(raw) else _RAW + raw


def column(values: "Sequence[int] | NDArray[np.int64]", width: int) -> bytes:
    """Return numbers of `width` bytes as a column (spec TAB-02).

    Raises IntegrityError where one does not fit.
    """
    numbers = np.asarray(values, np.int64)
    low, high = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    require(
        low >= 0 and high >> 8 * width == 0,
        f"a number of the table does not fit {width} bytes: {low} to {high}.",
    )
    return b"".join(
        (numbers >> 8 * byte).astype(np.uint8).tobytes() for byte in reversed(range(width))
    )


def inflate(content: memoryview) -> bytes:
    """Return the columns of a table (spec TAB-01). Raises IntegrityError."""
    kind, rest = bytes(content[:1]), content[1:]
    require(kind in (_RAW, _ZSTD), f"{_SUBJECT} begins with {kind!r}, expected 0 or 1.")
    if kind == _RAW:
        return bytes(rest)
    return expand(rest, declared_size(rest, subject=_SUBJECT), subject=_SUBJECT)


def _float_columns(floats: FloatTable | None) -> tuple[bytes, ...]:
    if floats is None:
        return ()
    return (
        column([len(floats.escapes)], 1),
        column(floats.groups, 1),
        column(floats.bases, _BASE_BYTES),
        column(floats.escapes, _ESCAPES_BYTES),
    )


def _from_bfloat16(values: NDArray[np.float32]) -> NDArray[np.int64]:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    require(not (bits & 0xFFFF).any(), "a scale or an error is not a bfloat16 value.")
    return (bits >> 16).astype(np.int64)


def _lane(value: int) -> Lane:
    require(
        value in (0, 1, 3, 5, 7),
        f"{_SUBJECT} has the lane {value}, expected 0 or an odd number below 8.",
    )
    return Lane(coded=bool(value), previous_a=bool(value & 2), previous_b=bool(value & 4))


def _terms(cursor: Cursor, sides: int) -> tuple[tuple[TermHead, ...], ...]:
    counts = cursor.column(sides, 1).tolist()
    most = max(counts, default=0)
    require(
        most <= MAX_TERMS, f"a factor refers to {most} blocks, more than the limit of {MAX_TERMS}."
    )
    sources = cursor.column(sum(counts), 1).tolist()
    exponents = cursor.column(sum(counts), 1).astype(np.int8).tolist()
    ks = cursor.column(sum(counts), 2).tolist()
    require(0 not in ks, "a term has no coefficients.")
    heads = (
        TermHead(source=source, exponent=exponent, k=k)
        for source, exponent, k in zip(sources, exponents, ks, strict=True)
    )
    return tuple(tuple(next(heads) for _ in range(count)) for count in counts)
