"""Adapters as factor pairs, without their other files: stored ones, and whatever can be read."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from share_registry import kinds
from share_registry.algebra.error import FactorPair
from share_registry.catalog.queries.name_claims import claims_of_reference
from share_registry.catalog.queries.resolution import version_of
from share_registry.errors import InvalidInputError, NotFoundError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import base_of
from share_registry.exchange.config import (
    CONFIG_FILE,
    parse_config,
)
from share_registry.exchange.load import check_kind, load
from share_registry.exchange.normal_form import function_pairs, pairs_of_function
from share_registry.exchange.places import SCHEME
from share_registry.exchange.selection import module_scales
from share_registry.format.layout import Layout
from share_registry.kinds import member_of, shown
from share_registry.outside.files import Kind, Outside
from share_registry.registry.arguments import Progress
from share_registry.registry.context import Context
from share_registry.registry.evidence import require_given, require_recorded
from share_registry.registry.stored_config import read_config
from share_registry.values.task_version import TaskVersion

# Adapter folders are looked for so many levels below the folder given.
_DEEPEST: Final = 4
_UNNAMED: Final = "adapter"
_HINT: Final = (
    "Give a mapping of names to PEFT directories (or Adapters, or live PEFT models), "
    "a list of directories, or a folder with some below it."
)
_sources: Final = kinds.several(lambda _, source: check_kind(source), "adapters", _HINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoredAdapter:
    """One adapter under a name: its modules as factor pairs, and the layout they come from.

    Attributes:
        base: Label of its base model, "" where it names none.
    """

    name: str
    layout: Layout
    pairs: tuple[FactorPair, ...]
    base: str

    @property
    def parameters(self) -> int:
        """Elements of all factors."""
        return sum(pair.a.numel() + pair.b.numel() for pair in self.pairs)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the factors' tensors."""
        return sum(
            self.layout.tensors[index].size_bytes
            for factor in self.layout.factors
            for index in (factor.a, factor.b)
        )


def read_factored(context: Context, row: TaskVersion) -> FactoredAdapter:
    """Return a task version as it is stored; passengers and attachments are not read.

    Raises NotFoundError, IntegrityError.
    """
    require_recorded(context, [row])
    reader = context.reader()
    config = parse_config(read_config(context, row))
    layout = reader.open(row.adapter_digest).layout
    rows = zip(
        layout.modules(),
        reader.rows(row.adapter_digest),
        module_scales(config, layout),
        strict=True,
    )
    pairs = [
        FactorPair(module=shape.module, a=a.double(), b=b.double(), scale=scale)
        for shape, (a, b), scale in rows
    ]
    return FactoredAdapter(
        name=row.ref,
        layout=layout,
        pairs=tuple(function_pairs(config, layout, pairs)),
        base=base_of(config).label,
    )


def read_version(
    context: Context, ref: str, *, space: str | None
) -> tuple[FactoredAdapter, TaskVersion]:
    """Read the version that a reference means, as it is stored.

    Raises as `resolve_version` and `read_factored`.
    """
    with context.reading() as session:
        row = version_of(session, ref, space=space)
        claims = claims_of_reference(session, ref, space=space, present=row.task)
    require_given(context, claims)
    return read_factored(context, row), row


def read_adapter(name: str, source: Any, *, task: str, outside: Outside) -> FactoredAdapter:
    """Read one adapter under a name, its factors on the CPU."""
    adapter = load(source, task=task, adapter_name=None, outside=outside)[1]
    adapter = replace(adapter, tensors={key: item.cpu() for key, item in adapter.tensors.items()})
    return FactoredAdapter(
        name=name,
        layout=adapter.layout,
        pairs=tuple(pairs_of_function(adapter)),
        base=base_of(adapter.config).label,
    )


def read_subject(subject: Any, *, outside: Outside, progress: Progress) -> list[FactoredAdapter]:
    """Read the adapters of a collection, in its order.

    Args:
        subject: Name -> directory, file, Adapter or PEFT model; a list of directories and files or
            of Adapters; one file; or a folder that holds adapter folders.
        outside: The file system.
        progress: See `Progress`.

    Raises:
        InvalidInputError: nothing that adapters can be read from.
        NotFoundError: a directory is not there, or holds no adapter.
        RefusedError: as for a commit.
    """
    sources = _by_name(subject, outside)
    ensure(sources, InvalidInputError("there is no adapter to analyse.", hint=_HINT))
    adapters = []
    for done, (name, source) in enumerate(sources.items(), start=1):
        progress(f"reading {name}", done, len(sources))
        adapters.append(read_adapter(name, source, task=_UNNAMED, outside=outside))
    return adapters


def _by_name(subject: Any, outside: Outside) -> dict[str, Any]:
    if isinstance(subject, Mapping):
        return {_name(name): source for name, source in subject.items()}
    if isinstance(subject, str | os.PathLike) and not os.fspath(subject).startswith(SCHEME):
        place = outside.absolute(Path(subject))
        # one file of another program is one adapter
        is_file = outside.kind(place) is Kind.FILE
        return _by_shortest_name(
            [place] if is_file else list(_folders(place, outside)), str(subject)
        )
    if isinstance(subject, Adapter | str) or member_of(subject, "peft_config"):
        return {_UNNAMED: subject}
    sources = _sources("subject", subject)
    if sources and all(isinstance(source, str | os.PathLike) for source in sources):
        return _by_shortest_name([Path(source) for source in sources], "the list")
    return {f"{_UNNAMED}-{number}": source for number, source in enumerate(sources, start=1)}


def _name(name: object) -> str:
    return name if isinstance(name, str) else shown(name)


def _by_shortest_name(folders: list[Path], where: str) -> dict[str, Any]:
    """Return folders by the shortest tails of their paths that tell them apart."""
    ensure(
        folders,
        NotFoundError(
            f"there is no adapter in {where}.",
            hint=f"An adapter is a folder with {CONFIG_FILE} and its safetensors file.",
        ),
    )
    ensure(
        len(set(folders)) == len(folders),
        InvalidInputError(f"{where} names a folder twice.", hint="Give every adapter once."),
    )
    parts = 1
    while len({folder.parts[-parts:] for folder in folders}) < len(folders):
        parts += 1
    return {"/".join(folder.parts[-parts:]): str(folder) for folder in folders}


def _folders(folder: Path, outside: Outside, depth: int = 0) -> Iterator[Path]:
    ensure(
        outside.kind(folder) is Kind.DIRECTORY,
        NotFoundError(f"there is no directory {folder}.", hint=_HINT),
    )
    names = outside.names(folder)
    if CONFIG_FILE in names:
        yield folder
    elif depth < _DEEPEST:
        for name in names:
            if outside.kind(folder / name) is Kind.DIRECTORY:
                yield from _folders(folder / name, outside, depth + 1)
