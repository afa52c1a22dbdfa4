"""Keep a directory of everything that is behind an alias, for servers to load from.

Each version has a directory whose name has its digest, so that a name never changes its bytes. The
index says which of them are served, and is replaced last. Several hosts may do this at once: they
write the same directories, and whoever writes the index looks again whether the registry still says
so and the directories are there, and goes on where not.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Final

from share_registry.catalog.queries.name_claims import claims_of_tasks
from share_registry.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.exchange.base_config import base_config_digest
from share_registry.kinds import FilePath
from share_registry.names import SpaceName, alias_name, first_and_more
from share_registry.parallel import ahead
from share_registry.registry.arguments import Progress
from share_registry.registry.checkout.checkout import base_label
from share_registry.registry.checkout.version_export import ExportOptions
from share_registry.registry.context import Context
from share_registry.registry.delivery.alias_targets import (
    AliasTarget,
    alias_targets,
    live_refs,
    unknown_spaces,
    unknown_target,
)
from share_registry.registry.delivery.served_directory import remove_litter, take_away
from share_registry.registry.delivery.served_index import (
    INDEX_FILE,
    RetiredDirectory,
    ServedAdapter,
    ServedIndex,
    is_served_name,
    read_index,
)
from share_registry.registry.delivery.served_version import Upkeep, serve_target
from share_registry.registry.log_entries import read_note
from share_registry.values.sync_reports import SyncReport

# How often it goes on where aliases move all the while
_MOST_PASSES: Final = 5
_DAY_S: Final = 86_400
_HAND_OVER: Final = f"Give another directory, or remove its {INDEX_FILE} to hand it over."
_RESTLESS: Final = (
    "the alias or the index went on changing meanwhile, which another run with other options may "
    "do: run sync again."
)
# What a directory without a target is for
_ANY: Final = "any server"
# Directories at a time: where reading waits for a service, and where writing waits for a disk.
# On an idle disk small adapters take as long by one thread; on a busy one twice as long or more.
_OF_SERVICE: Final = 4
_OF_DISK: Final = 3
# Notes that are kept: few, as one speaks of every task of a commit
_NOTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRequest:
    """What is to be kept where; see `Registry.sync`."""

    root: FilePath
    alias: str
    options: ExportOptions
    prune: bool
    grace_days: float


def sync(
    context: Context, request: SyncRequest, *, space: str | None, progress: Progress
) -> SyncReport:
    """Make a directory hold what is behind an alias, and an index of it.

    Raises:
        InvalidInputError: the alias, the profile, the target or the label makes no sense.
        NotFoundError: no task has the alias, for which the directory is not kept so far.
        RefusedError: the directory is kept for another registry, alias, space or target.
        StoreError: the index cannot be written.
    """
    run = _begin(context, request, space)
    remarks: list[str] = []
    targets, index = _pass(run, remarks, progress)
    passes = 1
    while not (is_done := _is_up_to_date(run, targets, index)) and passes < _MOST_PASSES:
        targets, index = _pass(run, remarks, progress)
        passes += 1
    if not is_done:
        remarks.append(_RESTLESS)
    if not targets:
        remarks.append(f"no task has the alias {run.alias!r} any more.")
    removed = _prune(run, index, request.grace_days * _DAY_S) if request.prune else ()
    return SyncReport(
        root=run.root,
        index=run.root / INDEX_FILE,
        alias=run.alias,
        tasks=tuple(run.synced[each.ref] for each in targets if each.is_served),
        retired=tuple(each.name for each in index.retired if each.name not in removed),
        removed=removed,
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _pass(
    run: Upkeep, remarks: list[str], progress: Progress
) -> tuple[Sequence[AliasTarget], ServedIndex]:
    """Bring everything up once, and return what the alias stood for and the index of it."""
    targets = _targets(run)
    previous = _previous(run, remarks)
    earlier = {} if previous is None else _by_task(run, previous)
    targets = _with_unknown(run, targets, earlier)
    _check_one_model(run, targets)
    run.context.outside.make_directory(run.root)
    return targets, _bring_up(run, targets, earlier, previous, progress)


def _begin(context: Context, request: SyncRequest, space: str | None) -> Upkeep:
    options = request.options
    context.require_apart(request.root)
    ensure(
        options.base_model is None or options.base_model.strip(),
        InvalidInputError(
            "base_model is empty.", hint="Give what the server calls the model, or leave it out."
        ),
    )
    return Upkeep(
        context=context,
        root=context.outside.absolute(Path(request.root)),
        alias=alias_name(request.alias),
        space=space,
        options=options,
        note_of=lru_cache(_NOTES)(partial(read_note, context.store)),
        label_of=cache(partial(base_label, context)),
        config_of=cache(
            lambda label: base_config_digest(
                options.base_config, label=label, outside=context.outside
            )
        ),
    )


def _targets(run: Upkeep) -> list[AliasTarget]:
    """Return what is behind the alias; nothing where it was taken from all tasks.

    Raises NotFoundError where the directory is not kept for it.
    """
    try:
        return alias_targets(run.context, run.alias, space=run.space)
    except NotFoundError:
        index = _index(run)
        if index is None or index.alias != run.alias:
            raise
        return []


def _with_unknown(
    run: Upkeep,
    targets: Sequence[AliasTarget],
    earlier: Mapping[tuple[str, str], ServedAdapter],
) -> list[AliasTarget]:
    """Add what was served so far of spaces whose newest state is not known: it is served on."""
    unknown = unknown_spaces(run.context)
    standing = {(target.space, target.task) for target in targets}
    lost = [
        unknown_target(space, task, adapter.ref, unknown[SpaceName(space)])
        for (space, task), adapter in earlier.items()
        if space in unknown and (space, task) not in standing
    ]
    return sorted([*targets, *lost], key=lambda target: (target.space, target.task))


def _index(run: Upkeep) -> ServedIndex | None:
    try:
        return read_index(run.root, run.context.outside)
    except IntegrityError:
        return None


def _check_one_model(run: Upkeep, targets: Sequence[AliasTarget]) -> None:
    """Check that what is of one model is not given to several. Raises InvalidInputError."""
    spaces = sorted({target.space for target in targets if target.is_served})
    models = {run.label_of(SpaceName(space)) for space in spaces}
    options = {"base_model": run.options.base_model, "base_config": run.options.base_config}
    for name, option in options.items():
        ensure(
            option is None or len(models) <= 1,
            InvalidInputError(
                f"{name} is of one model, and {run.alias!r} is in spaces of {len(models)}: "
                f"{first_and_more(spaces, 3)}.",
                hint="Keep a directory for each space: space= or -s.",
            ),
        )


def _previous(run: Upkeep, remarks: list[str]) -> ServedIndex | None:
    """Return the index that is there, None for none or a damaged one. Raises RefusedError."""
    try:
        index = read_index(run.root, run.context.outside)
    except IntegrityError as error:
        remarks.append(f"{error.message.rstrip('.')}; it was written anew.")
        return None
    if index is not None:
        kept_for = (index.store, index.alias, index.space)
        spaces = f"space {index.space}" if index.space else "all spaces"
        ensure(
            kept_for == (run.context.store.identity, run.alias, run.space),
            RefusedError(
                f"{run.root} is kept for the alias {index.alias!r} of {spaces} of the registry "
                f"{index.store}.",
                hint=_HAND_OVER,
            ),
        )
        asked = run.options.target or _ANY
        targets = {each.target or _ANY for each in index.adapters}
        ensure(
            targets <= {asked},
            RefusedError(
                f"{run.root} is kept for {' and '.join(sorted(targets))},"
                f" and is to be for {asked}.",
                hint=_HAND_OVER,
            ),
        )
    return index


def _bring_up(
    run: Upkeep,
    targets: Sequence[AliasTarget],
    earlier: Mapping[tuple[str, str], ServedAdapter],
    previous: ServedIndex | None,
    progress: Progress,
) -> ServedIndex:
    """Bring every directory up, then the index, and return it. Raises StoreError."""
    adapters: list[ServedAdapter] = []
    serve = partial(serve_target, run, earlier)
    live = [target for target in targets if target.is_served]
    threads = _OF_SERVICE if run.context.store.at_once > 1 else _OF_DISK
    for done, adapter in enumerate(ahead(serve, live, threads=threads), 1):
        progress("directories", done, len(live))
        if adapter is not None:
            adapters.append(adapter)
    index = ServedIndex(
        store=run.context.store.identity,
        alias=run.alias,
        space=run.space,
        adapters=tuple(adapters),
        retired=_retired(run, adapters, previous),
    )
    if index != previous:
        _write(run, index)
    return index


def _by_task(run: Upkeep, index: ServedIndex) -> dict[tuple[str, str], ServedAdapter]:
    """Return what an index says is served by space and present name of the task."""
    names: dict[str, set[str]] = defaultdict(set)
    for each in index.adapters:
        names[each.space].add(each.task)
    present: dict[tuple[str, str], str] = {}
    with run.context.reading() as session:
        for space, tasks in names.items():
            for task, claims in claims_of_tasks(session, space, tasks).items():
                present[space, task] = claims[-1].name
    return {
        (each.space, present.get((each.space, each.task), each.task)): each
        for each in index.adapters
    }


def _retired(
    run: Upkeep, adapters: Iterable[ServedAdapter], previous: ServedIndex | None
) -> tuple[RetiredDirectory, ...]:
    """Return the directories that are there and not served, each with when that began."""
    now_s = int(run.context.outside.now().timestamp())
    since = {} if previous is None else {each.name: each.since_s for each in previous.retired}
    names = {name for name in run.context.outside.names(run.root) if is_served_name(name)}
    return tuple(
        RetiredDirectory(name=name, since_s=since.get(name, now_s))
        for name in sorted(names - {each.name for each in adapters})
    )


def _is_up_to_date(run: Upkeep, targets: Sequence[AliasTarget], index: ServedIndex) -> bool:
    """Tell whether the registry and the directory are still what an index was written of."""
    try:
        refs = live_refs(run.context, run.alias, space=run.space)
    except NotFoundError:
        refs = []
    newest = [each.ref for each in targets if each.is_served and each.is_newest]
    return refs == newest and _is_in_place(run, index)


def _is_in_place(run: Upkeep, index: ServedIndex) -> bool:
    """Tell whether the index is there still, and what it names."""
    return _index(run) == index and all(
        run.context.outside.exists(run.root / each.name) for each in index.adapters
    )


def _prune(run: Upkeep, index: ServedIndex, grace_s: float) -> tuple[str, ...]:
    """Remove what has not been served for a while, and return its names. Raises StoreError."""
    now_s = run.context.outside.now().timestamp()
    due = [each.name for each in index.retired if now_s - each.since_s >= grace_s]
    removed = tuple(name for name in due if take_away(run.root, name, run.context.outside))
    # where another host wrote one meanwhile, its next run finds that they are gone
    if removed and read_index(run.root, run.context.outside) == index:
        rest = tuple(each for each in index.retired if each.name not in removed)
        _write(run, index.model_copy(update={"retired": rest}))
    remove_litter(run.root, run.context.outside)
    return removed


def _write(run: Upkeep, index: ServedIndex) -> None:
    run.context.outside.rewrite(run.root / INDEX_FILE, index.to_bytes(), point="index")
