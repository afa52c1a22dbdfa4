"""Decode: stored integers to the float32 factor, the same bytes everywhere (spec DEC-01 to DEC-07).

Products of integers stay below 2**45 and are exact in float64 whatever the order of summation;
everything else is elementwise, in the order written in `stored.py`.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from share_registry.errors import IntegrityError
from share_registry.stored import StoredSide, Term

MAX_PRODUCT_BITS: Final = 45
"""Limit of bits(C) + bits(q) + ceil(log2 k).

With an 8-bit scale the scaled product is exact too.
"""


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
        IntegrityError: a needed input is missing or has the wrong shape, or a product may exceed the
            exact range.
    """
    if not side.terms and not side.previous:
        return _scaled_once(side, device, out)
    own = torch.from_numpy(side.own).to(device, torch.float64)
    total: Tensor | None = None
    for term, block in zip(side.terms, _checked(side, blocks), strict=True):
        C = torch.from_numpy(term.coefficients).to(device, torch.float64)
        product = (C @ block.to(device, torch.float64)) * 2.0**term.exponent
        total = product if total is None else total + product
    total = own if total is None else total + own
    scaled = total * torch.from_numpy(side.scales).to(device, torch.float64)[:, None]
    if side.previous:
        scaled = _previous(side, previous).to(device, torch.float64) + scaled
    return _written(scaled.to(torch.float32), out)


def is_bounded(side: StoredSide, dtype: torch.dtype) -> bool:
    """Tell whether a factor is own rows alone, with scales so small that no symbol of its type makes a number that a floating dtype cannot hold."""
    return (
        not side.terms
        and not side.previous
        and float(side.scales.max(initial=0.0)) * np.iinfo(side.own.dtype).max
        < torch.finfo(dtype).max / 2
    )


def _scaled_once(side: StoredSide, device: torch.device | str, out: Tensor | None) -> Tensor:
    """Return own rows times their scales in float32.

    The symbols are exact there, and the one rounding of a product is that of the exact product
    (spec DEC-06).

    On the CPU by numpy: on the few numbers of a factor, waking torch's threads takes longer than
    their work.
    """
    if str(device) != "cpu":
        return _written(
            torch.from_numpy(side.own)
            .to(device)
            .to(torch.float32)
            .mul_(torch.from_numpy(side.scales).to(device)[:, None]),
            out,
        )
    place = (
        torch.empty(side.own.shape, dtype=torch.float32, device="cpu")
        if out is None or out.dtype != torch.float32
        else out
    )
    values = place.numpy()
    with np.errstate(over="ignore"):
        if values.flags.c_contiguous:
            np.copyto(values, side.own)
            np.multiply(values, side.scales[:, None], out=values)
        else:
            np.multiply(side.own, side.scales[:, None], out=values, dtype=np.float32)
    return _written(place, None if place is out else out)


def _written(found: Tensor, out: Tensor | None) -> Tensor:
    return found if out is None else out.copy_(found)


def product_bits(coefficients: Tensor, block: Tensor) -> int:
    """Return bits(C) + bits(q) + ceil(log2 k) of integer C (..., r, k) and q (..., k, m)."""
    return _bits(coefficients) + _bits(block) + (block.shape[-2] - 1).bit_length()


def _bits(values: Tensor) -> int:
    return int(values.abs().max()).bit_length() if values.numel() else 0


def _checked(side: StoredSide, blocks: Sequence[Tensor]) -> Sequence[Tensor]:
    if len(blocks) != len(side.terms):
        raise IntegrityError(
            f"a factor refers to {len(side.terms)} blocks, {len(blocks)} were given."
        )
    for term, block in zip(side.terms, blocks, strict=True):
        _check_product(term, block, side.own.shape[1])
    return blocks


def _check_product(term: Term, block: Tensor, width: int) -> None:
    expected = (term.coefficients.shape[1], width)
    if tuple(block.shape) != expected:
        raise IntegrityError(
            f"a block has shape {tuple(block.shape)}, the factor that refers to it expects {expected}."
        )
    bits = product_bits(torch.from_numpy(term.coefficients), block)
    if bits > MAX_PRODUCT_BITS:
        raise IntegrityError(
            f"coefficients and rows need {bits} bits, more than the {MAX_PRODUCT_BITS} that are exact."
        )


def _previous(side: StoredSide, previous: Tensor | None) -> Tensor:
    if previous is None:
        raise IntegrityError("a factor builds on a previous version that was not given.")
    if previous.shape != side.own.shape or previous.dtype != torch.float32:
        raise IntegrityError(
            f"the previous factor is {previous.dtype} {tuple(previous.shape)}, expected float32 {side.own.shape}."
        )
    return previous
