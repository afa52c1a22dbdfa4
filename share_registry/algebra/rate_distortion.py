"""The fewest bits that Gaussian rows need at a given error.

Reverse water-filling (Cover and Thomas, Elements of Information Theory, 10.3.3).

A row of variance v per element, as an error of dW, gets distortion min(v, level) and 1/2 log2(v /
level) bits per element; the level is the one that spends the error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.batch import Batch, batches, energies
from share_registry.algebra.error import ScaledPair

_HALVINGS: Final = 100
_OCTAVES: Final = 400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianRows:
    """Independent Gaussian rows.

    Attributes:
        variances: (n,) variance of an element of every row, as a squared error of dW.
        widths: (n,) elements of every row.
    """

    variances: Tensor
    widths: Tensor


def bound(pairs: Sequence[ScaledPair], *, budget: float) -> float:
    """Return the bits per parameter that the rows of an adapter in the balanced gauge need at least, were they Gaussian; 0 where every dW is 0.

    Args:
        pairs: The modules: dW = scale * b^T a; finite float64.
        budget: Pooled relative error of the scaled dW, above 0.
    """
    return bits_per_element(gaussian_rows(pairs), budget=budget)


def bits_per_element(rows: GaussianRows, *, budget: float) -> float:
    """Return the bits per element by reverse water-filling at a relative error of the product.

    0 where there is nothing.
    """
    elements = float(rows.widths.sum())
    if elements == 0.0:
        return 0.0
    octave = _level(rows, budget**2 * float((rows.variances * rows.widths).sum()) / 2)
    return (
        float((0.5 * (rows.variances.log2() - octave).clamp_min(0) * rows.widths).sum()) / elements
    )


def gaussian_rows(pairs: Sequence[ScaledPair]) -> GaussianRows:
    """Return the rows of both sides of all modules that have a product.

    Either side carries the energy of the product once.
    """
    able = [position for position, energy in enumerate(energies(pairs)) if energy > 0.0]
    found = [
        part
        for batch in batches(pairs, [(torch.float32, torch.float32)] * len(pairs), able)
        for part in _rows(batch)
    ]
    if not found:
        return GaussianRows(
            variances=torch.zeros(0, dtype=torch.float64, device="cpu"),
            widths=torch.zeros(0, dtype=torch.float64, device="cpu"),
        )
    return GaussianRows(
        variances=torch.cat([variances for variances, _ in found]),
        widths=torch.cat([widths for _, widths in found]),
    )


def _level(rows: GaussianRows, allowed: float) -> float:
    """Return log2 of the level at which the distortions add up to what is allowed."""
    low, high = -_OCTAVES, _OCTAVES
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        spent = float((rows.variances.clamp_max(2.0**middle) * rows.widths).sum())
        low, high = (middle, high) if spent < allowed else (low, middle)
    return low


def _rows(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    square = (
        (batch.weight[:, None] * batch.a.norms * batch.b.norms)
        .square()
        .clamp_min(1e-300)
        .reshape(-1)
    )
    return [
        (square / width, torch.full_like(square, width))
        for width in (batch.a.x.shape[-1], batch.b.x.shape[-1])
    ]
