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
Group 0 is the rows that are all zero, and takes no bytes. `packed_rows.py` has the way back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from math import log, log2
from typing import Final

import numpy as np
from numpy.typing import NDArray

from share_registry.format.canonical import require
from share_registry.format.frames import PIECE_BYTES, compress_entropy, pack_stream
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
# parts in which a piece is packed: temporaries stay in the cache
_PARTS: Final = 32


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
    parts = map(pack, _stretches(rows, PIECE_BYTES // _PARTS * PACKINGS[group.packing][1]))
    pieces: list[bytes] = []
    place = memoryview(bytearray(min(PIECE_BYTES, group.packed_bytes(sum(map(len, rows))))))
    filled = 0
    for part in parts:
        place[filled : filled + len(part)] = part
        filled += len(part)
        if filled == PIECE_BYTES:
            pieces += _pack_pieces(place)
            filled = 0
    pieces += _pack_pieces(place[:filled])
    return group, pieces, [*chain(*low)]


def _pack_pieces(raw: memoryview) -> list[bytes]:
    # copied: zstd leaves a frame as much memory as one that did not get shorter
    return [memoryview(piece).tobytes() for piece in pack_stream(raw)]


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
