"""Remove the objects that no record needs (spec MNT-01 to MNT-08).

Such objects are what writers left that died or lost a race, what was prepared and never published,
and what versions had that were given up. None of that can be told from what somebody stores at this
moment and is about to publish. Two things keep that safe:

- *Grace.* What was put within the last days stays, by the clock of the store; putting an object
  that is there already counts.
- *The lock of the catalog.* A writer holds it while it sees that every object of its record is
  there and publishes; the collector holds it while it follows the logs to their ends, looks at the
  age of an object again and removes it. So either the collector sees the record, or the writer sees
  that the object is gone, and stores it again. Where writers do not share the catalog, grace alone
  protects them.
"""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Final

from share_registry.catalog.queries import lookups
from share_registry.errors import (
    FormatError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.format.format_file import parse_format
from share_registry.names import Digest, first_and_more
from share_registry.registry.arguments import Progress, ignore_progress
from share_registry.registry.context import Context
from share_registry.registry.maintenance.reach import Reach
from share_registry.values.garbage import Garbage, GarbageReport

_LOG: Final = logging.getLogger(__name__)
_DAY_S: Final = 86_400.0
# Objects removed under one lock, for which writers wait
_AT_ONCE: Final = 256
# A file in `tmp` may be of a writer that goes on, whatever the grace
_UNFINISHED_S: Final = 3_600.0


def collect_garbage(
    context: Context,
    *,
    grace_days: float,
    dry_run: bool,
    progress: Progress = ignore_progress,
) -> GarbageReport:
    """Remove what no record needs and nobody has put for some days; see `Registry.gc`."""
    check_allowed(context, dry_run=dry_run)
    reach = reach_of(context, progress)
    context.outside.at("gc.marked")
    report = _plan(context, reach, grace_days, progress)
    context.outside.at("gc.planned")
    if dry_run:
        return report
    removed = _remove(context, reach, report.garbage, before_s=report.before_s, progress=progress)
    _remove_spares(context, reach)
    for item in report.litter:
        context.store.remove_litter(item.name)
    _LOG.info("removed %d objects of %d bytes", len(removed), sum(item.size for item in removed))
    return report.applied(removed)


def check_allowed(context: Context, *, dry_run: bool) -> None:
    """Check that this release may remove anything at all. Raises RefusedError, FormatError."""
    if not dry_run:
        context.require_writable()
    context.catch_up()
    for error in context.ends.unknown.values():
        if isinstance(error, FormatError):
            raise FormatError(
                f"nothing may be removed: {error.message}", hint="Upgrade share_registry."
            )
        raise RefusedError(
            f"nothing is removed while something cannot be read: {error.message}",
            hint=error.hint,
        )
    # spec EVO-02
    features = parse_format(context.store.format_bytes()).gc
    ensure(
        not features,
        FormatError(
            f"nothing may be removed: the store needs the unknown features {', '.join(features)}.",
            hint="Upgrade share_registry.",
        ),
    )


def reach_of(context: Context, progress: Progress = ignore_progress) -> Reach:
    """Follow every log to its end, and check that none has lost it. Raises RefusedError."""
    reach = Reach(store=context.store.uncached())
    follow_logs(reach, progress)
    _check_ends(context, reach)
    return reach


def follow_logs(reach: Reach, progress: Progress = ignore_progress) -> None:
    """Follow the logs. Raises RefusedError where something cannot be read."""
    try:
        reach.follow(progress)
    except (IntegrityError, NotFoundError) as error:
        raise RefusedError(
            f"nothing is removed while something cannot be read: {error.message}",
            hint="Run verify, and bring back what it names from a copy of the store.",
        ) from error


def _check_ends(context: Context, reach: Reach) -> None:
    """Check that no log has lost its end, as far as the catalog can tell. Raises RefusedError."""
    lost = _lost_ends(context, reach)
    if lost:
        # unless they came meanwhile
        follow_logs(reach)
        lost = [end for end in lost if end in _lost_ends(context, reach)]
    ensure(
        not lost,
        RefusedError(
            f"nothing is removed while records are missing that were published: "
            f"{first_and_more(lost)}.",
            hint="Bring them back from a copy of the store.",
        ),
    )
    ensure(
        reach.heads or not any(True for _ in context.store.objects()),
        RefusedError(
            "nothing is removed: the store has objects and no record, which would say what is "
            "needed.",
            hint="If its logs were lost, bring them back from a copy; else create a space first.",
        ),
    )


def _lost_ends(context: Context, reach: Reach) -> list[str]:
    """Return the ends of logs that are known to the catalog, or were noted, and not reached."""
    with context.lockable().begin() as session:
        heads = lookups.heads(session)
    lost = [
        f"{space}/@c{end.number} ({end.id[:8]})"
        for ends in (heads, context.store.kept_heads())
        for space, end in ends.items()
        if space not in reach.heads or reach.heads[space][0] < end.number
    ]
    return [*dict.fromkeys(lost)]


def _plan(context: Context, reach: Reach, grace_days: float, progress: Progress) -> GarbageReport:
    """Return what would be removed. Raises RefusedError where a needed object is missing."""
    store = context.store
    now_s = store.now_s()
    before_s = now_s - grace_days * _DAY_S
    missing = set(reach.objects)
    garbage: list[Garbage] = []
    count = kept_bytes = young = young_bytes = 0
    for digest, size in store.objects():
        count += 1
        progress("objects", count, len(reach.objects))
        if digest in reach.objects:
            missing.discard(digest)
            kept_bytes += size
            continue
        used_s = store.used_s(digest)
        if used_s is None:
            continue
        if used_s > before_s:
            young, young_bytes = young + 1, young_bytes + size
        else:
            garbage.append(Garbage(name=digest, size=size, age_days=(now_s - used_s) / _DAY_S))
    ensure(
        not missing,
        RefusedError(
            f"nothing is removed while objects are missing: {len(missing)} that records need are "
            f"not in the store, {min(missing, default='')} is one of them.",
            hint="Run verify, and bring them back from a copy of the store.",
        ),
    )
    return GarbageReport(
        dry_run=True,
        grace_days=grace_days,
        before_s=before_s,
        objects=len(reach.objects),
        bytes=kept_bytes,
        young=young,
        young_bytes=young_bytes,
        garbage=tuple(garbage),
        litter=tuple(
            Garbage(name=name, size=size, age_days=(now_s - time_s) / _DAY_S)
            for name, size, time_s in store.litter()
            if time_s <= min(before_s, now_s - _UNFINISHED_S)
        ),
    )


def _remove(
    context: Context,
    reach: Reach,
    garbage: tuple[Garbage, ...],
    *,
    before_s: float,
    progress: Progress,
) -> list[Garbage]:
    """Remove what is garbage still, some at a time under the lock that publishing takes."""
    store, removed = context.store, []
    pending = iter(garbage)

    def still_old(some: list[Garbage]) -> Iterator[Digest]:
        for item in some:
            used_s = store.used_s(item.digest)
            if item.digest not in reach.objects and used_s is not None and used_s <= before_s:
                yield item.digest
                removed.append(item)

    while some := list(islice(pending, _AT_ONCE)):
        with context.lockable().begin(write=True):
            follow_logs(reach)
            context.outside.at("gc.recheck")
            store.remove(still_old(some))
        progress("removed", len(removed), len(garbage))
    return removed


def _remove_spares(context: Context, reach: Reach) -> None:
    """Remove second copies of objects that are gone and that nothing needs."""
    store = context.store

    def unneeded() -> list[Digest]:
        return [
            digest
            for digest in store.spares()
            if digest not in reach.objects and not store.has(digest)
        ]

    if unneeded():
        with context.lockable().begin(write=True):
            follow_logs(reach)
            store.remove(unneeded())
