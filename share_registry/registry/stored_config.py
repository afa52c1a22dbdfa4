"""The config of a stored version, which may be gone: spec NOT-06."""

import logging
from collections.abc import Iterable, Sequence
from typing import Final

from share_registry.errors import NotFoundError
from share_registry.exchange.config import MAX_CONFIG_BYTES
from share_registry.names import Digest
from share_registry.registry.context import Context
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)
GONE_HINT: Final = (
    "Bring it back from a copy of the store, if there is one: verify lists everything that is"
    " missing. Other versions are read as ever."
)


def read_config(context: Context, row: TaskVersion) -> bytes:
    """Return the bytes of a version's config. Raises NotFoundError where it is gone."""
    if row.config_digest is None:
        raise NotFoundError(
            f"{row.ref}: its note, and with it the config, is not in the store.", hint=GONE_HINT
        )
    try:
        return context.store.get_or_spare(row.config_digest, limit=MAX_CONFIG_BYTES)
    except NotFoundError as error:
        raise NotFoundError(
            f"{row.ref}: its config, object {row.config_digest}, is not in the store.",
            hint=GONE_HINT,
        ) from error


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
