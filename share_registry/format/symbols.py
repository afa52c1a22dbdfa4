"""Integer rows as bytes: grouped by size, packed, compressed (spec SYM-01 to SYM-09).

Why groups. An entropy coder has one table of frequencies per stream. The rows of an adapter differ
in size by orders of magnitude, so one table for all of them fits none, and a table per row costs
more than a short row saves. Rows whose symbols are about as large therefore share a group, which is
coded as one stream. Rows are sorted by their root mean square in quarter octaves; which neighbours
are joined is a shortest path over the estimated bytes of every run of them (`_segments`).

How a group is coded. Its symbols are q = (h << shift) + low. The low bits are close to uniform, no
coder shortens them, so they lie as they are, in bit planes. The high parts h are small; several of
them are packed into a byte, `count` digits of base `base`, since zstd codes bytes and would spend
at least a bit on each symbol otherwise. Packing and shift are those that make a sample smallest.
Group 0 is the rows that are all zero, and takes no bytes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain, islice, pairwise
from math import log, log2
from typing import Final

import numpy as np
from numpy.typing import NDArray

from share_registry.format.canonical import require
from share_registry.format.frames import (
    PIECE_BYTES,
    compress_entropy,
    pack_stream,
    piece_sizes,
    unpack_streams,
)
from share_registry.parallel import side_by_side

Ints = NDArray[np.int32] | NDArray[np.int16] | NDArray[np.int8]

# (base, symbols per byte), by the number that the table holds. Base 256: h + 128.
PACKINGS: Final = ((256, 1), (3, 5), (3, 4), (5, 3), (7, 2), (9, 2), (11, 2), (15, 2))
MAX_SHIFT: Final = 16
# Symbols are below 2**23 in absolute value
MAX_BITS: Final = 23
_PER_OCTAVE: Final = 4
_HISTOGRAM: Final = 2048
_GROUP_BYTES: Final = 40
_SYMBOL_BYTES: Final = 0.5
_TABLE_SYMBOLS: Final = 64
_SAMPLE: Final = 1 << 15
# symbols of one size that are counted to find the groups
_COUNTED: Final = 1 << 17
# symbols of one row that are counted at least, where only an estimate is asked for
_COUNTED_OF_ROW: Final = 1 << 10
# symbols from which on groups are made by several threads
_SIDE_BY_SIDE: Final = 1 << 15
# symbols from which on they are expanded by several threads
_EXPANDED_SIDE_BY_SIDE: Final = 1 << 18
# largest shift whose symbols fit 16 bits: |h << 7| is at most 2**14
_SHORT_SHIFT: Final = 7
# parts in which a piece is packed: temporaries stay in the cache
_PARTS: Final = 32
# symbols expanded at a time: temporaries of 256 kB stay in the cache
_CHUNK: Final = 1 << 17
# no zstd frame expands further than about 32,700 to 1
_RATIO: Final = 40_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """How the symbols of one group lie in bytes."""

    packing: int
    shift: int

    def packed_bytes(self, symbols: int) -> int:
        """Bytes of the packed high parts."""
        return -(-symbols // PACKINGS[self.packing][1])

    def low_bytes(self, symbols: int) -> int:
        """Bytes of the low bit planes."""
        return self.shift * (-(-symbols // 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedSymbols:
    """Rows as bytes.

    Attributes:
        groups_of_rows: The group of each row, from 1; 0 for rows of zeros.
        groups: The groups.
        pieces: Lengths of all pieces in order.
        content: The bytes, in parts that are given up to the file that is made of them.
    """

    groups_of_rows: NDArray[np.uint8]
    groups: tuple[Group, ...]
    pieces: tuple[int, ...]
    content: list[bytes | memoryview]


def encode_rows(rows: Sequence[Ints]) -> CodedSymbols:
    """Encode rows of any widths, groups side by side.

    Raises IntegrityError where a symbol is 2**23 or more.
    """
    segments = _segments(rows)
    assignment = np.zeros(len(rows), np.uint8)
    for number, members in enumerate(segments, start=1):
        assignment[members] = number

    def encode(members: Sequence[int]) -> tuple[Group, list[bytes], list[bytes]]:
        return _encode_group([rows[index] for index in members])

    is_large = sum(len(rows[index]) for index in chain(*segments)) >= _SIDE_BY_SIDE
    coded = side_by_side(encode, segments) if is_large else [encode(each) for each in segments]
    return CodedSymbols(
        groups_of_rows=assignment,
        groups=tuple(group for group, _, _ in coded),
        pieces=tuple(len(piece) for _, stored, _ in coded for piece in stored),
        content=[part for _, stored, low in coded for part in (*stored, *low)],
    )


def piece_counts(
    shapes: Sequence[tuple[int, int]], groups_of_rows: NDArray[np.uint8], groups: Sequence[Group]
) -> list[int]:
    """Return the number of pieces of each group.

    Raises IntegrityError where a row names a group that is not there.
    """
    counts = _symbols_per_group(shapes, groups_of_rows, groups)
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
    """Return rows as one array for each of `shapes` (rows, width).

    Every length is checked before anything is expanded; of many symbols, groups are expanded side
    by side.

    Returns:
        int16 arrays where every symbol of all groups surely fits, else int32; not to be written to:
        rows of zeros share one number.

    Raises:
        IntegrityError: lengths that do not fit, a group or symbol out of range, or damaged frames.
    """
    counts = _symbols_per_group(shapes, groups_of_rows, groups)
    low = sum(group.low_bytes(count) for group, count in zip(groups, counts, strict=True))
    expected, total = sum(pieces) + low, sum(counts)
    require(
        expected == len(content) and total <= _RATIO * 8 * max(1, len(content)),
        f"symbols have {len(content)} bytes for {total} numbers, expected {expected}.",
    )
    arrays, places = _places(shapes, groups_of_rows, groups)
    parts = list(zip(places[1:], _parts(content, groups, counts, pieces), strict=True))

    def fill(group: tuple[list[Ints], _SymbolPart]) -> None:
        stretches, part = group
        _fill(stretches, _chunks(part, map(_expand_piece, part.frames())))

    run = side_by_side if total >= _EXPANDED_SIDE_BY_SIDE else map
    list(run(fill, parts))
    return arrays


def entropy_bits(rows: Ints) -> float:
    """Estimate the bits that an ideal coder with one table per row would take; rows (r, m).

    Of long rows a sample is counted, whose entropy is too small by (symbols - 1) / 2 N nats (Miller
    and Madow, 1955).
    """
    counted = rows[:, :: max(1, rows.shape[1] // _COUNTED_OF_ROW)]
    if not counted.size:
        return 0.0
    low, high = int(counted.min()), int(counted.max())
    if high - low >= _HISTOGRAM and len(rows) > 1:
        return sum(entropy_bits(row[None]) for row in rows)
    counts = _counts(counted, low, high)
    terms = np.arange(counted.shape[1] + 1, dtype=np.float64)
    terms[1:] *= np.log2(terms[1:])
    bits = terms[-1] - terms[counts].sum(1)
    if counted.shape[1] < rows.shape[1]:
        bits += (np.count_nonzero(counts, axis=1) - 1) / (2 * log(2))
        bits *= rows.shape[1] / counted.shape[1]
    return float(bits.sum())


def _counts(rows: Ints, low: int, high: int) -> NDArray[np.int64]:
    """Return how often each symbol stands in each row (r, n), in any order, with zeros or not."""
    # counting into bins is faster, unless there are very many
    if high - low >= _HISTOGRAM:
        return np.unique(rows, return_counts=True)[1][None]
    width = high - low + 1
    starts = np.arange(len(rows), dtype=np.int64)[:, None] * width - low
    bins = np.bincount((rows + starts).reshape(-1), minlength=len(rows) * width)
    return bins.reshape(len(rows), width)


def _encode_group(rows: Sequence[Ints]) -> tuple[Group, list[bytes], list[bytes]]:
    """Return how a group lies in bytes, the pieces of its high parts, and its low planes."""
    group = _best_group(rows)
    low: list[list[bytes]] = [[] for _ in range(group.shift)]

    def pack(symbols: Ints) -> bytes:
        for bit, plane in enumerate(low):
            plane.append(_low_plane(symbols, bit))
        return _pack(symbols >> group.shift, group.packing)

    # a byte of a plane has eight symbols, and so has a part of a piece
    stretches = _stretches(rows, PIECE_BYTES // _PARTS * PACKINGS[group.packing][1])
    pieces: list[bytes] = []
    while piece := b"".join(map(pack, islice(stretches, _PARTS))):
        pieces += map(bytes, pack_stream(piece))
    return group, pieces, [*chain(*low)]


def _low_plane(symbols: Ints, bit: int) -> bytes:
    bits = (symbols >> (bit & ~7)).astype(np.uint8) & np.uint8(1 << (bit & 7))
    return np.packbits(bits, bitorder="little").tobytes()


def _stretches(rows: Sequence[Ints], size: int) -> Iterator[Ints]:
    """Yield the symbols of rows one after another, `size` at a time."""
    waiting: list[Ints] = []
    left = size
    for row in rows:
        while len(row) >= left:
            yield np.concatenate([*waiting, row[:left]])
            row, waiting, left = row[left:], [], size
        waiting.append(row)
        left -= len(row)
    if left < size:
        yield np.concatenate([*waiting])


@dataclass(frozen=True, slots=True)
class _SymbolPart:
    group: Group
    count: int
    lengths: Sequence[int]
    content: memoryview

    def frames(self) -> Iterator[tuple[memoryview, int]]:
        """Yield the pieces of the packed high parts, and what each expands to."""
        ends = accumulate(self.lengths, initial=0)
        sizes = piece_sizes(self.group.packed_bytes(self.count))
        for (start, end), size in zip(pairwise(ends), sizes, strict=True):
            yield self.content[start:end], size


def _parts(
    content: memoryview, groups: Sequence[Group], counts: Sequence[int], pieces: Sequence[int]
) -> Iterator[_SymbolPart]:
    position, rest = 0, iter(pieces)
    for group, count in zip(groups, counts, strict=True):
        lengths = list(islice(rest, len(piece_sizes(group.packed_bytes(count)))))
        end = position + sum(lengths) + group.low_bytes(count)
        yield _SymbolPart(group, count, lengths, content[position:end])
        position = end


def _places(
    shapes: Sequence[tuple[int, int]], groups_of_rows: NDArray[np.uint8], groups: Sequence[Group]
) -> tuple[list[Ints], list[list[Ints]]]:
    """Return an array for every shape, and the stretches that each group's symbols fill in order.

    They lie in one stretch of memory, of which numpy asks the system for large pages: touching it
    for the first time costs a third.
    """
    short = all(group.shift <= _SHORT_SHIFT for group in groups)
    counts, widths = np.array(shapes, np.int64).reshape(-1, 2).T
    ends = np.cumsum(counts)
    coded = np.cumsum([0, *(groups_of_rows > 0)])
    used = coded[ends] > coded[ends - counts]
    offsets = np.cumsum([0, *np.repeat(widths * used, counts)]).tolist()
    memory: Ints = np.zeros(offsets[-1], np.int16) if short else np.zeros(offsets[-1], np.int32)
    arrays = [
        memory[offsets[end - shape[0]] : offsets[end]].reshape(shape)
        if is_used
        else _zeros(shape, memory.dtype)
        for shape, end, is_used in zip(shapes, ends.tolist(), used.tolist(), strict=True)
    ]
    places: list[list[Ints]] = [[] for _ in range(len(groups) + 1)]
    changes = (np.flatnonzero(np.diff(groups_of_rows)) + 1).tolist()
    for start, end in pairwise([0, *changes, len(groups_of_rows)]):
        if start < end:
            places[groups_of_rows[start]].append(memory[offsets[start] : offsets[end]])
    return arrays, places


def _zeros(
    shape: tuple[int, int], dtype: np.dtype[np.int8] | np.dtype[np.int16] | np.dtype[np.int32]
) -> Ints:
    """Return rows of zeros that take no memory: all that coefficients alone cost a reader."""
    return np.ndarray(shape, dtype, buffer=bytearray(4), strides=(0, 0))


def _fill(places: Sequence[Ints], chunks: Iterator[Ints]) -> None:
    chunk: Ints = np.zeros(0, np.int8)
    for place in places:
        filled = 0
        while filled < len(place):
            if not len(chunk):
                chunk = next(chunks)
            count = min(len(place) - filled, len(chunk))
            place[filled : filled + count] = chunk[:count]
            filled, chunk = filled + count, chunk[count:]


def _expand_piece(piece: tuple[memoryview, int]) -> NDArray[np.uint8]:
    content, size = piece
    packed = unpack_streams(content, [size], [len(content)], subject="a group of symbols")
    return np.frombuffer(packed[0], np.uint8)


def _chunks(part: _SymbolPart, pieces: Iterable[NDArray[np.uint8]]) -> Iterator[Ints]:
    """Yield the symbols of a group, some at a time, in the narrowest type that surely fits."""
    group, per_byte = part.group, PACKINGS[part.group.packing][1]
    low = part.content[sum(part.lengths) :]
    planes = np.frombuffer(low, np.uint8).reshape(group.shift, -(-part.count // 8))
    size, first = _CHUNK // per_byte // 8 * 8, 0
    for packed in pieces:
        for start in range(0, len(packed), size):
            high = _unpack(packed[start : start + size], part.count - first, group.packing)
            if group.shift:
                end = first // 8 + -(-len(high) // 8)
                yield _join(high, planes[:, first // 8 : end], group.shift)
            else:
                yield high
            first += len(high)


def _join(high: NDArray[np.int8], planes: NDArray[np.uint8], shift: int) -> Ints:
    symbols: Ints = high.astype(np.int16) if shift <= _SHORT_SHIFT else high.astype(np.int32)
    np.left_shift(symbols, shift, out=symbols)
    np.bitwise_or(symbols, _from_low_planes(planes, len(high)), out=symbols)
    if shift > MAX_BITS - 8:
        peak = max(int(symbols.max()), -int(symbols.min()))
        require(peak >> MAX_BITS == 0, f"a symbol is not below 2**{MAX_BITS}.")
    return symbols


def _symbols_per_group(
    shapes: Sequence[tuple[int, int]], groups_of_rows: NDArray[np.uint8], groups: Sequence[Group]
) -> list[int]:
    pairs = np.array(shapes, np.int64).reshape(-1, 2)
    widths = np.repeat(pairs[:, 1], pairs[:, 0])
    largest = int(groups_of_rows.max(initial=0))
    require(largest <= len(groups), f"a row is of group {largest}, there are {len(groups)}.")
    return [int(widths[groups_of_rows == number].sum()) for number in range(1, len(groups) + 1)]


def _pack(high: Ints, packing: int) -> bytes:
    base, count = PACKINGS[packing]
    if count == 1:
        return (high.astype(np.uint8) ^ 128).tobytes()
    half = base // 2
    digits = np.full(-(-len(high) // count) * count, half, np.uint8)
    digits[: len(high)] = high + half
    first, *others = digits.reshape(-1, count).T
    packed = first.copy()
    for digit in others:
        packed *= np.uint8(base)
        packed += digit
    return packed.tobytes()


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


def _segments(rows: Sequence[Ints]) -> list[list[int]]:
    """Return the rows of each group, smallest symbols first.

    Buckets are quarter octaves of the root mean square. best[e] is the fewest estimated bytes of
    the first e buckets, cut[e] where their last group begins: the classic dynamic programme for
    cutting a line into runs, each of which has a cost.
    """
    by_octave: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        real = row.astype(np.float32)
        energy = float(real @ real) / max(1, len(row))
        if energy > 0.0:
            by_octave.setdefault(round(_PER_OCTAVE * log2(energy) / 2), []).append(index)
    buckets = sorted(by_octave.items())
    counts = [sum(len(rows[index]) for index in members) for _, members in buckets]
    # of many rows every so manieth: they are about as large
    every = [-(-count // _COUNTED) for count in counts]
    symbols = [
        np.concatenate([rows[index] for index in members[::step]])
        for (_, members), step in zip(buckets, every, strict=True)
    ]

    @cache
    def histogram(bucket: int, shift: int) -> NDArray[np.float64]:
        high = (
            np.clip(symbols[bucket].astype(np.int32) >> shift, -_HISTOGRAM, _HISTOGRAM - 1)
            + _HISTOGRAM
        )
        scale = counts[bucket] / len(high)
        return np.bincount(high, minlength=2 * _HISTOGRAM).astype(np.float64) * scale

    best = [0.0] + [float("inf")] * len(buckets)
    cut = [0] * (len(buckets) + 1)
    for start, (octave, _) in enumerate(buckets):
        shift = max(0, octave // _PER_OCTAVE - 3)
        total = np.zeros(2 * _HISTOGRAM)
        for end in range(start, len(buckets)):
            total = total + histogram(end, shift)
            value = best[start] + _estimate_bytes(total, shift)
            if value < best[end + 1]:
                best[end + 1], cut[end + 1] = value, start
    segments: list[list[int]] = []
    end = len(buckets)
    while end:
        segments.append(
            sorted(index for _, members in buckets[cut[end] : end] for index in members)
        )
        end = cut[end]
    return segments[::-1]


def _estimate_bytes(histogram: NDArray[np.float64], shift: int) -> float:
    table = min(int(np.count_nonzero(histogram)), _TABLE_SYMBOLS) * _SYMBOL_BYTES
    return _entropy(histogram) / 8 + shift * float(histogram.sum()) / 8 + _GROUP_BYTES + table


def _entropy(counts: NDArray[np.int64] | NDArray[np.float64]) -> float:
    present = counts[counts > 0].astype(np.float64)
    if not len(present):
        return 0.0
    total = present.sum()
    return float(total * np.log2(total) - (present * np.log2(present)).sum())


def _best_group(rows: Sequence[Ints]) -> Group:
    """Return the packing and shift that make a sample of the symbols smallest.

    Raises IntegrityError where none can hold them.
    """
    low, high = min(int(row.min()) for row in rows), max(int(row.max()) for row in rows)
    peak = max(high, -low)
    require(peak >> MAX_BITS == 0, f"symbol {peak} is not below 2**{MAX_BITS}.")
    sample = next(_stretches(rows, _SAMPLE))
    spread = float(np.square(sample, dtype=np.float64).mean()) ** 0.5
    least = max(0, peak.bit_length() - 7)
    most = min(MAX_SHIFT, max(least, int(log2(max(spread, 1.0))) - 1))
    options = [
        Group(packing=packing, shift=shift)
        for shift in range(least, most + 1)
        for packing, (base, _) in enumerate(PACKINGS)
        if low >> shift >= -(base // 2) and high >> shift <= (base - 1) // 2
    ]

    def sample_bytes(group: Group) -> int:
        raw = _pack(sample >> group.shift, group.packing)
        return min(len(raw), len(compress_entropy(raw))) + group.low_bytes(len(sample))

    return min(options, key=sample_bytes)
