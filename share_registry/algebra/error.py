"""Relative errors of dW from Grams of the factors: nothing of size out x in is ever formed.

With e_a = a' - a and e_b = b' - b, b'^T a' - b^T a = [e_b; b]^T [a'; e_a], so its square is the
inner product of two small Grams. The differences come first: nothing cancels, and errors near the
precision of the inputs are still right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorPair:
    """One module's factors: dW = scale * b^T a.

    Attributes:
        module: Its name.
        a: (r, in) float64: A.
        b: (r, out) float64: the transposed B.
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


def product_square(a: Tensor, b: Tensor) -> Tensor:
    """Return |b^T a|^2 per module, at least 0, of a (n, r, in) and b (n, r, out).

    Any leading dimensions.
    """
    return ((a @ a.mT) * (b @ b.mT)).sum((-2, -1)).clamp_min(0.0)


def difference_square(a: Tensor, b: Tensor, a_new: Tensor, b_new: Tensor) -> Tensor:
    """Return |b_new^T a_new - b^T a|^2 per module, at least 0.

    Shapes as in `product_square`, equal ranks and the same gauge.
    """
    return product_square(torch.cat([a_new, a_new - a], dim=-2), torch.cat([b_new - b, b], dim=-2))


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
    wrong = [_difference(new, old) for new, old in zip(actual, expected, strict=True)]
    total = [_square(pair) for pair in expected]
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


def _difference(new: FactorPair, old: FactorPair) -> float:
    """Return the squared difference of two pairs of possibly different ranks.

    One QR per side removes the gauge, the small cores are subtracted.
    """
    R_a = torch.linalg.qr(torch.cat([old.a, new.a]).mT, mode="r").R
    R_b = torch.linalg.qr(torch.cat([old.b, new.b]).mT, mode="r").R
    r = old.a.shape[0]
    core = new.scale * R_b[:, r:] @ R_a[:, r:].mT - old.scale * R_b[:, :r] @ R_a[:, :r].mT
    return float(core.square().sum())


def _square(pair: FactorPair) -> float:
    return pair.scale**2 * float(product_square(pair.a, pair.b))


def _ratio(wrong: float, total: float) -> float:
    if total > 0.0:
        return sqrt(wrong / total)
    return 0.0 if wrong == 0.0 else float("inf")
