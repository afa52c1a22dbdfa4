"""The fewest bits that Gaussian rows need at a given error.

Reverse water-filling (Cover and Thomas, Elements of Information Theory, 10.3.3): a row of variance
v per element, as an error of dW, gets distortion min(v, level) and 1/2 log2(v / level) bits per
element; the level is the one that spends the error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.batch import batches, energies
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
    """Return the bits per parameter that an adapter needs at least, were its rows Gaussian.

    The rows are those of the balanced gauge; 0 where every dW is 0.

    Args:
        pairs: The modules: dW = scale * b^T a; finite float64.
        budget: Pooled relative error of the scaled dW, above 0.
    """
    return bits_per_element(gaussian_rows(pairs), budget=budget)


def bits_per_element(rows: GaussianRows, *, budget: float) -> float:
    """Return the bits per element by reverse water-filling at a relative error of the product.

    0 where there are no rows.
    """
    elements = float(rows.widths.sum())
    if elements == 0.0:
        return 0.0
    level = _log2_level(rows, budget**2 * float((rows.variances * rows.widths).sum()) / 2)
    bits = 0.5 * (rows.variances.log2() - level).clamp_min(0)
    return float((bits * rows.widths).sum()) / elements


def gaussian_rows(pairs: Sequence[ScaledPair]) -> GaussianRows:
    """Return the rows of both sides of all modules that have a product.

    Either side has the energy of the product once.
    """
    able = [position for position, energy in enumerate(energies(pairs)) if energy > 0.0]
    if not able:
        nothing = torch.zeros(0, dtype=torch.float64, device="cpu")
        return GaussianRows(variances=nothing, widths=nothing)
    variances, widths = [], []
    for batch in batches(pairs, [(torch.float32, torch.float32)] * len(pairs), able):
        square = batch.row_energy.clamp_min(1e-300).reshape(-1)
        for width in (batch.a.x.shape[-1], batch.b.x.shape[-1]):
            variances.append(square / width)
            widths.append(torch.full_like(square, width))
    return GaussianRows(variances=torch.cat(variances), widths=torch.cat(widths))


def _log2_level(rows: GaussianRows, allowed: float) -> float:
    """Return log2 of the level at which the distortions add up to what is allowed."""
    low, high = -_OCTAVES, _OCTAVES
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        spent = float((rows.variances.clamp_max(2.0**middle) * rows.widths).sum())
        if spent < allowed:
            low = middle
        else:
            high = middle
    return low
