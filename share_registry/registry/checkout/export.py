"""Write a task version as a plain PEFT directory."""

import os
from pathlib import Path

from share_registry.catalog.queries import lookups
from share_registry.errors import IntegrityError, InvalidInputError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.export_files import (
    PROFILES,
    CardFacts,
    export_digest,
    files_of,
    place,
    tensor_file,
)
from share_registry.format.canonical import sha256
from share_registry.names import Digest
from share_registry.registry.checkout.checkout import rebuild, version_and_note
from share_registry.registry.context import Context
from share_registry.values.checks import Export
from share_registry.values.task_version import TaskVersion


def export(
    context: Context,
    ref: str,
    root: str | os.PathLike[str],
    *,
    space: str | None,
    name: str | None = None,
    profile: str = "native",
    overwrite: bool = False,
) -> Export:
    """Write one task version as a plain PEFT directory, atomically and under an immutable name.

    Args:
        context: The registry.
        ref: A task version.
        root: Where the directory is made.
        space: Space of a reference that names none.
        name: Name of the directory; None for `<task>-v<n>-<digest>`.
        profile: "native" or "portable".
        overwrite: Whether something else there is replaced.

    Raises:
        InvalidInputError: unknown profile or unusable name.
        RefusedError: the profile cannot express the adapter, or something else is at the target.
        IntegrityError: the rebuilt tensors are not those that were committed; nothing is written.
    """
    checked = next((name for name in PROFILES if name == profile), None)
    if checked is None:
        raise InvalidInputError(
            f"profile {profile!r} is not one of {', '.join(PROFILES)}.",
            hint="native is what was committed, portable what every server reads alike.",
        )
    row, note = version_and_note(context, ref, space)
    adapter = rebuild(context, row, note)
    _check_tensors(adapter, row.tensors_digest, row.ref)
    files, notes = files_of(adapter, profile=checked, card=_facts(context, row))
    digest = export_digest(files)
    folder = f"{row.name}-v{row.version}-{digest[:8]}" if name is None else name
    path, _ = place(files, Path(root), folder, overwrite=overwrite, outside=context.outside)
    return Export(path=path, ref=row.ref, name=folder or path.name, digest=digest, notes=notes)


def _check_tensors(adapter: Adapter, expected: Digest, ref: str) -> None:
    """Check that rebuilt tensors are, byte for byte, those that were committed (spec DEC-12).

    Raises IntegrityError.
    """
    rebuilt = sha256(tensor_file(adapter.layout, adapter.tensors))
    if rebuilt != expected:
        raise IntegrityError(
            f"{ref}: rebuilt tensors have digest {rebuilt}, the commit says {expected}.",
            hint="Run verify with level 'deep'.",
        )


def _facts(context: Context, row: TaskVersion) -> CardFacts:
    """Return what the card says of the version alone, so that it never changes (spec EXP-03)."""
    with context.catalog.begin() as session:
        base = lookups.space_row(session, row.space)
    return CardFacts(
        base_model=base.base_model if base is not None else "",
        ref=f"{row.space}/{row.name}@v{row.version}",
        commit_number=row.number,
        commit_id=row.commit_id,
        error=row.error,
        budget=row.budget,
        time=row.time,
    )
