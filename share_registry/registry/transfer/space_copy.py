"""Copy one space: what its new records need, then the records, in order."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from share_registry.errors import (
    ConflictError,
    FormatError,
    IntegrityError,
    ShareRegistryError,
    ensure,
)
from share_registry.format.canonical import sha256
from share_registry.names import CommitNumber, Digest, SpaceName, first_and_more
from share_registry.registry.arguments import Progress
from share_registry.registry.log_ends import check_end
from share_registry.registry.transfer.freight import Freight
from share_registry.registry.transfer.log_pair import LogPair, compare_logs
from share_registry.registry.transfer.new_records import NewRecords, new_records
from share_registry.store.protocol import KeptHead, Store
from share_registry.values.transfers import CopiedSpace

_LOG: Final = logging.getLogger(__name__)
# Records published under one lock, for which writers of the target wait
_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """From where to where is copied, and how.

    Attributes:
        names: How the two are called.
        spares: Objects that the source keeps twice.
        locked: Keeps writers and removers of the target waiting, where they can be (spec MNT-05).
    """

    source: Store
    target: Store
    names: tuple[str, str]
    dry_run: bool
    progress: Progress
    spares: frozenset[Digest] = frozenset()
    locked: Callable[[SpaceName], AbstractContextManager[None]] | None = None


def copy_space(way: Way, space: SpaceName) -> CopiedSpace:
    """Copy what the target lacks of a space, and say what does not go.

    Raises StoreError where one of the systems refuses.
    """
    try:
        return _copy(way, space)
    except (IntegrityError, FormatError) as error:
        return CopiedSpace(space=space, number=CommitNumber(0), id=None, refused=error.message)


def _copy(way: Way, space: SpaceName) -> CopiedSpace:
    pair = compare_logs(way.source, way.target, space)
    before = _standing(pair)
    if pair.has_diverged:
        return replace(before, refused=pair.divergence, has_diverged=True)
    if not pair.lacking:
        return replace(before, refused=pair.damage.message if pair.damage else "")
    records = new_records(way.source, way.target, pair)
    freight = Freight(
        space=space,
        source=way.source,
        target=way.target,
        records=records,
        dry_run=way.dry_run,
        spares=way.spares,
        progress=way.progress,
    )
    freight.carry()
    last, refused = _end(pair, records, freight)
    copied = {number: content for number, content in records.contents.items() if number <= last}
    has_lost = False
    if not way.dry_run:
        published = _publish(way, space, copied, freight)
        has_lost = published < len(copied)
        copied = dict(islice(copied.items(), published))
    done = replace(
        _advanced(before, copied),
        records=len(copied),
        objects=freight.objects,
        bytes=freight.size_bytes + sum(map(len, copied.values())),
        present=len(freight.present),
        refused=refused,
    )
    if not has_lost:
        return done
    # another writer of the target was faster
    divergence = compare_logs(way.source, way.target, space).divergence
    return replace(done, refused=divergence, has_diverged=True)


def _standing(pair: LogPair) -> CopiedSpace:
    """Return what is to be said of a space of which nothing is copied."""
    head = pair.target
    return CopiedSpace(
        space=pair.space,
        number=CommitNumber(0) if head is None else head.number,
        id=None if head is None else head.id,
        ahead=0 if pair.has_diverged else pair.ahead,
    )


def _advanced(before: CopiedSpace, copied: dict[CommitNumber, bytes]) -> CopiedSpace:
    if not copied:
        return before
    number, content = [*copied.items()][-1]
    return replace(before, number=number, id=sha256(content))


def _end(pair: LogPair, records: NewRecords, freight: Freight) -> tuple[int, str]:
    """Return the last record that can be published, and why not those behind it."""
    space = pair.space
    start = 0 if pair.target is None else pair.target.number
    last, refused = start + len(records.contents), ""
    if records.damage is not None:
        # what was read last may be removed by what cannot be read
        refused = records.damage.message
    lacking = freight.first_lacking()
    if lacking is not None:
        number, digest = lacking
        last = max(start, records.last_before(number))
        refused = (
            f"record c{number} of space {space} needs object {digest}, which the source does not "
            f"have in a sound state: {freight.lost[digest].message}"
        )
    return last, refused


def _publish(
    way: Way, space: SpaceName, contents: dict[CommitNumber, bytes], freight: Freight
) -> int:
    """Publish records in order; return how many are the target's, fewer where one is another's."""
    target, published = way.target, 0
    for some in _pieces([*contents.items()]):
        with nullcontext() if way.locked is None else way.locked(space):
            if way.locked is not None:
                _check_present(target, freight)
            target.sync_log(space)
            check_end(target, space, some[0][0])
            for number, content in some:
                if not target.publish(space, number, content):
                    return published
                published += 1
                way.progress(f"records of {space}", published, len(contents))
            _keep_head(target, space, KeptHead(number=number, id=sha256(content)))
    if published:
        _LOG.info("copied %d records of space %s", published, space)
    return published


def _check_present(target: Store, freight: Freight) -> None:
    """Check, while nothing can be removed, that all is there. Raises ConflictError."""
    needed = freight.moved.keys() - freight.lost.keys()
    gone = target.missing(needed)
    ensure(
        not gone,
        ConflictError(
            f"objects of space {freight.space} were removed while it was copied: "
            f"{first_and_more(gone)}.",
            hint="Run it again: what is missing is copied anew.",
        ),
    )


def _keep_head(target: Store, space: SpaceName, head: KeptHead) -> None:
    """Note what was published last; the records stand whatever becomes of that."""
    try:
        target.keep_head(space, head)
    except ShareRegistryError as error:
        _LOG.info("the end of the log of space %s could not be noted: %s", space, error)


def _pieces(
    contents: Sequence[tuple[CommitNumber, bytes]],
) -> Iterator[list[tuple[CommitNumber, bytes]]]:
    pending = iter(contents)
    while some := [*islice(pending, _AT_ONCE)]:
        yield some
