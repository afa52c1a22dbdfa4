"""Expire versions: they are not read any more, and what nothing else needs is garbage then.

The records that made them stay, and say what they were. None of them is the newest of a live task
or has an alias, which is checked again upon the head that the record is published to. What a
version that stays is built upon stays too: to expire that would free nothing.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias

from share_registry.catalog.queries import version_lookups
from share_registry.catalog.queries.aliases import aliases, tags
from share_registry.catalog.queries.name_claims import claims_of_reference
from share_registry.catalog.queries.named_tasks import spaces_in_scope
from share_registry.catalog.queries.resolution import resolve_task, resolve_version
from share_registry.catalog.sql import Session
from share_registry.errors import ConflictError, RefusedError, ensure
from share_registry.format.records import REMOVALS, ExpireRecord, Record, TaskVersionRef
from share_registry.names import Digest, Selector, SpaceName, TaskName, Version, parse_reference
from share_registry.registry.arguments import Progress, Said, ignore_progress
from share_registry.registry.commands.annotate import publish_change
from share_registry.registry.commands.publish import Place
from share_registry.registry.context import Context
from share_registry.registry.evidence import require_given, require_kept
from share_registry.registry.maintenance.gc import check_allowed, reach_of
from share_registry.registry.maintenance.reach import Reach
from share_registry.times import timestamp
from share_registry.values.commits import Commit
from share_registry.values.removals import ConsideredVersion, ExpireReport
from share_registry.values.task_version import TaskVersion

# Space, task and, unless all are meant, version
_Named: TypeAlias = tuple[SpaceName, TaskName, Version | None]
# Of a record (spec REC-22)
_MOST: Final = 65_536
_NEEDED: Final = "others are built upon it"
# By the first word of why a version must stay: what lets it go
_REMEDIES: Final = {
    "the": "Drop the task first, or commit a newer version to it.",
    "alias": "Move the alias first, or remove it.",
    "tag": "--no-keep-tagged (keep_tagged=False) lets it go.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRule:
    """What `expire` keeps besides what it must; see `Registry.expire`."""

    last: int = 1
    days: float = 0.0
    tagged: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reasons:
    """Why a version stays: whatever is asked for, or by the rule; empty where it does not."""

    must: str
    by_rule: str


def expire(
    context: Context,
    refs: Sequence[str],
    rule: KeepRule,
    *,
    space: str | None,
    dry_run: bool,
    said: Said,
    progress: Progress = ignore_progress,
) -> ExpireReport:
    """Remove versions by a rule, or those that are named; see `Registry.expire`."""
    check_allowed(context, dry_run=dry_run)
    with context.reading() as session:
        named = _resolve(context, session, refs, space)
        scope = {name for name, *_ in named} if refs else {*spaces_in_scope(session, space)}
        rows = {
            row: reasons
            for name in sorted(scope)
            for row, reasons in _reasons(context, session, name, rule).items()
        }
    considered = {
        row: _why_kept(row, named, reasons)
        for row, reasons in rows.items()
        if not refs or _is_named(row, named)
    }
    # afterwards: it knows every version that was looked at
    reach = reach_of(context, progress)
    _keep_needed(reach, considered, named)
    going: dict[SpaceName, list[TaskVersion]] = defaultdict(list)
    for row, reason in considered.items():
        if not reason:
            going[row.space].append(row)
    removed = {
        name: {(reach.ledgers[name].names[row.task], row.version) for row in rows}
        for name, rows in going.items()
    }
    left = reach.without(removed).objects
    freed_bytes = sum(context.store.size(digest) or 0 for digest in reach.objects - left)
    commits = [] if dry_run else [*_publish(context, going, said)]
    return ExpireReport(
        dry_run=dry_run,
        versions=tuple(
            ConsideredVersion(
                ref=row.ref, space=row.space, task=row.task, version=row.version, kept=reason
            )
            for row, reason in considered.items()
        ),
        commits=tuple(f"{commit.space}/@c{commit.number}" for commit in commits),
        freed_bytes=freed_bytes,
    )


def _resolve(
    context: Context, session: Session, refs: Sequence[str], space: str | None
) -> set[_Named]:
    """Return the tasks and versions that references name. Raises as `resolve`."""
    named: set[_Named] = set()
    for ref in refs:
        asked = parse_reference(ref)
        is_task = asked.selector is Selector.LATEST and not asked.back
        resolver = resolve_task if is_task else resolve_version
        target = resolver(session, ref, space=space)
        require_given(context, claims_of_reference(session, ref, space=space, present=target.task))
        task, version = TaskName(str(target.task)), None if is_task else target.version
        if version is not None:
            row = version_lookups.version_row(session, target.space, task, version)
            if row is not None:
                require_kept(context, row, session=session)
        named.add((target.space, task, version))
    return named


def _is_named(row: TaskVersion, named: AbstractSet[_Named]) -> bool:
    return not named.isdisjoint({(row.space, row.task, None), (row.space, row.task, row.version)})


def _reasons(
    context: Context, session: Session, space: SpaceName, rule: KeepRule
) -> dict[TaskVersion, _Reasons]:
    """Return the versions of a space that were not removed, each with why it stays."""
    by_task: dict[TaskName, list[TaskVersion]] = defaultdict(list)
    for row in version_lookups.all_versions(session, space):
        by_task[row.task].append(row)
    since = timestamp(context.outside.now() - timedelta(days=rule.days))
    claimed = _claims(session, space, rule, by_task)
    reasons: dict[TaskVersion, _Reasons] = {}
    for every in by_task.values():
        versions = [row for row in every if row.removed is None]
        last = versions[len(versions) - rule.last :] if rule.last else []
        for row in versions:
            must = "the newest of a live task" if row.live and row.version == row.latest else ""
            by_rule = f"one of the last {rule.last}" if row in last else ""
            if rule.days and row.time >= since:
                by_rule = by_rule or f"committed in the last {rule.days:g} days"
            reasons[row] = _Reasons(must=must or claimed.get(row, ""), by_rule=by_rule)
    return reasons


def _claims(
    session: Session,
    space: SpaceName,
    rule: KeepRule,
    by_task: Mapping[TaskName, Sequence[TaskVersion]],
) -> dict[TaskVersion, str]:
    """Return the versions that an alias or a tag stands for, each with which."""
    claimed: dict[TaskVersion, str] = {}
    for tag in tags(session, space=space) if rule.tagged else ():
        for versions in by_task.values():
            before = [row for row in versions if row.number <= tag.number]
            if before:
                claimed[before[-1]] = f"tag {tag.name}"
    for alias in aliases(session, space=space):
        for row in by_task.get(alias.task, ()):
            if row.version == alias.version:
                claimed[row] = f"alias {alias.name}"
    return claimed


def _why_kept(row: TaskVersion, named: Collection[_Named], reasons: _Reasons) -> str:
    """Return why a version stays, empty where it goes.

    Raises RefusedError where it is named by itself and must stay.
    """
    must = reasons.must
    if (row.space, row.task, row.version) not in named:
        return must or reasons.by_rule
    remedy = _REMEDIES.get(must.partition(" ")[0], "")
    ensure(not must, RefusedError(f"{row.ref} is not expired: {must}.", hint=remedy))
    return ""


def _keep_needed(
    reach: Reach, considered: dict[TaskVersion, str], named: Collection[_Named]
) -> None:
    """Note of versions that the rule would let go which others that stay are built upon."""
    by_adapter: dict[Digest, list[TaskVersion]] = defaultdict(list)
    going = {row for row, reason in considered.items() if not reason}
    for row in going:
        by_adapter[row.adapter_digest].append(row)
    places = {(row.space, reach.ledgers[row.space].names[row.task], row.version) for row in going}
    pending = [
        version.adapter
        for space, ledger in reach.ledgers.items()
        for (task, number), version in ledger.kept.items()
        if (space, task, number) not in places
    ]
    for adapter in pending:
        for needed in reach.decoded_from(adapter) - {adapter}:
            for row in by_adapter.pop(needed, ()):
                if (row.space, row.task, row.version) not in named:
                    considered[row] = _NEEDED
                    pending.append(row.adapter_digest)


def _publish(
    context: Context, going: Mapping[SpaceName, Sequence[TaskVersion]], said: Said
) -> Iterator[Commit]:
    """Publish what goes, in one record for a space unless it is more than one may hold."""
    for space, rows in sorted(going.items()):
        ordered = sorted(rows, key=lambda row: (row.task, row.version))
        for begin in range(0, len(ordered), _MOST):
            some = ordered[begin : begin + _MOST]

            def build(
                session: Session,
                place: Place,
                space: SpaceName = space,
                some: Sequence[TaskVersion] = some,
            ) -> Record:
                _require_free(session, space, some)
                versions = [TaskVersionRef(task=row.task, version=row.version) for row in some]
                return ExpireRecord.model_validate(
                    place | {"requires": [REMOVALS], "versions": versions}
                )

            yield publish_change(context, space, build, said)


def _require_free(session: Session, space: SpaceName, rows: Sequence[TaskVersion]) -> None:
    """Check that versions are there, and nothing stands at them. Raises ConflictError."""
    present = {(row.task, row.version): row for row in version_lookups.all_versions(session, space)}
    aliased = {(alias.task, alias.version) for alias in aliases(session, space=space)}
    for row in rows:
        place = row.task, row.version
        now = present.get(place)
        is_free = (
            now is not None
            and now.removed is None
            and not (now.live and now.version == now.latest)
            and place not in aliased
        )
        ensure(
            is_free,
            ConflictError(
                f"{row.ref} was renamed, removed, or got an alias meanwhile.", hint="Run it again."
            ),
        )
