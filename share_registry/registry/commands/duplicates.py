"""Commits that are there already: that of a key, that of an adapter given again unchanged."""

import logging
from collections.abc import Mapping
from typing import Final

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.provenance import sources_of_commit
from share_registry.catalog.sql import Session
from share_registry.errors import ConflictError
from share_registry.exchange.adapter import Adapter
from share_registry.format.canonical import sha256
from share_registry.format.records import Note, TaskNote
from share_registry.names import CommitNumber, SpaceName, TaskName
from share_registry.registry.commands.preconditions import CommitOptions, check_expected
from share_registry.registry.sync import read_note
from share_registry.store.protocol import Store
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)


def commit_of_key(
    session: Session, space: SpaceName, key: str, adapters: Mapping[TaskName, Adapter]
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


def commit_of_unchanged(
    store: Store,
    space: SpaceName,
    adapters: Mapping[TaskName, Adapter],
    latest: Mapping[TaskName, TaskVersion | None],
    options: CommitOptions,
) -> CommitNumber | None:
    """Return the commit whose adapters, still the newest of their tasks, are given unchanged.

    None where some are new, came by several commits, or are not kept as well as is asked for now.
    Raises ConflictError where a task is not at the version expected.
    """
    numbers = set()
    for task, adapter in adapters.items():
        version = latest[task]
        if version is None or not _is_unchanged(store, task, version, adapter, options):
            return None
        numbers.add(version.number)
    if len(numbers) != 1:
        return None
    for version in filter(None, latest.values()):
        check_expected(version.task, version.version, options.expected)
    number = numbers.pop()
    _warn_unrecorded(space, number, options)
    return number


def _is_unchanged(
    store: Store, task: TaskName, version: TaskVersion, adapter: Adapter, options: CommitOptions
) -> bool:
    """Tell whether an adapter is what a live task's version was committed from, or checks out as.

    A version that a refit or a restore made is not what was committed: its error is another.
    """
    if not version.live or version.task != task:
        return False
    if version.source_digest != adapter.source_digest:
        return _is_stored(store, version, adapter)
    if version.restored_from is not None or version.before is not None:
        return False
    if options.budget is not None and version.error > options.budget:
        return False
    return not options.keep_original or bool(_note_of(store, version).original)


def _is_stored(store: Store, version: TaskVersion, adapter: Adapter) -> bool:
    """Tell whether an adapter is what a checkout of a version gives."""
    if (
        adapter.tensors_digest != version.tensors_digest
        or sha256(adapter.config_bytes) != version.config_digest
    ):
        return False
    kept = {entry.name: str(entry.object) for entry in _note_of(store, version).attachments}
    return kept == {name: sha256(content) for name, content in adapter.attachments.items()}


def _note_of(store: Store, version: TaskVersion) -> TaskNote:
    """Return what the note of a version says of it, nothing where it was removed."""
    note = read_note(store, version.note_digest) or Note()
    return note.of(version.note_task)


def _warn_unrecorded(space: SpaceName, number: CommitNumber, options: CommitOptions) -> None:
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


def _listed(sources: Mapping[str, str]) -> str:
    listed = [f"{task} (source {digest[:8]})" for task, digest in sources.items()]
    return ", ".join(listed) or "no adapter"
