"""Commits that bring no adapter: aliases, tags, labels and metrics, drop, restore, rename.

Each resolves its reference, checks its precondition again upon the head it publishes to, and is one
record.
"""

from collections.abc import Callable, Mapping, Sequence

from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.queries.resolution import resolve, resolve_task, resolve_version
from share_registry.catalog.sql import Session
from share_registry.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.format.notes import Note, TaskNote
from share_registry.format.records import (
    AliasRecord,
    AnnotateRecord,
    DropRecord,
    Record,
    RenameRecord,
    RestoreRecord,
    TagRecord,
)
from share_registry.names import (
    CommitNumber,
    SpaceName,
    TaskName,
    Version,
    alias_name,
    split_task,
    task_name,
)
from share_registry.registry.arguments import Said, check_distinct
from share_registry.registry.commands.interrupts import tells_of_interrupts
from share_registry.registry.commands.preconditions import annotations, check_labels, check_metrics
from share_registry.registry.commands.publish import Build, Place, publish
from share_registry.registry.context import Context
from share_registry.registry.evidence import require_kept, resolve_recorded
from share_registry.values.commits import Commit
from share_registry.values.references import ResolvedReference


def set_alias(
    context: Context, ref: str, alias: str, *, space: str | None, said: Said, expected: int | None
) -> Commit:
    """Point an alias of a task to a version.

    Where it is there already, return the commit that put it there.

    Raises:
        InvalidInputError: malformed name, or one that is a tag of the space.
        NotFoundError: the version does not exist.
        ConflictError: the alias is not at `expected` (0: not set).
    """
    ensure(
        "@" not in alias,
        InvalidInputError(
            f"{alias!r} is a reference, expected the name of an alias.",
            hint=f"The reference comes first: set_alias({alias!r}, {ref!r}).",
        ),
    )
    name = alias_name(alias)
    target = resolve_target(context, resolve_version, ref, space)

    def build(session: Session, place: Place) -> Record | CommitNumber:
        task = current_name(session, target)
        ensure(
            name not in lookups.tag_names(session, target.space),
            InvalidInputError(
                f"{name!r} is a tag of space {target.space!r}.",
                hint="Aliases and tags share one set of names: pick another.",
            ),
        )
        _require_kept(context, session, target)
        present = lookups.alias_target(session, target.space, task, name)
        _check_alias(name, present.version if present else None, expected)
        if present is not None and present.version == target.version:
            return CommitNumber(present.since)
        return AliasRecord.model_validate(
            place | {"task": task, "alias": name, "version": target.version}
        )

    return publish_change(context, target.space, build, said)


def remove_alias(
    context: Context, ref: str, alias: str, *, space: str | None, said: Said, expected: int | None
) -> Commit:
    """Remove an alias of a task; its history stays.

    Raises NotFoundError where it is not set, ConflictError where it is not at `expected`.
    """
    target = resolve_target(context, resolve_task, ref, space)

    def build(session: Session, place: Place) -> Record | CommitNumber:
        task = current_name(session, target)
        present = lookups.alias_target(session, target.space, task, alias_name(alias))
        if present is None:
            raise NotFoundError(
                f"task {target.space}/{task} has no alias {alias!r}.",
                hint=f"List them: aliases(task='{target.space}/{task}').",
            )
        _check_alias(alias, present.version, expected)
        return AliasRecord.model_validate(place | {"task": task, "alias": alias})

    return publish_change(context, target.space, build, said)


def set_tag(context: Context, name: str, ref: str, *, space: str | None, said: Said) -> Commit:
    """Name a commit of a space, for ever.

    Raises InvalidInputError for a name that is an alias, ConflictError where the tag names another
    commit.
    """
    ensure(
        "@" not in name,
        InvalidInputError(
            f"{name!r} is a reference, expected the name of a tag.",
            hint=f"The name comes first: tag({ref!r}, {name!r}).",
        ),
    )
    tag = alias_name(name)
    target = resolve_target(context, resolve, ref, space)

    def build(session: Session, place: Place) -> Record | CommitNumber:
        ensure(
            not lookups.is_alias(session, target.space, tag),
            InvalidInputError(
                f"{tag!r} is an alias in space {target.space!r}.",
                hint="Aliases and tags share one set of names: pick another.",
            ),
        )
        present = lookups.tag_target(session, target.space, tag)
        if present is None:
            return TagRecord.model_validate(place | {"tag": tag, "commit": target.number})
        ensure(
            present.number == target.number,
            ConflictError(
                f"tag {tag!r} names c{present.number} for ever.",
                hint="Tags never move: pick another name, or use an alias.",
            ),
        )
        return CommitNumber(present.since)

    return publish_change(context, target.space, build, said)


def annotate(
    context: Context,
    ref: str,
    *,
    space: str | None,
    labels: Mapping[str, str],
    metrics: Mapping[str, float],
    remove: Sequence[str],
    said: Said,
) -> Commit:
    """Set labels and metrics of a task version, and remove those named.

    Raises InvalidInputError where nothing is asked or a value is malformed, NotFoundError.
    """
    check_labels(labels)
    check_metrics(metrics)
    check_distinct(labels, metrics)
    ensure(
        labels or metrics or remove,
        InvalidInputError(
            "annotate was given no label, no metric and nothing to remove.",
            hint="Give labels=, metrics= or remove=.",
        ),
    )
    target = resolve_target(context, resolve_version, ref, space)

    def build(session: Session, place: Place) -> Record | CommitNumber:
        _require_kept(context, session, target)
        _check_annotations(session, target, labels, metrics, remove)
        return AnnotateRecord.model_validate(
            place | {"task": current_name(session, target), "version": target.version}
        )

    return publish_change(
        context,
        target.space,
        build,
        said,
        TaskNote(
            task=str(target.task), removed=sorted(set(remove)), **annotations(labels, metrics)
        ),
    )


def drop(context: Context, task: str, *, space: str | None, said: Said) -> Commit:
    """Stop listing a task; its versions stay readable under their references.

    Raises NotFoundError, RefusedError where it is dropped already.
    """
    target = resolve_target(context, resolve_task, task, space)

    def build(session: Session, place: Place) -> Record | CommitNumber:
        name = current_name(session, target)
        latest = version_lookups.latest_version(session, target.space, name)
        ensure(
            latest is not None and latest.live,
            RefusedError(
                f"task {target.space}/{name} is dropped already.",
                hint="Bring it back with restore.",
            ),
        )
        return DropRecord.model_validate(place | {"task": name})

    return publish_change(context, target.space, build, said)


def restore(context: Context, ref: str, *, space: str | None, said: Said) -> Commit:
    """Make an earlier version of a task its newest one, and the task live again.

    Where it is so already, return the commit that made it. Raises NotFoundError.
    """
    target = resolve_target(context, resolve_version, ref, space)

    def build(session: Session, place: Place) -> Record | CommitNumber:
        name = current_name(session, target)
        latest = version_lookups.latest_version(session, target.space, name)
        if latest is None:
            raise NotFoundError(
                f"task {target.space}/{name} has no version.",
                hint=f"List them: tasks(space={target.space!r}).",
            )
        _require_kept(context, session, target)
        if latest.live and latest.version == target.version:
            return latest.number
        return RestoreRecord.model_validate(
            place | {"task": name, "version": latest.version + 1, "of": target.version}
        )

    return publish_change(context, target.space, build, said)


def rename(context: Context, task: str, new: str, *, space: str | None, said: Said) -> Commit:
    """Give a task a new name; the old one keeps leading to it.

    Raises ConflictError where the new name is or was another task's, or of another space.
    """
    other_space, name_in_space = split_task(new)
    new_name = task_name(name_in_space)
    target = resolve_target(context, resolve_task, task, space)
    ensure(
        other_space in (None, target.space),
        ConflictError(
            f"{new!r} is in another space than task {target.space}/{target.task}.",
            hint="A task stays in its space: give the new name alone.",
        ),
    )

    def build(session: Session, place: Place) -> Record | CommitNumber:
        name = current_name(session, target)
        owner = lookups.current_name(session, target.space, new_name)
        ensure(
            name != new_name,
            RefusedError(
                f"task {target.space}/{name} has that name already.", hint="Pick another name."
            ),
        )
        ensure(
            owner in (None, name),
            ConflictError(
                f"name {new_name!r} belongs to task {target.space}/{owner}.",
                hint="A name is never given to another task: pick another.",
            ),
        )
        return RenameRecord.model_validate(place | {"task": name, "name": new_name})

    return publish_change(context, target.space, build, said)


@tells_of_interrupts
def publish_change(
    context: Context,
    space: SpaceName,
    build: Build,
    said: Said,
    task_note: TaskNote | None = None,
) -> Commit:
    """Publish one record that brings no adapter; return the commit."""
    check_reason(said)
    return publish(
        context,
        space,
        build,
        note=Note(
            author=context.author_of(said.author),
            message=said.reason or None,
            tasks=[task_note] if task_note else [],
        ),
    )


def check_reason(said: Said) -> None:
    """Check that a note can hold a reason. Raises InvalidInputError."""
    ensure(
        len(said.reason) <= 16_384,
        InvalidInputError("reason has more than 16384 characters.", hint="Shorten it."),
    )


def resolve_target(
    context: Context,
    resolver: Callable[..., ResolvedReference],
    ref: str,
    space: str | None,
) -> ResolvedReference:
    """Return what a reference of a change means. Raises NotFoundError, RefusedError."""
    context.require_writable()
    return resolve_recorded(context, ref, space=space, resolver=resolver)


def current_name(session: Session, target: ResolvedReference) -> TaskName:
    """Return what the task of a reference is called now. Raises NotFoundError."""
    name = lookups.current_name(session, target.space, TaskName(str(target.task)))
    if name is None:
        raise NotFoundError(
            f"task {target.space}/{target.task} does not exist.",
            hint=f"List them: tasks(space={target.space!r}).",
        )
    return name


def _require_kept(context: Context, session: Session, target: ResolvedReference) -> None:
    """Check that a version was not removed. Raises NotFoundError."""
    row = version_lookups.version_row(session, target.space, str(target.task), target.version or 0)
    if row is not None:
        require_kept(context, row, session=session)


def _check_alias(alias: str, now: Version | None, expected: int | None) -> None:
    if expected is not None and expected != (now or 0):
        present = f"v{now}" if now else "not set"
        required = f"v{expected}" if expected else "not set"
        raise ConflictError(
            f"alias {alias!r} is at {present}, expected {required}.",
            hint="Look at `alias-history`, then move it.",
        )


def _check_annotations(
    session: Session,
    target: ResolvedReference,
    labels: Mapping[str, str],
    metrics: Mapping[str, float],
    remove: Sequence[str],
) -> None:
    """Check that what is removed is there, and that no name would be both a label and a metric.

    Raises NotFoundError, InvalidInputError.
    """
    task, version = str(target.task), Version(target.version or 0)
    labels_now = {*lookups.labels_of(session, target.space, task, version)}
    metrics_now = {*lookups.metrics_of(session, target.space, task, version)}
    missing = sorted({*remove} - labels_now - metrics_now)
    ensure(
        not missing,
        NotFoundError(
            f"{target.ref} has no label or metric {', '.join(missing)}.",
            hint=f"It has: {', '.join(sorted(labels_now | metrics_now)) or 'none'}.",
        ),
    )
    check_distinct(labels_now - {*remove} | {*labels}, metrics)
    check_distinct(labels, metrics_now - {*remove} | {*metrics})
