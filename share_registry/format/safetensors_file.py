"""One safetensors file in memory: a strict reader and a canonical writer.

The reader takes the bytes that were hashed, checks every declared size before it uses it, and maps
nothing. The writer gives one byte string for one value: compact JSON, `__metadata__` first, tensors
in the order given, the header padded with spaces to a multiple of 8. For what PEFT wrote that is
the very file.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from share_registry.errors import IntegrityError
from share_registry.format.canonical import parse_foreign, require
from share_registry.format.layout import MAX_DIMENSIONS, DType

MAX_HEADER_BYTES: Final = 16 << 20
MAX_KEY_BYTES: Final = 512
_METADATA: Final = "__metadata__"
_MAX_ELEMENTS: Final = 1 << 40
_TYPES: Final = tuple(DType.__members__)
_ORDER: Final = (
    DType.BOOL,
    DType.U8,
    DType.I8,
    DType.I16,
    DType.F16,
    DType.BF16,
    DType.I32,
    DType.F32,
    DType.F64,
    DType.I64,
)


class Described(Protocol):
    """What the header says of a tensor."""

    @property
    def key(self) -> str:
        """Its name."""

    @property
    def dtype(self) -> DType:
        """Its element type."""

    @property
    def shape(self) -> Sequence[int]:
        """Its shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One tensor: its key, element type, shape, and little-endian row-major bytes."""

    key: str
    dtype: DType
    shape: tuple[int, ...]
    content: bytes | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """The metadata entries in file order and the tensors in the order of their bytes."""

    metadata: tuple[tuple[str, str], ...]
    tensors: tuple[Item, ...]


def read(content: bytes, *, subject: str) -> File:
    """Parse one file; the items' bytes are views into `content`.

    Args:
        content: The whole file.
        subject: How messages name it.

    Raises:
        IntegrityError: truncated, longer than declared, a malformed header, an unknown element
            type, or a limit passed.
    """
    header, body = _split(content, subject)
    # a description is one string, as long as a header may be (spec LIM-04)
    entries = parse_foreign(
        header,
        subject=f"header of {subject}",
        limit=MAX_HEADER_BYTES,
        longest=MAX_HEADER_BYTES,
    )
    metadata = _metadata(entries.pop(_METADATA, None), subject)
    spans = sorted(
        (_span(key, entry, subject) for key, entry in entries.items()),
        key=lambda span: (span[2], span[3]),
    )
    return File(metadata=metadata, tensors=tuple(_cut(spans, body, subject)))


def write(metadata: Iterable[tuple[str, str]], items: Sequence[Item]) -> bytes:
    """Return the canonical file.

    Raises IntegrityError where an item's bytes do not fit its shape, or a key or metadata name
    stands there twice.
    """
    return b"".join(parts(metadata, items, (item.content for item in items)))


def parts(
    metadata: Iterable[tuple[str, str]],
    tensors: Sequence[Described],
    contents: Iterable[bytes | memoryview],
) -> Iterator[bytes | memoryview]:
    """Yield the canonical file in parts that are not copied. Raises as `write`.

    Args:
        metadata: Its metadata.
        tensors: What the header says.
        contents: The bytes of each, which may be made as they are asked for.
    """
    yield head(list(metadata), tensors)
    for tensor, content in zip(tensors, contents, strict=True):
        expected = _size(tensor)
        if len(content) != expected:
            raise IntegrityError(
                f"tensor {tensor.key!r} has {len(content)} bytes, expected {expected}."
            )
        yield content


def is_canonical(content: bytes, file: File) -> bool:
    """Tell whether a file that was read is, byte for byte, what `write` would make of it."""
    return content.startswith(head(list(file.metadata), file.tensors))


def usual_order(items: Iterable[Item]) -> list[Item]:
    """Return items in the order the safetensors library writes.

    Wide element types first, then by key.
    """
    return sorted(items, key=lambda item: (-_ORDER.index(item.dtype), item.key.encode()))


def head(metadata: Sequence[tuple[str, str]], tensors: Sequence[Described]) -> bytes:
    """Return what stands before the bytes of the first tensor.

    Raises IntegrityError where a key or metadata name stands there twice.
    """
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    position = 0
    for tensor in tensors:
        if tensor.key in header:
            raise IntegrityError(f"tensor {tensor.key!r} stands there twice.")
        end = position + _size(tensor)
        header[tensor.key] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    require(len(dict(metadata)) == len(metadata), "a metadata name stands there twice.")
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _split(content: bytes, subject: str) -> tuple[bytes, memoryview]:
    length = len(content)
    require(length >= 10, f"{subject} has {length} bytes, a safetensors file at least 10.")
    size = int.from_bytes(content[:8], "little")
    require(
        size <= MAX_HEADER_BYTES,
        f"{subject} declares a header of {size} bytes, more than the limit of {MAX_HEADER_BYTES}.",
    )
    require(
        size <= length - 8,
        f"{subject} is truncated: its header has {size} bytes, "
        f"the file {length - 8} after the length.",
    )
    header = content[8 : 8 + size]
    require(
        header.startswith(b"{"), f"header of {subject} starts with {header[:1]!r}, expected '{{'."
    )
    return header, memoryview(content)[8 + size :]


def _metadata(value: object, subject: str) -> tuple[tuple[str, str], ...]:
    # MLX writes null where it has none
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise IntegrityError(
            f"metadata of {subject} is a {type(value).__name__}, expected an object of texts."
        )
    for name, text in value.items():
        if not isinstance(text, str) or len(name) > MAX_KEY_BYTES:
            raise IntegrityError(
                f"metadata {name[:80]!r} of {subject} is a {type(text).__name__}, "
                f"expected a text with a name of at most {MAX_KEY_BYTES} characters."
            )
    return tuple(value.items())


def _span(key: str, entry: object, subject: str) -> tuple[str, DType, int, int, tuple[int, ...]]:
    if not (0 < len(key.encode()) <= MAX_KEY_BYTES and key.isprintable()):
        raise IntegrityError(
            f"tensor name {key[:80]!r} of {subject} is not 1 to {MAX_KEY_BYTES} printable bytes."
        )
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        members = ", ".join(sorted(entry)) if isinstance(entry, dict) else type(entry).__name__
        raise IntegrityError(
            f"tensor {key!r} of {subject} has the members {members}, "
            "expected dtype, shape and data_offsets."
        )
    if entry["dtype"] not in _TYPES:
        raise IntegrityError(
            f"tensor {key!r} of {subject} has the element type {entry['dtype']!r}, "
            f"expected one of {', '.join(DType.__members__)}."
        )
    dtype = DType(entry["dtype"])
    shape, offsets = _integers(entry["shape"]), _integers(entry["data_offsets"])
    if shape is None or offsets is None or len(shape) > MAX_DIMENSIONS or len(offsets) != 2:
        raise IntegrityError(
            f"tensor {key!r} of {subject} has shape {entry['shape']!r} "
            f"and data_offsets {entry['data_offsets']!r}, expected lists of sizes."
        )
    begin, end = offsets
    expected = _elements(key, shape, subject) * dtype.size_bytes
    if end - begin != expected:
        raise IntegrityError(
            f"tensor {key!r} of {subject} has {end - begin} bytes, "
            f"expected {expected} for {dtype} {list(shape)}."
        )
    return key, dtype, begin, end, shape


def _cut(
    spans: list[tuple[str, DType, int, int, tuple[int, ...]]], body: memoryview, subject: str
) -> Iterable[Item]:
    position = 0
    for key, dtype, begin, end, shape in spans:
        if begin != position:
            raise IntegrityError(
                f"tensor {key!r} of {subject} begins at byte {begin}, expected {position}: "
                "the tensors overlap or leave a hole."
            )
        if end > len(body):
            raise IntegrityError(
                f"{subject} is truncated: tensor {key!r} ends at byte {end} of {len(body)}."
            )
        yield Item(key=key, dtype=dtype, shape=shape, content=body[begin:end])
        position = end
    require(
        position == len(body), f"{subject} has {len(body)} bytes of tensors, expected {position}."
    )


def _integers(value: object) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(size) is int and size >= 0 for size in value):
        return tuple(value)
    return None


def _size(tensor: Described) -> int:
    """Return the bytes of a tensor that is to be written. Raises IntegrityError."""
    return _elements(tensor.key, tensor.shape, "file to write") * tensor.dtype.size_bytes


def _elements(key: str, shape: Sequence[int], subject: str) -> int:
    count = 1
    for size in shape:
        count *= size
        if count > _MAX_ELEMENTS:
            raise IntegrityError(
                f"tensor {key!r} of {subject} has the shape {list(shape)}, "
                f"more than {_MAX_ELEMENTS} elements."
            )
    return count
