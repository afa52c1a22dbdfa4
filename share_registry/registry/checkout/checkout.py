"""A task version out of the store, as an adapter in memory."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import torch

from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.name_claims import claims_of_reference
from share_registry.catalog.queries.resolution import version_of
from share_registry.errors import (
    IntegrityError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.adapter_files import Files
from share_registry.exchange.config import MAX_CONFIG_BYTES
from share_registry.exchange.peft_directory import read_files
from share_registry.exchange.tensors import TORCH, check_no_overflow
from share_registry.format.canonical import parse_foreign
from share_registry.format.layout import Layout
from share_registry.format.notes import FileEntry, Note, Source, TaskNote
from share_registry.materialize.device import device_of, dtype_of
from share_registry.materialize.tensors_in_turn import TensorsInTurn
from share_registry.names import SpaceName
from share_registry.registry.context import Context
from share_registry.registry.evidence import (
    check_config,
    require_base,
    require_given,
    require_recorded,
)
from share_registry.registry.log_entries import read_note
from share_registry.registry.stored_config import lost_file, read_config, without_note
from share_registry.values.task_version import TaskVersion

_MAX_FILE_BYTES: Final = 4 << 30
# Where an adapter came from whose note does not say it.
_UNKNOWN: Final = Source(kind="adapter", location="")


@one_thread()
def checkout(
    context: Context,
    ref: str,
    *,
    space: str | None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    exact: bool = False,
) -> Adapter:
    """Rebuild one task version in memory.

    Args:
        context: The registry.
        ref: A task version.
        space: Space of a reference that names none.
        device: Where the tensors shall be; the values are the same on every device.
        dtype: Floating dtype of the tensors; None keeps each tensor's own.
        exact: The adapter as it was committed, bit for bit.

    Raises:
        NotFoundError: the version is not there, or what described it was purged.
        RefusedError: `exact` where the original was not kept; a value is more than `dtype` holds.
        IntegrityError: stored bytes are not what was committed.
    """
    target_dtype, target_device = dtype_of(dtype), device_of(device)
    row, note = version_and_note(context, ref, space)
    if not exact or row.error == 0:
        adapter = rebuild(context, row, note, device=target_device)
    elif note.original:
        adapter = read_original(context, row, note)
    else:
        raise RefusedError(
            f"{row.ref}: the original was not kept; what is stored has error {row.error:.3g}.",
            hint="Commit with keep_original=True (or budget=0) to keep every bit, "
            "or check out without exact=True.",
        )
    return _convert(adapter, target_device, target_dtype)


def version_and_note(context: Context, ref: str, space: str | None) -> tuple[TaskVersion, TaskNote]:
    """Return the version that a reference names, and the part of its note that describes it."""
    with context.reading() as session:
        row = version_of(session, ref, space=space)
        claims = claims_of_reference(session, ref, space=space, present=row.task)
    context.store.read_ahead(row.objects)
    require_given(context, claims)
    require_recorded(context, [row])
    note = read_task_note(context, row)
    check_config(row, note)
    return row, note


def read_task_note(context: Context, row: TaskVersion) -> TaskNote:
    """Return the part of a note that describes a version. Raises as `task_note`."""
    return task_note(read_note(context.store, row.note_digest), row)


def task_note(note: Note | None, row: TaskVersion) -> TaskNote:
    """Return the part of a note, None where it is gone, that describes a version.

    Raises UndescribedError where it is lost, NotFoundError where it was purged.
    """
    if note is None:
        raise without_note(row)
    return note.of(row.note_task)


def rebuild(context: Context, row: TaskVersion, note: TaskNote, *, device: str = "cpu") -> Adapter:
    """Return a version as stored, with its tensors on a device.

    Raises NotFoundError, IntegrityError.
    """
    reader = context.reader()
    layout = reader.open(row.adapter_digest).layout
    tensors = reader.tensors(row.adapter_digest, device)
    return replace(describe(context, row, note, layout), tensors=tensors)


def rebuild_in_turn(context: Context, row: TaskVersion, note: TaskNote) -> Adapter:
    """Return a version as stored, whose tensors are decoded when they are asked for.

    For one that is gone through in the order of its file. Raises NotFoundError, IntegrityError;
    what is damaged may be found at its tensors alone.
    """
    decoded = context.reader().in_groups(row.adapter_digest, keep=False)
    return replace(describe(context, row, note, decoded.layout), tensors=TensorsInTurn(decoded))


def read_original(context: Context, row: TaskVersion, note: TaskNote) -> Adapter:
    """Return the adapter that a version was committed from; the note names its files."""
    entries = {entry.name: entry for entry in [*note.original, *note.attachments]}
    files = Files(
        sizes={name: entry.size for name, entry in entries.items()},
        others=(),
        read=lambda name, limit: _read_file(context, row, entries[name], limit=limit),
    )
    return replace(
        read_files(files, source=note.source or _UNKNOWN),
        attachments=_read_attachments(context, row, note.attachments),
        source_digest=row.source_digest,
        ref=row.ref,
        error=0.0,
    )


def describe(context: Context, row: TaskVersion, note: TaskNote, layout: Layout) -> Adapter:
    """Return a version without its tensors.

    Raises as `read_config`.
    """
    config_bytes = read_config(context, row)
    return Adapter(
        tensors={},
        config=parse_foreign(config_bytes, subject=f"config of {row.ref}", limit=MAX_CONFIG_BYTES),
        config_bytes=config_bytes,
        layout=layout,
        attachments=_read_attachments(context, row, note.attachments),
        source=note.source or _UNKNOWN,
        source_digest=row.source_digest,
        raw_bytes=row.raw_bytes,
        remarks=tuple(note.remarks),
        ref=row.ref,
        error=row.error,
    )


def is_narrowing(layout: Layout, dtype: torch.dtype | None) -> bool:
    """Tell whether a floating dtype cannot hold every value of a layout's floating tensors."""
    return dtype is not None and any(
        kind.is_floating_point and torch.promote_types(kind, dtype) != dtype
        for kind in {TORCH[spec.dtype] for spec in layout.tensors}
    )


def without_error(adapter: Adapter) -> Adapter:
    """Return an adapter whose numbers were narrowed since its error was measured."""
    remark = "the numbers are narrower than those that the recorded error was measured on."
    return replace(adapter, error=None, remarks=(*adapter.remarks, remark))


def _read_attachments(
    context: Context, row: TaskVersion, entries: Iterable[FileEntry]
) -> dict[str, bytes]:
    return {entry.name: _read_file(context, row, entry, limit=_MAX_FILE_BYTES) for entry in entries}


def _read_file(context: Context, row: TaskVersion, entry: FileEntry, *, limit: int) -> bytes:
    try:
        content = context.store.get(entry.object, limit=limit)
    except NotFoundError as error:
        raise lost_file(row, f"file {entry.name!r}, object {entry.object},") from error
    # spec NOT-04
    ensure(
        len(content) == entry.size,
        IntegrityError(
            f"file {entry.name!r} has {len(content)} bytes, expected {entry.size}.",
            hint="Run verify with level 'deep'.",
        ),
    )
    return content


def _convert(adapter: Adapter, device: str, dtype: torch.dtype | None) -> Adapter:
    tensors = {}
    for key, tensor in adapter.tensors.items():
        target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        tensors[key] = tensor.to(device=device, dtype=target)
        if target != tensor.dtype:
            check_no_overflow(key, tensors[key])
    converted = replace(adapter, tensors=tensors)
    return without_error(converted) if is_narrowing(adapter.layout, dtype) else converted


def base_label(context: Context, space: SpaceName) -> str:
    """Return the label of a space's base model, "" for none. Raises IntegrityError."""
    with context.catalog.begin() as session:
        base = lookups.space_row(session, space)
    base_model = base.base_model if base is not None else ""
    require_base(context, space, base_model)
    return base_model
