"""What a purge of a task does: what goes, what takes its place, and what stays."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from share_registry.errors import IntegrityError, ensure
from share_registry.exchange.export_files import digest_of_file
from share_registry.format.canonical import sha256
from share_registry.format.named_objects import objects_of_task
from share_registry.format.notes import Note
from share_registry.format.records import FLOAT_HEADS, REMOVALS, PurgeRecord, Replacement
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, first_and_more
from share_registry.registry.arguments import Progress
from share_registry.registry.commands.coding import keep_bits
from share_registry.registry.commands.publish import Place
from share_registry.registry.context import Context
from share_registry.registry.ledger import KeptVersion, Ledger
from share_registry.registry.maintenance.reach import Reach
from share_registry.values.removals import AnchoredVersion


@dataclass(slots=True, kw_only=True)
class PurgePlan:
    """What a purge does.

    Attributes:
        names: Every name that the task has or had.
        task: Its present one.
        own: Its versions.
        anchors: By adapter object of other versions, the one that takes its place.
        anchored: The versions of such objects.
        notes: By note, what is left of it, None where nothing is.
        changed: The commits of these notes.
        bases: Basis objects that go.
        new: Objects that are stored for it.
        heads: Whether one of them has split floats.
        roles: Every object that was kept of the task, with its role, also where another needs it.
        kept: What stays, and why.
        before_bytes: What all objects of the store take.
        added_bytes: What those do that are stored for it and are not there.
    """

    before_bytes: int
    space: SpaceName
    names: set[TaskName]
    task: TaskName
    own: list[KeptVersion]
    anchors: dict[Digest, Digest] = field(default_factory=dict)
    anchored: list[AnchoredVersion] = field(default_factory=list)
    notes: dict[Digest, Digest | None] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    bases: list[Digest] = field(default_factory=list)
    new: dict[Digest, bytes] = field(default_factory=dict)
    added_bytes: int = 0
    heads: bool = False
    roles: dict[Digest, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the log says all this already."""
        return not (self.own or self.notes or self.bases)

    def record(self, place: Place) -> PurgeRecord:
        """Return the record that says it, at a place in the log."""
        return PurgeRecord.model_validate(
            place
            | {
                "requires": [*([FLOAT_HEADS] if self.heads else []), REMOVALS],
                "task": self.task,
                "adapters": _replacements(self.anchors),
                "notes": _replacements(self.notes),
                "bases": sorted(self.bases),
            }
        )


def _replacements(objects: Mapping[Digest, Digest | None]) -> list[Replacement]:
    return [Replacement(object=digest, by=by) for digest, by in sorted(objects.items())]


def plan_purge(
    context: Context, reach: Reach, space: SpaceName, task: TaskName, progress: Progress
) -> PurgePlan:
    """Work out what goes, what takes its place, and what stays."""
    ledger = reach.ledgers[space]
    place = ledger.names[task]
    plan = PurgePlan(
        before_bytes=sum(size for _, size in context.store.objects()),
        space=space,
        names={name for name, number in ledger.names.items() if number == place},
        task=task,
        own=ledger.versions_of(place),
    )
    others = [
        version
        for each in reach.ledgers.values()
        for version in each.kept.values()
        if each is not ledger or version.task != place
    ]
    _find_objects(reach, plan, place, others)
    _anchor_others(context, reach, plan, others, progress)
    _change_notes(context, ledger, plan, place)
    _find_bases(reach, plan, place, others)
    _find_left(reach, plan, place)
    absent = [digest for digest in plan.new if not context.store.has(digest)]
    plan.added_bytes = sum(len(plan.new[digest]) for digest in absent)
    children = sorted(
        ledger.ref_of(version)
        for version in others
        if version.space == space
        and any(of.task in plan.names for of in version.entry.derived_from)
    )
    if children:
        plan.kept.append(
            f"What was made of it stays, with what it has from it: {first_and_more(children, 3)}."
        )
    return plan


def _find_objects(reach: Reach, plan: PurgePlan, place: int, others: Sequence[KeptVersion]) -> None:
    """Note the objects of the task's versions, also of those that were expired before."""
    ledger = reach.ledgers[plan.space]
    expired = [each for (task, _), each in ledger.removed.items() if task == place]
    for version in (*plan.own, *expired):
        plan.roles[version.adapter] = "adapter"
        plan.roles[Digest(version.entry.layout)] = "layout"
        uses = reach.uses_if_there(version.adapter)
        plan.roles |= dict.fromkeys(uses.tensors if uses else (), "tensor")
    shared = {version.adapter: version for version in others}
    for version in plan.own:
        twin = shared.get(version.adapter)
        if twin is not None:
            plan.kept.append(
                f"The object of {ledger.ref_of(version)} stays: "
                f"{reach.ledgers[twin.space].ref_of(twin)} has the same."
            )


def _find_left(reach: Reach, plan: PurgePlan, place: int) -> None:
    """Note what an earlier purge of the task took, and may not have come to remove."""
    for purged, roles in reach.ledgers[plan.space].purges.values():
        if purged != place:
            continue
        plan.roles |= roles
        for digest in (digest for digest, role in roles.items() if role == "note"):
            content = reach.content_if_there(digest)
            said = () if content is None else Note.from_bytes(content).tasks
            for entry in said:
                plan.roles |= dict(objects_of_task(entry)) if entry.task in plan.names else {}


def _anchor_others(
    context: Context,
    reach: Reach,
    plan: PurgePlan,
    others: Sequence[KeptVersion],
    progress: Progress,
) -> None:
    """Store anew, bit for bit, what is decoded from objects of the task."""
    purged = {digest for digest, role in plan.roles.items() if role == "adapter"}
    purged -= {version.adapter for version in others}
    built: dict[Digest, list[KeptVersion]] = defaultdict(list)
    elsewhere: list[str] = []
    for version in others:
        if purged.isdisjoint(reach.decoded_from(version.adapter)):
            continue
        if version.space == plan.space:
            built[version.adapter].append(version)
        else:
            elsewhere.append(reach.ledgers[version.space].ref_of(version))
    if elsewhere:
        plan.kept.append(
            f"Objects of it stay: of another space, {first_and_more(sorted(elsewhere), 3)} "
            f"{'is' if len(elsewhere) == 1 else 'are'} decoded from them."
        )
    for done, (adapter, versions) in enumerate(sorted(built.items()), start=1):
        progress("versions stored anew", done, len(built))
        _anchor(context, reach.ledgers[plan.space], plan, adapter, versions)


def _anchor(
    context: Context, ledger: Ledger, plan: PurgePlan, adapter: Digest, versions: list[KeptVersion]
) -> None:
    """Store an adapter object anew, bit for bit. Raises IntegrityError where it is damaged."""
    reader = context.reader()
    layout, tensors = reader.open(adapter).layout, reader.tensors(adapter)
    rebuilt = digest_of_file(layout, tensors)
    for version in versions:
        ensure(
            rebuilt == version.entry.tensors,
            IntegrityError(
                f"{version.ref}: rebuilt tensors have digest {rebuilt}, the commit says "
                f"{version.entry.tensors}.",
                hint="Nothing was purged. Run verify with level 'deep'.",
            ),
        )
    alone = keep_bits(layout, tensors)
    plan.anchors[adapter] = alone.digest
    plan.new |= alone.objects
    plan.heads |= reader.beside(alone.objects).open(alone.digest).stored.heads
    plan.roles.setdefault(adapter, "adapter")
    plan.anchored += [
        AnchoredVersion(
            ref=ledger.ref_of(version),
            before=context.store.size(adapter) or 0,
            after=len(alone.objects[alone.digest]),
        )
        for version in versions
    ]


def _change_notes(context: Context, ledger: Ledger, plan: PurgePlan, place: int) -> None:
    """Take out of notes what they say of the task; those of commits of it alone go altogether."""
    commits: dict[Digest, list[CommitNumber]] = defaultdict(list)
    for number, digest in ledger.notes.items():
        commits[digest].append(number)
    for digest, numbers in commits.items():
        note = Note.from_bytes(context.store.get(digest))
        own = [entry for entry in note.tasks if entry.task in plan.names]
        is_own = all(_is_of_it_alone(ledger, number, place) for number in numbers)
        if not own and not is_own:
            twins = [number for number in numbers if ledger.about.get(number) == frozenset({place})]
            if twins:
                plan.kept.append(
                    f"The note of {plan.space}/@c{twins[0]} stays: another commit has the same."
                )
            continue
        for entry in own:
            plan.roles |= dict(objects_of_task(entry))
        left = None
        if not is_own:
            rest = [entry for entry in note.tasks if entry.task not in plan.names]
            content = note.model_copy(update={"tasks": rest}).to_bytes()
            left = sha256(content)
            plan.new[left] = content
            if note.message:
                ref = f"{plan.space}/@c{numbers[0]}"
                plan.kept.append(f"The message of {ref} stays, as it is of other tasks too.")
        plan.notes[digest] = left
        plan.roles[digest] = "note"
        plan.changed += [f"{plan.space}/@c{number}" for number in numbers]
    for digest, by in plan.notes.items():
        # what would be left is a note of the task alone as well
        if by in plan.notes:
            plan.notes[digest] = None


def _is_of_it_alone(ledger: Ledger, number: CommitNumber, place: int) -> bool:
    """Tell whether a record is about a task, and of others only about such as were purged since."""
    about = ledger.about.get(number, frozenset())
    others = about - {place}
    return place in about and all(ledger.is_purged(task, number) for task in others)


def _find_bases(reach: Reach, plan: PurgePlan, place: int, others: Sequence[KeptVersion]) -> None:
    """Find the bases that were fitted to the task and that no version is stored with."""
    ledger = reach.ledgers[plan.space]
    used: dict[Digest, str] = {}
    for version in others:
        if version.space != plan.space or version.adapter not in plan.anchors:
            ref = reach.ledgers[version.space].ref_of(version)
            used |= dict.fromkeys(reach.decoded_from(version.adapter), ref)
    fitted = {
        digest: number
        for number, digest in ledger.bases.items()
        if place in ledger.fitted.get(number, ())
    }
    for digest, number in fitted.items():
        if digest in used:
            plan.kept.append(
                f"The basis of {plan.space}/@c{number}, fitted to {plan.task} among others, stays: "
                f"{used[digest]} is stored with it."
            )
        else:
            plan.bases.append(digest)
            plan.roles[digest] = "basis"
