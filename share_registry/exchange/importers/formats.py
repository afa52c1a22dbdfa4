"""The table of formats, and the reading of a place in the one that its files are of.

`FORMATS` has one entry a format: what tells it by the content of its files, and what reads it. The
first that matches counts; what none matches is taken for an adapter of PEFT, whose reader says what
is missing. To add a format, write one module beside this one with these two functions, of which the
second ends in `assemble`, and add its entry before those that would match the same files.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from share_registry.errors import InvalidInputError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.adapter_files import Files, list_files, not_a_directory, text_of_path
from share_registry.exchange.attachments import TENSOR_FILE
from share_registry.exchange.base_config import BASE_CONFIG
from share_registry.exchange.config import CONFIG_FILE
from share_registry.exchange.importers.adapterhub import (
    LABEL as ADAPTERHUB,
    matches_adapterhub,
    read_adapterhub,
)
from share_registry.exchange.importers.contents import Contents
from share_registry.exchange.importers.diffusers_file import (
    LABEL as DIFFUSERS,
    matches_diffusers,
    read_diffusers,
)
from share_registry.exchange.importers.gguf_lora import (
    LABEL as GGUF,
    matches_gguf,
    read_gguf,
)
from share_registry.exchange.importers.kohya import LABEL as KOHYA, matches_kohya, read_kohya
from share_registry.exchange.importers.lorashare_store import (
    LABEL as LORASHARE,
    matches_lorashare,
    parts_of_lorashare,
    read_lorashare,
)
from share_registry.exchange.importers.mlx_lm import LABEL as MLX, matches_mlx, read_mlx
from share_registry.exchange.importers.peft_bin import LABEL as PEFT_BIN, never, read_peft_bin
from share_registry.exchange.importers.refused import REFUSED, RefusedFormat
from share_registry.exchange.importers.tinker import LABEL as TINKER, matches_tinker, read_tinker
from share_registry.exchange.importers.vlora_store import (
    LABEL as VLORA,
    matches_vlora,
    parts_of_vlora,
    read_vlora,
)
from share_registry.exchange.peft_directory import read_files
from share_registry.format.notes import Source
from share_registry.names import near_misses
from share_registry.outside.files import Kind, Outside

PEFT: Final = "peft"
# What lies in a directory that holds many adapters in a form of their own.
STORE_FILES: Final = frozenset({"subspace_meta.json", "share_config.json"})
# Other programs whose adapters are read as those of a format.
_SAME: Final = {
    "lycoris": "kohya",
    "sentence-transformers": PEFT,
    "torchtune": PEFT,
    "unsloth": PEFT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignFormat:
    """One format of another program.

    Attributes:
        name: What `format=` calls it.
        label: What messages call its adapters.
        matches: Tells by what lies at a place whether it is of this format.
        read: Reads it, given which of several adapters is meant (else None).
        has_parts: Whether a place may hold several adapters, or an adapter several parts.
        parts: Lists the adapters at a place, where each is an adapter of its own.
    """

    name: str
    label: str
    matches: Callable[[Contents], bool]
    read: Callable[[Contents, str | None], Adapter]
    has_parts: bool = False
    parts: Callable[[Contents], list[str]] | None = None


_TINKER: Final = ForeignFormat(
    name="tinker", label=TINKER, matches=matches_tinker, read=read_tinker
)
FORMATS: Final = (
    ForeignFormat(
        name="vlora",
        label=VLORA,
        matches=matches_vlora,
        read=read_vlora,
        has_parts=True,
        parts=parts_of_vlora,
    ),
    ForeignFormat(
        name="lorashare",
        label=LORASHARE,
        matches=matches_lorashare,
        read=read_lorashare,
        has_parts=True,
        parts=parts_of_lorashare,
    ),
    ForeignFormat(
        name="adapterhub", label=ADAPTERHUB, matches=matches_adapterhub, read=read_adapterhub
    ),
    ForeignFormat(name="peft-bin", label=PEFT_BIN, matches=never, read=read_peft_bin),
    ForeignFormat(
        name="kohya", label=KOHYA, matches=matches_kohya, read=read_kohya, has_parts=True
    ),
    _TINKER,
    ForeignFormat(name="gguf", label=GGUF, matches=matches_gguf, read=read_gguf),
    ForeignFormat(name="mlx-lm", label=MLX, matches=matches_mlx, read=read_mlx),
    ForeignFormat(
        name="diffusers",
        label=DIFFUSERS,
        matches=matches_diffusers,
        read=read_diffusers,
        has_parts=True,
    ),
)


def check_format(format: str) -> str:
    """Return the name of a format. Raises InvalidInputError."""
    names = [PEFT, *_SAME, *(each.name for each in FORMATS), *(each.name for each in REFUSED)]
    if format not in names:
        raise InvalidInputError(
            f"format {format[:80]!r} is unknown, expected one of {', '.join(names)}.",
            hint=near_misses(format, names),
        )
    return _SAME.get(format, format)


def read_place(
    path: Path, *, format: str | None = None, part: str | None = None, outside: Outside
) -> Adapter:
    """Read an adapter from a file or directory of this machine.

    Args:
        path: Where.
        format: The name of its format; None where its content tells.
        part: Which of several adapters there is meant.
        outside: The file system.

    Raises:
        InvalidInputError, NotFoundError, RefusedError: as the readers of the formats.
    """
    place = outside.absolute(Path(os.path.normpath(path)))
    is_file = outside.kind_behind(place) is Kind.FILE
    contents = open_file(place, outside) if is_file else open_folder(place, outside)
    chosen = _choose(contents, format)
    if is_file and chosen is None:
        raise not_a_directory(place)
    return _read(contents, chosen, part)


def read_contents(
    files: Files, source: Source, *, format: str | None = None, part: str | None = None
) -> Adapter:
    """Read an adapter from files, wherever they lie. Raises as `read_place`."""
    contents = Contents(files, source)
    return _read(contents, _choose(contents, format), part)


def format_of(contents: Contents) -> ForeignFormat | None:
    """Return the format of what lies at a place; None where it is PEFT's, or not known."""
    if _is_peft(contents):
        return _TINKER if matches_tinker(contents) else None
    return next((each for each in FORMATS if each.matches(contents)), None)


def refused_of(contents: Contents) -> tuple[str, RefusedFormat] | None:
    """Return the file that shows a format that is not read, and that format.

    None beside a config of PEFT, whose reader says what is missing.
    """
    if _is_peft(contents) or isinstance(contents.config.get("peft_type"), str):
        return None
    return next(
        (
            (name, kind)
            for kind in REFUSED
            for name in sorted(contents.files.sizes)
            if kind.matches(contents, name)
        ),
        None,
    )


def _is_peft(contents: Contents) -> bool:
    """Tell whether both files of PEFT are there: also where one is damaged, its reader says so."""
    files = contents.files
    return TENSOR_FILE in files.sizes and CONFIG_FILE in {*files.sizes, *files.others}


def open_file(path: Path, outside: Outside) -> Contents:
    """Return what there is to read of one file, and the configs beside it."""
    beside = {name: path.with_name(name) for name in (CONFIG_FILE, BASE_CONFIG)}
    places = {name: place for name, place in beside.items() if outside.exists(place)}
    # of a link that somebody names, what it leads to; reading itself follows none
    places[path.name] = outside.resolved(path)
    files = Files(
        sizes={name: outside.size(place) or 0 for name, place in places.items()},
        others=(),
        read=lambda name, limit: outside.read(places[name], limit=limit),
        read_beginning=lambda name, size: outside.read_beginning(places[name], size=size),
    )
    source = Source(kind="directory", location=text_of_path(path))
    return Contents(files, source, attaches=False)


def open_folder(path: Path, outside: Outside) -> Contents:
    """Return what there is to read of a directory. Raises as `read_place`."""
    source = Source(kind="directory", location=text_of_path(path))
    return Contents(list_files(path, outside), source)


def _choose(contents: Contents, format: str | None) -> ForeignFormat | None:
    """Return the format that is asked for, else the one that the content tells; None for PEFT's."""
    if format is None:
        chosen = format_of(contents)
        if chosen is None and (refused := refused_of(contents)) is not None:
            file, kind = refused
            raise kind.error(contents, file)
        return chosen
    name = check_format(format)
    for kind in REFUSED:
        if kind.name == name:
            raise kind.error(contents, next(iter(sorted(contents.files.sizes)), ""))
    return next((each for each in FORMATS if each.name == name), None)


def _read(contents: Contents, chosen: ForeignFormat | None, part: str | None) -> Adapter:
    if part is not None and not (chosen is not None and chosen.has_parts):
        raise InvalidInputError(
            f"adapter_name {part!r} is given for {contents.source.location!r}: it only applies to"
            " live PEFT models, and to files that hold several adapters.",
            hint="Leave it out, or give the model.",
        )
    if chosen is None:
        return read_files(contents.files, source=contents.source)
    return chosen.read(contents, part)
