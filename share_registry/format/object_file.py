"""The file of a binary object (spec OBJ-04, OBJ-05).

Canonical safetensors with one metadata member of canonical JSON and a fixed list of U8 tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from share_registry.format.canonical import Json, dump, load, require
from share_registry.format.layout import DType
from share_registry.format.safetensors_file import File, head, is_canonical, read
from share_registry.memory import give_back

KEY: Final = "share_registry"
# Bytes of pieces that are written before their memory is given back
_GIVEN_BACK: Final = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _ByteTensor:
    """A tensor of bytes, as the header has it."""

    key: str
    shape: tuple[int]
    dtype: DType = DType.U8


def pack(header: Json, parts: Mapping[str, list[bytes | memoryview]]) -> bytes:
    """Return the file with this metadata and these tensors, in the order given.

    Args:
        header: The metadata.
        parts: The pieces of each tensor. The lists are emptied as the file is made: it is large,
            and does not lie in memory twice.

    Raises:
        IntegrityError: no reader would take it; it is read back as one would (spec COM-09).
    """
    tensors = [
        _ByteTensor(key=key, shape=(sum(map(len, pieces)),)) for key, pieces in parts.items()
    ]
    start = head([(KEY, dump(header).decode())], tensors)
    # gives back the very bytes it was made of; grown, it would be copied
    size = len(start) + sum(tensor.shape[0] for tensor in tensors)
    file = BytesIO(bytes(size))
    file.write(start)
    written = size
    for pieces in parts.values():
        pieces.reverse()
        while pieces:
            if written >= _GIVEN_BACK:
                give_back(size)
                written = 0
            written += file.write(pieces.pop())
    content = file.getvalue()
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


def _load_header(file: File, subject: str) -> dict[str, Json]:
    return load(
        file.metadata[0][1].encode("utf-8", "surrogatepass"), subject=f"header of {subject}"
    )
