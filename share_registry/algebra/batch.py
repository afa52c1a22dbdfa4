"""Modules of equal shape side by side: n modules, one call."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.error import ScaledPair, difference_square, product_square
from share_registry.algebra.gauge import balanced
from share_registry.algebra.quantise import (
    MAX_SYMBOL,
    CodedRows,
    Integers,
    Rows,
    coarse,
    quantise,
    without_own,
)
from share_registry.algebra.rates import SLOPE, cost

MAX_ELEMENTS: Final = 1 << 22
"""Elements of one batch: bounds the memory that temporaries take."""
_NEGLIGIBLE: Final = 1e-13
"""A squared product below this share of its factors' squared norms is rounding noise: dW = 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """n modules of equal shape in the gauge they are stored in.

    Attributes:
        positions: Which modules, by position in the caller's list.
        a: Side A.
        b: Side B.
        weight: (n,) |s|, the LoRA scale.
        energy: (n,) |s dW|^2.
        tail: What a pseudo-rank cuts off, rows of both sides orthogonal to those kept; None where
            nothing is cut.
    """

    positions: tuple[int, ...]
    a: Rows
    b: Rows
    weight: Tensor
    energy: Tensor
    tail: tuple[Tensor, Tensor] | None = None

    @property
    def cut_off(self) -> Tensor:
        """(n,) |s tail|^2, the error that cutting makes."""
        return (
            torch.zeros_like(self.energy)
            if self.tail is None
            else self.weight.square() * product_square(*self.tail)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedBatch:
    """The same modules in integers, and `wrong` (n,).

    |s (dW' - dW)|^2 of what export gives back, infinite where a number leaves its range.
    """

    a: Integers
    b: Integers
    wrong: Tensor


def batches(
    pairs: Sequence[ScaledPair],
    dtypes: Sequence[tuple[torch.dtype, torch.dtype]],
    positions: Sequence[int],
    *,
    pseudo_rank: int | None = None,
) -> Iterator[Batch]:
    """Yield the chosen modules in the balanced gauge, grouped by shape and element types.

    With a pseudo-rank, its leading rows alone.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for position in positions:
        pair = pairs[position]
        groups.setdefault((tuple(pair.a.shape), pair.b.shape[1], dtypes[position]), []).append(
            position
        )
    for members in groups.values():
        first = pairs[members[0]]
        at_once = max(1, MAX_ELEMENTS // (first.a.numel() + first.b.numel()))
        for start in range(0, len(members), at_once):
            yield _batch(pairs, dtypes, members[start : start + at_once], pseudo_rank)


def energies(pairs: Sequence[ScaledPair]) -> list[float]:
    """Return |s dW|^2 per module; 0 where it is only rounding noise of the product."""
    return [_energy(pair) for pair in pairs]


def code(batch: Batch, delta: Tensor) -> CodedBatch:
    """Code a batch with one step `delta` (n,) per module in energy-weighted coordinates.

    A row's scale is delta over the weight of an error in it: the LoRA scale times the norm of the
    other side's row.
    """
    norms_a, norms_b = batch.a.norms, batch.b.norms
    unit = (delta / batch.weight)[:, None]
    a, b = quantise(batch.a, coarse(unit / norms_b)), quantise(batch.b, coarse(unit / norms_a))
    a, b = _drop(batch, a, b, norms_a * norms_b / unit)
    wrong = batch.weight.square() * (
        difference_square(batch.a.x, batch.b.x, a.decoded, b.decoded)
        + _cut(batch, a.decoded, b.decoded)
    )
    wrong = torch.where(
        torch.maximum(a.peak, b.peak) <= MAX_SYMBOL, wrong, torch.full_like(wrong, torch.inf)
    )
    return CodedBatch(a=a.integers(), b=b.integers(), wrong=wrong.nan_to_num(nan=torch.inf))


def _drop(
    batch: Batch, a: CodedRows, b: CodedRows, strength: Tensor
) -> tuple[CodedRows, CodedRows]:
    """Drop the rows that cost more than they are worth.

    A product of rows needs both, so a pair goes together.

    Args:
        batch: The modules.
        a: Side A as coded.
        b: Side B as coded.
        strength: (n, r) norm of each product of rows in steps.
    """
    square = strength.square()
    idle = torch.zeros_like(square, dtype=torch.bool)
    if batch.a.free and batch.b.free:
        m_a, m_b = batch.a.x.shape[-1], batch.b.x.shape[-1]
        idle = m_a * cost(square / m_a) + m_b * cost(square / m_b) > square / SLOPE
    drop_a, drop_b = idle | ~b.decoded.any(-1), idle | ~a.decoded.any(-1)
    return without_own(batch.a, a, drop_a) if drop_a.any() else a, without_own(
        batch.b, b, drop_b
    ) if drop_b.any() else b


def _cut(batch: Batch, a: Tensor, b: Tensor) -> Tensor:
    """Return what the tail adds to the squared error.

    |dW - dW'|^2 = |dW_p - dW'|^2 + |tail|^2 - 2 <tail, dW'>, since the tail is orthogonal to
    dW_p.
    """
    if batch.tail is None:
        return torch.zeros_like(batch.energy)
    tail_a, tail_b = batch.tail
    return product_square(tail_a, tail_b) - 2.0 * ((tail_a @ a.mT) * (tail_b @ b.mT)).sum((-2, -1))


def _leading(rows: Tensor, kept: int) -> Tensor:
    return torch.cat([rows[:, :kept], torch.zeros_like(rows[:, kept:])], 1)


def _batch(
    pairs: Sequence[ScaledPair],
    dtypes: Sequence[tuple[torch.dtype, torch.dtype]],
    members: Sequence[int],
    pseudo_rank: int | None,
) -> Batch:
    a, b, sigma = balanced(
        torch.stack([pairs[i].a for i in members]), torch.stack([pairs[i].b for i in members])
    )
    weight = torch.tensor(
        [abs(pairs[i].scale) for i in members], dtype=torch.float64, device=a.device
    )
    dtype_a, dtype_b = dtypes[members[0]]
    tail = None
    if pseudo_rank is not None and pseudo_rank < a.shape[1]:
        tail = (a[:, pseudo_rank:], b[:, pseudo_rank:])
        a, b = _leading(a, pseudo_rank), _leading(b, pseudo_rank)
    return Batch(
        positions=tuple(members),
        a=Rows(x=a, previous=None, prediction=None, dtype=dtype_a),
        b=Rows(x=b, previous=None, prediction=None, dtype=dtype_b),
        weight=weight,
        energy=weight.square() * sigma.square().sum(-1),
        tail=tail,
    )


def _energy(pair: ScaledPair) -> float:
    square = float(product_square(pair.a, pair.b))
    noise = _NEGLIGIBLE * float(pair.a.square().sum()) * float(pair.b.square().sum())
    return pair.scale**2 * square if square > noise else 0.0
