"""The table of an adapter object.

Everything small, as columns of bytes, compressed as one frame where that is shorter (spec TAB-01 to
TAB-09).

Columns in order, all unsigned unless said: number of groups (1 byte); lane of each module; number
of terms of each coded factor; of each term source, exponent (signed) and k (2 bytes); scales and
then module errors as bfloat16, high bytes before low bytes; group of each row; packing and shift of
each group; stored length (3 bytes) of every piece, of `symbols`, then of `planes`. Numbers of more
than one byte lie as planes, high byte first: like stands by like.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from share_registry.errors import IntegrityError
from share_registry.format.frames import (
    FAST,
    MAX_FRAME_BYTES,
    SMALLEST,
    compress,
    declared_size,
    expand,
)
from share_registry.format.symbols import MAX_SHIFT, PACKINGS, Group

MAX_TERMS: Final = 64
MAX_K: Final = 0xFFFF
_RAW: Final = b"\x00"
_ZSTD: Final = b"\x01"
_WHAT: Final = "table"


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
    """

    lanes: tuple[Lane, ...]
    terms: tuple[tuple[TermHead, ...], ...]
    scales: NDArray[np.float32]
    errors: NDArray[np.float32]
    groups_of_rows: NDArray[np.uint8]
    groups: tuple[Group, ...]
    pieces: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """Return the table's bytes. Raises IntegrityError where a number does not fit."""
        heads = [head for terms in self.terms for head in terms]
        raw = b"".join(
            (
                column([len(self.groups)], 1),
                column(
                    [
                        lane.coded | lane.previous_a << 1 | lane.previous_b << 2
                        for lane in self.lanes
                    ],
                    1,
                ),
                column([len(terms) for terms in self.terms], 1),
                column([head.source for head in heads], 1),
                column(
                    [
                        head.exponent & 0xFF if -128 <= head.exponent < 128 else 256
                        for head in heads
                    ],
                    1,
                ),
                column([head.k for head in heads], 2),
                column(_from_bfloat16(self.scales), 2),
                column(_from_bfloat16(self.errors), 2),
                self.groups_of_rows.tobytes(),
                column([group.packing for group in self.groups], 1),
                column([group.shift for group in self.groups], 1),
                column(self.pieces, 3),
            )
        )
        return deflated(raw)

    @classmethod
    def from_bytes(cls, content: memoryview, ranks: Sequence[int]) -> "AdapterTable":
        """Parse a table, given the rank of every module. Raises IntegrityError."""
        cursor = Cursor(inflated(content))
        count = int(cursor.column(1, 1)[0])
        lanes = tuple(_lane(value) for value in cursor.column(len(ranks), 1).tolist())
        coded = [rank for lane, rank in zip(lanes, ranks, strict=True) if lane.coded]
        terms = _terms(cursor, 2 * len(coded))
        scales, errors = cursor.bfloat16(2 * sum(coded)), cursor.bfloat16(len(coded))
        sides = [rank for rank in coded for _ in range(2)]
        rows = sum(sides) + sum(rank * len(heads) for rank, heads in zip(sides, terms, strict=True))
        groups_of_rows = cursor.column(rows, 1).astype(np.uint8)
        groups = tuple(
            group_of(*pair)
            for pair in zip(
                cursor.column(count, 1).tolist(), cursor.column(count, 1).tolist(), strict=True
            )
        )
        return cls(
            lanes=lanes,
            terms=terms,
            scales=scales,
            errors=errors,
            groups_of_rows=groups_of_rows,
            groups=groups,
            pieces=tuple(cursor.rest(3).tolist()),
        )

    def split_pieces(self, *, symbols: int, planes: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the stored lengths of the pieces of `symbols` and of `planes`, which must be this many. Raises IntegrityError."""
        if len(self.pieces) != symbols + planes:
            raise IntegrityError(
                f"{_WHAT} has the lengths of {len(self.pieces)} pieces, expected {symbols + planes}."
            )
        return self.pieces[:symbols], self.pieces[symbols:]


class Cursor:
    """Reads columns from the front of a buffer."""

    def __init__(self, content: bytes) -> None:
        self._left = np.frombuffer(content, np.uint8)

    def column(self, count: int, width: int) -> NDArray[np.int64]:
        """Take `count` numbers of `width` bytes."""
        if count * width > len(self._left):
            raise IntegrityError(
                f"{_WHAT} ends early: {len(self._left)} bytes left, {count * width} needed."
            )
        taken, self._left = self._left[: count * width], self._left[count * width :]
        values = np.zeros(count, np.int64)
        for plane in taken.reshape(width, count):
            values = values << 8 | plane
        return values

    def bfloat16(self, count: int) -> NDArray[np.float32]:
        """Take `count` finite bfloat16 numbers, none negative."""
        values = self.column(count, 2)
        if count and int(values.max()) >= 0x7F80:
            raise IntegrityError(f"{_WHAT} has a scale or error that is negative or not finite.")
        return (values.astype(np.uint32) << 16).view(np.float32)

    def rest(self, width: int) -> NDArray[np.int64]:
        """Take all that is left as numbers of `width` bytes."""
        if len(self._left) % width:
            raise IntegrityError(
                f"{_WHAT} ends with {len(self._left)} bytes, expected a multiple of {width}."
            )
        return self.column(len(self._left) // width, width)


def deflated(raw: bytes) -> bytes:
    """Return the columns as a table holds them: as one frame where that is shorter (spec TAB-01).

    Raises IntegrityError where they are too many.
    """
    if len(raw) > MAX_FRAME_BYTES:
        raise IntegrityError(
            f"{_WHAT} would have {len(raw)} bytes, more than the limit of {MAX_FRAME_BYTES}."
        )
    frame = min((compress(raw, level=level) for level in (FAST, SMALLEST)), key=len)
    return _ZSTD + frame if len(frame) < len(raw) else _RAW + raw


def column(values: "Sequence[int] | NDArray[np.int64]", width: int) -> bytes:
    """Return numbers of `width` bytes as a column (spec TAB-02).

    Raises IntegrityError where one does not fit.
    """
    numbers = np.asarray(values, np.int64)
    if len(numbers) and (int(numbers.min()) < 0 or int(numbers.max()) >> 8 * width):
        raise IntegrityError(
            f"a number of the table does not fit {width} bytes: {int(numbers.min())} to {int(numbers.max())}."
        )
    return b"".join(
        (numbers >> 8 * byte).astype(np.uint8).tobytes() for byte in reversed(range(width))
    )


def _from_bfloat16(values: NDArray[np.float32]) -> NDArray[np.int64]:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    if (bits & 0xFFFF).any():
        raise IntegrityError("a scale or an error is not a bfloat16 value.")
    return (bits >> 16).astype(np.int64)


def inflated(content: memoryview) -> bytes:
    """Return the columns of a table (spec TAB-01). Raises IntegrityError."""
    kind, rest = bytes(content[:1]), content[1:]
    if kind == _RAW:
        return bytes(rest)
    if kind == _ZSTD:
        return expand(rest, declared_size(rest, what=_WHAT), what=_WHAT)
    raise IntegrityError(f"{_WHAT} begins with {kind!r}, expected 0 or 1.")


def _lane(value: int) -> Lane:
    if value > 7 or (value and not value & 1):
        raise IntegrityError(f"{_WHAT} has the lane {value}, expected 0 or an odd number below 8.")
    return Lane(coded=bool(value), previous_a=bool(value & 2), previous_b=bool(value & 4))


def _terms(cursor: Cursor, sides: int) -> tuple[tuple[TermHead, ...], ...]:
    counts = cursor.column(sides, 1).tolist()
    if max(counts, default=0) > MAX_TERMS:
        raise IntegrityError(
            f"a factor refers to {max(counts)} blocks, more than the limit of {MAX_TERMS}."
        )
    total = sum(counts)
    sources = cursor.column(total, 1).tolist()
    exponents = [
        value - 256 if value > 127 else value for value in cursor.column(total, 1).tolist()
    ]
    ks = cursor.column(total, 2).tolist()
    if 0 in ks:
        raise IntegrityError("a term has no coefficients.")
    heads = iter(
        [
            TermHead(source=source, exponent=exponent, k=k)
            for source, exponent, k in zip(sources, exponents, ks, strict=True)
        ]
    )
    return tuple(tuple(next(heads) for _ in range(count)) for count in counts)


def group_of(packing: int, shift: int) -> Group:
    """Return a group of these numbers of the table (spec TAB-07). Raises IntegrityError."""
    if packing >= len(PACKINGS) or shift > MAX_SHIFT:
        raise IntegrityError(
            f"a group has packing {packing} and shift {shift}, expected below {len(PACKINGS)} and at most {MAX_SHIFT}."
        )
    return Group(packing=packing, shift=shift)
