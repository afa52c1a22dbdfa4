"""The file of a binary object (spec OBJ-04, OBJ-05), and the simplest such object.

Canonical safetensors with one metadata member of canonical JSON and a fixed list of U8 tensors. A
tensor object is one large tensor kept bit for bit (spec TEN-01 to TEN-04): an object of its own,
shared by the adapters that have it.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from share_registry.format.canonical import Json, dump, load, require
from share_registry.format.frames import (
    from_planes,
    pack_stream,
    piece_sizes,
    planes,
    unpack_streams,
)
from share_registry.format.layout import DType, check_kind
from share_registry.format.safetensors_file import File, Item, is_canonical, read, write

KEY: Final = "share_registry"
_TENSOR: Final = "tensor object"
_LENGTH_BYTES: Final = 3


def pack(header: Json, parts: Mapping[str, bytes]) -> bytes:
    """Return the file with this metadata and these tensors, in the order given.

    Raises IntegrityError where no reader would take it: it is read back as one would (spec COM-09).
    """
    content = write(
        [(KEY, dump(header).decode())],
        [
            Item(key=key, dtype=DType.U8, shape=(len(part),), content=part)
            for key, part in parts.items()
        ],
    )
    unpack(content, list(parts), subject="object to write")
    return content


def unpack(
    content: bytes, keys: Sequence[str], *, subject: str
) -> tuple[dict[str, Json], dict[str, memoryview]]:
    """Return metadata and tensors of a file that must be the canonical one of just these.

    Raises IntegrityError.
    """
    file = read(content, subject=subject)
    tensors = [(item.key, item.dtype, len(item.shape)) for item in file.tensors]
    require(
        [name for name, _ in file.metadata] == [KEY]
        and tensors == [(key, DType.U8, 1) for key in keys],
        f"{subject} has other metadata or tensors than {KEY!r} and {', '.join(keys)}.",
    )
    require(is_canonical(content, file), f"{subject} is not in canonical form.")
    return _load_header(file, subject), {
        item.key: memoryview(item.content) for item in file.tensors
    }


def description(content: bytes, *, subject: str) -> dict[str, Json]:
    """Return the description of a binary object, whatever its parts. Raises IntegrityError."""
    file = read(content, subject=subject)
    require(
        [name for name, _ in file.metadata] == [KEY], f"{subject} has other metadata than {KEY!r}."
    )
    return _load_header(file, subject)


def encode_tensor(content: bytes, *, dtype: DType) -> bytes:
    """Return the object of a tensor's little-endian bytes: byte planes, lengths of their pieces."""
    pieces = [piece for plane in planes(content, dtype.size_bytes) for piece in pack_stream(plane)]
    table = b"".join(len(piece).to_bytes(_LENGTH_BYTES, "little") for piece in pieces)
    return pack(_tensor_header(dtype, len(content)), {"planes": b"".join(pieces), "table": table})


def decode_tensor(content: bytes, *, dtype: DType, size: int) -> bytes:
    """Return the `size` bytes of a tensor. Raises IntegrityError."""
    entries, parts = unpack(content, ("planes", "table"), subject=_TENSOR)
    check_kind(entries, "tensor")
    require(
        entries == _tensor_header(dtype, size) and size % dtype.size_bytes == 0,
        f"{_TENSOR} says {entries}, expected {size} bytes of width {dtype.size_bytes}.",
    )
    sizes = [size // dtype.size_bytes] * dtype.size_bytes
    table = np.frombuffer(parts["table"], np.uint8)
    require(
        len(table) == _LENGTH_BYTES * sum(len(piece_sizes(plane)) for plane in sizes),
        f"{_TENSOR} has a table of {len(table)} bytes, which does not fit {size} bytes.",
    )
    lengths = (table.reshape(-1, _LENGTH_BYTES).astype(np.int64) @ (1, 1 << 8, 1 << 16)).tolist()
    return from_planes(unpack_streams(parts["planes"], sizes, lengths, subject=_TENSOR))


def _load_header(file: File, subject: str) -> dict[str, Json]:
    return load(
        file.metadata[0][1].encode("utf-8", "surrogatepass"), subject=f"header of {subject}"
    )


def _tensor_header(dtype: DType, size: int) -> dict[str, Json]:
    return {"format": 1, "kind": "tensor", "size": size, "width": dtype.size_bytes}
