"""Integer rows from their bytes: checked, expanded, unpacked (spec SYM-01 to SYM-09).

How they lie there is told in `symbols.py`. A group is cut into pieces that are expanded each on its
own, and its rows lie in it in the order of the object. So some of the rows can be had without the
rest: an object whose rows are large is gone through with a piece of each group in memory.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from share_registry.format.canonical import require
from share_registry.format.frames import PIECE_BYTES, piece_sizes, unpack_streams
from share_registry.format.symbols import MAX_BITS, PACKINGS, Group, Ints
from share_registry.parallel import MAX_THREADS, side_by_side

# symbols from which on they are expanded by several threads
_SIDE_BY_SIDE: Final = 1 << 20
# largest shift whose symbols fit 16 bits: |h << 7| is at most 2**14
_SHORT_SHIFT: Final = 7
# symbols expanded at a time: temporaries of 256 kB stay in the cache
_CHUNK: Final = 1 << 17
# no zstd frame expands further than about 32,700 to 1
_RATIO: Final = 40_000
# Memory of rows of one width, and the positions there of those that are filled in order
_Places = tuple[Ints, NDArray[np.int64]]


class PackedRows:
    """Rows of integers that are expanded as they are asked for, by one thread at a time.

    Every length is checked here, before anything is expanded. Of each group the piece that was
    expanded last is kept: rows that are asked for in order are expanded once.

    Args:
        content: The groups, one after another.
        shapes: (rows, width) of each array that the rows make.
        groups_of_rows: The group of each row, from 1; 0 for rows of zeros.
        groups: The groups.
        pieces: Lengths of all pieces in order.

    Raises:
        IntegrityError: lengths that do not fit, or a group out of range.
    """

    def __init__(
        self,
        content: memoryview,
        shapes: Sequence[tuple[int, int]],
        groups_of_rows: NDArray[np.uint8],
        groups: Sequence[Group],
        pieces: Sequence[int],
    ) -> None:
        self._shapes, self._groups_of_rows = shapes, groups_of_rows
        self._rows, self._widths = _rows_and_widths(shapes)
        counts = _symbols_per_group(self._widths, groups_of_rows, groups)
        low = sum(group.low_bytes(count) for group, count in zip(groups, counts, strict=True))
        expected, self._total = sum(pieces) + low, sum(counts)
        require(
            expected == len(content) and self._total <= _RATIO * 8 * max(1, len(content)),
            f"symbols have {len(content)} bytes for {self._total} numbers, expected {expected}.",
        )
        is_short = all(group.shift <= _SHORT_SHIFT for group in groups)
        self._dtype: np.dtype[Any] = np.dtype(np.int16 if is_short else np.int32)
        self._streams = list(_streams(content, groups, counts, pieces))

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows, expanded."""
        return self._total * self._dtype.itemsize

    def arrays(self, start: int, stop: int, *, threads: int = 1) -> list[Ints]:
        """Return some of the arrays, from one position to another.

        Args:
            start: Position of the first.
            stop: Position after the last.
            threads: With several, groups of many symbols are expanded side by side.

        Returns:
            int16 arrays where every symbol of all groups surely fits, else int32; not to be written
            to: rows of zeros share one number.

        Raises:
            IntegrityError: a symbol out of range, or damaged frames.
        """
        if start == stop:
            return []
        first, last = int(self._rows[start]), int(self._rows[stop])
        begins, counts = (
            _count(self._widths[rows], self._groups_of_rows[rows], len(self._streams))
            for rows in (slice(0, first), slice(first, last))
        )
        arrays, places = _places(
            self._shapes[start:stop],
            self._groups_of_rows[first:last],
            len(self._streams),
            self._dtype,
        )

        def fill(number: int) -> None:
            begin = begins[number]
            symbols = self._streams[number].symbols(begin, begin + counts[number])
            _fill(places[number], symbols)

        present = [number for number, count in enumerate(counts) if count]
        is_large = sum(counts) >= _SIDE_BY_SIDE
        list((side_by_side if threads > 1 and is_large else map)(fill, present))
        return arrays

    def zeros(self, start: int, stop: int) -> list[Ints]:
        """Return arrays of the same shapes that take no memory, all zeros."""
        return [_zeros(shape, self._dtype) for shape in self._shapes[start:stop]]


def piece_counts(
    shapes: Sequence[tuple[int, int]], groups_of_rows: NDArray[np.uint8], groups: Sequence[Group]
) -> list[int]:
    """Return the number of pieces of each group.

    Raises IntegrityError where a row names a group that is not there.
    """
    counts = _symbols_per_group(_rows_and_widths(shapes)[1], groups_of_rows, groups)
    return [
        len(piece_sizes(group.packed_bytes(count)))
        for group, count in zip(groups, counts, strict=True)
    ]


def decode_rows(
    content: memoryview,
    shapes: Sequence[tuple[int, int]],
    groups_of_rows: NDArray[np.uint8],
    groups: Sequence[Group],
    pieces: Sequence[int],
) -> list[Ints]:
    """Return rows as one array for each of `shapes`; see `PackedRows`. Raises IntegrityError."""
    rows = PackedRows(content, shapes, groups_of_rows, groups, pieces)
    return rows.arrays(0, len(shapes), threads=MAX_THREADS)


class _Stream:
    """The symbols of one group."""

    def __init__(
        self, group: Group, count: int, lengths: Sequence[int], content: memoryview
    ) -> None:
        self._group, self._count = group, count
        *starts, end = accumulate(lengths, initial=0)
        self._frames = [
            content[begin : begin + length] for begin, length in zip(starts, lengths, strict=True)
        ]
        self._planes = np.frombuffer(content[end:], np.uint8).reshape(group.shift, -(-count // 8))
        self._sizes = piece_sizes(group.packed_bytes(count))
        # the piece that was expanded last, by its number
        self._expanded: dict[int, NDArray[np.uint8]] = {}

    def symbols(self, begin: int, end: int) -> Iterator[Ints]:
        """Yield those from one position to another, in the narrowest type that surely fits."""
        group, per_byte = self._group, PACKINGS[self._group.packing][1]
        # eight packed bytes begin where a byte of a plane does
        position, stop = begin // per_byte // 8 * 8, -(-end // per_byte)
        size = _CHUNK // per_byte // 8 * 8
        while position < stop:
            number, offset = divmod(position, PIECE_BYTES)
            packed = self._piece(number)[offset : offset + min(size, stop - position)]
            first = position * per_byte
            symbols: Ints = _unpack(packed, self._count - first, group.packing)
            if group.shift:
                planes = self._planes[:, first // 8 : first // 8 + -(-len(symbols) // 8)]
                symbols = _join(symbols, planes, group.shift)
            yield symbols[max(0, begin - first) : end - first]
            position += len(packed)
        if end == self._count:
            self._expanded = {}

    def _piece(self, number: int) -> NDArray[np.uint8]:
        if number not in self._expanded:
            # not kept while the next is made
            self._expanded = {}
            frame = self._frames[number]
            (packed,) = unpack_streams(
                frame, [self._sizes[number]], [len(frame)], subject="a group of symbols"
            )
            self._expanded = {number: np.frombuffer(packed, np.uint8)}
        return self._expanded[number]


def _streams(
    content: memoryview, groups: Sequence[Group], counts: Sequence[int], pieces: Sequence[int]
) -> Iterator[_Stream]:
    position, rest = 0, iter(pieces)
    for group, count in zip(groups, counts, strict=True):
        lengths = list(islice(rest, len(piece_sizes(group.packed_bytes(count)))))
        end = position + sum(lengths) + group.low_bytes(count)
        yield _Stream(group, count, lengths, content[position:end])
        position = end


def _rows_and_widths(
    shapes: Sequence[tuple[int, int]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return at which row each array begins, and where the last ends; and the width of each row."""
    counts, widths = np.array(shapes, np.int64).reshape(-1, 2).T
    return np.cumsum([0, *counts]), np.repeat(widths, counts)


def _symbols_per_group(
    widths: NDArray[np.int64], groups_of_rows: NDArray[np.uint8], groups: Sequence[Group]
) -> list[int]:
    largest = int(groups_of_rows.max(initial=0))
    require(largest <= len(groups), f"a row is of group {largest}, there are {len(groups)}.")
    return _count(widths, groups_of_rows, len(groups))


def _count(widths: NDArray[np.int64], groups_of_rows: NDArray[np.uint8], groups: int) -> list[int]:
    """Return how many symbols each group has in rows of these widths, groups counted from 1."""
    # float64 has every number of symbols that a content of these limits may have
    counts = np.bincount(groups_of_rows, weights=widths, minlength=groups + 1)
    return [int(count) for count in counts[1:]]


def _places(
    shapes: Sequence[tuple[int, int]],
    groups_of_rows: NDArray[np.uint8],
    groups: int,
    dtype: np.dtype[Any],
) -> tuple[list[Ints], list[list[_Places]]]:
    """Return an array for every shape, and the rows that each group's symbols fill in order.

    Rows of one width lie in one stretch of memory, so that many are filled at once; and of such
    memory numpy asks the system for large pages: touching it for the first time costs a third.
    """
    counts, widths = np.array(shapes, np.int64).reshape(-1, 2).T
    ends = np.cumsum(counts)
    coded = np.cumsum([0, *(groups_of_rows > 0)])
    used = coded[ends] > coded[ends - counts]
    widths_of_rows = np.repeat(widths * used, counts)
    positions = np.zeros(len(groups_of_rows) + 1, np.int64)
    memories: dict[int, Ints] = {}
    for width in np.unique(widths[used]).tolist():
        mine = np.flatnonzero(widths_of_rows == width)
        positions[mine] = np.arange(len(mine))
        memories[width] = np.zeros((len(mine), width), dtype)
    arrays = [
        memories[width][start : start + count] if is_used else _zeros((count, width), dtype)
        for (count, width), start, is_used in zip(
            shapes, positions[ends - counts].tolist(), used.tolist(), strict=True
        )
    ]
    order = np.argsort(groups_of_rows, kind="stable")
    sizes = np.bincount(groups_of_rows, minlength=groups + 1)
    _, *members = np.split(order, np.cumsum(sizes)[:-1])
    return arrays, [
        [
            (memories[int(widths_of_rows[rows[0]])], positions[rows])
            for rows in np.split(each, np.flatnonzero(np.diff(widths_of_rows[each])) + 1)
            if len(rows) and widths_of_rows[rows[0]]
        ]
        for each in members
    ]


def _zeros(shape: tuple[int, int], dtype: np.dtype[Any]) -> Ints:
    """Return rows of zeros that take no memory: all that coefficients alone cost a reader."""
    return np.ndarray(shape, dtype, buffer=bytearray(4), strides=(0, 0))


def _fill(places: Sequence[_Places], chunks: Iterator[Ints]) -> None:
    chunk: Ints = np.zeros(0, np.int8)
    for memory, rows in places:
        width, done = memory.shape[1], 0
        while done < len(rows):
            chunk = chunk if len(chunk) else next(chunks)
            count = min(len(rows) - done, len(chunk) // width)
            if count:
                memory[_span(rows[done : done + count])] = chunk[: count * width].reshape(-1, width)
                chunk = chunk[count * width :]
            else:
                chunk = _fill_row(memory[rows[done]], chunk, chunks)
            done += count or 1


def _fill_row(row: Ints, chunk: Ints, chunks: Iterator[Ints]) -> Ints:
    """Fill a row that goes on in later chunks, and return what is left of the last."""
    filled = 0
    while filled < len(row):
        chunk = chunk if len(chunk) else next(chunks)
        count = min(len(row) - filled, len(chunk))
        row[filled : filled + count] = chunk[:count]
        filled, chunk = filled + count, chunk[count:]
    return chunk


def _span(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return rows as a slice where they are neighbours: a copy less."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first == len(rows) - 1 else rows


def _join(high: Ints, planes: NDArray[np.uint8], shift: int) -> Ints:
    symbols: Ints = high.astype(np.int16) if shift <= _SHORT_SHIFT else high.astype(np.int32)
    np.left_shift(symbols, shift, out=symbols)
    np.bitwise_or(symbols, _from_low_planes(planes, len(high)), out=symbols)
    if shift > MAX_BITS - 8:
        peak = max(int(symbols.max()), -int(symbols.min()))
        require(peak >> MAX_BITS == 0, f"a symbol is not below 2**{MAX_BITS}.")
    return symbols


def _unpack(values: NDArray[np.uint8], symbols: int, packing: int) -> NDArray[np.int8]:
    base, count = PACKINGS[packing]
    if count == 1:
        return (values ^ 128).view(np.int8)
    largest = int(values.max(initial=0))
    require(
        largest < base**count,
        f"a byte of packed symbols is {largest}, expected below {base}**{count}.",
    )
    return np.take(_digits(packing), values, axis=0).reshape(-1)[:symbols]


@cache
def _digits(packing: int) -> NDArray[np.int8]:
    base, count = PACKINGS[packing]
    digits = np.arange(256)[:, None] // base ** np.arange(count)[::-1] % base
    return (digits - base // 2).astype(np.int8)


def _from_low_planes(
    planes: NDArray[np.uint8], count: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the low bits: a byte of a plane, looked up, becomes the bytes of eight symbols."""
    halves = [np.zeros(planes.shape[1], "<u8"), np.zeros(planes.shape[1], "<u8")]
    for bit, plane in enumerate(planes):
        halves[bit // 8] |= np.take(_spread(), plane) << np.uint64(bit % 8)
    low: NDArray[np.uint8]
    low, rest = (half.view(np.uint8)[:count] for half in halves)
    if len(planes) <= 8:
        return low
    wide: NDArray[np.uint16] = low + (rest.astype(np.uint16) << np.uint16(8))
    return wide


@cache
def _spread() -> NDArray[np.uint64]:
    """Return for every byte its bits as eight bytes, lowest first."""
    return np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little").view("<u8")
