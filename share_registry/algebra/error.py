"""Relative errors of dW from Grams of the factors: nothing of size out x in is ever formed.

With e_a = a' - a and e_b = b' - b, b'^T a' - b^T a = [e_b; b]^T [a'; e_a], so its square is the
inner product of two small Grams. The differences come first: nothing cancels, and errors near the
precision of the inputs are still right.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor


class ScaledPair(Protocol):
    """The factors of one module: dW = scale * b^T a."""

    @property
    def module(self) -> str:
        """Name of the module."""

    @property
    def a(self) -> Tensor:
        """(r, in) float64."""

    @property
    def b(self) -> Tensor:
        """(r, out) float64: the transposed B."""

    @property
    def scale(self) -> float:
        """The LoRA scale s."""


def product_square(a: Tensor, b: Tensor) -> Tensor:
    """Return |b^T a|^2 per module, at least 0.

    A (n, r, in), b (n, r, out), any leading dimensions.
    """
    return _paired(a, b).clamp_min(0.0)


def difference_square(a: Tensor, b: Tensor, a_new: Tensor, b_new: Tensor) -> Tensor:
    """Return |b_new^T a_new - b^T a|^2 per module, at least 0.

    Shapes as in `product_square`, equal ranks and the same gauge.
    """
    left = torch.cat([b_new - b, b], dim=-2)
    right = torch.cat([a_new, a_new - a], dim=-2)
    return _paired(right, left).clamp_min(0.0)


def pooled_error(found: Sequence[ScaledPair], wanted: Sequence[ScaledPair]) -> float:
    """Return the pooled relative error of the scaled dW.

    Sqrt(sum |found - wanted|^2 / sum |wanted|^2) over modules.

    Ranks and gauges may differ. 0 where nothing is wanted and nothing found; infinite where only
    the former.
    """
    wrong, total = _energies(found, wanted)
    return _ratio(sum(wrong), sum(total))


def norm(pairs: Sequence[ScaledPair]) -> float:
    """Return the Frobenius norm of the scaled dW over all modules: what errors are relative to."""
    return sqrt(sum(_square(pair) for pair in pairs))


def module_errors(found: Sequence[ScaledPair], wanted: Sequence[ScaledPair]) -> list[float]:
    """Return the relative error of dW of each module, as in `pooled_error`."""
    return [_ratio(wrong, total) for wrong, total in zip(*_energies(found, wanted), strict=True)]


def relative_change(before: Sequence[ScaledPair], after: Sequence[ScaledPair]) -> float:
    """Return the change of dW from one adapter to another relative to the first.

    A module that only one of them has counts whole.
    """
    old, new = ({pair.module: pair for pair in pairs} for pairs in (before, after))
    both = [name for name in old if name in new and _same_shape(old[name], new[name])]
    wrong, total = _energies([new[name] for name in both], [old[name] for name in both])
    gone = sum(_square(pair) for name, pair in old.items() if name not in both)
    added = sum(_square(pair) for name, pair in new.items() if name not in both)
    return _ratio(sum(wrong) + gone + added, sum(total) + gone)


def _energies(
    found: Sequence[ScaledPair], wanted: Sequence[ScaledPair]
) -> tuple[list[float], list[float]]:
    squares = [_difference(new, old) for new, old in zip(found, wanted, strict=True)]
    return squares, [_square(pair) for pair in wanted]


def _difference(new: ScaledPair, old: ScaledPair) -> float:
    """Square of the difference of two pairs of possibly different ranks.

    One QR per side removes the gauge, the small cores are subtracted.
    """
    R_a = torch.linalg.qr(torch.cat([old.a, new.a]).mT, mode="r").R
    R_b = torch.linalg.qr(torch.cat([old.b, new.b]).mT, mode="r").R
    r = old.a.shape[0]
    core = new.scale * R_b[:, r:] @ R_a[:, r:].mT - old.scale * R_b[:, :r] @ R_a[:, :r].mT
    return float(core.square().sum())


def _square(pair: ScaledPair) -> float:
    return pair.scale**2 * float(product_square(pair.a, pair.b))


def _same_shape(first: ScaledPair, second: ScaledPair) -> bool:
    return first.a.shape[1] == second.a.shape[1] and first.b.shape[1] == second.b.shape[1]


def _paired(a: Tensor, b: Tensor) -> Tensor:
    return ((a @ a.mT) * (b @ b.mT)).sum((-2, -1))


def _ratio(wrong: float, total: float) -> float:
    if total > 0.0:
        return sqrt(wrong / total)
    return 0.0 if wrong == 0.0 else float("inf")
