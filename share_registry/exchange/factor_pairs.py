"""Unpack an adapter's tensors into factor pairs for the algebra, and pack rows into tensors.

Packing and unpacking only, no arithmetic but the final rounding.

A pair is float64 rows: `a` (r, in) is A, `b` (r, out) is B transposed, and dW = scale * b.T @ a.
Experts lie expert-major in A and rank-major in B.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

import torch

from share_registry.algebra.error import FactorPair
from share_registry.errors import InvalidInputError
from share_registry.exchange.tensors import TORCH, check_no_overflow
from share_registry.format.layout import DType, FactorSpec, Form, Layout, TensorSpec

_SMALLEST: Final = 1e-50
# Of values of factors and of scales: an energy is a product of six of them. Every value of
# float32 lies between, even among its subnormal numbers.
_LARGEST: Final = 1e40

# Rows of A (r, in) and of B transposed (r, out).
Rows = tuple[torch.Tensor, torch.Tensor]


def pairs_of(
    layout: Layout, tensors: Mapping[str, torch.Tensor], scales: Sequence[float]
) -> list[FactorPair]:
    """Return the pairs of all modules in the order of `layout.modules()`; scales in the same order.

    Tensors keep their device.
    """
    rows = [pair for factor in layout.factors for pair in rows_of(layout, factor, tensors)]
    return [
        FactorPair(module=shape.module, a=a.double(), b=b.double(), scale=scale)
        for shape, (a, b), scale in zip(layout.modules(), rows, scales, strict=True)
    ]


def factor_positions(layout: Layout) -> list[int]:
    """Return for every module the position of its factor pair in `layout.factors`."""
    return [number for number, factor in enumerate(layout.factors) for _ in range(factor.experts)]


def factor_dtypes(layout: Layout) -> list[tuple[torch.dtype, torch.dtype]]:
    """Return for every module the element types of the tensors of A and B."""
    kinds = [TORCH[spec.dtype] for spec in layout.tensors]
    factors = [layout.factors[position] for position in factor_positions(layout)]
    return [(kinds[factor.a], kinds[factor.b]) for factor in factors]


def check_range(
    layout: Layout, tensors: Mapping[str, torch.Tensor], scales: Sequence[float]
) -> None:
    """Check that the energies of a source's modules lie within float64.

    Factors and scales are 0 or of a size that float32 has. Raises InvalidInputError.
    """
    expected = f"expected 0 or a size between {_SMALLEST:g} and {_LARGEST:g}."
    for shape, scale in zip(layout.modules(), scales, strict=True):
        if scale and not _SMALLEST < abs(scale) < _LARGEST:
            raise InvalidInputError(
                f"module {shape.module!r} has the scale {scale:.3g}, {expected}",
                hint="Correct r and lora_alpha in the config.",
            )
    for index in (index for factor in layout.factors for index in (factor.a, factor.b)):
        spec = layout.tensors[index]
        largest = float(tensors[spec.key].abs().max()) if spec.dtype == DType.F64 else 0.0
        if largest and not _SMALLEST < largest < _LARGEST:
            raise InvalidInputError(
                f"tensor {spec.key!r} has a largest value of {largest:.3g}, {expected}",
                hint="Commit an earlier checkpoint, or save in float32.",
            )


def move_to_device(pairs: Sequence[FactorPair], device: str) -> list[FactorPair]:
    """Return pairs on a device."""
    return [replace(pair, a=pair.a.to(device), b=pair.b.to(device)) for pair in pairs]


def rows_of(layout: Layout, factor: FactorSpec, tensors: Mapping[str, torch.Tensor]) -> list[Rows]:
    """Return the rows of each module of one factor pair, in the tensors' element types."""
    a, b = tensors[layout.tensors[factor.a].key], tensors[layout.tensors[factor.b].key]
    a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
    rank = a.shape[0] // factor.experts
    return [
        (a[e * rank : (e + 1) * rank], b[:, e :: factor.experts].T) for e in range(factor.experts)
    ]


def tensors_of(layout: Layout, rows: Sequence[Rows | None]) -> dict[str, torch.Tensor]:
    """Pack rows into the tensors of the layout's factor pairs.

    Args:
        layout: The layout.
        rows: Per module in the order of `layout.modules()`, float32 or float64; None leaves the
            module's pair out, for experts all of them.

    Returns:
        Key -> tensor, rounded to nearest even in the layout's element type; the keys of pairs left
        out are missing.

    Raises:
        RefusedError: a value does not fit the element type.
    """
    packed: dict[str, torch.Tensor] = {}
    remaining = iter(rows)
    for factor in layout.factors:
        pairs = [pair for pair in islice(remaining, factor.experts) if pair is not None]
        if len(pairs) == factor.experts:
            packed |= _pack_pair(layout, factor, pairs)
    return packed


def pad_rows(rows: Rows, rank: int) -> Rows:
    """Fill both sides up to a rank with rows of zeros."""
    a, b = (torch.nn.functional.pad(side, (0, 0, 0, rank - side.shape[0])) for side in rows)
    return a, b


def _pack_pair(layout: Layout, factor: FactorSpec, rows: Sequence[Rows]) -> dict[str, torch.Tensor]:
    """Pack the rows of all modules of one factor pair; the tensors may be the rows themselves."""
    a, b = rows[0][0], rows[0][1].T
    if factor.form is Form.EXPERTS:
        a = torch.cat([a for a, _ in rows])
        b = torch.stack([b for _, b in rows], dim=2).permute(1, 0, 2)
    specs = layout.tensors[factor.a], layout.tensors[factor.b]
    return {spec.key: _round(side, spec) for spec, side in zip(specs, (a, b), strict=True)}


def _round(values: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """Return values in a tensor's shape and element type, contiguous.

    Raises RefusedError where a finite value becomes infinite.
    """
    typed = values.to(TORCH[spec.dtype]).reshape(spec.shape).contiguous()
    check_no_overflow(spec.key, typed)
    return typed
