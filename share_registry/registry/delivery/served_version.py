"""The directory of one version that is served: exported, checked, or the one before kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries.resolution import version_of
from share_registry.errors import NotFoundError, ShareRegistryError, StoreError
from share_registry.format.notes import Note
from share_registry.names import Digest, SpaceName, TaskName
from share_registry.registry.checkout.checkout import task_note
from share_registry.registry.checkout.version_export import (
    ExportOptions,
    RebuiltFiles,
    rebuild_files,
)
from share_registry.registry.context import Context
from share_registry.registry.delivery.alias_targets import AliasTarget
from share_registry.registry.delivery.served_directory import is_sound, put, served_name
from share_registry.registry.delivery.served_index import ServedAdapter
from share_registry.registry.evidence import check_config, require_recorded
from share_registry.values.sync_reports import SyncedTask, SyncStatus
from share_registry.values.task_version import TaskVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """One run over a directory.

    Attributes:
        context: The registry.
        root: The directory.
        alias: Everything behind it is served.
        space: Of one space alone; None for all.
        options: In which form they are exported.
        note_of: Reads a note by its digest.
        label_of: Reads the label of a space's base model.
        config_of: Returns the digest of the config.json of a label's base model, which a GGUF
            depends on.
        sound: Digests by name of the directories that this run has read or written whole.
        synced: What it did, by the version that the alias stood for.
    """

    context: Context
    root: Path
    alias: str
    space: str | None
    options: ExportOptions
    note_of: Callable[[Digest | None], Note | None]
    label_of: Callable[[SpaceName], str]
    config_of: Callable[[str], Digest]
    sound: dict[str, Digest] = field(default_factory=dict)
    synced: dict[str, SyncedTask] = field(default_factory=dict)


@one_thread()
def serve_target(
    run: Upkeep, earlier: Mapping[tuple[str, str], ServedAdapter], target: AliasTarget
) -> ServedAdapter | None:
    """Make the directory of what an alias stands for, and return what is served of its task.

    A version that cannot be exported is noted; the one that was served before is served on.
    """
    before = earlier.get((target.space, target.task))
    notes: tuple[str, ...] = ()
    try:
        if target.row is None:
            raise target.error or NotFoundError(f"{target.ref} is not there.")
        if before is not None and _is_of(before, target.row, run) and _stands(run, before):
            adapter, status = before, SyncStatus.UNCHANGED
        else:
            rebuilt = _rebuild(run, target.row)
            adapter, status = _put(run, target.row, rebuilt)
            notes = rebuilt.notes
    except ShareRegistryError as error:
        kept = _kept(run, before, target)
        _record(run, target, kept, SyncStatus.FAILED, error=error)
        return kept
    adapter = adapter.model_copy(update={"task": target.task, "ref": target.ref})
    _record(run, target, adapter, status, notes=notes)
    return adapter


def _is_of(adapter: ServedAdapter, row: TaskVersion, run: Upkeep) -> bool:
    """Tell whether a directory was made from a version in the way that is asked for."""
    options = run.options
    is_same_version = (adapter.commit, adapter.version) == (row.commit_id, row.version)
    recipe = (adapter.target, adapter.base_model, adapter.base_config)
    if not is_same_version or recipe != (options.target, options.base_model, _config(run, row)):
        return False
    is_free = options.profile is None and options.target is not None
    return is_free or adapter.profile == (options.profile or "native")


def _config(run: Upkeep, row: TaskVersion) -> Digest | None:
    return run.config_of(run.label_of(row.space)) if run.options.is_gguf else None


def _stands(run: Upkeep, adapter: ServedAdapter) -> bool:
    """Tell whether a directory is there with the bytes of its digest; it is read once a run."""
    path = run.root / adapter.name
    if run.sound.get(adapter.name) == adapter.digest:
        return run.context.outside.exists(path)
    if not is_sound(path, Digest(adapter.digest), run.context.outside):
        return False
    run.sound[adapter.name] = Digest(adapter.digest)
    return True


def _rebuild(run: Upkeep, row: TaskVersion) -> RebuiltFiles:
    run.context.store.read_ahead(row.objects)
    note = task_note(run.note_of(row.note_digest), row)
    check_config(row, note)
    label = run.label_of(row.space)
    return rebuild_files(run.context, row, note, options=run.options, label=label)


def _put(run: Upkeep, row: TaskVersion, rebuilt: RebuiltFiles) -> tuple[ServedAdapter, SyncStatus]:
    name = served_name(row, rebuilt.digest)
    status = put(rebuilt, run.root, name, run.context.outside)
    run.sound[name] = rebuilt.digest
    adapter = ServedAdapter(
        name=name,
        path=name,
        ref=row.ref,
        space=row.space,
        task=row.task,
        version=row.version,
        alias=run.alias,
        commit=row.commit_id,
        digest=rebuilt.digest,
        profile=rebuilt.profile,
        target=run.options.target,
        base_model=run.options.base_model,
        base_config=_config(run, row),
        size_bytes=sum(map(len, rebuilt.files.values())),
    )
    return adapter, status


def _kept(run: Upkeep, before: ServedAdapter | None, target: AliasTarget) -> ServedAdapter | None:
    """Return what was served before, put right where it is damaged; None where that fails."""
    if before is None:
        return None
    ref = f"{target.space}/{target.task}@v{before.version}"
    before = before.model_copy(update={"task": target.task, "ref": ref})
    try:
        if _stands(run, before):
            return before
    # nobody can tell what it is at present: it stays as it is
    except StoreError:
        return before
    try:
        with run.context.reading() as session:
            row = version_of(session, f"{before.space}/{before.task}@v{before.version}")
        require_recorded(run.context, [row])
        return _put(run, row, _rebuild(run, row))[0]
    except ShareRegistryError:
        return None


def _record(
    run: Upkeep,
    target: AliasTarget,
    adapter: ServedAdapter | None,
    status: SyncStatus,
    *,
    notes: tuple[str, ...] = (),
    error: ShareRegistryError | None = None,
) -> None:
    """Note what became of a version; what an earlier pass wrote stays written."""
    before = run.synced.get(target.ref)
    was_served = before is not None and before.status is not SyncStatus.FAILED
    if was_served and status is SyncStatus.UNCHANGED:
        return
    run.synced[target.ref] = SyncedTask(
        space=SpaceName(target.space),
        task=TaskName(target.task),
        ref=target.ref,
        status=status,
        name=None if adapter is None else adapter.name,
        digest=None if adapter is None else Digest(adapter.digest),
        size_bytes=0 if adapter is None else adapter.size_bytes,
        reason="" if error is None else error.message,
        hint="" if error is None else error.hint,
        notes=notes,
    )
