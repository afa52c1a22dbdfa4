"""Find the step: the largest at which the true error of the decoded, exported adapter meets the budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.batch import Batch, CodedBatch, code
from share_registry.algebra.rates import distortion

MODULE_CAP: Final = 2.0
"""No module's own error exceeds this multiple of the budget."""
_CLOSE: Final = 0.99
_AIM: Final = 0.997
_EVALUATIONS: Final = 14
_CAP_ROUNDS: Final = 8
_BIGGEST_STEP: Final = log(8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Batches coded within the budget, the common step, the step of every module (n,) per batch, and the pooled relative error."""

    coded: tuple[CodedBatch, ...]
    delta: float
    steps: tuple[Tensor, ...]
    error: float


def search(
    batches: Sequence[Batch], *, budget: float, total: float, start: float | None = None
) -> Found | None:
    """Return the coding with the largest step that meets the budget, within 1 % of it where that can be; None where no step does.

    Args:
        batches: All modules that are coded, at least one.
        budget: Pooled relative error of the scaled dW, above 0.
        total: |s dW|^2 of the whole adapter, to which the error is relative.
        start: A step to begin with; predicted from the rows where it is not given.
    """
    caps = [torch.full_like(batch.energy, inf) for batch in batches]
    step = _Bracket(
        log(start if start is not None else predicted_step(batches, budget=budget, total=total))
    )
    best: Found | None = None
    for _ in range(_EVALUATIONS):
        coded = _code_capped(batches, exp(step.x), caps, MODULE_CAP * budget)
        error = sqrt(sum(float(item.wrong.sum()) for item in coded) / total) if coded else inf
        if error <= budget and (best is None or error > best.error):
            steps = tuple(cap.clamp_max(exp(step.x)) for cap in caps)
            best = Found(coded=tuple(coded), delta=exp(step.x), steps=steps, error=error)
        if _CLOSE * budget <= error <= budget or not step.advance(
            error / (_AIM * budget), feasible=error <= budget
        ):
            break
    return best


def predicted_step(batches: Sequence[Batch], *, budget: float, total: float) -> float:
    """Return the step at which Gaussian rows of the same energies, coded without references, would have the budget as their error."""
    low, high = -350.0, 350.0
    for _ in range(60):
        middle = (low + high) / 2
        wrong = sum(
            float(_predicted_wrong(batch, exp(middle), MODULE_CAP * budget).sum())
            for batch in batches
        )
        low, high = (middle, high) if wrong < budget**2 * total else (low, middle)
    return exp(low)


class _Bracket:
    """A secant in log(error) over log(step) between the largest step known to do and the smallest known not to."""

    def __init__(self, x: float) -> None:
        self.x = x
        self._low, self._high = -inf, inf
        self._last: tuple[float, float] | None = None
        self._slope = 1.0

    def advance(self, ratio: float, *, feasible: bool) -> bool:
        """Move on from the error, relative to the aim, at the present step.

        False where nothing is left to gain.
        """
        y = log(ratio) if 0.0 < ratio < inf else (_BIGGEST_STEP if ratio > 0.0 else -_BIGGEST_STEP)
        self._learn(y)
        self._low, self._high = (
            (max(self._low, self.x), self._high)
            if feasible
            else (self._low, min(self._high, self.x))
        )
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

    def _learn(self, y: float) -> None:
        if self._last is not None and abs(self.x - self._last[0]) > 1e-9:
            self._slope = min(2.0, max(0.2, (y - self._last[1]) / (self.x - self._last[0])))
        self._last = (self.x, y)


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


def _predicted_wrong(batch: Batch, delta: float, limit: float) -> Tensor:
    """Return the expected |s (dW' - dW)|^2 per module.

    The errors of both sides of every row pair, at most all of it.
    """
    square = (batch.weight[:, None] * batch.a.norms * batch.b.norms).square()
    shares = []
    for m in (batch.a.x.shape[-1], batch.b.x.shape[-1]):
        variance = square / (m * delta**2)
        shares.append(
            torch.where(variance > 0, distortion(variance) / variance, torch.ones_like(variance))
        )
    kept = (1.0 - shares[0]) * (1.0 - shares[1])
    return torch.minimum(((1.0 - kept) * square).sum(-1) + batch.cut_off, limit**2 * batch.energy)
