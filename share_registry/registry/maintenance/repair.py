"""Bring back from a copy what is damaged or missing in a store.

An object is what its digest says, wherever it comes from. A record is brought back where the chain
says that it is the right one: it stands in the copy's log, which begins with the same FORMAT and is
sound up to there, and nothing here says otherwise. Where two sound logs differ, neither is damage:
they have diverged, and nothing of that space is touched.

What is damaged is moved to `quarantine` before what is sound takes its place, never deleted.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from itertools import count
from typing import Final

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.lookups import Head
from share_registry.errors import (
    ConflictError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
    ensure,
)
from share_registry.format.canonical import sha256
from share_registry.format.records import parse_record
from share_registry.kinds import FilePath
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.registry.arguments import Progress, ignore_progress
from share_registry.registry.audit.verify import walk_store
from share_registry.registry.audit.walk import Walk
from share_registry.registry.commands.quarantine import new_place
from share_registry.registry.context import Context
from share_registry.registry.location import what_is_at
from share_registry.store.open import open_store
from share_registry.store.protocol import KeptHead, Store, object_name, record_name
from share_registry.values.checks import Outcome
from share_registry.values.repairs import Repaired, RepairReport
from share_registry.values.shards import Shard

_LOG: Final = logging.getLogger(__name__)
_ABSENT: Final = "the copy has no sound one"
_ALONE: Final = "there is no second copy of it in the store"
# Clauses of an object that is not there, and of one that cannot be read or has other bytes
_LOST: Final = frozenset({"OBJ-01", "OBJ-02"})


def repair(
    context: Context,
    source: "FilePath | Store | None",
    *,
    dry_run: bool,
    progress: Progress = ignore_progress,
) -> RepairReport:
    """Bring back what is damaged or missing; see `Registry.repair`."""
    if not dry_run:
        context.require_writable()
    copy = None if source is None else _open_copy(context, source)
    # a store that was open before stays open
    with nullcontext() if copy is source or copy is None else closing(copy):
        files = {} if copy is None else _repair_logs(context, copy, dry_run=dry_run)
        walk, _ = walk_store(context, "data", Shard(), progress)
        # a later round sees what those that came back refer to
        while new := _repair_objects(context, copy, walk, files, dry_run=dry_run):
            files.update(new)
            if dry_run:
                break
            walk, _ = walk_store(context, "data", Shard(), progress)
    if not dry_run:
        files.update(_left(walk, files))
        context.forget_decoded()
        context.catch_up()
    place = "second copies in the store" if source is None else str(source)
    return RepairReport(source=place, dry_run=dry_run, files=tuple(files.values()))


def _open_copy(context: Context, source: FilePath | Store) -> Store:
    """Open the store of a copy for reading. Raises NotFoundError, InvalidInputError."""
    own = context.store if context.place is None else context.place.store
    ensure(
        source is not context.store
        and what_is_at(source, context.outside) != what_is_at(own, context.outside),
        InvalidInputError("a store is no copy of itself.", hint="Give the place of a copy."),
    )
    try:
        return open_store(source, "r", context.outside)
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no store at {source}.", hint="Name the directory that has FORMAT in it."
        ) from error


def _repair_objects(
    context: Context,
    copy: Store | None,
    walk: Walk,
    done: Mapping[str, Repaired],
    *,
    dry_run: bool,
) -> dict[str, Repaired]:
    """Bring back the objects that are damaged or missing; return what became of each."""
    refs = {finding.what: finding.refs for finding in walk.findings}
    place, files = new_place(context), {}
    absent = _ALONE if copy is None else _ABSENT
    for digest in _lost_objects(walk):
        name = f"object {digest}"
        if name in done:
            continue
        content = context.store.spare(digest)
        if content is None and copy is not None:
            content = _object_if_sound(copy, digest)
        if content is not None and not dry_run:
            _replace_object(context, digest, content, place)
        files[name] = Repaired(
            name=name,
            size=len(content or b""),
            refused="" if content is not None else absent,
            refs=refs.get(name, ()),
        )
    return files


def _replace_object(context: Context, digest: Digest, content: bytes, place: str) -> None:
    """Put an object; what stands there is moved away first, while writers wait."""
    with context.locked(), context.lockable().begin(write=True):
        # where nothing stands there, or a store cannot move files, it is put all the same
        with suppress(NotFoundError, RefusedError):
            context.store.set_aside(object_name(digest), place)
        context.store.put(content, digest)
    context.outside.at("repair.object")
    _LOG.info("brought back object %s", digest)


def _left(walk: Walk, done: Mapping[str, Repaired]) -> Iterator[tuple[str, Repaired]]:
    """Yield what is damaged still, and no file of the copy could mend."""
    for finding in walk.findings:
        if finding.outcome is Outcome.DAMAGED and finding.what not in done:
            file = Repaired(name=finding.what, refused=finding.message, refs=finding.refs)
            yield finding.what, file


def _lost_objects(walk: Walk) -> list[Digest]:
    """Return the objects that are missing or have other bytes than their names say, sorted.

    What is wrong with an object of the right bytes no copy can mend.
    """
    return sorted(digest for digest, fault in walk.faults.items() if fault.code in _LOST)


def _object_if_sound(copy: Store, digest: Digest) -> bytes | None:
    """Return an object of the copy, None where it has none that is sound. Raises StoreError."""
    try:
        return copy.get(digest)
    except (NotFoundError, IntegrityError):
        return None


def _repair_logs(context: Context, copy: Store, *, dry_run: bool) -> dict[str, Repaired]:
    """Bring back the records that are damaged or missing; return what became of each."""
    store = context.store
    with context.catalog.begin() as session:
        heads = lookups.heads(session)
    is_same = copy.identity == store.identity
    place, files = new_place(context), {}
    for space in sorted({*store.spaces(), *heads, *store.kept_heads()}):
        ends = [end for end in (heads.get(space), store.kept_head(space)) if end is not None]
        logs = _TwoLogs.of(store, copy if is_same else None, space, ends)
        for number, refused in logs.damage():
            content = b"" if refused else logs.right[number - 1]
            if not refused and not dry_run:
                _publish(context, space, number, content, logs.own.get(number), place)
            ref = f"{space}/@c{number}"
            files[ref] = Repaired(name=ref, size=len(content), refused=refused, refs=(ref,))
    return files


def _publish(
    context: Context,
    space: SpaceName,
    number: CommitNumber,
    content: bytes,
    present: bytes | None,
    place: str,
) -> None:
    """Publish a record in place of one that is damaged, while writers of the space wait.

    Raises ConflictError where that is not there any more as it was.
    """
    store = context.store
    changed = ConflictError(
        f"record c{number} of space {space} changed meanwhile.", hint="Run it again."
    )
    with context.locked(), context.lockable().begin(write=True, space=space):
        ensure(_record_if_whole(store, space, number) == present, changed)
        if store.first_record(space, [number]) is not None:
            store.set_aside(record_name(space, number), place)
        context.outside.at("repair.record")
        ensure(store.publish(space, number, content), changed)
    _LOG.info("brought back record c%d of space %s", number, space)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TwoLogs:
    """The log of a space here, and that of a copy.

    Attributes:
        own: Records here by number, None where one is missing or no whole file.
        right: Records of the copy, in order, as far as they follow each other.
        ends: The last commit as the catalog knows it, and as the store noted it, if they do.
        agreed: The last number up to which the chain says that the copy has the right records:
            both have the same there, or the next one here follows the copy's.
    """

    own: dict[CommitNumber, bytes | None]
    right: list[bytes]
    ends: Sequence[Head | KeptHead]
    agreed: int

    @classmethod
    def of(
        cls, store: Store, copy: Store | None, space: SpaceName, ends: Sequence[Head | KeptHead]
    ) -> "_TwoLogs":
        """Read both; without a copy of the same registry, the one here.

        Raises StoreError where a record here cannot be read: it may be sound.
        """
        right = [] if copy is None else [*_following(copy, space)]
        numbers = {*store.numbers(space), *(end.number for end in ends)}
        # of a log that goes on behind the copy no hole is looked for: what is in it is not there
        numbers.update(map(CommitNumber, range(1, min(max(numbers, default=0), len(right)) + 1)))
        own = {number: _record_if_whole(store, space, number) for number in sorted(numbers)}
        ids = [*map(sha256, right)]
        agreed = [number for number in own if own[number] in right[number - 1 : number]]
        agreed += [end.number for end in ends if end.id in ids[end.number - 1 : end.number]]
        agreed += [
            CommitNumber(number - 1)
            for number, content in own.items()
            if number > 1 and _parent_of(content) in ids[number - 2 : number - 1]
        ]
        return cls(own=own, right=right, ends=ends, agreed=max(agreed, default=0))

    def damage(self) -> Iterator[tuple[CommitNumber, str]]:
        """Yield what is damaged or missing here, each with why it is not brought back."""
        has_diverged = self._has_diverged()
        for number, content in self.own.items():
            right = self.right[number - 1] if number <= len(self.right) else None
            if content is not None and content == right:
                continue
            if number > self.agreed and has_diverged:
                yield number, "the copy has another: the logs have diverged"
                return
            if right is not None:
                yield number, ""
            elif _parent_of(content) is None:
                yield number, f"the copy has sound records of it up to c{len(self.right)}"

    def _has_diverged(self) -> bool:
        """Tell whether anything here says that the copy goes on with other records.

        A record that can be read, or the end that was noted, where the two have nothing in common
        any more.
        """
        behind = range(self.agreed + 1, len(self.right) + 1)
        if not behind:
            return False
        readable = [number for number, content in self.own.items() if _parent_of(content)]
        return any(
            number in behind or number == behind.stop
            for number in (*readable, *(end.number for end in self.ends))
        )


def _parent_of(content: bytes | None) -> Digest | None:
    """Return the parent that a record names; None where it cannot be read."""
    try:
        return None if content is None else parse_record(content).parent
    except ShareRegistryError:
        return None


def _record_if_whole(store: Store, space: SpaceName, number: CommitNumber) -> bytes | None:
    """Return a record, None where there is none or it is no whole file. Raises StoreError."""
    try:
        return store.record(space, number)
    except IntegrityError:
        return None


def _following(store: Store, space: SpaceName) -> Iterator[bytes]:
    """Yield the records of a log as long as each is sound and follows the one before it."""
    parent = sha256(store.format_bytes())
    for number in count(1):
        content = _record_if_whole(store, space, CommitNumber(number))
        if content is None:
            return
        try:
            record = parse_record(content)
        except FormatError:
            # of a later release: the chain goes through it all the same
            parent = sha256(content)
            yield content
            continue
        except IntegrityError:
            return
        if (record.space, record.number, record.parent) != (space, number, parent):
            return
        parent = sha256(content)
        yield content
