"""What lies at a place, read as far as telling its format needs.

Of a file of tensors that is the header, which says keys and shapes. Whoever then reads an adapter
from it reads the whole file, once.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import torch

from share_registry.errors import (
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.exchange.adapter_files import (
    MAX_TENSOR_FILE_BYTES,
    Files,
    attached_files,
    read_file,
)
from share_registry.exchange.config import CONFIG_FILE, MAX_CONFIG_BYTES
from share_registry.exchange.tensors import check_finite, tensor_of
from share_registry.format import safetensors_file
from share_registry.format.canonical import parse_foreign
from share_registry.format.notes import Source
from share_registry.format.safetensors_file import MAX_HEADER_BYTES

_LENGTH_BYTES: Final = 8
# What the files of a place are searched for: enough for the marks that files begin with.
MARK_BYTES: Final = 64
# What is computed may have so many elements, and so many for each one that it is computed from
_ALWAYS_ELEMENTS: Final = 1 << 26
_TIMES: Final = 64
# What a file is not what was looked for raises; that it cannot be read at present says nothing
_NOT_SUCH: Final = (
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHeader:
    """What the header of a safetensors file says.

    Attributes:
        metadata: Its entries of text.
        shapes: Key -> shape.
    """

    metadata: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTensors:
    """The tensors of one file, finite, and the entries of its header."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, torch.Tensor] = field(repr=False)


class Contents:
    """The files at a place; what was read of them is kept.

    Args:
        files: The files.
        source: Where they are.
        attaches: Whether other files there belong to the adapter, as in a directory of its own.
    """

    def __init__(self, files: Files, source: Source, *, attaches: bool = True) -> None:
        self.files = files
        self.source = source
        self._attaches = attaches
        self._headers: dict[str, FileHeader | None] = {}

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """What adapter_config.json says; empty where there is none, or it is not valid."""
        return self.json_of(CONFIG_FILE)

    def json_of(self, name: str) -> Mapping[str, Any]:
        """Return what a JSON file says; empty where there is none, or it is not valid."""
        if not 0 < self.files.sizes.get(name, 0) <= MAX_CONFIG_BYTES:
            return {}
        try:
            return parse_foreign(
                self.files.read(name, MAX_CONFIG_BYTES), subject=name, limit=MAX_CONFIG_BYTES
            )
        except _NOT_SUCH:
            return {}

    def below(self, name: str) -> "Contents | None":
        """Return what lies in a sub-directory; None where there is none of that name."""
        if name not in self.files.others or self.files.open_folder is None:
            return None
        return Contents(self.files.open_folder(name), self.source)

    def source_of(self, part: str) -> Source:
        """Return where one of several adapters of a place lies: as if in a folder of its name."""
        location = f"{self.source.location}/{part}"
        return self.source.model_copy(update={"location": location})

    def mark(self, name: str) -> bytes:
        """Return the first bytes of a file."""
        try:
            return self.files.beginning(name, MARK_BYTES)
        except _NOT_SUCH:
            return b""

    def header(self, name: str) -> FileHeader | None:
        """Return the header of a safetensors file; None for any other file."""
        if name not in self._headers:
            self._headers[name] = self._read_header(name)
        return self._headers[name]

    def tensor_files(self, fits: Callable[[FileHeader], bool]) -> list[str]:
        """Return the safetensors files whose header fits, by name."""
        headers = ((name, self.header(name)) for name in sorted(self.files.sizes))
        return [name for name, header in headers if header is not None and fits(header)]

    def load(self, name: str) -> LoadedTensors:
        """Read the tensors of a safetensors file.

        Raises InvalidInputError where it is damaged, or a value is not finite.
        """
        try:
            content = read_file(self.files, name, MAX_TENSOR_FILE_BYTES)
            parsed = safetensors_file.read(content, subject=name)
        except IntegrityError as error:
            raise InvalidInputError(
                error.message,
                hint="The file is damaged, or of element types that adapters do not have: copy it"
                " again, or convert it.",
            ) from error
        tensors = {item.key: tensor_of(item) for item in parsed.tensors}
        check_finite(tensors)
        return LoadedTensors(metadata=dict(parsed.metadata), tensors=tensors)

    def attached(self, consumed: Iterable[str]) -> tuple[dict[str, bytes], list[str]]:
        """Return the small files beside an adapter, and a remark on those that are not kept.

        Args:
            consumed: The files that the adapter itself was read from.
        """
        if not self._attaches:
            return {}, []
        return attached_files(self.files, consumed, keeps_tensors=False)

    def _read_header(self, name: str) -> FileHeader | None:
        size = self.files.sizes[name]
        try:
            length = int.from_bytes(self.files.beginning(name, _LENGTH_BYTES), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - _LENGTH_BYTES):
                return None
            content = self.files.beginning(name, _LENGTH_BYTES + length)[_LENGTH_BYTES:]
            if not content.startswith(b"{"):
                return None
            entries = parse_foreign(
                content, subject=name, limit=MAX_HEADER_BYTES, longest=MAX_HEADER_BYTES
            )
        except _NOT_SUCH:
            return None
        metadata = entries.pop("__metadata__", None)
        shapes = {key: _shape(entry) for key, entry in entries.items()}
        return FileHeader(
            metadata={str(key): str(value) for key, value in metadata.items()}
            if isinstance(metadata, dict)
            else {},
            shapes=shapes,
        )


def check_growth(subject: str, elements: int, operands: int) -> None:
    """Check that a computed tensor stands in a proportion to what it is computed from.

    A product of two thin matrices may be as large as anybody likes.

    Args:
        subject: What it is, for the message.
        elements: How many it will have.
        operands: How many it is computed from.

    Raises InvalidInputError.
    """
    most = max(_ALWAYS_ELEMENTS, _TIMES * operands)
    ensure(
        elements <= most,
        InvalidInputError(
            f"{subject} would have {elements} elements made of {operands}, expected at most "
            f"{most}.",
            hint="The file is damaged, or no adapter: save it again.",
        ),
    )


def only(names: list[str], usual: Iterable[str], contents: Contents, label: str) -> str:
    """Return the one file of a format that is meant.

    Args:
        names: The files that are of the format.
        usual: Names that the format's own program gives; the first that is there counts.
        contents: What lies there.
        label: What the format is called.

    Raises InvalidInputError where there is none, or which of several is meant is not clear.
    """
    place = contents.source.location
    ensure(
        names,
        InvalidInputError(
            f"{place} has no file that is {label}.",
            hint="Give the file or directory that its program wrote, or leave the format out.",
        ),
    )
    name = next((name for name in usual if name in names), None)
    if name is None and len(names) > 1:
        raise InvalidInputError(
            f"{place} has {len(names)} files that are {label}: {', '.join(names[:8])}.",
            hint=f"Give one of them, such as {place}/{names[0]}.",
        )
    return names[0] if name is None else name


def which_part(parts: list[str], part: str | None, contents: Contents, label: str) -> str:
    """Return which of several adapters at a place is meant.

    Raises InvalidInputError where that is not clear, or there is none of that name.
    """
    place = contents.source.location
    chosen = parts[0] if part is None and len(parts) == 1 else part
    if chosen is None or chosen not in parts:
        problem = "which is meant is not said" if chosen is None else f"none is {chosen!r}"
        raise InvalidInputError(
            f"{place} is {label} with {len(parts)} adapters, and {problem}:"
            f" {', '.join(parts[:8])}{' ...' if len(parts) > 8 else ''}.",
            hint="Name one as adapter_name, or import the directory: each becomes a task.",
        )
    return chosen


def _shape(entry: Any) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    is_shape = isinstance(shape, list) and all(type(size) is int for size in shape)
    return tuple(shape) if is_shape and shape is not None else ()
