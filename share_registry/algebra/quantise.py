"""Quantise factors at given steps, exactly as they will be decoded.

A row is predicted (from its previous version and from rows of earlier adapters), the prediction is
taken off, the rest is divided by the row's scale, shrunk a little and rounded (see `rates`). The
result is decoded at once with the arithmetic of every later reader: the error that the search sees
is the error that a checkout has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from threading import local
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.rates import shrinkage

MAX_SYMBOL: Final = (1 << 23) - 1
# Elements of one batch. A sixth of this has its temporaries in the second-level cache, and yet
# takes an eighth more: every operation is a hand-over between threads. Four thirds take 30 MB more.
_MAX_ELEMENTS: Final = 3 << 18
# The same on a GPU, where a launch is dearer than memory
_ON_GPU: Final = 1 << 23
_SHORT: Final = 1 << 15
_BYTE: Final = 1 << 7
_SHORT_TYPES: Final = (torch.int8, torch.int16)
# half a unit of the second mantissa bit in the bits of a float64
_HALF: Final = 1 << 49
_SMALLEST: Final = 2.0**-126
_LARGEST: Final = 2.0**127


# Own rows of one earlier adapter for n modules: integers (k, m), None where a module has none
Block = Sequence[Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What earlier blocks say about one side of n modules.

    Attributes:
        sources: Candidates whose blocks are used, ascending; block t has the columns `spans[t]` of
            K.
        spans: Columns of `coefficients` per source.
        blocks: Integer rows (k, m) per source and module; None where a module has none.
        coefficients: (n, r, K) float64 in units of the factor; zero where a module does not use a
            block.
        exponents: (n, T) int64, powers of two of the coefficients in units of the row's scale.
        used: (n, T) whether a module refers to the block at all.
    """

    sources: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    blocks: tuple[tuple[Tensor | None, ...], ...]
    coefficients: Tensor
    exponents: Tensor
    used: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One side of n modules of equal shape: what is to be coded and what it may be predicted from.

    The rows themselves are made where they are asked for: the factors are there already, in the
    element type they came in, and a gauge is small.

    Attributes:
        factors: (r, m) of every module, of any floating type.
        gauge: (n, r, r) float64, what the factors are multiplied with, or None.
        gram: (n, r, r) float64, x x^T of the rows in the gauge.
        previous: (r, m) of every module, a decoded earlier factor, or None.
        prediction: Coefficients over blocks, or None.
        dtype: What the export rounds to.
    """

    factors: tuple[Tensor, ...]
    gauge: Tensor | None
    gram: Tensor
    previous: tuple[Tensor, ...] | None
    prediction: Prediction | None
    dtype: torch.dtype

    @property
    def width(self) -> int:
        """The length m of a row."""
        return self.factors[0].shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """How many modules, r and m."""
        return len(self.factors), *self.factors[0].shape

    @property
    def x(self) -> Tensor:
        """(n, r, m) float64, the factors in the gauge."""
        return self.x_within(Scratch(), "")

    def x_within(self, scratch: "Scratch", name: str) -> Tensor:
        """Return (n, r, m) float64, the factors in the gauge, in memory of this name."""
        x = scratch.empty(f"x {name}", self.shape, self.gram)
        if self.gauge is None:
            return to_float64(self.factors, x)
        # in memory that what is decoded comes to lie in later
        place = scratch.empty(f"decoded {name}", self.shape, self.gram)
        return torch.bmm(self.gauge, to_float64(self.factors, place), out=x)

    @property
    def norms(self) -> Tensor:
        """(n, r) Euclidean norms of the rows."""
        return self.gram.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()

    @property
    def has_references(self) -> bool:
        """Whether the rows are coded against anything."""
        return self.previous is not None or self.prediction is not None

    def residual_within(self, scratch: "Scratch") -> Tensor:
        """Return (n, r, m) what is left to code when the previous version is taken off."""
        x = self.x_within(scratch, "")
        if self.previous is None:
            return x
        return x.sub_(to_float64(self.previous, scratch.empty("previous", self.shape, self.gram)))

    def parts(self) -> Iterator["Rows"]:
        """Yield the modules a few at a time: as many as a cache holds the rows of."""
        size = self.factors[0].numel()
        at_once = max(1, elements_at_once(self.gram.device) // (2 * max(1, size)))
        for start in range(0, len(self.factors), at_once):
            yield self.select(range(start, min(start + at_once, len(self.factors))))

    def select(self, indices: Sequence[int]) -> "Rows":
        """Return the rows of some of the modules."""
        index = torch.tensor(indices, dtype=torch.int64, device="cpu")
        prediction = self.prediction
        if prediction is not None:
            prediction = replace(
                prediction,
                blocks=tuple(tuple(block[i] for i in indices) for block in prediction.blocks),
                coefficients=prediction.coefficients[index],
                exponents=prediction.exponents[index],
                used=prediction.used[index],
            )
        return Rows(
            factors=tuple(self.factors[i] for i in indices),
            gauge=None if self.gauge is None else self.gauge[index],
            gram=self.gram[index],
            previous=None if self.previous is None else tuple(self.previous[i] for i in indices),
            prediction=prediction,
            dtype=self.dtype,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Integers:
    """One side of n modules as stored, on the CPU.

    Attributes:
        scales: (n, r) float32.
        own: (n, r, m) int8, int16 or int32, as the largest symbol needs.
        coefficients: (n, r, K) int32, or None without a prediction.
    """

    scales: Tensor
    own: Tensor
    coefficients: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedRows:
    """One side of n modules, coded; every number still a float64.

    Attributes:
        scales: (n, r) bfloat16 values.
        own: (n, r, m) integers.
        size: (n, r) Euclidean norms of `own`.
        coefficients: (n, r, K) integers, or None without a prediction.
        predicted: (n, r, m) what the coefficients give, in units of the scales, or None.
        previous: (n, r, m) the earlier factor, or None.
    """

    scales: Tensor
    own: Tensor
    size: Tensor
    coefficients: Tensor | None
    predicted: Tensor | None
    previous: Tensor | None

    @property
    def peak(self) -> Tensor:
        """(n,) largest integer in absolute value, or a number above it that is short."""
        # no number of a row is longer than the row
        peak = self.size.amax(-1)
        if not bool((peak < _SHORT).all()):
            peak = self.own.abs().amax((-2, -1))
        if self.coefficients is None:
            return peak
        return torch.maximum(peak, self.coefficients.abs().amax((-2, -1)))

    def without(self, drop: Tensor) -> "CodedRows":
        """Return the same with the own rows marked in `drop` (n, r) set to zero."""
        return replace(
            self,
            own=torch.where(drop[..., None], 0.0, self.own),
            size=torch.where(drop, 0.0, self.size),
        )

    def decoded(self, dtype: torch.dtype, scratch: "Scratch", name: str) -> Tensor:
        """Return the factor (n, r, m) float64 as `decode_side` does, rounded as export does."""
        own = self.own
        scaled = scratch.empty(f"decoded {name}", own.shape, own)
        if self.predicted is not None:
            own = torch.add(self.predicted, own, out=scaled)
        torch.mul(own, self.scales[..., None], out=scaled)
        if self.previous is not None:
            scaled += self.previous
        for rounded in dict.fromkeys((torch.float32, dtype)):
            scaled = scratch.empty(f"{rounded} {name}", own.shape, own, rounded).copy_(scaled)
        return scratch.empty(f"decoded {name}", own.shape, own).copy_(scaled)

    def integers(self, room: "Room", scratch: "Scratch") -> Integers:
        """Return what is stored; only meaningful where `peak` is at most `MAX_SYMBOL`."""
        is_short = bool((self.size < _SHORT).all())
        C = self.coefficients
        return Integers(
            scales=self.scales.to(torch.float32).cpu(),
            own=room.keep(self.own, scratch) if is_short else _to_int32(self.own).cpu(),
            coefficients=None if C is None else _to_int32(C).cpu(),
        )


class Room:
    """Memory for short symbols: parts of two stretches for many batches, given back as a whole.

    One is for symbols that fit a byte, one for those that need two; what is not written to takes no
    memory.
    """

    def __init__(self, memory: Sequence[Tensor]) -> None:
        self._left = {part.dtype: part for part in memory}

    @staticmethod
    def memory(sizes: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """Return that of each batch of so many symbols."""
        stretches = [torch.empty(sum(sizes), dtype=kind, device="cpu") for kind in _SHORT_TYPES]
        return list(zip(*(torch.split(each, list(sizes)) for each in stretches), strict=True))

    def keep(self, values: Tensor, scratch: "Scratch") -> Tensor:
        """Return values below 2**15 as int8 where all are below 2**7, else as int16."""
        values = scratch.empty("words", values.shape, values, torch.int16).copy_(values).cpu()
        low, high = (int(value) for value in values.aminmax())
        dtype = torch.int8 if low > -_BYTE and high < _BYTE else torch.int16
        left = self._left[dtype]
        place, self._left[dtype] = left[: values.numel()], left[values.numel() :]
        return place.view(values.shape).copy_(values)


class Scratch:
    """Memory for the numbers of one batch, used again for the next: what is new costs page faults.

    What was put under a name is gone once the name is used again.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def empty(
        self,
        name: str,
        shape: Sequence[int],
        like: Tensor,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Return memory of a name, not initialised, on the device of another tensor."""
        elements = prod(shape)
        memory = self._memory.get(name)
        if memory is None or len(memory) < elements:
            memory = self._memory[name] = like.new_empty(elements, dtype=dtype)
        return memory[:elements].view(*shape)


class Scratches:
    """Scratch memory of every thread that takes part in something, as long as that goes on."""

    def __init__(self) -> None:
        self._of_thread = local()

    @property
    def own(self) -> Scratch:
        """That of the calling thread."""
        if not hasattr(self._of_thread, "scratch"):
            self._of_thread.scratch = Scratch()
        scratch: Scratch = self._of_thread.scratch
        return scratch


def elements_at_once(device: torch.device) -> int:
    """Return how many numbers are worked on together."""
    return _MAX_ELEMENTS if device.type == "cpu" else _ON_GPU


def to_float64(factors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
    """Return n factors of one shape (r, m) as one float64 (n, r, m), in one pass.

    Where `out` is, or where they are.
    """
    shape = (len(factors), *factors[0].shape)
    stacked = factors[0].new_empty(shape, dtype=torch.float64) if out is None else out
    for place, factor in zip(stacked, factors, strict=True):
        place.copy_(factor.to(place.device))
    return stacked


def round_scales(scales: Tensor) -> Tensor:
    """Round scales to two bits of mantissa (bfloat16 values); 0 where they leave the normal range.

    A step that is off by up to 11 % costs .004 bits per parameter; the five bits that a finer one
    needs cost ten times that on small adapters.
    """
    mantissa = (scales.contiguous().view(torch.int64) + _HALF) & ~(2 * _HALF - 1)
    rounded = mantissa.view(torch.float64)
    return torch.where((rounded >= _SMALLEST) & (rounded <= _LARGEST), rounded, 0.0)


def column_steps(exponents: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Return 2**e (n, 1, K) for every column, from exponents (n, T) of spans of columns."""
    widths = torch.tensor(
        [stop - start for start, stop in spans], dtype=torch.int64, device=exponents.device
    )
    return _power_of_two(exponents).repeat_interleave(widths, -1)[:, None, :]


def quantise(rows: Rows, x: Tensor, scales: Tensor, scratch: Scratch, name: str) -> CodedRows:
    """Code rows x (n, r, m) with these scales (n, r): predict, subtract, shrink and round.

    A row of scale 0 decodes to the earlier factor. The integers lie in the scratch memory.
    """
    usable = scales > 0.0
    inverse = torch.where(usable, 1.0 / torch.where(usable, scales, 1.0), 0.0)[..., None]
    target = scratch.empty(f"own {name}", rows.shape, x)
    previous = None
    if rows.previous is None:
        torch.mul(x, inverse, out=target)
    else:
        previous = to_float64(rows.previous, scratch.empty(f"previous {name}", rows.shape, x))
        torch.sub(x, previous, out=target).mul_(inverse)
    C = predicted = None
    if rows.prediction is not None:
        prediction = rows.prediction
        unit = torch.where(usable, scales, 1.0)[..., None]
        C = (
            prediction.coefficients / (column_steps(prediction.exponents, prediction.spans) * unit)
        ).round()
        predicted = _products(prediction, C, rows.width, scratch, name)
        target -= predicted
    variance = torch.linalg.vector_norm(target, dim=-1, keepdim=True).square() / rows.width
    own = target.mul_(shrinkage(variance)).round_()
    return CodedRows(
        scales=scales,
        own=own,
        size=torch.linalg.vector_norm(own, dim=-1),
        coefficients=C,
        predicted=predicted,
        previous=previous,
    )


def stack(
    blocks: Sequence[Block],
    spans: Sequence[tuple[int, int]],
    width: int,
    *,
    like: Tensor,
    scratch: Scratch,
) -> Tensor:
    """Return the rows of blocks for n modules as float64 (n, K, m), in scratch memory.

    Args:
        blocks: The rows of each module, per block.
        spans: Which of the K rows are of each block, from the first to the last; what a module
            does not have of them is zero.
        width: m.
        like: A tensor on the device that they come to.
        scratch: The memory.
    """
    stacked = scratch.empty("stacked", (len(blocks[0]), spans[-1][1], width), like)
    for block, (start, stop) in zip(blocks, spans, strict=True):
        for place, rows in zip(stacked[:, start:stop], block, strict=True):
            if rows is None:
                place.zero_()
            else:
                place[: len(rows)] = rows
                place[len(rows) :] = 0.0
    return stacked


def _to_int32(values: Tensor) -> Tensor:
    return values.clamp(-MAX_SYMBOL - 1, MAX_SYMBOL + 1).to(torch.int32)


def _power_of_two(exponents: Tensor) -> Tensor:
    """Return 2**e as float64, exactly, for int64 exponents of the normal range."""
    return ((exponents + 1023) << 52).view(torch.float64)


def _products(prediction: Prediction, C: Tensor, width: int, scratch: Scratch, name: str) -> Tensor:
    """Return sum_t 2**e_t * C_t @ q_t (n, r, m), the terms added in order of t (spec DEC-04)."""
    factors = _power_of_two(prediction.exponents)[..., None, None]
    shape = (*C.shape[:2], width)
    total = scratch.empty(f"predicted {name}", shape, C)
    for t, (block, (start, stop)) in enumerate(
        zip(prediction.blocks, prediction.spans, strict=True)
    ):
        # the longest of a block may be of a module that is not among these
        rows = stack([block], [(0, stop - start)], width, like=C, scratch=scratch)
        term = scratch.empty("term", shape, C) if t else total
        torch.bmm(C[..., start:stop], rows, out=term).mul_(factors[:, t])
        if t:
            total += term
    return total
