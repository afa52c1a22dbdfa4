"""The file of a binary object (spec OBJ-04, OBJ-05).

Canonical safetensors with one metadata member of canonical JSON and a fixed list of U8 tensors.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from share_registry.format.canonical import Json, dump, load, require
from share_registry.format.layout import DType
from share_registry.format.safetensors_file import File, Item, is_canonical, read, write

KEY: Final = "share_registry"


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


def _load_header(file: File, subject: str) -> dict[str, Json]:
    return load(
        file.metadata[0][1].encode("utf-8", "surrogatepass"), subject=f"header of {subject}"
    )
