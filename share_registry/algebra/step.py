"""Search the step that all modules of an adapter are coded with.

What is searched is the largest step at which the adapter, decoded and exported, meets the budget.
The error grows with the step almost in proportion, log(error) ~ log(step) + constant, but only
almost: weak rows drop out, symbols leave their range, export rounds to its own dtype. So nothing is
trusted but the error measured on the decoded factors. The search starts where Gaussian rows would
just meet the budget, goes on by secants in the logarithms, and halves the bracket between the
largest step that does and the smallest that does not wherever a secant would leave it. It ends once
the error is at most 1 % below the budget.

Of an adapter of many batches it first looks at a sample of them. What a batch adds to the squared
error is what Gaussian rows lead to expect, but for a factor that all of them share; a sample gives
that factor to some permille, and the whole adapter is coded once or twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from math import exp, inf, log, sqrt
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.batch import Batch, CodedBatch, code
from share_registry.algebra.quantise import Room, Scratch, Scratches, round_scales
from share_registry.algebra.rates import distortion
from share_registry.algebra.threads import shared_out
from share_registry.memory import give_back

# No module's own error exceeds this multiple of the budget
MODULE_CAP: Final = 2.0
_CLOSE: Final = 0.99
# Of a large adapter, where a quarter of a percent of its bytes are worth less than another pass
_CLOSE_ENOUGH: Final = 0.985
_AIM: Final = 0.997
# Errors are seen through Grams here: what decodes is measured again, and must not be just above
_WITHIN: Final = 1.0 - 1e-5
# Times that a sample is coded, and the aim then: a sample is right to some permille, and another
# pass over the whole costs more than as much error
_SAMPLES: Final = 2
_SAMPLE_AIM: Final = 0.995
_EVALUATIONS: Final = 14
# Times that the whole of a large adapter is coded, unless what is found is below this share of the
# budget
_PASSES: Final = 4
_TOO_FAR: Final = 0.9
_CAP_ROUNDS: Final = 8
# Times that Gaussian rows may be wrong by
_MOST: Final = 100.0
_HALVINGS: Final = 24
_BIGGEST_STEP: Final = log(8.0)
# Elements that a sample has, and that an adapter has at least for one
_SAMPLE: Final = 1 << 20
_LARGE: Final = 1 << 22


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
    rows = _GaussianRows.of(batches, limit=MODULE_CAP * budget)
    x = log(rows.step(budget**2 * total) if start is None else start)
    coder = _Coder(batches, MODULE_CAP * budget)
    passes, close = _EVALUATIONS, _CLOSE
    elements = sum(batch.elements for batch in batches)
    if elements > _LARGE:
        x = _sampled_step(coder, rows, (_SAMPLE_AIM * budget) ** 2 * total, x)
        passes, close = _PASSES, _CLOSE_ENOUGH
    bracket = _Bracket(x)
    best: CodedBatches | None = None
    for number in range(1, _EVALUATIONS + 1):
        give_back(8 * elements)
        delta = exp(bracket.x)
        coded = coder.code(range(len(batches)), delta)
        error, suggested = inf, None
        if coded is not None:
            error = sqrt(sum(float(item.wrong.sum()) for item in coded) / total)
            factor = rows.factor(coded, range(len(batches)), coder.steps(delta))
            suggested = log(rows.step((_AIM * budget) ** 2 * total / factor, coder.caps))
        feasible = error <= _WITHIN * budget
        if coded is not None and feasible and (best is None or error > best.error):
            best = CodedBatches(
                coded=tuple(coded), delta=delta, steps=coder.steps(delta), error=error
            )
        if feasible and error >= close * budget:
            break
        # where it is hard to meet, as near the precision of the element types, it is worth more
        if number >= passes and best is not None and best.error >= _TOO_FAR * budget:
            break
        if not bracket.advance(error / (_AIM * budget), feasible=feasible, suggested=suggested):
            break
        # not kept while the next is made
        del coded
    return best


def predicted_step(batches: Sequence[Batch], *, budget: float, total: float) -> float:
    """Return the step at which Gaussian rows of the same energies would have the budget as error.

    They are taken as coded without references.
    """
    return _GaussianRows.of(batches, limit=MODULE_CAP * budget).step(budget**2 * total)


class _Coder:
    """Codes batches with one step, smaller for modules whose own error would pass the limit."""

    def __init__(self, batches: Sequence[Batch], limit: float) -> None:
        self._batches = batches
        self._limit = limit
        # what was learnt of the modules
        self.caps = [torch.full_like(batch.energy, inf) for batch in batches]

    def steps(self, delta: float) -> tuple[Tensor, ...]:
        """Return the steps (n,) of every batch."""
        return tuple(cap.clamp_max(delta) for cap in self.caps)

    def code(self, numbers: Sequence[int], delta: float) -> list[CodedBatch] | None:
        """Code some of the batches, None where a module cannot meet the limit."""
        sizes = [self._batches[number].elements for number in numbers]
        scratches = Scratches()

        def code_within(place: tuple[int, Sequence[Tensor]]) -> CodedBatch | None:
            return self._code(*place, delta, scratches.own)

        places = list(zip(numbers, Room.memory(sizes), strict=True))
        coded: list[CodedBatch] = []
        for item in shared_out(code_within, places, elements=sum(sizes)):
            if item is None:
                return None
            coded.append(item)
        return coded

    def _code(
        self, number: int, memory: Sequence[Tensor], delta: float, scratch: Scratch
    ) -> CodedBatch | None:
        batch = self._batches[number]
        for _ in range(_CAP_ROUNDS):
            steps = self.caps[number].clamp_max(delta)
            item = code(batch, steps, Room(memory), scratch)
            excess = (item.wrong / batch.energy).sqrt() / self._limit
            if bool((excess <= 1.0).all()):
                return item
            self.caps[number] = torch.where(
                excess > 1.0, steps * 0.98 / excess.clamp_max(8.0), self.caps[number]
            )
        return None


def _sampled_step(coder: _Coder, rows: "_GaussianRows", goal: float, x: float) -> float:
    """Return the log of the step at which a sample of the batches says that `goal` is met."""
    for _ in range(_SAMPLES):
        coded = coder.code(rows.sample, exp(x))
        if coded is None:
            x -= _BIGGEST_STEP
            continue
        x = log(rows.step(goal / rows.factor(coded, rows.sample, coder.steps(exp(x))), coder.caps))
    return x


class _Bracket:
    """A secant in log(error) over log(step), kept between steps that do and steps that do not."""

    def __init__(self, x: float) -> None:
        self.x = x
        self._low, self._high = -inf, inf
        self._last: tuple[float, float] | None = None
        self._slope = 1.0

    def advance(self, ratio: float, *, feasible: bool, suggested: float | None) -> bool:
        """Move on from the present step, whose error is this multiple of the aim.

        To the step that is suggested, the first time; then by secants.

        Returns:
            False where nothing is left to gain.
        """
        y = -_BIGGEST_STEP
        if ratio > 0.0:
            y = log(ratio) if ratio < inf else _BIGGEST_STEP
        is_first = self._last is None
        if self._last is not None and abs(self.x - self._last[0]) > 1e-9:
            self._slope = min(2.0, max(0.2, (y - self._last[1]) / (self.x - self._last[0])))
        self._last = (self.x, y)
        if feasible:
            self._low = max(self._low, self.x)
        else:
            self._high = min(self._high, self.x)
        target = self.x - max(-_BIGGEST_STEP, min(_BIGGEST_STEP, y / self._slope))
        if is_first and suggested is not None and abs(suggested - self.x) < _BIGGEST_STEP:
            target = suggested
        if self._high - self._low < inf and not self._low < target < self._high:
            target = (self._low + self._high) / 2
        elif not feasible and target >= self._high:
            target = self._high - 0.05
        elif feasible and target <= self._low:
            target = self._low + 0.05
        moved = abs(target - self.x) > 1e-5
        self.x = target
        return moved


@dataclass(frozen=True, slots=True, kw_only=True)
class _GaussianRows:
    """What would be lost if the rows of all products were Gaussian.

    Attributes:
        norms: (R,) lengths of the rows of A and of B beside each other.
        weight: (R,) |s| of their module.
        widths: (R,) of A and of B.
        kept: (R,) 1 where they may be coded, else 0.
        module: (R,) which of N modules they belong to.
        most: (N,) what a module may lose.
        of_batch: Which modules each batch has.
        sample: Numbers of batches that stand for all.
    """

    norms: tuple[Tensor, Tensor]
    weight: Tensor
    widths: tuple[Tensor, Tensor]
    kept: Tensor
    module: Tensor
    most: Tensor
    of_batch: tuple[slice, ...]
    sample: tuple[int, ...]

    @classmethod
    def of(cls, batches: Sequence[Batch], *, limit: float) -> "_GaussianRows":
        """Return the rows of all batches; a module loses at most all of it, or `limit` of it."""
        device = batches[0].energy.device
        counts = [len(batch.positions) for batch in batches]
        ends = list(accumulate(counts))
        share = _SAMPLE / max(1, sum(batch.elements for batch in batches))
        some = max(1, min(len(batches), int(len(batches) * share)))
        energy = torch.cat([batch.energy for batch in batches])

        def of_rows(values: Callable[[Batch], list[float]]) -> Tensor:
            flat = [values(batch) * len(batch.positions) for batch in batches]
            return torch.tensor([*chain(*flat)], dtype=torch.float64, device=device)

        first = [end - n for n, end in zip(counts, ends, strict=True)]
        module = torch.tensor(
            [
                *chain(
                    *(
                        [start + index] * batch.rank
                        for start, batch in zip(first, batches, strict=True)
                        for index in range(len(batch.positions))
                    )
                )
            ],
            dtype=torch.int64,
            device=device,
        )
        return cls(
            norms=(
                torch.cat([batch.a.norms.reshape(-1) for batch in batches]),
                torch.cat([batch.b.norms.reshape(-1) for batch in batches]),
            ),
            weight=torch.cat([batch.weight for batch in batches])[module],
            widths=(
                of_rows(lambda batch: [float(batch.a.width)] * batch.rank),
                of_rows(lambda batch: [float(batch.b.width)] * batch.rank),
            ),
            kept=of_rows(lambda batch: [float(row < batch.kept) for row in range(batch.rank)]),
            module=module,
            most=energy * min(1.0, limit**2),
            of_batch=tuple(slice(end - n, end) for n, end in zip(counts, ends, strict=True)),
            sample=tuple(round(i * (len(batches) - 1) / max(1, some - 1)) for i in range(some)),
        )

    def wrong(self, steps: Tensor) -> Tensor:
        """Return the expected |s (dW' - dW)|^2 (N,) at steps (N,).

        A product of rows keeps what neither side loses. Scales have two bits of mantissa: they are
        rounded as they will be, which alike modules all are the same way.
        """
        unit = steps[self.module] / self.weight
        kept = self.kept
        for own, partner, width in zip(self.norms, self.norms[::-1], self.widths, strict=True):
            exact = unit / partner
            scales = round_scales(exact)
            variance = (own / torch.where(scales > 0, scales, exact)).square() / width
            share = torch.where(variance > 0, 1.0 - distortion(variance) / variance, 0.0)
            kept = kept * share.nan_to_num(nan=1.0)
        energy = (self.weight * self.norms[0] * self.norms[1]).square()
        wrong = torch.zeros_like(self.most)
        wrong.index_add_(0, self.module, (1.0 - kept) * energy)
        return torch.minimum(wrong, self.most)

    def factor(
        self, coded: Sequence[CodedBatch], numbers: Sequence[int], steps: Sequence[Tensor]
    ) -> float:
        """Return how many times what is expected some batches have lost at these steps."""
        expected = self.wrong(torch.cat(list(steps)))
        own = sum(float(expected[self.of_batch[number]].sum()) for number in numbers)
        lost = sum(float(item.wrong.sum()) for item in coded)
        return min(_MOST, max(1.0 / _MOST, lost / own)) if own > 0 else 1.0

    def step(self, goal: float, caps: Sequence[Tensor] = ()) -> float:
        """Return the step at which the squared error is expected to be `goal`.

        Modules have smaller ones where those of the batches are capped.
        """
        most = torch.cat(list(caps)) if caps else torch.full_like(self.most, inf)
        low, high = -350.0, 350.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if float(self.wrong(most.clamp_max(exp(middle))).sum()) < goal:
                low = middle
            else:
                high = middle
        return exp(low)
