"""Relative errors of dW from Grams of the factors: nothing of size out x in is ever formed.

|dW' - dW|^2 = |dW'|^2 + |dW|^2 - 2 <dW', dW>, and every term is the inner product of two small
Grams: <b'^T a', b^T a> = <a' a^T, b' b^T>. That cancels: the terms are as large as the factors, the
difference as small as the error. Float64 has digits enough for errors that budgets allow; where it
has not, the difference is taken of the factors, after one QR a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.threads import shared_out

# A squared difference above this share of the factors' squared norms has seven digits or more
_CANCELLED: Final = 1e-8


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


def pooled_error(actual: Sequence[FactorPair], expected: Sequence[FactorPair]) -> float:
    """Return the pooled relative error of the scaled dW over all modules.

    sqrt(sum |actual - expected|^2 / sum |expected|^2). Ranks and gauges may differ.

    Returns:
        0 where both are zero, infinity where only what is expected is.
    """
    return relative_errors(actual, expected)[0]


def norm(pairs: Sequence[FactorPair]) -> float:
    """Return the Frobenius norm of the scaled dW over all modules: what errors are relative to."""
    return sqrt(sum(_square(pair) for pair in pairs))


def module_errors(actual: Sequence[FactorPair], expected: Sequence[FactorPair]) -> list[float]:
    """Return the relative error of dW of each module, as in `pooled_error`."""
    return relative_errors(actual, expected)[1]


def relative_errors(
    actual: Sequence[FactorPair], expected: Sequence[FactorPair]
) -> tuple[float, list[float]]:
    """Return the error of all modules pooled, as `pooled_error`, and that of each module."""
    both = list(zip(actual, expected, strict=True))
    elements = sum(pair.a.numel() + pair.b.numel() for pair in expected)
    wrong, total = [], []
    for lost, square in shared_out(_compared, both, elements=elements):
        wrong.append(lost)
        total.append(square)
    return _ratio(sum(wrong), sum(total)), list(map(_ratio, wrong, total))


def relative_change(before: Sequence[FactorPair], after: Sequence[FactorPair]) -> float:
    """Return the change of dW from one adapter to another, relative to the first.

    A module that only one of them has counts whole.
    """
    old, new = ({pair.key: pair for pair in pairs} for pairs in (before, after))
    both = [key for key in old if key in new]
    wrong = sum(_difference(new[key], old[key]) for key in both)
    total = sum(_square(old[key]) for key in both)
    gone = sum(_square(pair) for key, pair in old.items() if key not in new)
    added = sum(_square(pair) for key, pair in new.items() if key not in old)
    return _ratio(wrong + gone + added, total + gone)


def _compared(both: tuple[FactorPair, FactorPair]) -> tuple[float, float]:
    """Return the squared difference of two pairs, and the square of the second."""
    new, old = both
    return _difference(new, old), _square(old)


def _difference(new: FactorPair, old: FactorPair) -> float:
    """Return the squared difference of two pairs of possibly different ranks and gauges."""
    a, b, new_a, new_b = (x.double() for x in (old.a, old.b, new.a, new.b))
    both = float(((new_a @ a.mT) * (new_b @ b.mT)).sum())
    wrong = _square_of(new.scale, new_a, new_b) + _square_of(old.scale, a, b)
    wrong -= 2.0 * new.scale * old.scale * both
    sizes = [
        (scale * float(torch.linalg.vector_norm(x)) * float(torch.linalg.vector_norm(y))) ** 2
        for scale, x, y in ((new.scale, new_a, new_b), (old.scale, a, b))
    ]
    return wrong if wrong > _CANCELLED * sum(sizes) else _small_difference(new, old)


def _small_difference(new: FactorPair, old: FactorPair) -> float:
    """Return the same where the factors nearly agree.

    One QR per side removes the gauge, the small cores are subtracted.
    """
    R_a = torch.linalg.qr(torch.cat([old.a.double(), new.a.double()]).mT, mode="r").R
    R_b = torch.linalg.qr(torch.cat([old.b.double(), new.b.double()]).mT, mode="r").R
    r = old.a.shape[0]
    core = new.scale * R_b[:, r:] @ R_a[:, r:].mT - old.scale * R_b[:, :r] @ R_a[:, :r].mT
    return float(core.square().sum())


def _square(pair: FactorPair) -> float:
    return _square_of(pair.scale, pair.a.double(), pair.b.double())


def _square_of(scale: float, a: Tensor, b: Tensor) -> float:
    """Return |s b^T a|^2, at least 0."""
    return scale**2 * max(0.0, float(((a @ a.mT) * (b @ b.mT)).sum()))


def _ratio(wrong: float, total: float) -> float:
    if total > 0.0:
        return sqrt(wrong / total)
    return 0.0 if wrong == 0.0 else float("inf")
