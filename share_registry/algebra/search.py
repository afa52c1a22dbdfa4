"""Search the step: the largest at which the adapter, decoded and exported, meets the budget.

The error grows with the step almost in proportion, log(error) ~ log(step) + constant, but only
almost: weak rows drop out, symbols leave their range, export rounds to its own dtype. So nothing is
trusted but the error measured on the decoded factors. The search starts where Gaussian rows would
just meet the budget (`predicted_step`), goes on by secants in the logarithms, and halves the
bracket between the largest step that does and the smallest that does not wherever a secant would
leave it. It ends once the error is at most 1 % below the budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.batch import Batch, CodedBatch, code
from share_registry.algebra.error import product_square
from share_registry.algebra.rates import distortion

# No module's own error exceeds this multiple of the budget
MODULE_CAP: Final = 2.0
_CLOSE: Final = 0.99
_AIM: Final = 0.997
_EVALUATIONS: Final = 14
_CAP_ROUNDS: Final = 8
_BIGGEST_STEP: Final = log(8.0)


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
