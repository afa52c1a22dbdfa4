"""Checkout and export.

From a reference to an adapter in memory, and to a directory that any PEFT loader reads.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from share_registry.catalog import queries
from share_registry.catalog.task_version import TaskVersion
from share_registry.errors import Integrity, InvalidInput, NotFound, Refused
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.card import CardFacts
from share_registry.exchange.config import parse_config
from share_registry.exchange.export import PROFILES, export_digest, files_of, tensor_file
from share_registry.exchange.place import place
from share_registry.exchange.read import Files, read_files
from share_registry.exchange.tensors import TORCH, check_held
from share_registry.format.canonical import sha256
from share_registry.format.layout import Layout
from share_registry.format.records import Note, Source, TaskNote
from share_registry.names import Digest
from share_registry.registry.home import Home
from share_registry.registry.replay import read_note
from share_registry.registry.resolve import version_of
from share_registry.registry.results import Export

MAX_FILE_BYTES: Final = 4 << 30
_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def checkout(
    home: Home,
    ref: str,
    *,
    space: str | None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str | None = None,
    exact: bool = False,
) -> Adapter:
    """Rebuild one task version in memory.

    Args:
        home: The registry.
        ref: A task version.
        space: Space of a reference that names none.
        device: Where the tensors shall be; the values are the same on every device.
        dtype: Floating dtype of the tensors; None keeps each tensor's own.
        exact: The adapter as it was handed in, bit for bit.

    Raises:
        NotFound: the version or one of its objects is not there.
        Refused: `exact` where the original was not kept; a value is more than `dtype` holds.
        Integrity: stored bytes are not what was committed.
    """
    wanted, where = dtype_of(dtype), device_of(device)
    row, note = _version(home, ref, space)
    adapter = (
        _original(home, row, note) if exact and row.error > 0 else _rebuilt(home, row, note, where)
    )
    return _moved(adapter, where, wanted)


def export(
    home: Home,
    ref: str,
    root: str | os.PathLike[str],
    *,
    space: str | None,
    name: str | None = None,
    profile: str = "native",
    overwrite: bool = False,
) -> Export:
    """Write one task version as a plain PEFT directory, placed atomically under an immutable name.

    Raises:
        InvalidInput: unknown profile or unusable name.
        Refused: the profile cannot express the adapter, or something else is at the target.
        Integrity: the rebuilt tensors are not those that were committed; nothing is written.
    """
    wanted = next((known for known in PROFILES if known == profile), None)
    if wanted is None:
        raise InvalidInput(
            f"profile {profile!r} is not one of {', '.join(PROFILES)}.",
            hint="native is what was committed, portable what every server reads alike.",
        )
    row, note = _version(home, ref, space)
    adapter = _rebuilt(home, row, note, "cpu")
    check_tensors(adapter, row.tensors_digest, row.ref)
    files, notes = files_of(adapter, profile=wanted, card=_facts(home, row))
    digest = export_digest(files)
    folder = f"{row.name}-v{row.version}-{digest[:8]}" if name is None else name
    path, _ = place(files, Path(root), folder, overwrite=overwrite, outside=home.outside)
    return Export(path=path, ref=row.ref, name=folder or path.name, digest=digest, notes=notes)


def check_tensors(adapter: Adapter, expected: Digest, ref: str) -> None:
    """Check that rebuilt tensors are, byte for byte, those that were committed (spec DEC-12).

    Raises Integrity.
    """
    found = sha256(tensor_file(adapter.layout, adapter.tensors))
    if found != expected:
        raise Integrity(
            f"{ref}: rebuilt tensors have digest {found}, the commit says {expected}.",
            hint="Run verify with level 'deep'.",
        )


def rebuilt(home: Home, row: TaskVersion) -> Adapter:
    """Return a version that the catalog knows, as stored. Raises NotFound, Integrity."""
    return _rebuilt(home, row, note_of(home, row), "cpu")


def original(home: Home, row: TaskVersion) -> Adapter | None:
    """Return the adapter that a version was committed from, where its files were kept."""
    note = note_of(home, row)
    return _original(home, row, note) if note.original else None


def note_of(home: Home, row: TaskVersion) -> TaskNote:
    """Return what the note of a version says of it. Raises NotFound."""
    return said_of(read_note(home.store, row.note_digest), row)


def said_of(note: Note | None, row: TaskVersion) -> TaskNote:
    """Return what a note, if it is there, says of a version. Raises NotFound."""
    if note is None:
        raise NotFound(
            f"{row.ref}: its note, and with it the config, is not in the store.", hint="Run verify."
        )
    return note.of(row.note_task)


def _version(home: Home, ref: str, space: str | None) -> tuple[TaskVersion, TaskNote]:
    with home.reading() as session:
        row = version_of(session, ref, space=space if space is not None else home.default_space)
    return row, note_of(home, row)


def _rebuilt(home: Home, row: TaskVersion, note: TaskNote, device: str) -> Adapter:
    reader = home.reader()
    layout = reader.open(row.adapter_digest).layout
    return replace(
        described(home, row, note, layout),
        tensors=reader.tensors(row.adapter_digest, device),
        ref=row.ref,
    )


def described(home: Home, row: TaskVersion, note: TaskNote, layout: Layout) -> Adapter:
    """Return what is known of a version, without its tensors.

    Raises NotFound where its config is gone.
    """
    if note.config is None:
        raise NotFound(f"{row.ref}: its note names no config.", hint="Run verify.")
    config_bytes = home.store.get(note.config, limit=MAX_FILE_BYTES)
    return Adapter(
        tensors={},
        config=parse_config(config_bytes),
        config_bytes=config_bytes,
        layout=layout,
        attachments={
            entry.name: home.store.get(entry.object, limit=MAX_FILE_BYTES)
            for entry in note.attachments
        },
        source=note.source or Source(kind="adapter", location=""),
        source_digest=row.source_digest,
        raw_bytes=row.raw_bytes,
        remarks=tuple(note.remarks),
        ref=row.ref,
        error=row.error,
    )


def _original(home: Home, row: TaskVersion, note: TaskNote) -> Adapter:
    """Return the adapter from the files kept at commit."""
    if not note.original:
        raise Refused(
            f"{row.ref}: the original was not kept; what is stored has error {row.error:.3g}.",
            hint="Commit with keep_original=True (or budget=0) to keep every bit, or check out without exact=True.",
        )
    kept = {entry.name: entry.object for entry in [*note.original, *note.attachments]}
    files = Files(
        sizes={entry.name: entry.size for entry in [*note.original, *note.attachments]},
        others=(),
        read=lambda name, limit: home.store.get(kept[name], limit=limit),
    )
    adapter = read_files(files, source=note.source or Source(kind="adapter", location=""))
    attachments = {
        entry.name: home.store.get(entry.object, limit=MAX_FILE_BYTES) for entry in note.attachments
    }
    return replace(
        adapter, attachments=attachments, source_digest=row.source_digest, ref=row.ref, error=0.0
    )


def _facts(home: Home, row: TaskVersion) -> CardFacts:
    """Return what the card says: of the version alone, so that it never changes (spec EXP-03)."""
    with home.catalog.begin() as session:
        base = queries.space_row(session, row.space)
    return CardFacts(
        base_model=base.base_model if base is not None else "",
        ref=f"{row.space}/{row.name}@v{row.version}",
        commit_number=row.number,
        commit_id=row.commit_id,
        error=row.error,
        budget=row.budget,
        time=row.time,
    )


def device_of(device: str | torch.device) -> str:
    """Return the name of a device that is there. Raises InvalidInput."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InvalidInput(
            f"device {device!r} is not a torch device.", hint="Use cpu, cuda or cuda:<index>."
        ) from error
    if found.type == "meta":
        raise InvalidInput(
            "device 'meta' has no numbers, expected one that has.",
            hint="Use cpu, cuda or cuda:<index>.",
        )
    try:
        torch.empty(0, dtype=torch.float32, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ", ".join(["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))])
        raise InvalidInput(
            f"device {str(found)!r} is not there; there is {there}.", hint="Use one of these."
        ) from error
    return str(found)


def computing_device(device: str) -> str:
    """Return the name of a device that is there and computes in float64. Raises InvalidInput."""
    found = device_of(device)
    try:
        float(torch.ones(1, dtype=torch.float64, device=found).sum())
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InvalidInput(
            f"device {found!r} does not compute in float64.",
            hint="Use cpu or cuda for commits and refits.",
        ) from error
    return found


def dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a floating torch dtype of a dtype or its name. Raises InvalidInput."""
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found is None and dtype is None:
        return None
    if found not in _DTYPES:
        raise InvalidInput(
            f"dtype {dtype!r} is not a floating torch dtype that adapters have.",
            hint="Use float32, float16, bfloat16 or float64.",
        )
    return found


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
