"""Look for adapters below a directory.

A folder with a config of PEFT is one, and so is a folder that a format of another program knows as
a whole. In any other folder each file that a format knows is one of its own. Files are told by
their content: of those with an ending that files of adapters have, the beginning is read.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from share_registry.errors import RefusedError, StoreError
from share_registry.exchange.config import CONFIG_FILE
from share_registry.exchange.importers.formats import (
    STORE_FILES,
    format_of,
    open_file,
    open_folder,
    refused_of,
)
from share_registry.exchange.places import SourcePlace
from share_registry.outside.files import Kind, Outside

_CANDIDATE: Final = re.compile(
    r"[^.].*\.(safetensors|gguf|h5|onnx_adapter|pt|pth|lora|bin|ckpt|npz)", re.IGNORECASE
)


def places_below(folder: Path, *, outside: Outside) -> list[SourcePlace]:
    """Return the adapters in a directory and below it, by path. Raises StoreError."""
    if outside.exists(folder / CONFIG_FILE):
        return [SourcePlace(str(folder))]
    return sorted(_search(folder, outside), key=lambda place: Path(place.path))


def refusal_of(place: SourcePlace, *, outside: Outside) -> RefusedError | None:
    """Return why a place is not read, where it is a file of a format that never is."""
    path = Path(place)
    if outside.kind(path) is not Kind.FILE:
        return None
    contents = open_file(path, outside)
    shown = refused_of(contents) if format_of(contents) is None else None
    if shown is None:
        return None
    name, kind = shown
    return kind.error(contents, name)


def _search(folder: Path, outside: Outside) -> Iterator[SourcePlace]:
    try:
        names = outside.names(folder)
    except StoreError:
        # what reads it says why it cannot be read, and the others go on
        yield SourcePlace(str(folder))
        return
    kinds = {name: outside.kind(folder / name) for name in names}
    if {*kinds} & STORE_FILES and (parts := _parts(folder, outside)):
        yield from (SourcePlace(str(folder), part=part) for part in parts)
        return
    if CONFIG_FILE in kinds:
        yield SourcePlace(str(folder))
    else:
        for name, kind in kinds.items():
            if kind is Kind.FILE and _CANDIDATE.fullmatch(name):
                yield from _in_file(folder / name, outside)
    for name, kind in kinds.items():
        if kind is Kind.DIRECTORY:
            yield from _search(folder / name, outside)


def _parts(folder: Path, outside: Outside) -> list[str]:
    """Return the adapters of a store of many; none where it is no store."""
    contents = open_folder(folder, outside)
    chosen = format_of(contents)
    return chosen.parts(contents) if chosen is not None and chosen.parts is not None else []


def _in_file(path: Path, outside: Outside) -> Iterator[SourcePlace]:
    contents = open_file(path, outside)
    if format_of(contents) is not None or refused_of(contents) is not None:
        yield SourcePlace(str(path))
