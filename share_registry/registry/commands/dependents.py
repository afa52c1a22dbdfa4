"""Bound what one damaged object takes with it (spec COM-13).

Where a policy says `max_dependents`, a version refers to what the version before it needs, and to
that one, as long as all of these are among so many adapter objects that came to the task last. Then
each has at most so many that came behind it and may need it. Where one is older, the version is
stored on its own, and those that follow start from there. Nothing has to be counted: that a version
needs an object of another task, which might be needed from there as well, never happens.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.sql import Session
from share_registry.errors import ConflictError, ensure
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName
from share_registry.values.policy import Policy

if TYPE_CHECKING:
    from share_registry.materialize.decoder import Reader
    from share_registry.registry.commands.encode import EncodedAdapter


def closure(reader: "Reader", digests: Iterable[Digest]) -> list[Digest]:
    """Return objects and all that they refer to, however far, nearest first.

    Raises IntegrityError, NotFoundError.
    """
    reached = list(dict.fromkeys(digests))
    for digest in reached:
        # of a source its rows alone are needed: what it was built upon may have been purged
        if reader.has(digest) and not reader.is_basis(digest):
            stored = reader.open(digest).stored
            referred = dict.fromkeys([*filter(None, [stored.previous]), *stored.sources])
            reached += [each for each in referred if each not in reached]
    return reached


def may_need(
    session: Session,
    space: SpaceName,
    task: TaskName,
    digests: Iterable[Digest],
    limit: int,
    *,
    at: CommitNumber | None = None,
) -> bool:
    """Tell whether a new version of a task may need objects, now or after a commit.

    Args:
        session: A transaction.
        space: The space.
        task: The task.
        digests: All that it would need, the whole `closure`.
        limit: How many versions may need one object.
        at: The commit; None for now.
    """
    latest = version_lookups.latest_adapters_alone(session, space, task, limit, at=at)
    return latest.issuperset(digests)


def check_dependents(
    session: Session,
    reader: "Reader",
    space: SpaceName,
    policy: Policy,
    encoded: "Mapping[TaskName, EncodedAdapter]",
) -> None:
    """Check, upon the head that a record goes behind, that its adapters may need what they do.

    Raises ConflictError where another writer was faster to give a task a version.
    """
    limit = policy.max_dependents
    if limit is None:
        return
    for task, item in encoded.items():
        # an object that is there already brings no dependents
        if lookups.named_objects(session, [item.digest]):
            continue
        ensure(
            may_need(session, space, task, closure(reader, item.needs), limit),
            ConflictError(
                f"task {space}/{task} got another version meanwhile, and at most {limit} may need "
                "one object.",
                hint="Run it again.",
            ),
        )
