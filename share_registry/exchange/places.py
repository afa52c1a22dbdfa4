"""Where an adapter lies: in a directory of this machine, or on the Hugging Face Hub."""

import os
from dataclasses import dataclass, replace
from typing import Any, Final

from share_registry.kinds import wrong_kind

SCHEME: Final = "hf://"


def is_place(source: Any) -> bool:
    """Tell whether a source is a place, and no adapter in memory."""
    return isinstance(source, str | os.PathLike)


def is_on_hub(source: Any) -> bool:
    """Tell whether a source is a location on the Hub."""
    return is_place(source) and os.fspath(source).startswith(SCHEME)


def is_directory(source: Any) -> bool:
    """Tell whether a source is a place on this machine, which can be read again."""
    return is_place(source) and not is_on_hub(source)


@dataclass(frozen=True, slots=True)
class SourcePlace(os.PathLike[str]):
    """A place, and what is said of the files there.

    Attributes:
        path: Where.
        format: What they are; None where their content tells.
        part: Which of several adapters there is meant.
    """

    path: str
    format: str | None = None
    part: str | None = None

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path if self.part is None else f"{self.path}:{self.part}"


def place_of(source: Any) -> SourcePlace:
    """Return what is said of a place."""
    return source if isinstance(source, SourcePlace) else SourcePlace(os.fspath(source))


def with_format(source: Any, format: str | None) -> Any:
    """Return a source with what its files are said to be.

    Raises InvalidInputError where it is no place.
    """
    if format is None:
        return source
    if not is_place(source):
        raise wrong_kind(
            "format",
            format,
            f"none for a {type(source).__name__}, which has no files",
            "Leave it out.",
        )
    part = source.part if isinstance(source, SourcePlace) else None
    return SourcePlace(os.fspath(source), format=format, part=part)


def at_path(source: Any, path: str) -> Any:
    """Return a place by another path, with what was said of its files."""
    return replace(source, path=path) if isinstance(source, SourcePlace) else path
