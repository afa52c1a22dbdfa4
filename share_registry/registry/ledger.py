"""What the versions of a space are read from, as its records say, and which were removed.

For whoever must not believe the catalog: garbage collection, purge, verify. Records that do not
follow from those before them are somebody else's to report; what they say of unknown tasks is left
out here.
"""

from collections.abc import Collection, Iterator
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import TypeAlias

from share_registry.format.named_objects import replaced_roles, replacements
from share_registry.format.records import (
    AbsorbedTask,
    AbsorbRecord,
    ExpireRecord,
    MergeRecord,
    PurgeRecord,
    Record,
    RefitRecord,
    RenameRecord,
    RestoreRecord,
)
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version

# A version: its task's place in the order of creation, and its number
Place: TypeAlias = tuple[int, Version]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVersion:
    """What a version that was not removed is read from.

    Attributes:
        task: The task's place in the order of creation, from 1.
        name: Its name at the commit that made the version.
        entry: What the record says that brought the adapter, at that time.
        adapter: The adapter object.
        note: The note that describes it, None where it has none, and the name it has there.
    """

    space: SpaceName
    task: int
    name: TaskName
    version: Version
    number: CommitNumber
    entry: AbsorbedTask
    time: str
    adapter: Digest
    note: Digest | None
    said_of: TaskName

    @property
    def ref(self) -> str:
        """`space/task@vN` under the name of then."""
        return f"{self.space}/{self.name}@v{self.version}"


@dataclass(slots=True)
class Ledger:
    """The versions of a space, as of the last record that was followed.

    Attributes:
        names: Every name that a task has or had, with its place.
        present: The name that each has now, by place.
        live: The places of live tasks.
        latest: The newest version of each, removed or not.
        kept: The versions that were not removed, by place and number.
        removed: Those that were.
        notes: By record, its note: what is read in its place.
        bases: By record that brought one, the basis, likewise.
        fitted: By such a record, the places of the tasks that the basis was fitted to.
        about: By record with a note, the places of the tasks that it is about; not of refits and
            purges.
        purges: By record that purged a task, the task's place, and the objects that it replaced,
            each with its role.
    """

    space: SpaceName
    names: dict[TaskName, int] = field(default_factory=dict)
    present: dict[int, TaskName] = field(default_factory=dict)
    live: set[int] = field(default_factory=set)
    latest: dict[int, Version] = field(default_factory=dict)
    kept: dict[Place, KeptVersion] = field(default_factory=dict)
    removed: dict[Place, KeptVersion] = field(default_factory=dict)
    notes: dict[CommitNumber, Digest] = field(default_factory=dict)
    bases: dict[CommitNumber, Digest] = field(default_factory=dict)
    fitted: dict[CommitNumber, frozenset[int]] = field(default_factory=dict)
    about: dict[CommitNumber, frozenset[int]] = field(default_factory=dict)
    purges: dict[CommitNumber, tuple[int, dict[Digest, str]]] = field(default_factory=dict)

    def follow(self, record: Record) -> None:
        """Take one more record into account."""
        number = CommitNumber(record.number)
        if isinstance(record, PurgeRecord):
            self._replace(record)
        if record.note:
            self.notes[number] = record.note
        if isinstance(record, AbsorbRecord | RefitRecord | MergeRecord):
            for entry in record.tasks:
                self._add(record, entry)
        if isinstance(record, AbsorbRecord | RefitRecord) and record.basis:
            self.bases[number] = record.basis
            tasks = {self.names[TaskName(entry.task)] for entry in record.tasks}
            self.fitted[number] = frozenset(self.live if record.kind == "refit" else tasks)
        if isinstance(record, RestoreRecord):
            self._repeat(record)
        elif isinstance(record, RenameRecord) and record.task in self.names:
            task = self.names[TaskName(record.name)] = self.names[TaskName(record.task)]
            self.present[task] = TaskName(record.name)
        elif record.kind == "drop":
            self.live.discard(self.names.get(TaskName(record.task), 0))
        elif isinstance(record, ExpireRecord):
            for of in record.versions:
                self._remove(self.names.get(TaskName(of.task), 0), Version(of.version))
        if record.note and not isinstance(record, RefitRecord | PurgeRecord):
            self.about[number] = self._about(record)

    def versions_of(self, task: int) -> list[KeptVersion]:
        """Return the versions of a task that were not removed, in their order."""
        return [version for (place, _), version in sorted(self.kept.items()) if place == task]

    def ref_of(self, version: KeptVersion) -> str:
        """Return `space/task@vN` under the present name."""
        return f"{self.space}/{self.present[version.task]}@v{version.version}"

    def without(self, removed: Collection[Place]) -> "Ledger":
        """Return what would be left without some versions."""
        members = {member.name: copy(getattr(self, member.name)) for member in fields(self)}
        left = {place: each for place, each in self.kept.items() if place not in removed}
        return Ledger(**members | {"kept": left})

    def objects(self) -> Iterator[tuple[Digest, str]]:
        """Yield the objects that are needed, each with its role; not what notes name."""
        yield from ((digest, "note") for digest in self.notes.values())
        yield from ((digest, "basis") for digest in self.bases.values())
        for version in self.kept.values():
            yield version.adapter, "adapter"
            yield Digest(version.entry.layout), "layout"

    def described(self) -> dict[Digest, dict[TaskName, list[str]]]:
        """Return by note the versions that it describes and that were not removed.

        By the name that it describes them under, as references under their present names.
        """
        refs: dict[Digest, dict[TaskName, list[str]]] = {}
        for version in self.kept.values():
            if version.note is not None:
                names = refs.setdefault(version.note, {})
                names.setdefault(version.said_of, []).append(self.ref_of(version))
        return refs

    def is_purged(self, task: int, number: CommitNumber) -> bool:
        """Tell whether a task was purged after a record."""
        return any(purge > number and task == place for purge, (place, _) in self.purges.items())

    def _about(self, record: Record) -> frozenset[int]:
        """Return the places of the tasks that a record is about."""
        told = getattr(record, "tasks", getattr(record, "versions", [record]))
        names = [TaskName(getattr(each, "task", "")) for each in told]
        return frozenset(self.names.get(name, 0) for name in names)

    def _remove(self, task: int, version: Version) -> None:
        removed = self.kept.pop((task, version), None)
        if removed is not None:
            self.removed[task, version] = removed

    def _add(self, record: AbsorbRecord | RefitRecord | MergeRecord, entry: AbsorbedTask) -> None:
        name = TaskName(entry.task)
        task = self.names.setdefault(name, len(self.latest) + 1)
        self.present.setdefault(task, name)
        before = self.kept.get((task, Version(entry.version - 1)))
        note, said_of = record.note, name
        if isinstance(record, RefitRecord):
            note, said_of = (before.note, before.said_of) if before else (None, name)
        self._keep(
            KeptVersion(
                space=self.space,
                task=task,
                name=name,
                version=Version(entry.version),
                number=CommitNumber(record.number),
                entry=entry,
                time=record.time,
                adapter=Digest(entry.adapter),
                note=note,
                said_of=said_of,
            )
        )

    def _repeat(self, record: RestoreRecord) -> None:
        repeated = self.kept.get((self.names.get(TaskName(record.task), 0), Version(record.of)))
        if repeated is not None:
            self._keep(
                replace(
                    repeated,
                    name=TaskName(record.task),
                    version=Version(record.version),
                    number=CommitNumber(record.number),
                )
            )

    def _keep(self, version: KeptVersion) -> None:
        self.live.add(version.task)
        self.latest[version.task] = version.version
        self.kept[version.task, version.version] = version

    def _replace(self, record: PurgeRecord) -> None:
        task, objects = self.names.get(TaskName(record.task), 0), replacements(record)
        self.purges[CommitNumber(record.number)] = task, replaced_roles(record)
        self.live.discard(task)
        for place, version in [*self.kept]:
            if place == task:
                self._remove(place, version)
        self.kept = {
            place: replace(
                version,
                adapter=objects.get(version.adapter, version.adapter) or version.adapter,
                note=objects.get(version.note, version.note) if version.note else None,
            )
            for place, version in self.kept.items()
        }
        for digests in (self.notes, self.bases):
            read = {number: objects.get(digest, digest) for number, digest in digests.items()}
            digests.clear()
            digests.update({number: digest for number, digest in read.items() if digest})
