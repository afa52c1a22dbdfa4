"""Load what can be committed: a directory, a Hub location, a live model or an adapter in memory.

`IMPORTERS` is the table of what is understood; the first entry that matches a source reads it. What
the files at a place are, `importers.formats` says. To add another kind of source, write one module
of `exchange` with one function that reads it and ends in `adapter_of` (tensors and a config) or
`read_contents` (files, wherever they lie), so that every source passes the same checks. Import what
it needs inside that function: the table is loaded with every commit. Then add one entry here,
before the entries that would match the same sources.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from share_registry.errors import InvalidInputError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import derive_task
from share_registry.exchange.export_files import digest_of_file
from share_registry.exchange.hub import read_hub
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.peft_directory import adapter_of
from share_registry.exchange.peft_model import read_model, unwrap
from share_registry.exchange.places import is_on_hub, is_place, place_of
from share_registry.exchange.selection import module_scales
from share_registry.exchange.tensors import check_range
from share_registry.format.notes import Source
from share_registry.kinds import member_of
from share_registry.names import TaskName, task_name
from share_registry.outside.files import Outside

# The task name, the adapter, and whether the name was derived from the source's.
Loaded = tuple[TaskName, Adapter, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """One kind of source.

    Attributes:
        label: What messages call such a source.
        matches: Tells by type or text alone whether a source is of this kind; reads nothing.
        read: Reads it, given the adapter's name in a live model (else None) and the outside.
        names_task: Whether its location can name a task.
    """

    label: str
    matches: Callable[[Any], bool]
    read: Callable[[Any, str | None, Outside], Adapter]
    names_task: bool = False


def load(source: Any, *, task: str | None, adapter_name: str | None, outside: Outside) -> Loaded:
    """Read an adapter from wherever it is.

    Raises:
        InvalidInputError: nothing that can be committed, or no task name where none can be derived.
        NotFoundError, RefusedError: as the readers of `exchange`.
    """
    name = task_name(task) if task is not None else None
    if isinstance(source, Adapter) and adapter_name is not None:
        raise InvalidInputError(
            f"adapter_name {adapter_name!r} is given for an Adapter:"
            " it only applies to live PEFT models, and to files that hold several adapters.",
            hint="Leave it out, or give the model.",
        )
    importer = _importer_of(source)
    ensure(
        name is not None or importer.names_task,
        InvalidInputError(
            f"{importer.label} has no name a task could be called by.", hint="Give task=."
        ),
    )
    adapter = importer.read(source, adapter_name, outside)
    chosen = name if name is not None else derive_task(adapter.source.location)
    check_range(adapter.layout, adapter.tensors, module_scales(adapter.config, adapter.layout))
    return chosen, adapter, name is None


def check_kind(source: Any) -> Any:
    """Return what may be an adapter, by its type alone. Raises InvalidInputError."""
    _importer_of(source)
    return source


def _importer_of(source: Any) -> Importer:
    importer = next((importer for importer in IMPORTERS if importer.matches(source)), None)
    if importer is None:
        raise InvalidInputError(
            "there is no adapter: it is None."
            if source is None
            else f"adapter is of type {type(source).__name__}, which is no kind of adapter.",
            hint="Give a PEFT directory, hf://owner/repo[@revision], a peft.PeftModel"
            " or an Adapter.",
        )
    return importer


def _is_adapter(source: Any) -> bool:
    return isinstance(source, Adapter)


def _is_live_model(source: Any) -> bool:
    model = unwrap(source)
    return all(member_of(model, name) is not None for name in ("peft_config", "state_dict"))


def _read_hub(source: Any, adapter_name: str | None, outside: Outside) -> Adapter:
    place = place_of(source)
    part = adapter_name or place.part
    return read_hub(place.path, format=place.format, part=part, outside=outside)


def _read_place(source: Any, adapter_name: str | None, outside: Outside) -> Adapter:
    place = place_of(source)
    part = adapter_name or place.part
    return read_place(Path(place.path), format=place.format, part=part, outside=outside)


def _read_live_model(source: Any, adapter_name: str | None, _: Outside) -> Adapter:
    return read_model(source, adapter_name=adapter_name)


def _read_adapter(adapter: Any, _: str | None, __: Outside) -> Adapter:
    """Return an adapter as what it is now.

    Its tensors may have been changed since it was read, and a checked out one is not what was
    committed.
    """
    current = adapter_of(
        {key: tensor.detach().cpu() for key, tensor in adapter.tensors.items()},
        adapter.config_bytes,
        metadata=[(entry.name, entry.value) for entry in adapter.layout.metadata],
        attachments=adapter.attachments,
    )
    if current.source_digest == adapter.source_digest:
        return adapter  # type: ignore[no-any-return]
    return replace(
        current,
        source=Source(
            kind="adapter", location=f"{adapter.ref}, checked out" if adapter.ref else ""
        ),
        basis=adapter.basis,
        parent=adapter.ref or adapter.parent,
        tensors_digest=digest_of_file(current.layout, current.tensors),
    )


IMPORTERS: Final = (
    Importer(label="an Adapter in memory", matches=_is_adapter, read=_read_adapter),
    Importer(label="a Hub location", matches=is_on_hub, read=_read_hub, names_task=True),
    Importer(label="a place", matches=is_place, read=_read_place, names_task=True),
    Importer(label="a live PEFT model", matches=_is_live_model, read=_read_live_model),
)
