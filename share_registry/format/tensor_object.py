"""Tensor object: one large tensor kept bit for bit (spec TEN-01 to TEN-05).

An object of its own, shared by the adapters that have it: byte planes, or a float's heads and
tails, and the lengths of their pieces.
"""

from collections.abc import Iterable
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field

from share_registry.format.canonical import Json, require
from share_registry.format.frames import (
    from_planes,
    pack_stream,
    piece_sizes,
    planes,
    unpack_streams,
)
from share_registry.format.heads import SPLITS, find_base, join, split, stream_sizes
from share_registry.format.layout import DType, Strict, check_kind, validate
from share_registry.format.object_file import pack, unpack

_SUBJECT: Final = "tensor object"
_LENGTH_BYTES: Final = 3


class TensorHeads(Strict):
    """How the floats of a tensor object are split."""

    dtype: Literal["BF16", "F16", "F32"]
    base: Annotated[int, Field(ge=0, lt=1 << 12)]
    escapes: Annotated[int, Field(ge=0, le=1 << 33)]


class TensorHeader(Strict):
    """The description of a tensor object."""

    format: Literal[1] = 1
    kind: Literal["tensor"] = "tensor"
    size: Annotated[int, Field(ge=0, lt=1 << 53)]
    width: Literal[1, 2, 4, 8]
    heads: TensorHeads | None = None


def encode_tensor(content: bytes, *, dtype: DType) -> bytes:
    """Return the object of a tensor's little-endian bytes; F32, BF16 and F16 are split."""
    heads: dict[str, Json] | None = None
    streams: Iterable[bytes | memoryview] = planes(content, dtype.size_bytes)
    if dtype in SPLITS:
        group = split([content], [find_base(content, dtype=dtype)], dtype=dtype)
        streams = group.streams
        heads = {"dtype": str(dtype), "base": group.bases[0], "escapes": group.escapes}
    pieces = [piece for stream in streams for piece in pack_stream(stream)]
    table = b"".join(len(piece).to_bytes(_LENGTH_BYTES, "little") for piece in pieces)
    header = TensorHeader.model_validate(
        {"size": len(content), "width": dtype.size_bytes, "heads": heads}
    )
    return pack(_entries(header), {"planes": pieces, "table": [table]})


def decode_tensor(content: bytes, *, dtype: DType, size: int, heads: bool = True) -> bytes:
    """Return the bytes of a tensor.

    Args:
        content: The object.
        dtype: Element type of the tensor in the layout.
        size: Its bytes.
        heads: Whether what refers to the object says that floats may be split.

    Raises:
        IntegrityError: any departure from the format, or an object of another tensor.
    """
    entries, parts = unpack(content, ("planes", "table"), subject=_SUBJECT)
    header = validate(
        TensorHeader.model_validate, check_kind(entries, "tensor"), f"header of {_SUBJECT}"
    )
    require(
        _entries(header) == entries
        and (header.size, header.width) == (size, dtype.size_bytes)
        and size % dtype.size_bytes == 0,
        f"{_SUBJECT} says {entries}, expected {size} bytes of width {dtype.size_bytes}.",
    )
    count = size // dtype.size_bytes
    sizes = [count] * dtype.size_bytes
    if header.heads is not None:
        _check_heads(header.heads, dtype, count, may=heads)
        sizes = stream_sizes([count], header.heads.escapes, dtype=dtype)
    table = np.frombuffer(parts["table"], np.uint8)
    require(
        len(table) == _LENGTH_BYTES * sum(len(piece_sizes(size)) for size in sizes),
        f"{_SUBJECT} has a table of {len(table)} bytes, which does not fit {size} bytes.",
    )
    lengths = (table.reshape(-1, _LENGTH_BYTES).astype(np.int64) @ (1, 1 << 8, 1 << 16)).tolist()
    streams = unpack_streams(parts["planes"], sizes, lengths, subject=_SUBJECT)
    if header.heads is None:
        return from_planes(streams)
    return join(streams, [header.heads.base], [count], dtype=dtype)[0]


def _check_heads(heads: TensorHeads, dtype: DType, count: int, *, may: bool) -> None:
    """Check that a tensor may be split, and is as its element type says (spec ADP-15, TEN-05)."""
    require(may, f"{_SUBJECT} is split, though the adapter object does not say so.")
    require(
        heads.dtype == dtype
        and dtype in SPLITS
        and heads.base < SPLITS[dtype].heads
        and heads.escapes <= count,
        f"{_SUBJECT} is split as {heads.dtype} with base {heads.base} and {heads.escapes} "
        f"escapes, expected {count} numbers of {dtype}.",
    )


def _entries(header: TensorHeader) -> dict[str, Json]:
    return header.model_dump(mode="json", exclude_none=True)
