"""What describes a stored version, which may be gone: spec NOT-06.

Where a purge took it away, it is not there to be found. Else it is lost, which is damage.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from share_registry.errors import IntegrityError, NotFoundError, ShareRegistryError, ensure
from share_registry.exchange.config import MAX_CONFIG_BYTES
from share_registry.names import Digest
from share_registry.registry.context import Context
from share_registry.registry.log_entries import read_note
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)
_OTHERS: Final = "Its tensors can be checked out. Other versions are read as ever."
_HINT: Final = (
    "Bring it back from a copy: `share-registry repair --from DIRECTORY`; `share-registry verify` "
    "lists everything that is missing. Other versions are read as ever."
)


class UndescribedError(IntegrityError):
    """What describes a version is not in the store, and no record took it away."""


def read_config(context: Context, row: TaskVersion) -> bytes:
    """Return the bytes of a version's config.

    Raises UndescribedError where it, or the note that names it, is lost; NotFoundError where it has
    none.
    """
    if row.config_digest is None:
        note = read_note(context.store, row.note_digest)
        ensure(note is not None, without_note(row))
        raise NotFoundError(f"{row.ref}: its note names no config.", hint=_OTHERS)
    try:
        return context.store.get_or_spare(row.config_digest, limit=MAX_CONFIG_BYTES)
    except NotFoundError as error:
        raise lost_file(row, f"its config, object {row.config_digest},") from error


def without_note(row: TaskVersion) -> ShareRegistryError:
    """Return the error for a version whose note is not there: lost, or taken away by a purge."""
    if row.note_digest is None:
        purged = f"{row.ref}: its note, and with it the config, was purged."
        return NotFoundError(purged, hint=_OTHERS)
    return lost_file(row, f"its note, object {row.note_digest}, and with it the config,")


def lost_file(row: TaskVersion, subject: str) -> UndescribedError:
    """Return the error for an object that describes a version and is lost."""
    return UndescribedError(
        f"{row.ref}: {subject} is not in the store, and no record removed it.", hint=_HINT
    )


def undescribed(context: Context, rows: Iterable[TaskVersion]) -> frozenset[str]:
    """Return the references of those versions whose note or config is not in the store."""
    objects = {row.ref: {row.note_digest, row.config_digest} for row in rows}
    asked = frozenset[Digest | None]().union(*objects.values())
    missing = {digest for digest in asked if digest is None or not _is_there(context, digest)}
    return frozenset(ref for ref, own in objects.items() if own & missing)


def _is_there(context: Context, digest: Digest) -> bool:
    return context.store.has(digest) or context.store.spare(digest) is not None


def described_versions(context: Context, rows: Sequence[TaskVersion]) -> list[TaskVersion]:
    """Return the versions whose note and config are in the store, and warn of the others.

    For what works on a whole space, which one version must not end.
    """
    gone = undescribed(context, rows)
    for ref in sorted(gone):
        _LOG.warning("%s is left out: its note or its config is not in the store", ref)
    return [row for row in rows if row.ref not in gone]
