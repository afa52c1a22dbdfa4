"""The fewest bits that Gaussian rows need at a given error.

Reverse water-filling (Cover and Thomas, Elements of Information Theory, 10.3.3): a row of variance
v per element, as an error of dW, gets distortion min(v, level) and 1/2 log2(v / level) bits per
element; the level is the one that spends the error.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.batch import singular_values
from share_registry.algebra.error import FactorPair, Grams, grams_of
from share_registry.algebra.quantise import Scratch

_HALVINGS: Final = 100
_OCTAVES: Final = 400.0

# The variance (n,) of an element of every row, and the elements (n,) of every row
Rows = tuple[Tensor, Tensor]


def bound(pairs: Sequence[FactorPair], *, budget: float) -> float:
    """Return the bits per parameter that an adapter needs at least, were its rows Gaussian.

    The rows are those of the balanced gauge; 0 where every dW is 0.

    Args:
        pairs: The modules: dW = scale * b^T a; finite float64.
        budget: Pooled relative error of the scaled dW, above 0.
    """
    return bits_per_element(*gaussian_rows(pairs), budget=budget)


def bits_per_element(variances: Tensor, widths: Tensor, *, budget: float) -> float:
    """Return the bits per element by reverse water-filling at a relative error of the product.

    0 where there are no rows. Arguments are what `gaussian_rows` returns.
    """
    elements = float(widths.sum())
    if elements == 0.0:
        return 0.0
    allowed = budget**2 * float((variances * widths).sum()) / 2
    bits = 0.5 * (variances.log2() - _log2_level(variances, widths, allowed)).clamp_min(0)
    return float((bits * widths).sum()) / elements


def gaussian_rows(pairs: Sequence[FactorPair]) -> Rows:
    """Return the rows of both sides of all modules that have a product.

    Either side has the energy of the product once.

    Returns:
        The variance (n,) of an element of every row, as a squared error of dW, and the elements
        (n,) of every row.
    """
    scratch = Scratch()
    return join_rows(rows_of_modules(pairs, [grams_of(pair, scratch) for pair in pairs]))


def rows_of_modules(pairs: Sequence[FactorPair], grams: Sequence[Grams]) -> list[Rows]:
    """Return the same of each module, of which the Grams are there; nothing without a product."""
    rows = []
    for pair, sigma in zip(pairs, singular_values(pairs, grams), strict=True):
        energies = (pair.scale * sigma).square()
        if not bool(energies.any()):
            energies = energies[:0]
        widths = energies.new_tensor([[pair.a.shape[1]], [pair.b.shape[1]]])
        variances = energies.clamp_min(1e-300) / widths
        rows.append((variances.reshape(-1), widths.expand_as(variances).reshape(-1)))
    return rows


def join_rows(rows: Sequence[Rows]) -> Rows:
    """Return the rows of several modules as one."""
    nothing = torch.zeros(0, dtype=torch.float64, device="cpu")
    variances, widths = zip((nothing, nothing), *rows, strict=True)
    return torch.cat(variances), torch.cat(widths)


def _log2_level(variances: Tensor, widths: Tensor, allowed: float) -> float:
    """Return log2 of the level at which the distortions add up to what is allowed."""
    low, high = -_OCTAVES, _OCTAVES
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float((variances.clamp_max(2.0**middle) * widths).sum()) < allowed:
            low = middle
        else:
            high = middle
    return low
