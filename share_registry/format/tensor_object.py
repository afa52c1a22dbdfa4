"""Tensor object: one large tensor kept bit for bit (spec TEN-01 to TEN-04).

An object of its own, shared by the adapters that have it.
"""

from typing import Final

import numpy as np

from share_registry.format.canonical import Json, require
from share_registry.format.frames import (
    from_planes,
    pack_stream,
    piece_sizes,
    planes,
    unpack_streams,
)
from share_registry.format.layout import DType, check_kind
from share_registry.format.object_file import pack, unpack

_SUBJECT: Final = "tensor object"
_LENGTH_BYTES: Final = 3


def encode_tensor(content: bytes, *, dtype: DType) -> bytes:
    """Return the object of a tensor's little-endian bytes: byte planes, lengths of their pieces."""
    pieces = [piece for plane in planes(content, dtype.size_bytes) for piece in pack_stream(plane)]
    table = b"".join(len(piece).to_bytes(_LENGTH_BYTES, "little") for piece in pieces)
    return pack(_header(dtype, len(content)), {"planes": b"".join(pieces), "table": table})


def decode_tensor(content: bytes, *, dtype: DType, size: int) -> bytes:
    """Return the `size` bytes of a tensor. Raises IntegrityError."""
    entries, parts = unpack(content, ("planes", "table"), subject=_SUBJECT)
    check_kind(entries, "tensor")
    require(
        entries == _header(dtype, size) and size % dtype.size_bytes == 0,
        f"{_SUBJECT} says {entries}, expected {size} bytes of width {dtype.size_bytes}.",
    )
    sizes = [size // dtype.size_bytes] * dtype.size_bytes
    table = np.frombuffer(parts["table"], np.uint8)
    require(
        len(table) == _LENGTH_BYTES * sum(len(piece_sizes(plane)) for plane in sizes),
        f"{_SUBJECT} has a table of {len(table)} bytes, which does not fit {size} bytes.",
    )
    lengths = (table.reshape(-1, _LENGTH_BYTES).astype(np.int64) @ (1, 1 << 8, 1 << 16)).tolist()
    return from_planes(unpack_streams(parts["planes"], sizes, lengths, subject=_SUBJECT))


def _header(dtype: DType, size: int) -> dict[str, Json]:
    return {"format": 1, "kind": "tensor", "size": size, "width": dtype.size_bytes}
