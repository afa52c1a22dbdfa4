"""What may be handed to `commit`.

A directory, a Hub reference, a live PEFT model, or an adapter in memory.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from share_registry.errors import InvalidInputError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import derive_task
from share_registry.exchange.export_files import tensor_file
from share_registry.exchange.factor_pairs import check_range
from share_registry.exchange.peft_directory import adapter_of, read_directory
from share_registry.exchange.scales import module_scales
from share_registry.format.canonical import sha256
from share_registry.format.records import Source
from share_registry.names import TaskName, task_name

if TYPE_CHECKING:
    from share_registry.outside.files import Outside

HUB: str = "hf://"


Loaded = tuple[TaskName, Adapter, bool]
"""The task name, the adapter, and whether the name was derived from the source's."""


def load(source: Any, *, task: str | None, adapter_name: str | None, outside: "Outside") -> Loaded:
    """Read an adapter from wherever it is.

    Raises:
        InvalidInputError: nothing that can be committed, or no task name where none can be derived.
        NotFoundError, RefusedError: as the readers of `exchange`.
    """
    found = _load(source, task=task, adapter_name=adapter_name, outside=outside)
    adapter = found[1]
    check_range(adapter.layout, adapter.tensors, module_scales(adapter.config, adapter.layout))
    return found


def _load(source: Any, *, task: str | None, adapter_name: str | None, outside: "Outside") -> Loaded:
    named = task_name(task) if task is not None else None
    live = hasattr(source, "peft_config") and hasattr(source, "state_dict")
    if adapter_name is not None and not live:
        raise InvalidInputError(
            f"adapter_name {adapter_name!r} is given for {_shown(source)}: it only applies to live PEFT models.",
            hint="Leave it out, or hand in the model.",
        )
    if isinstance(source, Adapter):
        return _required(named, "an Adapter in memory"), _in_memory(source), False
    if isinstance(source, str | os.PathLike):
        return _from_place(os.fspath(source), named, outside)
    if live:
        from share_registry.exchange.peft_model import read_model

        wanted = _required(named, "a live PEFT model")
        return wanted, read_model(source, adapter_name=adapter_name), False
    raise InvalidInputError(
        f"a {type(source).__name__} cannot be committed.",
        hint="Hand in a PEFT directory, hf://owner/repo[@revision], a peft.PeftModel or an Adapter.",
    )


def is_directory(source: Any) -> bool:
    """Tell whether a source is a place on this machine, which can be read again."""
    return isinstance(source, str | os.PathLike) and not os.fspath(source).startswith(HUB)


def _in_memory(adapter: Adapter) -> Adapter:
    """Return an adapter as what it is now.

    Its tensors may have been changed since it was read, and a checked out one is not what was
    committed.
    """
    metadata = [(entry.name, entry.value) for entry in adapter.layout.metadata]
    tensors = {key: tensor.detach().cpu() for key, tensor in adapter.tensors.items()}
    made = adapter_of(
        tensors, adapter.config_bytes, metadata=metadata, attachments=adapter.attachments
    )
    if made.source_digest == adapter.source_digest:
        return adapter
    source = Source(kind="adapter", location=f"{adapter.ref}, checked out" if adapter.ref else "")
    return replace(
        made,
        source=source,
        basis=adapter.basis,
        parent=adapter.ref or adapter.parent,
        tensors_digest=sha256(tensor_file(made.layout, made.tensors)),
    )


def _from_place(place: str, named: TaskName | None, outside: "Outside") -> Loaded:
    if place.startswith(HUB):
        from share_registry.exchange.hub import read_hub

        adapter = read_hub(place, outside=outside)
        return (
            named if named is not None else derive_task(adapter.source.location),
            adapter,
            named is None,
        )
    adapter = read_directory(Path(place), outside=outside)
    return (
        named if named is not None else derive_task(adapter.source.location),
        adapter,
        named is None,
    )


def _shown(source: Any) -> str:
    return (
        repr(os.fspath(source))
        if isinstance(source, str | os.PathLike)
        else f"a {type(source).__name__}"
    )


def _required(named: TaskName | None, what: str) -> TaskName:
    if named is None:
        raise InvalidInputError(
            f"{what} has no name a task could be called by.", hint="Give task=."
        )
    return named
