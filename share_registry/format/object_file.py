"""The file of a binary object.

Canonical safetensors with one metadata member of canonical JSON and a fixed list of U8 tensors
(spec OBJ-04, OBJ-05).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from share_registry.errors import IntegrityError
from share_registry.format.canonical import Json, dump, load
from share_registry.format.layout import DType
from share_registry.format.safetensors_file import Item, is_canonical, read, write

KEY: Final = "share_registry"


def pack(described: Json, parts: Mapping[str, bytes]) -> bytes:
    """Return the file with this metadata and these tensors, in the order given."""
    return write(
        [(KEY, dump(described).decode())],
        [
            Item(key=key, dtype=DType.U8, shape=(len(part),), content=part)
            for key, part in parts.items()
        ],
    )


def unpack(
    content: bytes, keys: Sequence[str], *, what: str
) -> tuple[dict[str, Json], dict[str, memoryview]]:
    """Return metadata and tensors of a file that must be the canonical one of just these.

    Raises IntegrityError.
    """
    file = read(content, what=what)
    if [name for name, _ in file.metadata] != [KEY] or [
        (item.key, item.dtype, len(item.shape)) for item in file.tensors
    ] != [(key, DType.U8, 1) for key in keys]:
        raise IntegrityError(
            f"{what} has other metadata or tensors than {KEY!r} and {', '.join(keys)}."
        )
    if not is_canonical(content, file):
        raise IntegrityError(f"{what} is not in canonical form.")
    return load(file.metadata[0][1].encode("utf-8", "surrogatepass"), what=f"header of {what}"), {
        item.key: memoryview(item.content) for item in file.tensors
    }


def description(content: bytes, *, what: str) -> dict[str, Json]:
    """Return the description of a binary object, whatever its parts. Raises IntegrityError."""
    metadata = read(content, what=what).metadata
    if [name for name, _ in metadata] != [KEY]:
        raise IntegrityError(f"{what} has other metadata than {KEY!r}.")
    return load(metadata[0][1].encode("utf-8", "surrogatepass"), what=f"header of {what}")
