"""Logs made by hand: records that follow each other, without a store."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from share_registry.catalog.projection.apply import apply
from share_registry.format.canonical import sha256
from share_registry.format.layout import DType, Entry, FactorSpec, Form, Layout, TensorSpec
from share_registry.format.named_objects import read_for, replacements
from share_registry.format.notes import FileEntry, Metric, Note, Source, TaskNote
from share_registry.format.records import RECORD, REMOVALS, Record
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.registry.log_entries import LogEntry
from share_registry.registry.replay import apply_entry
from share_registry.store.blobs import MemoryStore
from share_registry.times import timestamp

START = datetime(2026, 11, 1, tzinfo=UTC)
GENESIS = sha256(b"FORMAT")
STORE = "5b6b0bd9-6f6b-4f0c-8a2f-3d1d6a0c8a11"


def digest_of(*parts: object) -> Digest:
    """Return some digest that follows from some words."""
    return sha256(repr(parts).encode())


def layout_of(modules: Mapping[str, tuple[int, int]], rank: int = 4) -> Layout:
    """Return a layout of linear modules (out, in)."""
    tensors: list[TensorSpec] = []
    factors: list[FactorSpec] = []
    for name, (out, width) in sorted(modules.items()):
        factors.append(
            FactorSpec(module=name, form=Form.LINEAR, a=len(tensors), b=len(tensors) + 1)
        )
        tensors += [
            TensorSpec(key=f"{name}.a", dtype=DType.F32, shape=[rank, width]),
            TensorSpec(key=f"{name}.b", dtype=DType.F32, shape=[out, rank]),
        ]
    return Layout(metadata=[], tensors=tensors, factors=factors)


PLAIN = layout_of({"layer.0.q": (16, 8), "layer.0.v": (16, 8)})


@dataclass(frozen=True, kw_only=True)
class Logged:
    """One record with everything the projection takes."""

    record: Record
    id: Digest
    note: Note | None
    layouts: Mapping[Digest, Layout]

    def apply(self, session: Session) -> bool:
        """Apply it."""
        return apply(session, record=self.record, id=self.id, note=self.note, layouts=self.layouts)

    def follow(self, session: Session, store: MemoryStore) -> None:
        """Apply it as whoever follows a log does, who reads it again where it replaces notes."""
        layouts = dict(self.layouts)
        entry = LogEntry(record=self.record, id=self.id, note=self.note, layouts=layouts)
        apply_entry(session, store, entry)

    def publish(self, store: MemoryStore) -> None:
        """Add the record to a store."""
        number = CommitNumber(self.record.number)
        store.publish(SpaceName(self.record.space), number, self.record.to_bytes())


@dataclass(kw_only=True)
class Log:
    """A space's log that grows; `step` is the time between two commits.

    Of those that were let go, their number and the id of the last are known. `rests` are notes that
    stand in for others.
    """

    space: str = "base"
    step: timedelta = timedelta(hours=1)
    entries: list[Logged] = field(default_factory=list)
    forgotten: int = 0
    parent: str = GENESIS
    rests: dict[Digest, Note] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of commits."""
        return self.forgotten + len(self.entries)

    def forget(self) -> None:
        """Let the entries go: a long log does not fit into memory."""
        if self.entries:
            self.forgotten, self.parent = self.length, self.entries[-1].id
            self.entries.clear()

    def create(
        self, label: str = "org/base", *, budget: str = "0.05", labels: Sequence[str] = ()
    ) -> Logged:
        """Begin the space."""
        return self.add(
            "create",
            base_model={"label": label, "revision": "main", "labels": list(labels)},
            policy=policy(budget),
        )

    def absorb(self, task: str, version: int, **options: Any) -> Logged:
        """Add a version of one task."""
        return self.absorb_many({task: version}, **options)

    def absorb_many(
        self,
        tasks: Mapping[str, int],
        *,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, str] | None = None,
        derived_from: Sequence[tuple[str, int]] = (),
        author: str | None = None,
        message: str | None = None,
        layout: Layout = PLAIN,
        content: object = None,
        key: str | None = None,
    ) -> Logged:
        """Add a version of each of some tasks."""
        layout_digest = sha256(layout.to_bytes())
        bodies = [
            {
                "task": task,
                "version": version,
                "adapter": digest_of("adapter", task, version, content),
                "layout": layout_digest,
                "tensors": digest_of("tensors", task, version, content),
                "source": digest_of("source", task, version, content),
                "budget": "0.05",
                "error": "0.049",
                "norm": "12.5",
                "raw_bytes": 1000,
                "added_bytes": 100 + version,
                "derived_from": [
                    {"task": name, "version": number} for name, number in derived_from
                ],
            }
            for task, version in sorted(tasks.items())
        ]
        notes = [
            TaskNote(
                task=task,
                labels=entries(labels),
                metrics=measures(metrics),
                source=Source(kind="directory", location=f"/adapters/{task}", revision=None),
                config=digest_of("config", task),
                attachments=[
                    FileEntry(name="head.safetensors", object=digest_of("head", task), size=10)
                ],
                remarks=[f"remark on {task}"],
            )
            for task in sorted(tasks)
        ]
        note = Note(author=author, message=message, tasks=notes)
        return self.add("absorb", note=note, key=key, layouts={layout_digest: layout}, tasks=bodies)

    def refit(
        self,
        tasks: Mapping[str, int] | None = None,
        *,
        name: str = "basis",
        bound: bool = True,
        **changed: object,
    ) -> Logged:
        """Bring a basis, and give tasks new versions expressed in it.

        These have the source of the version before.
        """
        layout = sha256(PLAIN.to_bytes())
        bodies: list[dict[str, object]] = [
            {
                "task": task,
                "version": version,
                "adapter": digest_of("refitted", task, version),
                "layout": layout,
                "tensors": digest_of("refitted tensors", task, version),
                "source": self._source(task, version - 1),
                "error": "0.06",
                "norm": "12.5",
                "before": "0.049",
                "raw_bytes": 1000,
                "added_bytes": 10,
            }
            | ({"bound": True} if bound else {})
            | changed
            for task, version in sorted((tasks or {}).items())
        ]
        return self.add("refit", layouts={layout: PLAIN}, basis=digest_of(name), tasks=bodies)

    def merge(
        self,
        task: str,
        version: int,
        parents: Mapping[tuple[str, int], str],
        *,
        method: str = "linear",
    ) -> Logged:
        """Add a version merged of others, with their weights."""
        layout = sha256(PLAIN.to_bytes())
        body = {
            "task": task,
            "version": version,
            "adapter": digest_of("merged", task, version),
            "layout": layout,
            "tensors": digest_of("merged tensors", task, version),
            "source": digest_of("merged source", task, version),
            "budget": "0.05",
            "error": "0.049",
            "norm": "12.5",
            "raw_bytes": 1000,
            "added_bytes": 10,
            "derived_from": [{"task": name, "version": number} for name, number in sorted(parents)],
        }
        note = Note(tasks=[TaskNote(task=task, config=digest_of("config", task))])
        weights = [weight for _, weight in sorted(parents.items())]
        return self.add(
            "merge",
            note=note,
            layouts={layout: PLAIN},
            method=method,
            weights=weights,
            tasks=[body],
        )

    def _source(self, task: str, version: int) -> str:
        for entry in reversed(self.entries):
            for absorbed in getattr(entry.record, "tasks", ()):
                if (absorbed.task, absorbed.version) == (task, version):
                    return str(absorbed.source)
        return digest_of("source", task, version, None)

    def restore(self, task: str, version: int, of: int, **options: Any) -> Logged:
        """Repeat an earlier version."""
        return self.add(
            "restore", note=Note(**options) if options else None, task=task, version=version, of=of
        )

    def drop(self, task: str) -> Logged:
        """Drop a task."""
        return self.add("drop", task=task)

    def rename(self, task: str, name: str) -> Logged:
        """Rename a task."""
        return self.add("rename", task=task, name=name)

    def alias(
        self,
        task: str,
        alias: str,
        version: int | None,
        *,
        reason: str = "",
        author: str | None = None,
    ) -> Logged:
        """Move or remove an alias."""
        note = Note(author=author, message=reason or None) if reason or author else None
        members: dict[str, Any] = {} if version is None else {"version": version}
        return self.add("alias", note=note, task=task, alias=alias, **members)

    def tag(self, tag: str, commit: int) -> Logged:
        """Tag a commit."""
        return self.add("tag", tag=tag, commit=commit)

    def set_policy(self, budget: str) -> Logged:
        """Change the policy."""
        return self.add("policy", policy=policy(budget))

    def annotate(
        self,
        task: str,
        version: int,
        *,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, str] | None = None,
        removed: Sequence[str] = (),
    ) -> Logged:
        """Change labels and metrics."""
        said = TaskNote(
            task=task, labels=entries(labels), metrics=measures(metrics), removed=list(removed)
        )
        return self.add("annotate", note=Note(tasks=[said]), task=task, version=version)

    def export(self, task: str, version: int, *, places: Mapping[str, str] | None = None) -> Logged:
        """Record an export."""
        said = TaskNote(task=task, labels=entries(places))
        return self.add(
            "export",
            note=Note(tasks=[said]),
            task=task,
            version=version,
            profile="native",
            digest=digest_of(task, version, "export"),
            tensors=digest_of(task, version, "tensors"),
            requires=["exports"],
        )

    def expire(self, versions: Collection[tuple[str, int]]) -> Logged:
        """Remove versions."""
        told = [{"task": task, "version": version} for task, version in sorted(versions)]
        return self.add("expire", requires=[REMOVALS], versions=told)

    def purge(
        self,
        task: str,
        *,
        names: Collection[str] = (),
        adapters: Collection[str] = (),
        bases: Collection[str] = (),
    ) -> Logged:
        """Remove a task, and what notes say of it under any of its names.

        Of a note of the task alone nothing is left. Other adapter objects stand in for some.
        """
        notes = self._rests({task, *names})
        return self.add(
            "purge",
            requires=[REMOVALS],
            task=task,
            adapters=_replaced({digest: digest_of("alone", digest) for digest in adapters}),
            notes=_replaced(notes),
            bases=sorted(bases),
        )

    def _rests(self, names: Collection[str]) -> dict[str, str | None]:
        """Return the notes that say something of a task, each with what is left of it."""
        purges = [(each.record.number, replacements(each.record)) for each in self.entries]
        rests: dict[str, str | None] = {}
        for entry in self.entries:
            digest = read_for(entry.record.note, entry.record.number, purges)
            note = self.rests.get(digest or Digest(""), entry.note)
            if digest is None or note is None or not {said.task for said in note.tasks} & {*names}:
                continue
            left = [said for said in note.tasks if said.task not in names]
            rest = note.model_copy(update={"tasks": left})
            rests[digest] = sha256(rest.to_bytes()) if left else None
            self.rests |= {sha256(rest.to_bytes()): rest} if left else {}
        return rests

    def store(self, records: int | None = None) -> MemoryStore:
        """Return a store of so many records, or all, with every note that the log had or has."""
        store = MemoryStore(STORE)
        notes = [*(entry.note for entry in self.entries), *self.rests.values()]
        layouts = {digest: each for entry in self.entries for digest, each in entry.layouts.items()}
        contents = [note.to_bytes() for note in notes if note is not None]
        for content in (*contents, *(layout.to_bytes() for layout in layouts.values())):
            store.put(content, sha256(content))
        for entry in self.entries[:records]:
            entry.publish(store)
        return store

    def unread(self) -> set[Digest]:
        """Return the notes that no record is read with any more."""
        purges = [(each.record.number, replacements(each.record)) for each in self.entries]
        notes = [(entry.record.note, entry.record.number) for entry in self.entries]
        read = {read_for(note, number, purges) for note, number in notes}
        return {note for note, _ in notes if note is not None and note not in read}

    def add(
        self,
        kind: str,
        *,
        note: Note | None = None,
        key: str | None = None,
        layouts: Mapping[Digest, Layout] | None = None,
        **members: object,
    ) -> Logged:
        """Add any record."""
        number = self.length + 1
        chain: dict[str, object] = {
            "kind": kind,
            "space": self.space,
            "number": number,
            "parent": self.entries[-1].id if self.entries else self.parent,
            "time": timestamp(START + self.step * number),
            "key": key or f"key-{number}",
        }
        if note is not None:
            chain["note"] = sha256(note.to_bytes())
        record = RECORD.validate_python(chain | members)
        logged = Logged(record=record, id=record.id, note=note, layouts=layouts or {})
        self.entries.append(logged)
        return logged

    def apply(self, session: Session) -> None:
        """Apply every record, those applied before included."""
        for entry in self.entries:
            entry.apply(session)

    def time(self, number: int) -> datetime:
        """Return the time of a commit."""
        return START + self.step * number


def _replaced(objects: Mapping[str, str | None]) -> list[dict[str, str]]:
    """Return what is replaced as members of a record."""
    return [
        {"object": digest} | ({} if by is None else {"by": by})
        for digest, by in sorted(objects.items())
    ]


def policy(budget: str) -> dict[str, object]:
    """Return a policy's members."""
    return {"budget": budget, "keep_original": False, "references": True}


def entries(values: Mapping[str, str] | None) -> list[Entry]:
    """Return names and values as entries."""
    return [Entry(name=name, value=value) for name, value in sorted((values or {}).items())]


def measures(values: Mapping[str, str] | None) -> list[Metric]:
    """Return names and values as metrics."""
    return [Metric(name=name, value=value) for name, value in sorted((values or {}).items())]


def story() -> Log:
    """Return a log with every kind of record in it."""
    log = Log()
    log.create(labels=("org/base-mirror",))  # c1
    log.absorb(
        "cola",
        1,
        labels={"team": "search"},
        metrics={"accuracy": "0.9"},
        author="ada",
        message="first",
    )  # c2
    log.absorb_many({"cola": 2, "sst2": 1}, author="bob")  # c3
    log.alias("cola", "prod", 1, reason="CAB-1", author="ada")  # c4
    log.alias("cola", "prod", 2, reason="CAB-2")  # c5
    log.tag("release", 3)  # c6
    log.annotate("cola", 2, labels={"team": "ads"}, metrics={"accuracy": "0.91", "f1": "0.8"})  # c7
    log.rename("cola", "acceptability")  # c8
    log.absorb("mnli", 1, derived_from=[("acceptability", 1), ("sst2", 1)])  # c9
    log.drop("sst2")  # c10
    log.restore("acceptability", 3, of=1, message="back")  # c11
    log.alias("acceptability", "prod", None)  # c12
    log.alias("acceptability", "prod", 3)  # c13
    log.annotate("acceptability", 2, labels={"team": "core"}, removed=["f1"])  # c14
    log.set_policy("0.1")  # c15
    log.absorb("sst2", 2)  # c16: live again
    return log


def whole_story() -> Log:
    """Return the story with a basis, tasks re-expressed in it, and a merge at its end."""
    log = story()
    log.refit({"mnli": 2, "sst2": 3})  # c17
    log.merge("both", 1, {("mnli", 2): "0.5", ("sst2", 1): "-0.25"})  # c18
    return log


def begun() -> Log:
    log = Log()
    log.create()
    log.absorb_many({"cola": 1, "sst2": 1})
    return log
