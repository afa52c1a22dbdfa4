"""Floats split into heads and tails: exponents that compress, digits that do not (spec FRM-09).

The bits of a number are turned left by one, so that the sign comes last. What then stands first,
the exponent and a few digits of the mantissa, is its head; the rest is its tail. Weights are nearly
Gaussian, so heads lie close together: as a distance from the base of their tensor they are codes of
one byte, which an entropy coder shortens as far as can be done. Tails are nearly random.

Byte planes (spec FRM-07) part the exponent of F32 and BF16 between two bytes, whose dependence is
lost. The digits in the head serve twice: the density falls within an octave, and a Huffman code of
some fifty symbols wastes less than one of five.

Bases make tensors of different norms alike: they share a stream, whose table of codes then costs
next to nothing even where tensors are small.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from share_registry.format.canonical import require
from share_registry.format.layout import DType

ESCAPE: Final = 255
_ESCAPE_BYTES: Final = 2
# Code of a tensor's median: twelve octaves stay below it and nearly four above
_MEDIAN_CODE: Final = 192
_SAMPLE: Final = 4096
# Numbers that are split at once, an even number: their temporaries stay in the second-level cache
_CHUNK: Final = 1 << 16
_SUBJECT: Final = "group of floats"

_Bytes = NDArray[np.uint8]
_Numbers = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Where the numbers of an element type are split.

    Attributes:
        unsigned: numpy's name of the little-endian integers of their width.
        bits: Of a number.
        tail_bits: Of its tail: whole bytes, and half of one where that is left.
        octave: How many heads the numbers between two powers of two have.
    """

    unsigned: str
    bits: int
    tail_bits: int
    octave: int

    @property
    def heads(self) -> int:
        """How many heads there are."""
        return 1 << (self.bits - self.tail_bits)


SPLITS: Final = {
    DType.F32: Split(unsigned="<u4", bits=32, tail_bits=20, octave=16),
    DType.BF16: Split(unsigned="<u2", bits=16, tail_bits=4, octave=16),
    DType.F16: Split(unsigned="<u2", bits=16, tail_bits=8, octave=8),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatGroup:
    """Tensors of one element type, split.

    Attributes:
        bases: Of each tensor.
        escapes: How many heads are too far from their base for a code.
        streams: Codes, escapes, whole bytes of the tails, lowest first, and their upper halves.
    """

    bases: tuple[int, ...]
    escapes: int
    streams: tuple[memoryview, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    """A stretch of a tensor: its numbers, and where its codes and half bytes stand."""

    numbers: _Numbers
    base: int
    codes: slice
    halves: slice


def stream_sizes(counts: Sequence[int], escapes: int, *, dtype: DType) -> list[int]:
    """Return the sizes of the streams of tensors of so many numbers, in order (spec FRM-10)."""
    whole, half = divmod(SPLITS[dtype].tail_bits, 8)
    count = sum(counts)
    halves = [sum(-(-each // 2) for each in counts)] if half else []
    return [count, _ESCAPE_BYTES * escapes, *[count] * whole, *halves]


def find_base(content: bytes, *, dtype: DType) -> int:
    """Return the base by which the median of a sample of a tensor's numbers gets its code."""
    rule = SPLITS[dtype]
    numbers = np.frombuffer(content, rule.unsigned)
    if not len(numbers):
        return 0
    # an odd step meets every column of a power of two
    sample = numbers[:: len(numbers) // _SAMPLE | 1]
    heads = np.sort(sample << 1 >> rule.tail_bits)
    return (int(heads[len(heads) // 2]) - _MEDIAN_CODE) % rule.heads


def split(tensors: Sequence[bytes], bases: Sequence[int], *, dtype: DType) -> FloatGroup:
    """Split the numbers of tensors, little-endian bytes of F32, BF16 or F16 (spec FRM-09)."""
    rule = SPLITS[dtype]
    arrays = [np.frombuffer(content, rule.unsigned) for content in tensors]
    sizes = stream_sizes([len(array) for array in arrays], 0, dtype=dtype)
    codes, _, *tails = (np.empty(size, np.uint8) for size in sizes)
    whole, half = divmod(rule.tail_bits, 8)
    escapes: list[NDArray[np.uint16]] = [np.zeros(0, "<u2")]
    for chunk in _chunks(arrays, bases):
        numbers = chunk.numbers
        turned = numbers << 1 | numbers >> (rule.bits - 1)
        # heads are the highest bits: what their difference borrows is lost, as it should be
        distances = turned - numbers.dtype.type(chunk.base << rule.tail_bits) >> rule.tail_bits
        codes[chunk.codes] = distances.astype(np.uint8)
        if distances.max() >= ESCAPE:
            far = np.flatnonzero(distances >= ESCAPE)
            codes[chunk.codes][far] = ESCAPE
            escapes.append((turned[far] >> rule.tail_bits).astype("<u2"))
        for byte, tail in enumerate(tails[:whole]):
            tail[chunk.codes] = (turned >> 8 * byte).astype(np.uint8)
        if half:
            tails[-1][chunk.halves] = _pack_halves((turned >> 8 * whole).astype(np.uint8))
    far_heads = np.concatenate(escapes)
    parts = (codes, far_heads.view(np.uint8), *tails)
    return FloatGroup(
        bases=tuple(bases), escapes=len(far_heads), streams=tuple(part.data for part in parts)
    )


def join(
    streams: Sequence[bytes], bases: Sequence[int], counts: Sequence[int], *, dtype: DType
) -> list[bytes]:
    """Return the bytes of the tensors of a group.

    Args:
        streams: Of the sizes that `stream_sizes` tells.
        bases: Of each tensor.
        counts: Numbers of each tensor.
        dtype: Element type of all of them.

    Raises:
        IntegrityError: the codes have another number of escapes, or one is no head.
    """
    rule = SPLITS[dtype]
    codes, escaped, *tails = (np.frombuffer(stream, np.uint8) for stream in streams)
    escapes = escaped.view("<u2")
    far = np.flatnonzero(codes == ESCAPE)
    require(
        len(far) == len(escapes) and int(escapes.max(initial=0)) < rule.heads,
        f"{_SUBJECT} has {len(far)} escapes, expected {len(escapes)} below {rule.heads}.",
    )
    whole, half = divmod(rule.tail_bits, 8)
    arrays: list[_Numbers] = [np.empty(count, rule.unsigned) for count in counts]
    for chunk in _chunks(arrays, bases):
        numbers, unsigned = chunk.numbers, chunk.numbers.dtype
        turned: _Numbers = codes[chunk.codes].astype(unsigned)
        turned <<= rule.tail_bits
        turned += unsigned.type(chunk.base << rule.tail_bits)
        first, end = np.searchsorted(far, (chunk.codes.start, chunk.codes.stop))
        places = far[first:end] - chunk.codes.start
        turned[places] = escapes[first:end].astype(unsigned) << rule.tail_bits
        for byte, tail in enumerate(tails[:whole]):
            turned |= tail[chunk.codes].astype(unsigned) << 8 * byte
        if half:
            halves = _unpack_halves(tails[-1][chunk.halves])[: len(turned)]
            turned |= halves.astype(unsigned) << 8 * whole
        np.left_shift(turned, rule.bits - 1, out=numbers)
        turned >>= 1
        numbers |= turned
    return [array.tobytes() for array in arrays]


def _chunks(arrays: Sequence[_Numbers], bases: Sequence[int]) -> Iterator[_Chunk]:
    start = half_start = 0
    for array, base in zip(arrays, bases, strict=True):
        for begin in range(0, len(array), _CHUNK):
            numbers = array[begin : begin + _CHUNK]
            end, half_end = start + len(numbers), half_start + -(-len(numbers) // 2)
            yield _Chunk(
                numbers=numbers,
                base=base,
                codes=slice(start, end),
                halves=slice(half_start, half_end),
            )
            start, half_start = end, half_end


def _pack_halves(octets: _Bytes) -> _Bytes:
    """Return the lower halves of bytes, two to a byte."""
    if len(octets) % 2:
        octets = np.append(octets, np.uint8(0))
    pairs: NDArray[np.uint16] = octets.view("<u2") & np.uint16(0x0F0F)
    return (pairs | pairs >> 4).astype(np.uint8)


def _unpack_halves(packed: _Bytes) -> _Bytes:
    pairs: NDArray[np.uint16] = packed.astype("<u2")
    pairs |= pairs << np.uint16(4)
    pairs &= np.uint16(0x0F0F)
    return pairs.view(np.uint8)
