"""Code modules of equal shape side by side, n modules in one call, and search the step for all.

How a step turns into integers. dW = s * sum_i b_i^T a_i over the r rows of both sides. An error e
in row a_i changes dW by s * |b_i| * |e|, so an error weighs as much as the row beside it is long.
One step delta for everything therefore means that row a_i is rounded to multiples of
delta / (|s| |b_i|), and b_i to multiples of delta / (|s| |a_i|): each rounding then adds
about delta^2 / 12 per element to |dW' - dW|^2, wherever in the adapter it happens.

That is reverse water-filling. With one noise level for all rows, a row of variance v (per element,
as an error of dW) takes 1/2 log2(v / noise) bits per element; a row weaker than the noise is left
out and takes none. No other split of the same bits over Gaussian rows has a smaller error
(Cover and Thomas, Elements of Information Theory, 10.3.3).

How the step is found. What is searched is the largest at which the adapter, decoded and exported,
meets the budget. The error grows with the step almost in proportion, log(error) ~ log(step) +
constant, but only almost: weak rows drop out, symbols leave their range, export rounds to its own
dtype. So nothing is trusted but the error measured on the decoded factors. The search starts where
Gaussian rows would just meet the budget (`predicted_step`), goes on by secants in the logarithms,
and halves the bracket between the largest step that does and the smallest that does not wherever a
secant would leave it. It ends once the error is at most 1 % below the budget.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.error import FactorPair, difference_square, product_square
from share_registry.algebra.gauge import balance
from share_registry.algebra.quantise import (
    MAX_SYMBOL,
    CodedRows,
    Integers,
    Rows,
    quantise,
    round_scales,
    without_own,
)
from share_registry.algebra.rates import SLOPE, cost, distortion

# Element types of A and of B, to which export rounds
DTypes = tuple[torch.dtype, torch.dtype]
# Elements of one batch: bounds the memory that temporaries take
MAX_ELEMENTS: Final = 1 << 22
# A squared product below this share of its factors' squared norms is rounding noise: dW = 0
_NEGLIGIBLE: Final = 1e-13
# No module's own error exceeds this multiple of the budget
MODULE_CAP: Final = 2.0
_CLOSE: Final = 0.99
_AIM: Final = 0.997
_EVALUATIONS: Final = 14
_CAP_ROUNDS: Final = 8
_BIGGEST_STEP: Final = log(8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """n modules of equal shape in the gauge they are stored in.

    Attributes:
        positions: Which modules, by position in the caller's list.
        a: Side A.
        b: Side B.
        weight: (n,) |s|, the LoRA scale.
        energy: (n,) |s dW|^2.
        tail: What a pseudo-rank cuts off, rows of both sides orthogonal to those kept; no rows
            where nothing is cut.
    """

    positions: tuple[int, ...]
    a: Rows
    b: Rows
    weight: Tensor
    energy: Tensor
    tail: tuple[Tensor, Tensor]

    @property
    def row_energy(self) -> Tensor:
        """(n, r) |s b_i^T a_i|^2 of every product of rows."""
        return (self.weight[:, None] * self.a.norms * self.b.norms).square()


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedBatch:
    """The same modules in integers.

    Attributes:
        a: Side A.
        b: Side B.
        wrong: (n,) |s (dW' - dW)|^2 of what export gives back, infinite where a number leaves its
            range.
    """

    a: Integers
    b: Integers
    wrong: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedBatches:
    """Batches coded within the budget.

    Attributes:
        coded: The batches in integers.
        delta: The common step.
        steps: (n,) per batch: the step of every module, smaller than `delta` where its own error
            would pass the cap.
        error: Pooled relative error of the scaled dW.
    """

    coded: tuple[CodedBatch, ...]
    delta: float
    steps: tuple[Tensor, ...]
    error: float


def batches(
    pairs: Sequence[FactorPair],
    dtypes: Sequence[DTypes],
    positions: Sequence[int],
    *,
    pseudo_rank: int | None = None,
) -> Iterator[Batch]:
    """Yield the modules at these positions in the balanced gauge, by shape and element types.

    With a pseudo-rank, only the leading rows are kept.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for position in positions:
        pair = pairs[position]
        groups.setdefault((pair.a.shape, pair.b.shape[1], dtypes[position]), []).append(position)
    for members in groups.values():
        first = pairs[members[0]]
        at_once = max(1, MAX_ELEMENTS // (first.a.numel() + first.b.numel()))
        for start in range(0, len(members), at_once):
            yield _batch(pairs, dtypes, members[start : start + at_once], pseudo_rank)


def energies(pairs: Sequence[FactorPair]) -> list[float]:
    """Return |s dW|^2 per module; 0 where it is only rounding noise of the product."""
    return [_energy(pair) for pair in pairs]


def code(batch: Batch, delta: Tensor) -> CodedBatch:
    """Code a batch with one step `delta` (n,) per module, measured as an error of dW."""
    norms_a, norms_b = batch.a.norms, batch.b.norms
    unit = (delta / batch.weight)[:, None]
    a = quantise(batch.a, round_scales(unit / norms_b))
    b = quantise(batch.b, round_scales(unit / norms_a))
    a, b = _drop_idle(batch, a, b, norms_a * norms_b / unit)
    wrong = batch.weight.square() * (
        difference_square(batch.a.x, batch.b.x, a.decoded, b.decoded)
        + _tail_square(batch, a.decoded, b.decoded)
    )
    wrong = torch.where(torch.maximum(a.peak, b.peak) <= MAX_SYMBOL, wrong, torch.inf)
    return CodedBatch(a=a.integers(), b=b.integers(), wrong=wrong.nan_to_num(nan=torch.inf))


def search(
    batches: Sequence[Batch], *, budget: float, total: float, start: float | None = None
) -> CodedBatches | None:
    """Return the coding with the largest step that meets the budget, None where no step does.

    Its error is within 1 % of the budget where that can be.

    Args:
        batches: All modules that are coded, at least one.
        budget: Pooled relative error of the scaled dW, above 0.
        total: |s dW|^2 of the whole adapter, to which the error is relative.
        start: A step to begin with; default: predicted from the rows.
    """
    caps = [torch.full_like(batch.energy, inf) for batch in batches]
    if start is None:
        start = predicted_step(batches, budget=budget, total=total)
    bracket = _Bracket(log(start))
    best: CodedBatches | None = None
    for _ in range(_EVALUATIONS):
        delta = exp(bracket.x)
        coded = _code_capped(batches, delta, caps, MODULE_CAP * budget)
        error = sqrt(sum(float(item.wrong.sum()) for item in coded) / total) if coded else inf
        feasible = error <= budget
        if feasible and (best is None or error > best.error):
            best = CodedBatches(
                coded=tuple(coded),
                delta=delta,
                steps=tuple(cap.clamp_max(delta) for cap in caps),
                error=error,
            )
        close = feasible and error >= _CLOSE * budget
        if close or not bracket.advance(error / (_AIM * budget), feasible=feasible):
            break
    return best


def predicted_step(batches: Sequence[Batch], *, budget: float, total: float) -> float:
    """Return the step at which Gaussian rows of the same energies would have the budget as error.

    They are taken as coded without references.
    """
    energies = [batch.row_energy for batch in batches]
    low, high = -350.0, 350.0
    for _ in range(60):
        middle = (low + high) / 2
        wrong = sum(
            float(_predicted_wrong(batch, energy, exp(middle), MODULE_CAP * budget).sum())
            for batch, energy in zip(batches, energies, strict=True)
        )
        if wrong < budget**2 * total:
            low = middle
        else:
            high = middle
    return exp(low)


def _drop_idle(
    batch: Batch, a: CodedRows, b: CodedRows, strength: Tensor
) -> tuple[CodedRows, CodedRows]:
    """Drop the own rows that cost more bits than they are worth, in pairs.

    A row of one side is idle without its partner: their product needs both.

    Args:
        batch: The modules.
        a: Side A as coded.
        b: Side B as coded.
        strength: (n, r) norm of each product of rows in steps.
    """
    square = strength.square()
    idle = torch.zeros_like(square, dtype=torch.bool)
    if not (batch.a.has_references or batch.b.has_references):
        m_a, m_b = batch.a.x.shape[-1], batch.b.x.shape[-1]
        idle = m_a * cost(square / m_a) + m_b * cost(square / m_b) > square / SLOPE
    drop_a, drop_b = idle | ~b.decoded.any(-1), idle | ~a.decoded.any(-1)
    if drop_a.any():
        a = without_own(batch.a, a, drop_a)
    if drop_b.any():
        b = without_own(batch.b, b, drop_b)
    return a, b


def _tail_square(batch: Batch, a: Tensor, b: Tensor) -> Tensor:
    """Return what the tail adds to the squared error.

    |dW - dW'|^2 = |dW_p - dW'|^2 + |tail|^2 - 2 <tail, dW'>, since the tail is orthogonal to
    dW_p.
    """
    tail_a, tail_b = batch.tail
    return product_square(tail_a, tail_b) - 2.0 * ((tail_a @ a.mT) * (tail_b @ b.mT)).sum((-2, -1))


def _batch(
    pairs: Sequence[FactorPair],
    dtypes: Sequence[DTypes],
    members: Sequence[int],
    pseudo_rank: int | None,
) -> Batch:
    a, b, sigma = balance(
        torch.stack([pairs[i].a for i in members]), torch.stack([pairs[i].b for i in members])
    )
    weight = a.new_tensor([abs(pairs[i].scale) for i in members])
    dtype_a, dtype_b = dtypes[members[0]]
    kept = a.shape[1] if pseudo_rank is None else pseudo_rank
    tail = (a[:, kept:], b[:, kept:])
    if kept < a.shape[1]:
        a, b = (torch.cat([x[:, :kept], torch.zeros_like(x[:, kept:])], 1) for x in (a, b))
    return Batch(
        positions=tuple(members),
        a=Rows(x=a, previous=None, prediction=None, dtype=dtype_a),
        b=Rows(x=b, previous=None, prediction=None, dtype=dtype_b),
        weight=weight,
        energy=weight.square() * sigma.square().sum(-1),
        tail=tail,
    )


def _energy(pair: FactorPair) -> float:
    square = float(product_square(pair.a, pair.b))
    noise = _NEGLIGIBLE * float(pair.a.square().sum()) * float(pair.b.square().sum())
    return pair.scale**2 * square if square > noise else 0.0


class _Bracket:
    """A secant in log(error) over log(step), kept between steps that do and steps that do not."""

    def __init__(self, x: float) -> None:
        self.x = x
        self._low, self._high = -inf, inf
        self._last: tuple[float, float] | None = None
        self._slope = 1.0

    def advance(self, ratio: float, *, feasible: bool) -> bool:
        """Move on from the present step, whose error is this multiple of the aim.

        Returns:
            False where nothing is left to gain.
        """
        y = -_BIGGEST_STEP
        if ratio > 0.0:
            y = log(ratio) if ratio < inf else _BIGGEST_STEP
        if self._last is not None and abs(self.x - self._last[0]) > 1e-9:
            self._slope = min(2.0, max(0.2, (y - self._last[1]) / (self.x - self._last[0])))
        self._last = (self.x, y)
        if feasible:
            self._low = max(self._low, self.x)
        else:
            self._high = min(self._high, self.x)
        target = self.x - max(-_BIGGEST_STEP, min(_BIGGEST_STEP, y / self._slope))
        if self._high - self._low < inf and not self._low < target < self._high:
            target = (self._low + self._high) / 2
        elif not feasible and target >= self._high:
            target = self._high - 0.05
        elif feasible and target <= self._low:
            target = self._low + 0.05
        moved = abs(target - self.x) > 1e-5
        self.x = target
        return moved


def _code_capped(
    batches: Sequence[Batch], delta: float, caps: list[Tensor], limit: float
) -> list[CodedBatch]:
    """Code with one step, smaller for modules whose own error would pass the limit.

    What was learnt stays in `caps`. Empty where a module cannot meet it.
    """
    coded = []
    for index, batch in enumerate(batches):
        for _ in range(_CAP_ROUNDS):
            steps = caps[index].clamp_max(delta)
            item = code(batch, steps)
            excess = (item.wrong / batch.energy).sqrt() / limit
            if bool((excess <= 1.0).all()):
                break
            caps[index] = torch.where(
                excess > 1.0, steps * 0.98 / excess.clamp_max(8.0), caps[index]
            )
        else:
            return []
        coded.append(item)
    return coded


def _predicted_wrong(batch: Batch, energy: Tensor, delta: float, limit: float) -> Tensor:
    """Return the expected |s (dW' - dW)|^2 (n,) for rows of these energies (n, r).

    A product of rows keeps what neither side loses; a module loses at most all of it, or its cap.
    """
    shares = []
    for m in (batch.a.x.shape[-1], batch.b.x.shape[-1]):
        variance = energy / (m * delta**2)
        shares.append(torch.where(variance > 0, distortion(variance) / variance, 1.0))
    kept = (1.0 - shares[0]) * (1.0 - shares[1])
    cut_off = batch.weight.square() * product_square(*batch.tail)
    return torch.minimum(((1.0 - kept) * energy).sum(-1) + cut_off, limit**2 * batch.energy)
