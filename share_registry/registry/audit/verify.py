"""Verify: is the store what its records say, and does every version decode to what was committed?

Levels build on each other: `quick` follows the chains and asks whether objects are there; `data`
reads and hashes every object and parses it; `deep` rebuilds every version and compares its tensors
with the commit. Nothing is ever written.

A shard is a share of that for one of several workers. Each reads every log and note, which is
little, as only they say what there is. Then it checks and tells what is its own: the logs whose
space names, and the objects whose digests, fall to it; a version goes with its adapter object.
A subset is the shard whose turn it is, by the day or by a number that the caller counts.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from share_registry.catalog.queries import lookups
from share_registry.errors import (
    CatalogError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    RefusedError,
    ShareRegistryError,
    StoreError,
    ensure,
)
from share_registry.format.canonical import sha256
from share_registry.format.named_objects import objects_of_task
from share_registry.format.notes import Note
from share_registry.format.records import parse_record
from share_registry.names import Digest, SpaceName, TaskName
from share_registry.registry.arguments import Progress, ignore_progress
from share_registry.registry.audit.catalog_checks import check_meaning
from share_registry.registry.audit.object_checks import (
    check_objects,
    check_versions,
    own_versions,
)
from share_registry.registry.audit.walk import SPARED, Fault, Walk
from share_registry.registry.context import Context
from share_registry.registry.ledger import Ledger
from share_registry.store.protocol import Store
from share_registry.values.checks import Finding, Outcome, VerifyReport
from share_registry.values.shards import Shard

# Missing records that are named one by one, of those between two that are there
_LISTED_OF_HOLE: Final = 100
# Clauses of objects that are missing
_GONE: Final = frozenset({"OBJ-02", "NOT-06"})
# Damaged objects that a hint names, by so many digits
_NAMED: Final = 4
_DIGITS: Final = 8
LEVELS: Final = ("quick", "data", "deep")
_DAY_S: Final = 24 * 60 * 60
# By what it means: the error that is raised for it, and the next step
_RAISED: Final[dict[Outcome, tuple[type[ShareRegistryError], str]]] = {
    Outcome.DAMAGED: (
        IntegrityError,
        "Bring the named files back from a copy: `share-registry repair --from DIRECTORY`.",
    ),
    Outcome.CATALOG: (
        IntegrityError,
        "The store is sound: `share-registry rebuild` makes the catalog again from it.",
    ),
    Outcome.NEWER: (FormatError, "Nothing is damaged: upgrade share_registry, then verify again."),
    Outcome.LARGE: (
        RefusedError,
        "Nothing is known to be damaged: other versions than the named ones are read as ever.",
    ),
}


def verify(
    context: Context,
    level: str,
    *,
    shard: str | None = None,
    subset: str | None = None,
    turn: int | None = None,
    progress: Progress = ignore_progress,
) -> VerifyReport:
    """Check the whole registry, or a share of it.

    Args:
        context: The registry.
        level: "quick", "data" or "deep".
        shard: Which share, as "3/8"; None for the whole.
        subset: How much, as "5%": the shard whose turn it is.
        turn: The number of the turn; None for that of the day (UTC).
        progress: See `Progress`.

    Returns:
        The report; `ok` where nothing was found.

    Raises:
        InvalidInputError: unknown level, a shard beside a subset, a turn without one.
    """
    ensure(
        level in LEVELS,
        InvalidInputError(
            f"level {level!r} is not one of {', '.join(LEVELS)}.",
            hint="quick: chains; data: every byte; deep: every version rebuilt.",
        ),
    )
    part = _shard(context, shard, subset, turn)
    walk, own_spaces = walk_store(context, level, part or Shard(), progress)
    if level == "deep":
        check_versions(walk, progress)
    return VerifyReport(
        level=level,
        shard=None if part is None else str(part),
        spaces=len(own_spaces),
        records=walk.records,
        objects=len(walk.own),
        bytes=walk.size_bytes,
        versions=len(own_versions(walk)),
        findings=tuple(walk.findings),
        unexportable=tuple(walk.unexportable),
    )


def _shard(
    context: Context, shard: str | None, subset: str | None, turn: int | None
) -> Shard | None:
    """Return the shard that is asked for, None for the whole. Raises InvalidInputError."""
    ensure(
        subset is not None or turn is None,
        InvalidInputError(f"turn {turn} is given without a subset.", hint="Add a subset: 5%."),
    )
    if subset is None:
        return None if shard is None else Shard.of(shard)
    ensure(
        shard is None,
        InvalidInputError(
            f"shard {shard} is given beside subset {subset}.",
            hint="A subset is a shard whose turn it is: give one of them.",
        ),
    )
    if turn is None:
        turn = int(context.outside.now().timestamp()) // _DAY_S
    return Shard.of_turn(subset, turn)


def walk_store(
    context: Context, level: str, part: Shard, progress: Progress = ignore_progress
) -> tuple[Walk, list[SpaceName]]:
    """Follow every log and check the objects of a shard; return also the spaces of the shard."""
    walk = Walk(store=context.store.uncached(), level=level, shard=part)
    _require_present(walk.store)
    spaces = context.store.spaces()
    for space in spaces:
        _check_log(walk, space)
    _check_heads(walk, context)
    _check_kept_heads(walk)
    own_spaces = list(filter(part.has_space, spaces))
    check_meaning(walk, context, own_spaces)
    # a listing of the whole store, which cannot be cut
    if part.number == 1:
        for stray in context.store.strays():
            walk.add("STO-02", stray, "does not belong into a store.")
    check_objects(walk, progress)
    return walk, own_spaces


def _require_present(store: Store) -> None:
    """Raise StoreError where a store was taken away, or put in place of another, while open.

    It would look like one without spaces, in which nothing is damaged.
    """
    ensure(
        store.kept_format() == store.format_bytes(),
        StoreError(
            "the store that was opened is not there any more, or another is in its place.",
            hint="See that its directory or bucket is there, and open the registry again.",
        ),
    )


def require_sound(report: VerifyReport) -> None:
    """Raise an error for the worst that a report has found, unless it is sound.

    Raises:
        IntegrityError: something is damaged, or the catalog is not what the logs say.
        FormatError: nothing is; some record or object is of a later release.
        RefusedError: neither; some version is too large to be decoded.
    """
    if report.ok:
        return
    wrong = sorted(report.findings, key=lambda finding: [*Outcome].index(finding.outcome))
    first = wrong[0]
    error, hint = _RAISED[first.outcome]
    more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    refs = sorted({ref for finding in wrong for ref in finding.refs})
    affected = f" Affected: {', '.join(refs[:5])}{' ...' if len(refs) > 5 else ''}." if refs else ""
    raise error(
        f"verify ({report.extent}) found {first.code} {first.what}: "
        f"{first.message.removesuffix('.')}{more}.{affected}",
        hint=_hint(wrong) or hint,
    )


def _hint(wrong: Sequence[Finding]) -> str:
    """Return the next step where it is the same for everything that is wrong, and no usual one."""
    if all(finding.code == "STO-02" for finding in wrong):
        return "Move what does not belong there out of the store."
    if all(finding.message.endswith(SPARED) for finding in wrong):
        return "`share-registry repair` puts the second copies in their place."
    if all(finding.outcome is not Outcome.DAMAGED for finding in wrong):
        return ""
    rotten = [finding.what.split()[1][:_DIGITS] for finding in wrong if finding.code == "OBJ-01"]
    if not rotten and not any(finding.code in _GONE for finding in wrong):
        return ""
    digests = " ".join([*dict.fromkeys(rotten)][:_NAMED])
    aside = f"`share-registry quarantine {digests}`, then " if rotten else ""
    return f"{_RAISED[Outcome.DAMAGED][1]} Without a copy: {aside}commit the adapter again."


def _check_log(walk: Walk, space: SpaceName) -> None:
    numbers = walk.store.numbers(space)
    for before, after in pairwise([0, *numbers]):
        listed = range(before + 1, min(after, before + _LISTED_OF_HOLE + 1))
        for number in listed:
            ref = f"{space}/@c{number}"
            walk.add_of_log(space, "REC-03", ref, "the record is not in the store.")
        if listed and listed.stop < after:
            ref = f"{space}/@c{listed.stop}"
            message = f"nor are those behind it up to c{after - 1} in the store."
            walk.add_of_log(space, "REC-03", ref, message)
    ledger = walk.ledgers[space] = Ledger(space)
    parent = sha256(walk.store.format_bytes())
    for number in numbers:
        ref, content = f"{space}/@c{number}", b""
        try:
            content = walk.store.record(space, number) or b""
            if walk.shard.has_space(space):
                walk.records += 1
                walk.size_bytes += len(content)
            record = parse_record(content, subject=f"record c{number} of space {space}")
        except FormatError as error:
            walk.add_of_log(space, "EVO-05", ref, error.message, [ref], outcome=Outcome.NEWER)
            parent = sha256(content)
            continue
        except (IntegrityError, StoreError) as error:
            walk.add_of_log(space, "REC-01", ref, error.message)
            continue
        if (record.space, record.number) != (space, number):
            message = f"the record says it is {record.space}/@c{record.number}."
            walk.add_of_log(space, "REC-02", ref, message)
        if record.parent != parent:
            walk.add_of_log(
                space,
                "REC-03",
                ref,
                f"its parent is {record.parent[:8]}, the record before it is {parent[:8]}: "
                "the chain is broken.",
            )
        parent = sha256(content)
        ledger.follow(record)
    _collect(walk, space)


def _check_heads(walk: Walk, context: Context) -> None:
    """Compare the ends of the logs with what the catalog remembers.

    Nothing in a log itself shows that its last record is gone.
    """
    try:
        with context.catalog.begin() as session:
            heads = lookups.heads(session)
            ids = {space: lookups.commit_id(session, space, heads[space].number) for space in heads}
    except CatalogError:
        return  # the catalog is an index; that it cannot be read says nothing of the store
    for space, head in heads.items():
        content = walk.store.record(space, head.number)
        # where the head is wrong in the catalog alone, its rows are compared with the log
        if content is not None and sha256(content) in (head.id, ids[space]):
            continue
        state = f"is {sha256(content)[:8]}" if content is not None else "is not"
        ref = f"{space}/@c{head.number}"
        message = f"the catalog knows it as {head.id[:8]}, it {state} in the store."
        walk.add_of_log(space, "REC-03", ref, message, [ref])


def _check_kept_heads(walk: Walk) -> None:
    """Compare the ends of the logs with what was noted when they were published."""
    for space in walk.store.spaces():
        kept = walk.store.kept_head(space)
        if kept is None:
            continue
        try:
            content = walk.store.record(space, kept.number)
        except (IntegrityError, StoreError):
            # said already
            continue
        if content is None or sha256(content) != kept.id:
            state = f"is {sha256(content)[:8]}" if content is not None else "is not"
            ref = f"{space}/@c{kept.number}"
            if ref in {finding.what for finding in walk.findings}:
                continue
            message = f"it was published as {kept.id[:8]}, it {state} in the store."
            walk.add_of_log(space, "REC-03", ref, message, [ref])


def _collect(walk: Walk, space: SpaceName) -> None:
    """Note what the versions and commits of a space need.

    What a note names of a task is needed by the versions that it describes under that name, not by
    all versions of its commit.
    """
    ledger = walk.ledgers[space]
    entries: set[int] = set()
    for version in ledger.kept.values():
        ref = ledger.ref_of(version)
        if id(version.entry) not in entries:
            entries.add(id(version.entry))
            walk.versions[ref] = version
        time = walk.adapters.get(version.adapter, version.time)
        walk.adapters[version.adapter] = min(time, version.time)
        walk.refer(version.adapter, [ref])
        walk.refer(Digest(version.entry.layout), [ref])
    described = ledger.described()
    for number, digest in ledger.notes.items():
        names = described.get(digest, {})
        of_note = [ref for refs in names.values() for ref in refs] or [f"{space}/@c{number}"]
        walk.refer(digest, of_note, needed=False)
        if digest not in walk.notes:
            walk.notes[digest] = _read_files(walk, digest)
        for name, refs in sorted(names.items()):
            for named in walk.notes[digest].get(name, ()):
                walk.refer(named, refs, needed=False)
    for number, digest in ledger.bases.items():
        walk.bases.add(digest)
        walk.refer(digest, [f"{space}/@c{number}"])


def _read_files(walk: Walk, digest: Digest) -> dict[TaskName, list[Digest]]:
    """Return the objects that a note names of each task.

    None, and a fault, where it cannot be read.
    """
    content = walk.read(digest)
    if content is None:
        return {}
    try:
        note = Note.from_bytes(content)
    except ShareRegistryError as error:
        walk.faults[digest] = Fault(code="NOT-01", error=error)
        return {}
    files: dict[TaskName, list[Digest]] = {}
    # spec NOT-03
    for task in reversed(note.tasks):
        name = TaskName(task.task)
        attachments = [entry.object for entry in task.attachments]
        walk.files[digest, name] = [task.config, *attachments]
        files[name] = [digest for digest, _ in objects_of_task(task)]
    return files
