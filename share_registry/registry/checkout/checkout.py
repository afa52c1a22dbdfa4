"""Checkout and export.

From a reference to an adapter in memory, and to a directory that any PEFT loader reads.
"""

from dataclasses import replace
from typing import Final

import torch

from share_registry.catalog.queries.resolution import version_of
from share_registry.errors import NotFoundError, RefusedError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import parse_config
from share_registry.exchange.peft_directory import Files, read_files
from share_registry.exchange.tensors import TORCH, check_held
from share_registry.format.layout import Layout
from share_registry.format.records import Note, Source, TaskNote
from share_registry.materialize.device import device_of, dtype_of
from share_registry.registry.context import Context
from share_registry.registry.sync import read_note
from share_registry.values.task_version import TaskVersion

MAX_FILE_BYTES: Final = 4 << 30


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
        exact: The adapter as it was handed in, bit for bit.

    Raises:
        NotFoundError: the version or one of its objects is not there.
        RefusedError: `exact` where the original was not kept; a value is more than `dtype` holds.
        IntegrityError: stored bytes are not what was committed.
    """
    wanted, where = dtype_of(dtype), device_of(device)
    row, note = version_and_note(context, ref, space)
    adapter = (
        _original(context, row, note)
        if exact and row.error > 0
        else rebuilt_on(context, row, note, where)
    )
    return _moved(adapter, where, wanted)


def rebuilt(context: Context, row: TaskVersion) -> Adapter:
    """Return a version that the catalog knows, as stored. Raises NotFoundError, IntegrityError."""
    return rebuilt_on(context, row, note_of(context, row), "cpu")


def original(context: Context, row: TaskVersion) -> Adapter | None:
    """Return the adapter that a version was committed from, where its files were kept."""
    note = note_of(context, row)
    return _original(context, row, note) if note.original else None


def note_of(context: Context, row: TaskVersion) -> TaskNote:
    """Return what the note of a version says of it. Raises NotFoundError."""
    return said_of(read_note(context.store, row.note_digest), row)


def said_of(note: Note | None, row: TaskVersion) -> TaskNote:
    """Return what a note, if it is there, says of a version. Raises NotFoundError."""
    if note is None:
        raise NotFoundError(
            f"{row.ref}: its note, and with it the config, is not in the store.", hint="Run verify."
        )
    return note.of(row.note_task)


def version_and_note(context: Context, ref: str, space: str | None) -> tuple[TaskVersion, TaskNote]:
    """Return the version that a reference names, and what its note says of it."""
    with context.reading() as session:
        row = version_of(session, ref, space=space)
    return row, note_of(context, row)


def rebuilt_on(context: Context, row: TaskVersion, note: TaskNote, device: str) -> Adapter:
    """Return a version as stored, with its tensors on a device."""
    reader = context.reader()
    layout = reader.open(row.adapter_digest).layout
    return replace(
        described(context, row, note, layout),
        tensors=reader.tensors(row.adapter_digest, device),
        ref=row.ref,
    )


def described(context: Context, row: TaskVersion, note: TaskNote, layout: Layout) -> Adapter:
    """Return what is known of a version, without its tensors.

    Raises NotFoundError where its config is gone.
    """
    if note.config is None:
        raise NotFoundError(f"{row.ref}: its note names no config.", hint="Run verify.")
    config_bytes = context.store.get(note.config, limit=MAX_FILE_BYTES)
    return Adapter(
        tensors={},
        config=parse_config(config_bytes),
        config_bytes=config_bytes,
        layout=layout,
        attachments={
            entry.name: context.store.get(entry.object, limit=MAX_FILE_BYTES)
            for entry in note.attachments
        },
        source=note.source or Source(kind="adapter", location=""),
        source_digest=row.source_digest,
        raw_bytes=row.raw_bytes,
        remarks=tuple(note.remarks),
        ref=row.ref,
        error=row.error,
    )


def _original(context: Context, row: TaskVersion, note: TaskNote) -> Adapter:
    """Return the adapter from the files kept at commit."""
    if not note.original:
        raise RefusedError(
            f"{row.ref}: the original was not kept; what is stored has error {row.error:.3g}.",
            hint="Commit with keep_original=True (or budget=0) to keep every bit, or check out without exact=True.",
        )
    kept = {entry.name: entry.object for entry in [*note.original, *note.attachments]}
    files = Files(
        sizes={entry.name: entry.size for entry in [*note.original, *note.attachments]},
        others=(),
        read=lambda name, limit: context.store.get(kept[name], limit=limit),
    )
    adapter = read_files(files, source=note.source or Source(kind="adapter", location=""))
    attachments = {
        entry.name: context.store.get(entry.object, limit=MAX_FILE_BYTES)
        for entry in note.attachments
    }
    return replace(
        adapter, attachments=attachments, source_digest=row.source_digest, ref=row.ref, error=0.0
    )


def _moved(adapter: Adapter, device: str, dtype: torch.dtype | None) -> Adapter:
    def move(key: str, tensor: torch.Tensor) -> torch.Tensor:
        made = tensor.to(
            device=device,
            dtype=dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype,
        )
        if made.dtype != tensor.dtype:
            check_held(key, made)
        return made

    moved = replace(
        adapter, tensors={key: move(key, tensor) for key, tensor in adapter.tensors.items()}
    )
    return without_error(moved) if narrows(adapter.layout, dtype) else moved


def narrows(layout: Layout, dtype: torch.dtype | None) -> bool:
    """Tell whether a floating dtype cannot hold every value of a layout's floating tensors."""
    kinds = {TORCH[spec.dtype] for spec in layout.tensors}
    return dtype is not None and any(
        kind.is_floating_point and torch.promote_types(kind, dtype) != dtype for kind in kinds
    )


def without_error(adapter: Adapter) -> Adapter:
    """Return an adapter in narrower numbers than were measured: no error is known of these."""
    return replace(
        adapter,
        error=None,
        remarks=(
            *adapter.remarks,
            "the numbers are narrower than those that the recorded error was measured on.",
        ),
    )
