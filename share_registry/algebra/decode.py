"""Decode: stored integers to the float32 factor, the same bytes everywhere (spec DEC-01 to DEC-07).

Why that holds. Floating-point sums depend on their order: a BLAS, a GPU or another number of
threads adds the terms of a matrix product in an order of its own, and the last bits differ. Sums of
integers do not, as long as every partial sum is an integer that a float64 holds exactly, below
2**53. A product C @ q over k rows has partial sums below 2**bits(C) * 2**bits(q) * k, so the writer
keeps

    bits(C) + bits(q) + ceil(log2 k) <= 45

and the reader refuses what breaks it. (45, not 53: scales have 8 significant bits, so the product
is still exact after a row's scale has been multiplied in.) A power of two only moves the exponent.
What is left are additions and one scaling, element by element in the order written in `stored.py`,
and one rounding to float32: plain IEEE operations that every machine does alike.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Final

import numpy as np
import torch
from torch import Tensor

from share_registry.errors import IntegrityError
from share_registry.stored import StoredSide, Term

# Limit of bits(C) + bits(q) + ceil(log2 k) (spec DEC-03)
MAX_PRODUCT_BITS: Final = 45


def decode_side(
    side: StoredSide,
    *,
    previous: Tensor | None,
    blocks: Sequence[Tensor],
    device: torch.device | str = "cpu",
    out: Tensor | None = None,
) -> Tensor:
    """Return the decoded factor.

    Args:
        side: The stored factor, r rows of width m.
        previous: float32 (r, m), the decoded factor that enters where `side.previous` says so;
            ignored otherwise.
        blocks: For each of `side.terms` the own rows it refers to, an integer tensor (k, m).
        device: Where to compute; the result is the same on every device.
        out: Where to write the result, (r, m) on `device`, of any strides and floating dtype:
            rounded to float32 and from there to nearest even.

    Returns:
        float32 (r, m) on `device`, or `out`.

    Raises:
        IntegrityError: a needed input is missing or has the wrong shape, or a product may exceed
            the exact range.
    """
    if side.terms or side.previous:
        factor = _decode_references(side, previous, blocks, device)
    elif str(device) == "cpu":
        factor = _scale_on_cpu(side, out)
    else:
        scales = torch.from_numpy(side.scales).to(device)[:, None]
        factor = torch.from_numpy(side.own).to(device).to(torch.float32).mul_(scales)
    return factor if out is None or factor is out else out.copy_(factor)


def is_bounded(side: StoredSide, dtype: torch.dtype) -> bool:
    """Tell whether a factor is own rows alone whose scales keep every number finite in a dtype.

    No symbol is looked at: the largest that its type holds must not overflow.
    """
    largest = float(side.scales.max(initial=0.0)) * np.iinfo(side.own.dtype).max
    return not side.terms and not side.previous and largest < torch.finfo(dtype).max / 2


def product_bits(coefficients: Tensor, block: Tensor) -> int:
    """Return bits(C) + bits(q) + ceil(log2 k) of integer C (..., r, k) and q (..., k, m)."""
    return _bits(coefficients) + _bits(block) + (block.shape[-2] - 1).bit_length()


def _decode_references(
    side: StoredSide, previous: Tensor | None, blocks: Sequence[Tensor], device: torch.device | str
) -> Tensor:
    """Return the factor (r, m) in the order of operations of spec DEC-04, in float32."""
    if len(blocks) != len(side.terms):
        raise IntegrityError(
            f"a factor refers to {len(side.terms)} blocks, {len(blocks)} were given."
        )
    summands = [
        *(
            _product(term, block, side.own.shape[1], device)
            for term, block in zip(side.terms, blocks, strict=True)
        ),
        torch.from_numpy(side.own).to(device, torch.float64),
    ]
    scales = torch.from_numpy(side.scales).to(device, torch.float64)
    scaled = reduce(torch.add, summands) * scales[:, None]
    if side.previous:
        scaled = _previous(side, previous).to(device, torch.float64) + scaled
    return scaled.to(torch.float32)


def _product(term: Term, block: Tensor, width: int, device: torch.device | str) -> Tensor:
    """Return 2**e * C @ q, which is exact (spec DEC-03)."""
    expected = (term.coefficients.shape[1], width)
    if tuple(block.shape) != expected:
        raise IntegrityError(
            f"a block has shape {tuple(block.shape)}, "
            f"the factor that refers to it expects {expected}."
        )
    coefficients = torch.from_numpy(term.coefficients)
    bits = product_bits(coefficients, block)
    if bits > MAX_PRODUCT_BITS:
        raise IntegrityError(
            f"coefficients and rows need {bits} bits, "
            f"more than the {MAX_PRODUCT_BITS} that are exact."
        )
    product = coefficients.to(device, torch.float64) @ block.to(device, torch.float64)
    return product * 2.0**term.exponent


def _previous(side: StoredSide, previous: Tensor | None) -> Tensor:
    if previous is None:
        raise IntegrityError("a factor builds on a previous version that was not given.")
    if previous.shape != side.own.shape or previous.dtype != torch.float32:
        raise IntegrityError(
            f"the previous factor is {previous.dtype} {tuple(previous.shape)}, "
            f"expected float32 {side.own.shape}."
        )
    return previous


def _scale_on_cpu(side: StoredSide, out: Tensor | None) -> Tensor:
    """Return own rows times their scales in float32, in `out` where it is of that type.

    The symbols are exact there, and the one rounding of a product is that of the exact product
    (spec DEC-06). By numpy: on the few numbers of a factor, waking torch's threads takes longer
    than their work.
    """
    place = out
    if place is None or place.dtype != torch.float32:
        place = torch.empty(side.own.shape, dtype=torch.float32, device="cpu")
    values = place.numpy()
    with np.errstate(over="ignore"):
        if values.flags.c_contiguous:
            np.copyto(values, side.own)
            np.multiply(values, side.scales[:, None], out=values)
        else:
            np.multiply(side.own, side.scales[:, None], out=values, dtype=np.float32)
    return place


def _bits(values: Tensor) -> int:
    return int(values.abs().max()).bit_length() if values.numel() else 0
