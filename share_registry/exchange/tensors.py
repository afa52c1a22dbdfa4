"""Turn tensors of a file into torch's and back: the same bytes, little-endian and row-major."""

from collections.abc import Iterable, Mapping
from itertools import accumulate
from math import isfinite
from typing import Final

import numpy as np
import torch

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.format.layout import DType, TensorSpec
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
# Bytes that every tensor of a stretch of memory begins at a multiple of, as fresh tensors do.
_ALIGNED: Final = 64
_NAMES: Final = {dtype: name for name, dtype in TORCH.items()}


def tensor_of(item: Item) -> torch.Tensor:
    """Return a tensor with its own memory on the CPU."""
    if not item.content:
        return torch.empty(item.shape, dtype=TORCH[item.dtype], device="cpu")
    return torch.frombuffer(bytearray(item.content), dtype=TORCH[item.dtype]).reshape(item.shape)


def empty_tensors(specs: Iterable[TensorSpec], device: str = "cpu") -> dict[str, torch.Tensor]:
    """Return tensors by key, not initialised; on the CPU in one stretch of memory."""
    if device != "cpu":
        return {
            spec.key: torch.empty(tuple(spec.shape), dtype=TORCH[spec.dtype], device=device)
            for spec in specs
        }
    specs = list(specs)
    sizes = [-(-spec.size_bytes // _ALIGNED) * _ALIGNED for spec in specs]
    *starts, end = accumulate(sizes, initial=0)
    # a slice of an array becomes a tensor that shares its storage with no other
    memory = torch.empty(end, dtype=torch.uint8, device="cpu").numpy()
    parts = (
        (spec, torch.from_numpy(memory[start : start + spec.size_bytes]))
        for spec, start in zip(specs, starts, strict=True)
    )
    return {spec.key: part.view(TORCH[spec.dtype]).reshape(spec.shape) for spec, part in parts}


def item_of(key: str, tensor: torch.Tensor) -> Item:
    """Return the file's form of a tensor on any device.

    Raises InvalidInputError for an element type that files do not have.
    """
    if tensor.dtype not in _NAMES:
        raise InvalidInputError(
            f"tensor {key!r} has element type {tensor.dtype},"
            f" expected one of {', '.join(map(str, _NAMES))}.",
            hint="Convert it to float32 or bfloat16.",
        )
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    content = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return Item(key=key, dtype=_NAMES[tensor.dtype], shape=tuple(tensor.shape), content=content)


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
            f" {_NAMES[narrowed.dtype]} holds at most {torch.finfo(narrowed.dtype).max:g}.",
            hint="Use a wider element type.",
        )


def all_finite(tensor: torch.Tensor) -> bool:
    """Tell whether no value of a tensor is infinite or NaN.

    A sum reads once and writes nothing, so it goes first.
    """
    return isfinite(_sum(tensor.detach())) or bool(torch.isfinite(tensor).all())


def _sum(tensor: torch.Tensor) -> float:
    """Return the sum; of float32 on the CPU by numpy, as torch would wake its threads for it."""
    if tensor.device.type == "cpu" and tensor.dtype == torch.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            return float(tensor.numpy().sum())
    return float(tensor.sum(dtype=torch.float32))


def _count_odd(tensor: torch.Tensor) -> str:
    return f"{int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} places"
