"""Tensors of a file as torch's and back, and as the factor pairs that the algebra works on.

A tensor of torch has the same bytes as the file's: little-endian and row-major. A pair is float64
rows: `a` (r, in) is A, `b` (r, out) is B transposed, and dW = scale * b.T @ a. Experts lie
expert-major in A and rank-major in B. Packing and unpacking only, no arithmetic but the final
rounding.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from math import isfinite
from typing import Final

import numpy as np
import torch

from share_registry.algebra.error import FactorPair
from share_registry.errors import InvalidInputError, RefusedError
from share_registry.format.layout import DType, FactorSpec, Form, Layout, TensorSpec
from share_registry.format.safetensors_file import Item

# Element type of a file -> of torch.
TORCH: Final[Mapping[DType, torch.dtype]] = {
    DType.F64: torch.float64,
    DType.F32: torch.float32,
    DType.F16: torch.float16,
    DType.BF16: torch.bfloat16,
    DType.I64: torch.int64,
    DType.I32: torch.int32,
    DType.I16: torch.int16,
    DType.I8: torch.int8,
    DType.U8: torch.uint8,
    DType.BOOL: torch.bool,
}
# Element type of torch -> of a file.
DTYPES: Final = {dtype: name for name, dtype in TORCH.items()}
# Bytes that every tensor of a stretch of memory begins at a multiple of, as fresh tensors do.
_ALIGNED: Final = 64
# Of values of factors and of scales: an energy is a product of six of them. Every value of
# float32 lies between, even among its subnormal numbers.
_SMALLEST: Final = 1e-50
_LARGEST: Final = 1e40

# Rows of A (r, in) and of B transposed (r, out).
Rows = tuple[torch.Tensor, torch.Tensor]


def tensor_of(item: Item) -> torch.Tensor:
    """Return a tensor with its own memory on the CPU."""
    if not item.content:
        return torch.empty(item.shape, dtype=TORCH[item.dtype], device="cpu")
    return torch.frombuffer(bytearray(item.content), dtype=TORCH[item.dtype]).reshape(item.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorGroup:
    """Tensors of a file that are looked at together.

    Attributes:
        factors: Factor pairs, by position in `Layout.factors`.
        passengers: Tensors of no pair, by position in `Layout.tensors`.
    """

    factors: tuple[int, ...]
    passengers: tuple[int, ...]

    def tensors_in(self, layout: Layout) -> list[int]:
        """Return all of them, by position in `Layout.tensors`."""
        factors = (layout.factors[number] for number in self.factors)
        pairs = (index for factor in factors for index in (factor.a, factor.b))
        return [*self.passengers, *pairs]


def tensor_groups(layout: Layout, *, elements: int) -> list[TensorGroup]:
    """Return all tensors in groups of about as many elements, in the order of the file.

    A factor pair stands where the first of its tensors does.
    """
    units = [((index,), None, index) for index in layout.passengers] + [
        ((factor.a, factor.b), number, min(factor.a, factor.b))
        for number, factor in enumerate(layout.factors)
    ]
    groups: dict[int, list[tuple[tuple[int, ...], int | None, int]]] = {}
    before = 0
    for unit in sorted(units, key=lambda unit: unit[-1]):
        groups.setdefault(before // elements, []).append(unit)
        before += sum(layout.tensors[index].elements for index in unit[0])
    return [
        TensorGroup(
            factors=tuple(number for _, number, _ in group if number is not None),
            passengers=tuple(index for _, number, index in group if number is None),
        )
        for group in groups.values()
    ]


def empty_tensors(specs: Iterable[TensorSpec], device: str = "cpu") -> dict[str, torch.Tensor]:
    """Return tensors by key, not initialised; on the CPU in one stretch of memory."""
    if device != "cpu":
        return {
            spec.key: torch.empty(tuple(spec.shape), dtype=TORCH[spec.dtype], device=device)
            for spec in specs
        }
    specs = list(specs)
    *starts, end = accumulate(
        (-(-spec.size_bytes // _ALIGNED) * _ALIGNED for spec in specs), initial=0
    )
    # a slice of an array becomes a tensor that shares its storage with no other
    memory = torch.empty(end, dtype=torch.uint8, device="cpu").numpy()
    parts = (
        (spec, torch.from_numpy(memory[start : start + spec.size_bytes]))
        for spec, start in zip(specs, starts, strict=True)
    )
    return {spec.key: part.view(TORCH[spec.dtype]).reshape(spec.shape) for spec, part in parts}


def item_of(key: str, tensor: torch.Tensor) -> Item:
    """Return the file's form of a tensor on any device; of one on the CPU a view.

    Raises InvalidInputError for an element type that files do not have, or a tensor without values.
    """
    if tensor.is_meta or tensor.layout != torch.strided:
        raise InvalidInputError(
            f"tensor {key!r} is {'on the meta device' if tensor.is_meta else tensor.layout},"
            " expected values in memory.",
            hint="Load the model with its weights, without init_empty_weights or device_map='meta',"
            " and give dense tensors.",
        )
    if tensor.dtype not in DTYPES:
        raise InvalidInputError(
            f"tensor {key!r} has element type {tensor.dtype},"
            f" expected one of {', '.join(map(str, DTYPES))}.",
            hint="Convert it to float32 or bfloat16.",
        )
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    content = flat.view(torch.uint8).numpy().data.toreadonly() if flat.numel() else b""
    return Item(key=key, dtype=DTYPES[tensor.dtype], shape=tuple(tensor.shape), content=content)


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise InvalidInputError, naming the key, where a value is NaN or infinite."""
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not all_finite(tensor):
            raise InvalidInputError(
                f"tensor {key!r} {list(tensor.shape)} has NaN or infinity at"
                f" {_count_odd(tensor)}, expected finite numbers.",
                hint="The training diverged or the file is damaged: commit an earlier checkpoint.",
            )


def check_no_overflow(key: str, narrowed: torch.Tensor) -> None:
    """Raise RefusedError, naming the key, where narrowing made finite values infinite."""
    if narrowed.is_floating_point() and not all_finite(narrowed):
        raise RefusedError(
            f"{key!r} would be infinite at {_count_odd(narrowed)}:"
            f" {DTYPES[narrowed.dtype]} holds at most {torch.finfo(narrowed.dtype).max:g}.",
            hint="Use a wider element type.",
        )


def all_finite(tensor: torch.Tensor) -> bool:
    """Tell whether no value of a tensor is infinite or NaN.

    A sum reads once and writes nothing, so it goes first.
    """
    return isfinite(_sum(tensor.detach())) or bool(torch.isfinite(tensor).all())


def pairs_of(
    layout: Layout,
    tensors: Mapping[str, torch.Tensor],
    scales: Sequence[float],
    *,
    dtype: torch.dtype | None = torch.float64,
) -> list[FactorPair]:
    """Return the pairs of all modules in the order of `layout.modules()`; scales in the same order.

    Tensors keep their device. With None for `dtype`, pairs are views of the tensors.
    """
    rows = (pair for factor in layout.factors for pair in rows_of(layout, factor, tensors))
    return [
        FactorPair(
            module=shape.module,
            a=a if dtype is None else a.to(dtype),
            b=b if dtype is None else b.to(dtype),
            scale=scale,
        )
        for shape, (a, b), scale in zip(layout.modules(), rows, scales, strict=True)
    ]


def factor_positions(layout: Layout) -> list[int]:
    """Return for every module the position of its factor pair in `layout.factors`."""
    return [number for number, factor in enumerate(layout.factors) for _ in range(factor.experts)]


def factor_dtypes(layout: Layout) -> list[tuple[torch.dtype, torch.dtype]]:
    """Return for every module the element types of the tensors of A and B."""
    kinds = [TORCH[spec.dtype] for spec in layout.tensors]
    return [
        (kinds[factor.a], kinds[factor.b])
        for factor in layout.factors
        for _ in range(factor.experts)
    ]


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


def _sum(tensor: torch.Tensor) -> float:
    """Return the sum; of float32 on the CPU by numpy, as torch would wake its threads for it."""
    if tensor.device.type == "cpu" and tensor.dtype == torch.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            return float(tensor.numpy().sum())
    return float(tensor.sum(dtype=torch.float32))


def _count_odd(tensor: torch.Tensor) -> str:
    return f"{int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} places"


def _pack_pair(layout: Layout, factor: FactorSpec, rows: Sequence[Rows]) -> dict[str, torch.Tensor]:
    """Pack the rows of all modules of one factor pair; the tensors may be the rows themselves."""
    a, b = rows[0][0], rows[0][1].T
    if factor.form is Form.EXPERTS:
        a = torch.cat([a for a, _ in rows])
        b = torch.stack([b for _, b in rows], dim=2).permute(1, 0, 2)
    return {
        spec.key: _round(side, spec)
        for spec, side in ((layout.tensors[factor.a], a), (layout.tensors[factor.b], b))
    }


def _round(values: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """Return values in a tensor's shape and element type, contiguous.

    Raises RefusedError where a finite value becomes infinite.
    """
    typed = values.to(TORCH[spec.dtype]).reshape(spec.shape).contiguous()
    check_no_overflow(spec.key, typed)
    return typed
