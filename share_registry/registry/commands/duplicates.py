"""Commits that are there already: that of a key, that of an adapter given again unchanged."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.provenance import sources_of_commit
from share_registry.errors import ConflictError
from share_registry.format.canonical import sha256
from share_registry.names import CommitNumber, SpaceName, TaskName
from share_registry.registry.sync import read_note

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session
    from share_registry.exchange.adapter import Adapter
    from share_registry.registry.commands.preconditions import CommitOptions
    from share_registry.store.protocol import Store
    from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)


def commit_of_key(
    session: "Session", space: SpaceName, key: str, adapters: "Mapping[TaskName, Adapter]"
) -> CommitNumber | None:
    """Return the commit made with an idempotency key.

    Raises ConflictError where it has other adapters than these.
    """
    number = lookups.commit_of_key(session, space, key)
    if number is None:
        return None
    committed = sources_of_commit(session, space, number)
    sources = {str(task): str(adapter.source_digest) for task, adapter in sorted(adapters.items())}
    if committed != sources:
        raise ConflictError(
            f"idempotency key {key!r} made c{number} of space {space!r} with "
            f"{_listed(committed)}; now it comes with {_listed(sources)}.",
            hint="A key stands for one commit: give another one.",
        )
    return number


def same_version(
    latest: "TaskVersion | None",
    store: "Store",
    task: TaskName,
    adapter: "Adapter",
    *,
    budget: float | None,
    keep_original: bool | None,
) -> "TaskVersion | None":
    """Return a task's newest version if it is this adapter, as committed, kept as well as asked.

    A version that a refit made of it is not what was committed: its error is another.

    Args:
        latest: The newest version, where there is one.
        store: Where the version's note is.
        task: The task.
        adapter: The adapter.
        budget: The error that the caller allows; None where the caller says nothing.
        keep_original: Whether the caller wants the files themselves.
    """
    if latest is None or not latest.live or latest.task != task:
        return None
    if latest.source_digest != adapter.source_digest:
        return latest if _is_stored(store, latest, adapter) else None
    if latest.restored_from is not None or latest.before is not None:
        return None
    if budget is not None and latest.error > budget:
        return None
    if keep_original and not _has_original(store, latest):
        return None
    return latest


def warn_unrecorded(space: SpaceName, number: CommitNumber, options: "CommitOptions") -> None:
    """Warn of what is said of a version that is there already: a commit is never changed."""
    members = ("labels", "metrics", "message", "author", "derived_from")
    lost = ", ".join(name for name in members if getattr(options, name))
    if lost:
        _LOG.warning(
            "%s/@c%d holds this adapter already: %s not recorded; "
            "use annotate, or allow_duplicate=True for a new version",
            space,
            number,
            lost,
        )


def _is_stored(store: "Store", version: "TaskVersion", adapter: "Adapter") -> bool:
    """Tell whether an adapter is what a checkout of a version gives."""
    if (
        adapter.tensors_digest != version.tensors_digest
        or sha256(adapter.config_bytes) != version.config_digest
    ):
        return False
    note = read_note(store, version.note_digest)
    kept = [] if note is None else note.of(version.note_task).attachments
    attachments = {name: sha256(content) for name, content in adapter.attachments.items()}
    return {entry.name: str(entry.object) for entry in kept} == attachments


def _has_original(store: "Store", version: "TaskVersion") -> bool:
    note = read_note(store, version.note_digest)
    return note is not None and bool(note.of(version.note_task).original)


def _listed(sources: Mapping[str, str]) -> str:
    listed = [f"{task} (source {digest[:8]})" for task, digest in sources.items()]
    return ", ".join(listed) or "no adapter"
