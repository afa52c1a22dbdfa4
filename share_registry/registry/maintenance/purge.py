"""Purge a task: nothing that was kept of it is left, but for what its records say.

Its versions are not read any more. What other versions are decoded from is not taken from under
them: each that was built upon the task is stored anew, bit for bit, so that its tensors, and all
that is committed of it, stay. Notes that say something of the task are replaced by what they say
besides. One record says all that, and whoever reads the log takes it into account from the
beginning. Then the objects go, under the lock that writers publish under: one that was about to
build upon them stores its adapter again.
"""

import logging
from dataclasses import replace
from typing import Final

from share_registry.catalog.queries.resolution import resolve_task
from share_registry.catalog.sql import Session
from share_registry.errors import ConflictError, ensure
from share_registry.format.records import (
    Record,
)
from share_registry.look.units import count
from share_registry.names import CommitNumber, Digest, TaskName
from share_registry.registry.arguments import Progress, Said, ignore_progress
from share_registry.registry.basis import moments
from share_registry.registry.commands.annotate import publish_change
from share_registry.registry.commands.publish import Place
from share_registry.registry.context import Context
from share_registry.registry.evidence import resolve_recorded
from share_registry.registry.maintenance.gc import check_allowed, follow_logs, reach_of
from share_registry.registry.maintenance.purge_plan import PurgePlan, plan_purge
from share_registry.registry.maintenance.reach import Reach
from share_registry.values.removals import PurgedObject, PurgeReport

_LOG: Final = logging.getLogger(__name__)
# Others may commit while it is worked out what goes
_TRIES: Final = 20
# Roles of objects that name others
_NAMING: Final = frozenset({"adapter", "note"})
# Stands for the members of a record that is not published
_PREVIEW: Final = {"parent": "0" * 64, "time": "2026-01-01T00:00:00.000000Z", "key": "preview"}


def purge(
    context: Context,
    task: str,
    *,
    space: str | None,
    dry_run: bool,
    said: Said,
    progress: Progress = ignore_progress,
) -> PurgeReport:
    """Remove a task for good; see `Registry.purge`."""
    check_allowed(context, dry_run=dry_run)
    target = resolve_recorded(context, task, space=space, resolver=resolve_task)
    reach = reach_of(context, progress)
    name = TaskName(str(target.task))
    plan = plan_purge(context, reach, target.space, name, progress)
    if dry_run:
        return _report(context, plan, _left(reach, plan), None, dry_run=True)
    commit, tries = None, iter(range(_TRIES))
    while commit is None and not plan.is_empty:
        try:
            commit = _publish(context, reach, plan, said)
        except ConflictError:
            # what was committed meanwhile may be built upon the task
            if next(tries, None) is None:
                raise
            follow_logs(reach, progress)
            plan = plan_purge(context, reach, target.space, name, progress)
    context.outside.at("purge.recorded")
    report = replace(
        _remove(context, reach, plan, commit),
        after_bytes=sum(size for _, size in context.store.objects()),
    )
    moments.forget(context, target.space)
    context.forget_decoded()
    _LOG.info("purged %s/%s: %d objects", target.space, target.task, len(report.objects))
    return report


def _publish(context: Context, reach: Reach, plan: PurgePlan, said: Said) -> CommitNumber:
    """Store what takes the place of what goes, and publish the record."""
    for digest, content in plan.new.items():
        context.store.put(content, digest)
    context.outside.at("purge.stored")
    head = reach.heads[plan.space][0]

    def build(session: Session, place: Place) -> Record:
        ensure(
            place["number"] == head + 1,
            ConflictError(
                f"others have committed to space {plan.space} meanwhile.", hint="Run it again."
            ),
        )
        return plan.record(place)

    return publish_change(context, plan.space, build, said).number


def _left(reach: Reach, plan: PurgePlan) -> set[Digest]:
    """Return the objects that would be needed after the purge."""
    preview = _PREVIEW | {"space": plan.space, "number": reach.heads[plan.space][0] + 1}
    after = reach.without({})
    after.learn(plan.new)
    after.ledgers[plan.space].follow(plan.record(preview))
    return after.without({}).objects


def _report(
    context: Context,
    plan: PurgePlan,
    left: set[Digest],
    commit: CommitNumber | None,
    *,
    dry_run: bool,
) -> PurgeReport:
    """Return what goes of what was kept of the task, and what others need still."""
    sizes = {digest: context.store.size(digest) for digest in plan.roles.keys() - left}
    shared = sum(role != "layout" for digest, role in plan.roles.items() if digest in left)
    kept = [*plan.kept]
    if shared:
        stays = "stays: others need it" if shared == 1 else "stay: others need them"
        kept.append(f"{count(shared, 'object')} of it {stays}.")
    unneeded = {digest for digest, _ in context.store.objects()} - left - plan.roles.keys()
    if unneeded:
        kept.append(
            f"{count(len(unneeded), 'object')} that nothing needs may have to do with it: "
            "`share-registry gc --grace-days 0` removes them, while nobody writes."
        )
    if context.store.has_quarantine():
        kept.append("What was moved to quarantine in the store is yours to delete, as are copies.")
    return PurgeReport(
        dry_run=dry_run,
        task=f"{plan.space}/{plan.task}",
        commit=commit,
        versions=tuple(f"{plan.space}/{plan.task}@v{version.version}" for version in plan.own),
        anchored=tuple(plan.anchored),
        notes=tuple(plan.changed),
        objects=tuple(
            PurgedObject(digest=digest, role=plan.roles[digest], size=size)
            for digest, size in sorted(sizes.items())
            if size is not None
        ),
        kept=tuple(dict.fromkeys(kept)),
        added_bytes=plan.added_bytes,
        before_bytes=plan.before_bytes,
        after_bytes=plan.before_bytes
        + plan.added_bytes
        - sum(size or 0 for size in sizes.values()),
    )


def _remove(
    context: Context, reach: Reach, plan: PurgePlan, commit: CommitNumber | None
) -> PurgeReport:
    """Remove what was kept of the task, while writers wait, as far as nothing else needs it."""
    with context.locked(), context.lockable().begin(write=True):
        follow_logs(reach)
        left = reach.without({}).objects
        report = _report(context, plan, left, commit, dry_run=False)
        context.outside.at("purge.removing")
        # those that name others go last: whoever finishes this finds by them what is left
        gone = plan.roles.keys() - left
        for names in (False, True):
            context.store.remove(
                sorted(digest for digest in gone if (plan.roles[digest] in _NAMING) is names)
            )
    return report
