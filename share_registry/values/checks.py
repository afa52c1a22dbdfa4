"""Differences, exports and findings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from share_registry.names import Digest, TaskName
from share_registry.values.sheet import NOTHING, Sheet, Table, html_of, line_of, text_of
from share_registry.values.units import (
    count,
    percent,
    short_ids,
    size,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDiff:
    """One task in a diff.

    Attributes:
        status: "same", "changed", "added" or "removed".
        change: |dW_a - dW_b| / |dW_a|, None where one side is missing or dW_a is 0.
        metadata: Field -> (value in a, value in b) where they differ: config members, labels,
            metrics, rank, dtype.
    """

    task: TaskName
    status: str
    a: str | None
    b: str | None
    change: float | None
    metadata: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """What differs between two task versions or two states of a space."""

    a: str
    b: str
    tasks: tuple[TaskDiff, ...]

    __str__ = text_of
    _repr_html_ = html_of

    def __repr__(self) -> str:
        changes = count(sum(task.status != "same" for task in self.tasks), "change")
        return f"<Diff {self.a} .. {self.b}: {changes}>"

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        rows = []
        for task in self.tasks:
            change = percent(task.change) if task.change is not None else NOTHING
            rows.append((task.task, task.status, task.a or NOTHING, task.b or NOTHING, change))
        metadata = tuple(
            (task.task, field, was, now)
            for task in self.tasks
            for field, (was, now) in task.metadata.items()
        )
        tables = (
            Table(
                headers=("task", "status", "a", "b", "change of dW (relative to a)>"),
                rows=tuple(rows),
            ),
            Table(headers=("task", "member", "in a", "in b"), rows=metadata),
        )
        return Sheet(title=f"{self.a} .. {self.b}", tables=tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One exported directory.

    Attributes:
        digest: sha256 over the sorted list of file names and file digests.
        notes: What servers would refuse or misread, and what the profile changed.
    """

    path: Path
    ref: str
    name: str
    digest: Digest
    notes: tuple[str, ...]

    _repr_html_ = html_of

    def __repr__(self) -> str:
        return f"<Export {self.ref} at {self.path}>"

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        return Sheet(
            title=str(self.path),
            facts=(("ref", self.ref), ("digest", self.digest)),
            notes=self.notes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing `verify` found.

    Attributes:
        code: The clause of the specification that is violated.
        what: The file, commit or version.
        message: What is wrong: found and expected.
        refs: Task versions that cannot be trusted because of it.
    """

    code: str
    what: str
    message: str
    refs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What `verify` looked at and what it found."""

    level: str
    spaces: int
    records: int
    objects: int
    bytes: int
    versions: int
    findings: tuple[Finding, ...]

    __str__ = text_of
    __repr__ = line_of
    _repr_html_ = html_of

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        counted = f"{count(self.spaces, 'space')}, {count(self.records, 'record')}, {count(self.objects, 'object')} of {size(self.bytes)}"
        looked = f"{self.level}: {counted}, {count(self.versions, 'version')}"
        rows = tuple(
            (
                found.code,
                short_ids(found.what),
                short_ids(found.message).rstrip("."),
                ", ".join(found.refs) or NOTHING,
            )
            for found in self.findings
        )
        state = (
            "nothing is damaged"
            if self.ok
            else f"{len(rows)} {'thing is' if len(rows) == 1 else 'things are'} wrong"
        )
        return Sheet(
            title=f"{looked}; {state}",
            tables=(Table(headers=("clause", "where", "what", "cannot be trusted"), rows=rows),),
        )
