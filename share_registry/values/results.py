"""Values that the public methods return.

Frozen, printable, and free of database or tensor types.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, overload

from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.values.report import AdapterReport, BasisReport
from share_registry.values.shown import html as _html
from share_registry.values.shown import line as _line
from share_registry.values.shown import text as _text

if TYPE_CHECKING:
    from share_registry.values.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One commit of a space.

    Attributes:
        number: Position in the space's log.
        id: sha256 of the record.
        parent: id of the record before it; for commit 1 the digest of FORMAT.
        kind: create, absorb, refit, merge, restore, drop, rename, policy, alias, tag or annotate.
        refs: Task name -> `space/task@vN` for every task version this commit made or speaks of.
        reports: Task name -> report, for tasks absorbed, re-expressed or merged.
        detail: What a kind other than absorb did, as a phrase.
        basis: The basis that the commit brought, None where it brought none.
        created: False where an earlier commit was returned instead of a new one.
    """

    number: CommitNumber
    id: Digest
    parent: Digest
    kind: str
    space: SpaceName
    time: datetime
    key: str
    author: str | None = None
    message: str = ""
    refs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, Version] = field(default_factory=dict)
    reports: Mapping[str, AdapterReport] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""
    basis: BasisReport | None = None
    created: bool = True

    __str__ = _text
    _repr_html_ = _html

    def __repr__(self) -> str:
        said = f", {self.report}" if self.report else f", {self.detail}" if self.detail else ""
        return f"<Commit {self.ref} (c{self.number} {self.id[:8]}) {self.kind}{said}>"

    @property
    def task(self) -> TaskName | None:
        """The task, where the commit is of exactly one."""
        return TaskName(next(iter(self.refs))) if len(self.refs) == 1 else None

    @property
    def version(self) -> Version | None:
        """The task version, where the commit is of exactly one."""
        return self.versions.get(self.task) if self.task else None

    @property
    def ref(self) -> str:
        """`space/task@vN` where the commit is of exactly one task, else `space/@cN`."""
        return self.refs[self.task] if self.task else f"{self.space}/@c{self.number}"

    @property
    def report(self) -> AdapterReport | None:
        """The report, where the commit absorbed exactly one task."""
        return next(iter(self.reports.values())) if len(self.reports) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Commits, newest first; iterate, index or print it."""

    commits: tuple[Commit, ...]

    __str__ = _text
    __repr__ = _text
    _repr_html_ = _html

    def __iter__(self) -> Iterator[Commit]:
        return iter(self.commits)

    def __len__(self) -> int:
        return len(self.commits)

    @overload
    def __getitem__(self, position: int) -> Commit: ...
    @overload
    def __getitem__(self, position: slice) -> "Log": ...
    def __getitem__(self, position: int | slice) -> "Commit | Log":
        return (
            Log(commits=self.commits[position])
            if isinstance(position, slice)
            else self.commits[position]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedReference:
    """What a reference means now: a task version or (task None) a state of a whole space."""

    ref: str
    space: SpaceName
    number: CommitNumber
    id: Digest
    task: TaskName | None = None
    version: Version | None = None

    __repr__ = _line
    _repr_html_ = _html

    @property
    def long(self) -> str:
        """`space/cola@v3 (c412 1a2b3c4d)`."""
        return f"{self.ref} (c{self.number} {self.id[:8]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceSummary:
    """One space as listed by `spaces()`."""

    name: SpaceName
    base_model: str
    base_revision: str | None
    base_labels: tuple[str, ...]
    budget: float
    keep_original: bool
    references: bool
    refit: bool
    pseudo_rank: int | None
    k: int | None
    phi: int
    tasks: int
    commits: int
    time: datetime

    @property
    def policy(self) -> "Policy":
        """What the space does by default, as one value."""
        from share_registry.values.policy import Policy

        members = ("budget", "keep_original", "references", "refit", "pseudo_rank", "k", "phi")
        return Policy(**{name: getattr(self, name) for name in members})


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task as listed by `tasks()`, at its newest version of the asked time."""

    name: TaskName
    space: SpaceName
    ref: str
    version: Version
    number: CommitNumber
    time: datetime
    error: float
    budget: float | None
    raw_bytes: int
    bytes_added: int
    labels: Mapping[str, str]
    metrics: Mapping[str, float]
    aliases: Mapping[str, Version]
    bound: bool = False

    __repr__ = _line
    _repr_html_ = _html


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageNode:
    """One task version in a lineage.

    Attributes:
        via: How the node before it (the asked version, or a nearer one) came from this one: "",
            "version", "derived", "restored", or "merged" with its weight.
        depth: Steps from the asked version.
    """

    ref: str
    number: CommitNumber
    id: Digest
    kind: str
    time: datetime
    author: str | None
    message: str
    source: str
    error: float
    via: str
    depth: int
    bound: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a task version came from: itself first, then its ancestors, depth first."""

    ref: str
    base_model: str
    base_revision: str | None
    nodes: tuple[LineageNode, ...]

    __str__ = _text
    __repr__ = _text
    _repr_html_ = _html


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """One alias of one task, now or at an asked time."""

    name: str
    task: TaskName
    version: Version
    ref: str
    number: CommitNumber
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """One move of an alias; version None is its removal."""

    name: str
    task: TaskName
    version: Version | None
    ref: str | None
    number: CommitNumber
    id: Digest
    time: datetime
    author: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """One tag of a space: a name of a commit, for ever."""

    name: str
    space: SpaceName
    number: CommitNumber
    id: Digest
    time: datetime


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

    __str__ = _text
    __repr__ = _line
    _repr_html_ = _html


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

    __repr__ = _line
    _repr_html_ = _html


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

    __str__ = _text
    __repr__ = _line
    _repr_html_ = _html

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings
