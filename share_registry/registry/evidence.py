"""What the catalog says of a version or a name, compared with the record that says so.

The catalog is an index, and whoever can write it could make it say anything. Records are hashed
into a chain. So before a version is read, coded against or built upon, the record that made it is
read: its bytes must be those that the catalog applied, and what it says of the version what the
catalog says. It is one read and one hash a commit, remembered as long as the registry is open.

It cannot be seen here that a row is missing: that an alias moved again, or that there is a newer
version. `verify` compares whole catalogs with their logs.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from share_registry.catalog.queries import lookups, removed_versions, version_lookups
from share_registry.catalog.queries.name_claims import (
    NameClaim,
    claims_of_reference,
    claims_of_task,
)
from share_registry.catalog.queries.resolution import resolve
from share_registry.catalog.sql import Session, clean
from share_registry.errors import ConflictError, IntegrityError, NotFoundError, ensure
from share_registry.format.canonical import parse_foreign, sha256
from share_registry.names import CommitNumber, Digest, SpaceName, first_and_more
from share_registry.registry.context import AppliedRecord, Context
from share_registry.registry.log_entries import read_note
from share_registry.store.protocol import MAX_RECORD_BYTES
from share_registry.values.policy import Policy
from share_registry.values.references import ResolvedReference
from share_registry.values.task_version import REPEATED, TaskVersion

if TYPE_CHECKING:
    from share_registry.format.named_objects import Replaced
    from share_registry.format.notes import Note, TaskNote

_HINT: Final = (
    "Run `share-registry verify`, which tells whether the record or the catalog is wrong. A "
    "catalog is made again by `share-registry rebuild`."
)
_REMEMBERED: Final = 256
# Members of a version that a purge may have put another object in place of
_REPLACED: Final = frozenset({"adapter", "note"})
# What a version has from the one whose note describes it
_DESCRIBED: Final = ("note_digest", "note_task", "config_digest")


def resolve_recorded(
    context: Context,
    ref: str,
    *,
    space: str | None,
    resolver: Callable[..., ResolvedReference] = resolve,
) -> ResolvedReference:
    """Return what a reference means now; a name in it is compared with its record.

    Args:
        context: The registry.
        ref: The reference.
        space: The space of one that names none.
        resolver: `resolve`, or one of its kin that takes less than any reference.

    Raises as the resolver, and IntegrityError.
    """
    with context.reading() as session:
        target = resolver(session, ref, space=space)
        claims = claims_of_reference(session, ref, space=space, present=target.task)
    require_given(context, claims)
    return target


def require_given(context: Context, claims: Iterable[NameClaim]) -> None:
    """Check that records gave names as the catalog says. Raises IntegrityError."""
    for claim in claims:
        record = _read(context, claim.space, claim.number, claim.commit_id)
        fits = all(record.members.get(member) in may for member, may in claim.members.items())
        begins = record.tasks.get(claim.name, {}).get("version") == 1
        ensure(
            fits if claim.members else begins,
            IntegrityError(
                f"the catalog says that record c{claim.number} of space {claim.space} "
                f"{claim.meaning}, which it did not.",
                hint=_HINT,
            ),
        )


def require_recorded(
    context: Context, rows: Iterable[TaskVersion], *, session: Session | None = None
) -> None:
    """Check that versions were not removed, and are what the records that made them say.

    Args:
        context: The registry.
        rows: The versions.
        session: A transaction that is open already.

    Raises:
        NotFoundError: a version was expired or purged.
        IntegrityError: a record is not there, is not the one that was applied, or says something
            else.
    """
    checked = [*rows]
    for row in checked:
        require_kept(context, row, session=session)
    inherited = [row for row in checked if _earlier(row) is not None or row.task != row.name]
    behind: list[Sequence[TaskVersion]] = []
    claims: list[Sequence[NameClaim]] = []
    if inherited:
        with nullcontext(session) if session is not None else context.catalog.begin() as asked:
            behind = [_with_earlier(asked, row) for row in inherited]
            claims = [claims_of_task(asked, row.space, row.task) for row in inherited]
    for row in checked:
        _check_row(context, row)
    for chain, names in zip(behind, claims, strict=True):
        _check_names(context, chain, names)
        for row, earlier in pairwise(chain):
            _check_row(context, earlier)
            _check_inherited(row, earlier)


def require_kept(context: Context, row: TaskVersion, *, session: Session | None = None) -> None:
    """Check that a version was not removed.

    Raises NotFoundError where a record says that it was, IntegrityError where the catalog alone
    does.
    """
    if row.removed is None:
        return
    with nullcontext(session) if session is not None else context.catalog.begin() as asked:
        commit_id = lookups.commit_id(asked, row.space, row.removed) or Digest("")
        names = {claim.name for claim in claims_of_task(asked, row.space, row.task)}
    members = _read(context, row.space, row.removed, commit_id).members
    kind, listed = members.get("kind"), members.get("versions", [])
    is_purged = kind == "purge" and members.get("task") in names
    is_expired = kind == "expire" and any(
        of["task"] in names and of["version"] == row.version for of in listed
    )
    ensure(
        is_purged or is_expired,
        IntegrityError(
            f"the catalog says that record c{row.removed} of space {row.space} removed {row.ref}, "
            "which it did not.",
            hint=_HINT,
        ),
    )
    raise NotFoundError(
        f"{row.ref} is not there any more: {row.space}/@c{row.removed} "
        f"{'purged' if is_purged else 'expired'} it on {str(members.get('time'))[:10]}.",
        hint=f"`share-registry log --task {row.space}/{row.task}` lists what was done to the task.",
    )


def removed_objects(
    context: Context, session: Session, space: SpaceName, digests: Collection[Digest]
) -> set[Digest]:
    """Return those of some objects that nothing new may build upon (spec COM-12).

    They are of removed versions alone, or were replaced and did not come again. Raises
    IntegrityError.
    """
    if not digests or not removed_versions.removals(session, space):
        return set()
    replaced = {
        digest for _, objects in _replaced(context, session, space) for digest in objects
    } & {*digests}
    # what came again, and is named by a record behind the purge, is there as ever
    replaced -= removed_versions.kept_adapters(session, space, replaced)
    replaced -= removed_versions.named_bases(session, space, replaced)
    return replaced | removed_versions.removed_adapters(session, space, digests)


def require_unreplaced(
    context: Context,
    session: Session,
    space: SpaceName,
    needs: Collection[Digest],
    adapters: Collection[Digest],
) -> None:
    """Check that new adapter objects build upon nothing that was removed or replaced.

    Those that a version has already may go on as they are. Raises ConflictError.

    Args:
        context: The registry.
        session: A transaction.
        space: The space.
        needs: What the new objects refer to.
        adapters: The adapter objects.
    """
    gone = removed_objects(context, session, space, needs)
    if gone and removed_versions.kept_adapters(session, space, adapters).issuperset(adapters):
        return
    ensure(
        not gone,
        ConflictError(
            f"{first_and_more(sorted(gone))}, which the new version was coded against, was removed "
            f"from space {space} meanwhile.",
            hint="Run it again: it is coded against what is left.",
        ),
    )


def require_described(context: Context, rows: Iterable[TaskVersion]) -> None:
    """Check versions as `require_recorded`, and their configs against those notes that are there.

    Raises IntegrityError.
    """
    checked = [*rows]
    require_recorded(context, checked)
    notes: dict[Digest | None, Note | None] = {}
    for row in checked:
        if row.note_digest not in notes:
            notes[row.note_digest] = read_note(context.store, row.note_digest)
        note = notes[row.note_digest]
        if note is not None:
            check_config(row, note.of(row.note_task))


def check_config(row: TaskVersion, note: "TaskNote") -> None:
    """Check that the catalog names the config that a note names. Raises IntegrityError."""
    ensure(
        row.config_digest in (note.config, None),
        IntegrityError(
            f"the catalog says of {row.ref} that its config is {row.config_digest}, its note says "
            f"{note.config}.",
            hint=_HINT,
        ),
    )


def require_base(context: Context, space: SpaceName, base_model: str) -> None:
    """Check that the first record of a space names a base model. Raises IntegrityError."""
    first = CommitNumber(1)
    with context.catalog.begin() as session:
        commit_id = lookups.commit_id(session, space, first) or Digest("")
    recorded = _read(context, space, first, commit_id).members.get("base_model")
    label = recorded.get("label") if isinstance(recorded, dict) else None
    ensure(
        base_model == clean(str(label)),
        IntegrityError(
            f"the catalog says that space {space} is of base model {base_model!r}, "
            f"record c1 says {label!r}.",
            hint=_HINT,
        ),
    )


def require_policy(context: Context, session: Session, space: SpaceName, policy: Policy) -> Policy:
    """Return the policy of a space once a record is seen to have given it.

    Raises IntegrityError.
    """
    from share_registry.format.layout import validate
    from share_registry.format.records import PolicyBody

    number, commit_id = lookups.policy_change(session, space)
    members = _read(context, space, number, commit_id).members
    body = validate(PolicyBody.model_validate, members.get("policy"), f"policy of c{number}")
    recorded = body.model_dump() | {"budget": float(body.budget), "require": tuple(body.require)}
    for member in fields(Policy):
        claimed, said = getattr(policy, member.name), recorded[member.name]
        ensure(
            claimed == said,
            IntegrityError(
                f"the catalog says that {member.name} of the policy of space {space} is {claimed}, "
                f"record c{number} says {said}.",
                hint=_HINT,
            ),
        )
    return policy


def _replaced(context: Context, session: Session, space: SpaceName) -> "Replaced":
    """Return what records of a space replace. Raises IntegrityError."""
    from share_registry.format.layout import validate
    from share_registry.format.named_objects import replacements
    from share_registry.format.records import RECORD

    records = (
        (removal.number, _read(context, space, removal.number, removal.id).members)
        for removal in removed_versions.removals(session, space)
        if removal.kind == "purge"
    )
    return [
        (number, replacements(validate(RECORD.validate_python, members, f"record c{number}")))
        for number, members in records
    ]


def _with_earlier(session: Session, row: TaskVersion) -> list[TaskVersion]:
    """Return a version, and those that it has its note from, down to one that was committed."""
    rows = [row]
    while (number := _earlier(rows[-1])) is not None:
        earlier = version_lookups.version_row(session, row.space, row.task, number)
        if earlier is None or number >= rows[-1].version:
            raise IntegrityError(
                f"{rows[-1].ref} goes back to v{number}, which the catalog does not have.",
                hint=_HINT,
            )
        rows.append(earlier)
    return rows


def _earlier(row: TaskVersion) -> int | None:
    """Return the version that a restored or re-expressed one has its note from."""
    if row.restored_from is not None:
        return row.restored_from
    return row.version - 1 if row.before is not None else None


def _check_row(context: Context, row: TaskVersion) -> None:
    """Compare a version with its record. Raises IntegrityError."""
    from share_registry.format.named_objects import read_for

    record = _read(context, row.space, row.number, row.commit_id)
    for member, claimed, recorded in _claims(row, record):
        if claimed != recorded and member in _REPLACED:
            with context.catalog.begin() as session:
                replaced = _replaced(context, session, row.space)
            recorded = read_for(Digest(str(recorded)), row.number, replaced)
        if claimed != recorded:
            raise IntegrityError(
                f"the catalog says of {row.ref} that its {member} is {claimed}, "
                f"record c{row.number} says {recorded}.",
                hint=_HINT,
            )


def _claims(row: TaskVersion, record: AppliedRecord) -> Iterator[tuple[str, object, object]]:
    """Yield what the catalog says of a version, and what the record says, member by member."""
    yield "time", row.time, record.members.get("time")
    if record.members.get("kind") == "restore":
        yield "task", row.name, record.members.get("task")
        yield "number", row.version, record.members.get("version")
        yield "origin", row.restored_from, record.members.get("of")
        return
    entry = record.tasks.get(row.name, {})
    yield "number", row.version, entry.get("version")
    yield "origin", row.restored_from, None
    for member in ("adapter", "layout", "tensors", "source"):
        yield member, getattr(row, f"{member}_digest"), entry.get(member)
    for member in ("budget", "error", "norm", "before"):
        text = entry.get(member)
        # a catalog upgraded from its first schema does not know the norm
        if member != "norm" or row.norm:
            yield member, getattr(row, member), None if text is None else float(text)
    yield "bound", row.bound, bool(entry.get("bound"))
    yield "size", row.raw_bytes, entry.get("raw_bytes")
    if record.members.get("kind") != "refit":
        yield "note", row.note_digest, record.members.get("note")
        yield "name in the note", row.note_task, row.name


def _check_inherited(row: TaskVersion, earlier: TaskVersion) -> None:
    """Compare a restored or re-expressed version with the one before it. Raises IntegrityError."""
    repeated = REPEATED if row.restored_from is not None else ()
    for member in (*repeated, *_DESCRIBED):
        claimed, expected = getattr(row, member), getattr(earlier, member)
        ensure(
            claimed == expected,
            IntegrityError(
                f"the catalog says of {row.ref} that its {member} is {claimed}, "
                f"of {earlier.ref}, which it has that from, {expected}.",
                hint=_HINT,
            ),
        )


def _check_names(
    context: Context, rows: Sequence[TaskVersion], claims: Sequence[NameClaim]
) -> None:
    """Check that versions were made under names that their task had. Raises IntegrityError."""
    if all(row.name == row.task for row in rows):
        return
    names = {claim.name for claim in claims}
    for row in rows:
        ensure(
            row.name in names,
            IntegrityError(
                f"the catalog says of {row.ref} that it was made as {row.name!r}, "
                "which that task was never called.",
                hint=_HINT,
            ),
        )
    require_given(context, claims)


def _read(
    context: Context, space: SpaceName, number: CommitNumber, commit_id: Digest
) -> AppliedRecord:
    """Return a record whose bytes have the id that the catalog knows. Raises IntegrityError."""
    remembered = context.recorded
    record = remembered.get(commit_id)
    if record is None:
        record = _read_record(context, space, number, commit_id)
        remembered[commit_id] = record
        if len(remembered) > _REMEMBERED:
            remembered.popitem(last=False)
    place = (record.members.get("space"), record.members.get("number"))
    ensure(
        place == (space, number),
        IntegrityError(
            f"the catalog says that commit {commit_id[:8]} is {space}/@c{number}, "
            f"it is {place[0]}/@c{place[1]}.",
            hint=_HINT,
        ),
    )
    return record


def _read_record(
    context: Context, space: SpaceName, number: CommitNumber, commit_id: Digest
) -> AppliedRecord:
    name = f"record c{number} of space {space}"
    content = context.store.record(space, number)
    if content is None:
        raise IntegrityError(
            f"{name} is not in the store, though the catalog knows it ({commit_id[:8]}).",
            hint="Bring the file back from a copy of the store.",
        )
    actual = sha256(content)
    ensure(
        actual == commit_id,
        IntegrityError(f"{name} is {actual[:8]}, the catalog says {commit_id[:8]}.", hint=_HINT),
    )
    members = parse_foreign(content, subject=name, limit=MAX_RECORD_BYTES)
    tasks = members.get("tasks")
    entries = tasks if isinstance(tasks, list) else []
    return AppliedRecord(members=members, tasks={entry["task"]: entry for entry in entries})
