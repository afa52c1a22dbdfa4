"""Copy a registry from one store to another: objects first, then the records that need them.

A log is only ever gone on with. Where that of the target ends with a record of the source's log,
what comes behind is copied; where it has another record, the two have diverged, and nothing of that
space is touched. Records are published as a commit publishes them, under a number that must be
free, so a writer who was faster at the target is seen, and loses nothing.

Whatever ends a copy before its time leaves objects that no record names yet, or a shorter log. Run
again, it goes on from there.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Final

from share_registry.errors import (
    FormatError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.exchange.hub_branch import check_branch
from share_registry.exchange.hub_client import HubLocation
from share_registry.exchange.places import is_on_hub
from share_registry.format.format_file import format_bytes
from share_registry.kinds import FilePath
from share_registry.names import SpaceName
from share_registry.outside.files import Outside
from share_registry.registry.arguments import Progress, checks_arguments, ignore_progress
from share_registry.registry.context import Context
from share_registry.registry.location import what_is_at
from share_registry.registry.transfer.hub_store import HubStore, OutrunError
from share_registry.registry.transfer.space_copy import Way, copy_space
from share_registry.store.blobs import MemoryStore
from share_registry.store.open import MEMORY, is_new, open_store
from share_registry.store.protocol import Store
from share_registry.values.transfers import TransferReport

# Looks at a target that somebody else changes all the time
_TRIES: Final = 3


@checks_arguments
def clone(
    from_: "FilePath | Store",
    to: "FilePath | Store",
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> TransferReport:
    """Copy a registry to a new store, or go on with a copy that was interrupted.

    The copy is of the same registry: it has the same identity, so that `push` and `pull` go on with
    either. Every object is checked on the way, and only what versions need that were not removed is
    copied. The catalog is made when the copy is opened.

    Args:
        from_: The store: a directory, a bucket, `hf://[datasets/]owner/repo[@revision][/folder]` or
            an open `Store`. It is only read.
        to: A directory, a bucket or a repository of the Hub that has none or is not there, or a
            copy of the same registry.
        dry_run: Write nothing and say what would be copied.
        progress: Called with what is being done, how many are done and how many there are.

    Returns:
        What was copied of every space. Where `ok` is False, something damaged was left out.

    Raises:
        NotFoundError: there is no registry at the source.
        RefusedError: the target is of another registry, or something else.
    """
    outside = Outside()
    with ExitStack() as stack:
        _check_places(from_, to, outside)
        source = _open(stack, from_, "r", outside)
        copy = _open_clone(stack, to, source, outside, dry_run=dry_run)
        return _copy_whole(
            Way(
                source=source,
                target=copy,
                names=(_shown(from_), _shown(to)),
                dry_run=dry_run,
                progress=progress or ignore_progress,
                spares=frozenset(source.spares()),
            )
        )


def push(
    context: Context, to: FilePath | Store, *, dry_run: bool, progress: Progress
) -> TransferReport:
    """Copy to another store what it lacks; see `Registry.push`."""
    with ExitStack() as stack:
        _check_places(_place(context), to, context.outside)
        copy = _open(stack, to, "r" if dry_run else "w", context.outside)
        return _copy_whole(
            Way(
                source=context.store,
                target=copy,
                names=(context.location, _shown(to)),
                dry_run=dry_run,
                progress=progress,
                spares=frozenset(context.store.spares()),
            )
        )


def pull(
    context: Context, from_: FilePath | Store, *, dry_run: bool, progress: Progress
) -> TransferReport:
    """Copy from another store what this one lacks; see `Registry.pull`."""
    if not dry_run:
        context.require_writable()

    @contextmanager
    def locked(space: SpaceName) -> Iterator[None]:
        with context.locked(), context.lockable().begin(write=True, space=space):
            yield

    with ExitStack() as stack:
        _check_places(from_, _place(context), context.outside)
        source = _open(stack, from_, "r", context.outside)
        report = _copy(
            Way(
                source=source,
                target=context.store,
                names=(_shown(from_), context.location),
                dry_run=dry_run,
                progress=progress,
                spares=frozenset(source.spares()),
                locked=locked,
            )
        )
    if not dry_run:
        context.catch_up()
    return report


def _copy(way: Way) -> TransferReport:
    """Copy every space of the source. Raises RefusedError where the two are not of one registry."""
    source, target = way.names
    ensure(
        way.source.format_bytes() == way.target.format_bytes(),
        RefusedError(
            f"{source} is registry {way.source.identity}, {target} is registry "
            f"{way.target.identity}: records go only from one copy of a registry to another.",
            hint="Make a copy in a new place by `share-registry clone`; adapters go to another "
            "registry by export and commit.",
        ),
    )
    spaces = tuple(copy_space(way, space) for space in way.source.spaces())
    return TransferReport(source=source, target=target, dry_run=way.dry_run, spaces=spaces)


def _copy_whole(way: Way) -> TransferReport:
    """Copy, and commit to a repository of the Hub what was copied there.

    Where somebody changed the registry there meanwhile, it is looked at again. Raises as `_copy`,
    and as `HubStore.commit`.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            report = _copy(way)
            if isinstance(way.target, HubStore):
                way.progress(f"commit to {way.names[1]}", 0, 1)
                way.target.commit()
                way.progress(f"commit to {way.names[1]}", 1, 1)
            return report
        except OutrunError:
            assert isinstance(way.target, HubStore)
            if not tries_left:
                raise
            way = replace(way, target=way.target.reopened())
    raise AssertionError


def _open_clone(
    stack: ExitStack,
    target: FilePath | Store,
    source: Store,
    outside: Outside,
    *,
    dry_run: bool,
) -> Store:
    """Open a copy of a store, creating it with the same FORMAT where there is none.

    Raises RefusedError, FormatError.
    """
    if not isinstance(target, str | os.PathLike) or not _is_new(_checked(target), outside):
        return _open(stack, target, "r" if dry_run else "w", outside)
    ensure(
        format_bytes(source.identity) == source.format_bytes(),
        FormatError(
            "the registry needs features that this release does not write.",
            hint="Upgrade share_registry.",
        ),
    )
    if dry_run:
        return MemoryStore(source.identity)
    if is_on_hub(target):
        return HubStore.open(os.fspath(target), outside, mode="c", identity=source.identity)
    return stack.enter_context(closing(open_store(target, "c", outside, identity=source.identity)))


def _is_new(place: FilePath, outside: Outside) -> bool:
    """Tell whether a place holds nothing of a store yet."""
    if not is_on_hub(place):
        return is_new(place, outside)
    try:
        HubStore.open(os.fspath(place), outside, mode="r")
    except NotFoundError:
        return True
    return False


def _open(stack: ExitStack, place: FilePath | Store, mode: str, outside: Outside) -> Store:
    """Open a store; one that is open already stays open. Raises NotFoundError."""
    if not isinstance(place, str | os.PathLike):
        return place
    if is_on_hub(place):
        return HubStore.open(os.fspath(place), outside, mode=mode)
    try:
        opened = open_store(_checked(place), mode, outside)
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no registry at {_shown(place)}.",
            hint="Name a directory that has FORMAT in it, or a bucket; `share-registry clone` "
            "makes a copy in a new place.",
        ) from error
    return stack.enter_context(closing(opened))


def _checked(place: FilePath) -> FilePath:
    ensure(
        os.fspath(place) != MEMORY,
        InvalidInputError(
            f"{MEMORY} is empty when it is opened, and gone afterwards.",
            hint="Give a directory, a bucket or an open Store.",
        ),
    )
    return place


def _check_places(source: FilePath | Store, target: FilePath | Store, outside: Outside) -> None:
    """Refuse to copy a store to itself, or to a commit of the Hub. Raises InvalidInputError."""
    if is_on_hub(target):
        check_branch(HubLocation.parse(str(target)), hint="Leave it out, or name a branch.")
    ensure(
        source is not target and _what_is_at(source, outside) != _what_is_at(target, outside),
        InvalidInputError("a store is no copy of itself.", hint="Give two places."),
    )


def _what_is_at(place: FilePath | Store, outside: Outside) -> object:
    """Return what tells a store from others, on the Hub too. Raises InvalidInputError."""
    if not is_on_hub(place):
        return what_is_at(place, outside)
    location = HubLocation.parse(str(place))
    return replace(location, revision=location.branch)


def _place(context: Context) -> FilePath | Store:
    """Return where the store of a registry is."""
    return context.store if context.place is None else context.place.store


def _shown(place: FilePath | Store) -> str:
    return os.fspath(place) if isinstance(place, str | os.PathLike) else type(place).__name__
