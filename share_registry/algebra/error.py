"""Relative errors of dW from Grams of the factors: nothing of size out x in is ever formed.

|dW' - dW|^2 = |dW'|^2 + |dW|^2 - 2 <dW', dW>, and every term is the inner product of two small
Grams: <b'^T a', b^T a> = <a' a^T, b' b^T>. That cancels: the terms are as large as the factors, the
difference as small as the error. Float64 has digits enough for errors that budgets allow; where it
has not, the difference is taken of the factors, after one QR a side.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.quantise import Scratch, Scratches
from share_registry.algebra.threads import shared_out

# A squared difference above this share of the factors' squared norms has seven digits or more
_CANCELLED: Final = 1e-8
# a a^T and b b^T of a pair
Grams = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorPair:
    """One module's factors: dW = scale * b^T a.

    Attributes:
        module: Its name.
        a: (r, in): A, in any floating type.
        b: (r, out): the transposed B.
        scale: The LoRA scale s.
    """

    module: str
    a: Tensor
    b: Tensor
    scale: float

    @property
    def key(self) -> tuple[str, int, int]:
        """The module with its shape: of another shape it is another module."""
        return self.module, self.a.shape[1], self.b.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One module beside what it is expected to be.

    Attributes:
        wrong: |s (dW' - dW)|^2.
        square: |s dW|^2 of what is expected.
    """

    wrong: float
    square: float


def pooled_error(actual: Sequence[FactorPair], expected: Sequence[FactorPair]) -> float:
    """Return the pooled relative error of the scaled dW over all modules.

    sqrt(sum |actual - expected|^2 / sum |expected|^2). Ranks and gauges may differ.

    Returns:
        0 where both are zero, infinity where only what is expected is.
    """
    return relative_errors(actual, expected)[0]


def norm(pairs: Sequence[FactorPair]) -> float:
    """Return the Frobenius norm of the scaled dW over all modules: what errors are relative to."""
    return sqrt(_squares(pairs))


def module_errors(actual: Sequence[FactorPair], expected: Sequence[FactorPair]) -> list[float]:
    """Return the relative error of dW of each module, as in `pooled_error`."""
    return relative_errors(actual, expected)[1]


def relative_errors(
    actual: Sequence[FactorPair], expected: Sequence[FactorPair]
) -> tuple[float, list[float]]:
    """Return the error of all modules pooled, as `pooled_error`, and that of each module."""
    scratches = Scratches()

    def compare_pair(both: tuple[FactorPair, FactorPair]) -> Comparison:
        return compare(*both, scratches.own)[0]

    both = list(zip(actual, expected, strict=True))
    elements = sum(pair.a.numel() + pair.b.numel() for pair in expected)
    return pool(list(shared_out(compare_pair, both, elements=elements)))


def pool(comparisons: Sequence[Comparison]) -> tuple[float, list[float]]:
    """Return the relative error of all modules together, and that of each."""
    wrong = [each.wrong for each in comparisons]
    total = [each.square for each in comparisons]
    return _ratio(sum(wrong), sum(total)), list(map(_ratio, wrong, total))


def relative_change(before: Sequence[FactorPair], after: Sequence[FactorPair]) -> float:
    """Return the change of dW from one adapter to another, relative to the first.

    A module that only one of them has counts whole.
    """
    return relative_changes(before, after)[0]


def relative_changes(
    before: Sequence[FactorPair], after: Sequence[FactorPair]
) -> tuple[float, dict[str, float]]:
    """Return the change of all modules pooled, as `relative_change`, and that of each by name.

    Of a module whose factors and scale are the same numbers it is exactly 0; of one that only the
    first has 1, of one that only the second has infinity; of one that has another shape, that of
    the shape that it has in the second.
    """
    scratch = Scratch()
    old, new = ({pair.key: pair for pair in pairs} for pairs in (before, after))
    changes = {}
    for key in dict.fromkeys((*old, *new)):
        if key in old and key in new and _is_same(new[key], old[key]):
            changes[key] = Comparison(wrong=0.0, square=_squares([old[key]]))
        elif key in old and key in new:
            changes[key] = compare(new[key], old[key], scratch)[0]
        elif key in old:
            gone = _squares([old[key]])
            changes[key] = Comparison(wrong=gone, square=gone)
        else:
            changes[key] = Comparison(wrong=_squares([new[key]]), square=0.0)
    pooled, each = pool([*changes.values()])
    return pooled, {key[0]: change for key, change in zip(changes, each, strict=True)}


def _is_same(new: FactorPair, old: FactorPair) -> bool:
    return new.scale == old.scale and torch.equal(new.a, old.a) and torch.equal(new.b, old.b)


def grams_of(pair: FactorPair, scratch: Scratch) -> Grams:
    """Return a a^T and b b^T (r, r), float64."""
    return _gram(pair.a, scratch), _gram(pair.b, scratch)


def compare(new: FactorPair, old: FactorPair, scratch: Scratch) -> tuple[Comparison, Grams]:
    """Compare two pairs of possibly different ranks and gauges, the second what is expected.

    Return also the Grams (r, r) of the first.
    """
    grams, others, products = [], [], []
    for x, y in ((new.a, old.a), (new.b, old.b)):
        X, Y = _float64(x, scratch, "new"), _float64(y, scratch, "old")
        grams.append(X @ X.mT)
        others.append(Y @ Y.mT)
        products.append(X @ Y.mT)
    squares = [_square(pair, S) for pair, S in ((new, grams), (old, others))]
    both = new.scale * old.scale * float((products[0] * products[1]).sum())
    wrong = sum(squares) - 2.0 * both
    sizes = [
        pair.scale**2 * float(S_a.trace()) * float(S_b.trace())
        for pair, (S_a, S_b) in ((new, grams), (old, others))
    ]
    if not wrong > _CANCELLED * sum(sizes):
        wrong = _small_difference(new, old)
    return Comparison(wrong=wrong, square=squares[1]), (grams[0], grams[1])


def _small_difference(new: FactorPair, old: FactorPair) -> float:
    """Return the same where the factors nearly agree.

    One QR per side removes the gauge, the small cores are subtracted.
    """
    R_a = torch.linalg.qr(torch.cat([old.a.double(), new.a.double()]).mT, mode="r").R
    R_b = torch.linalg.qr(torch.cat([old.b.double(), new.b.double()]).mT, mode="r").R
    r = old.a.shape[0]
    core = new.scale * R_b[:, r:] @ R_a[:, r:].mT - old.scale * R_b[:, :r] @ R_a[:, :r].mT
    return float(core.square().sum())


def _squares(pairs: Iterable[FactorPair]) -> float:
    """Return |s dW|^2 over all modules."""
    scratch = Scratch()
    return sum(_square(pair, grams_of(pair, scratch)) for pair in pairs)


def _square(pair: FactorPair, grams: Sequence[Tensor]) -> float:
    """Return |s b^T a|^2, at least 0."""
    return pair.scale**2 * max(0.0, float((grams[0] * grams[1]).sum()))


def _gram(x: Tensor, scratch: Scratch) -> Tensor:
    X = _float64(x, scratch, "new")
    return X @ X.mT


def _float64(x: Tensor, scratch: Scratch, name: str) -> Tensor:
    """Return rows in float64, one after another, in the memory of this name."""
    return scratch.empty(name, x.shape, x).copy_(x)


def _ratio(wrong: float, total: float) -> float:
    if total > 0.0:
        return sqrt(wrong / total)
    return 0.0 if wrong == 0.0 else float("inf")
