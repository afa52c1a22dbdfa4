"""Differences, exports and findings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from share_registry.names import Digest, TaskName
from share_registry.values.sheet import (
    NOTHING,
    Sheet,
    Shown,
    Table,
    count,
    optional_percent,
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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Diff(Shown):
    """What differs between two task versions or two states of a space."""

    a: str
    b: str
    tasks: tuple[TaskDiff, ...]

    def __repr__(self) -> str:
        changes = sum(task.status != "same" for task in self.tasks)
        return f"<Diff {self.a} .. {self.b}: {count(changes, 'change')}>"

    @override
    def sheet(self) -> Sheet:
        tasks = Table.of(
            {
                "task": task.task,
                "status": task.status,
                "a": task.a or NOTHING,
                "b": task.b or NOTHING,
                "change of dW (relative to a)>": optional_percent(task.change),
            }
            for task in self.tasks
        )
        members = Table.of(
            {"task": task.task, "member": member, "in a": in_a, "in b": in_b}
            for task in self.tasks
            for member, (in_a, in_b) in task.metadata.items()
        )
        return Sheet(
            title=f"{self.a} .. {self.b}",
            tables=(tasks, members),
            refs=tuple(task.b or task.a or "" for task in self.tasks if task.status != "same"),
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Export(Shown):
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

    def __repr__(self) -> str:
        return f"<Export {self.ref} at {self.path}>"

    __str__ = __repr__

    @override
    def sheet(self) -> Sheet:
        return Sheet(
            title=str(self.path),
            facts=(("ref", self.ref), ("digest", self.digest)),
            notes=self.notes,
            refs=(str(self.path),),
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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class VerifyReport(Shown):
    """What `verify` looked at, and what is wrong."""

    derived = ("ok",)
    level: str
    spaces: int
    records: int
    objects: int
    bytes: int
    versions: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @override
    def sheet(self) -> Sheet:
        checked = ", ".join(
            (
                count(self.spaces, "space"),
                count(self.records, "record"),
                f"{count(self.objects, 'object')} of {size(self.bytes)}",
                count(self.versions, "version"),
            )
        )
        table = Table.of(
            {
                "clause": finding.code,
                "where": short_ids(finding.what),
                "what": short_ids(finding.message).rstrip("."),
                "cannot be trusted": ", ".join(finding.refs) or NOTHING,
            }
            for finding in self.findings
        )
        state = "nothing is damaged"
        if not self.ok:
            state = f"{count(len(self.findings), 'thing is', 'things are')} wrong"
        return Sheet(
            title=f"{self.level}: {checked}; {state}",
            tables=(table,),
            refs=tuple(sorted({ref for finding in self.findings for ref in finding.refs})),
        )
