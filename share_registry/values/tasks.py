"""Spaces, tasks, and where a task version came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.values.policy import Policy
from share_registry.values.sheet import NOTHING, Sheet, Table, html_of, text_of
from share_registry.values.units import (
    first_line,
    measured,
    pairs,
    size,
    time_text,
    typed_percent,
)


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
    def policy(self) -> Policy:
        """What the space does by default, as one value."""
        members = ("budget", "keep_original", "references", "refit", "pseudo_rank", "k", "phi")
        return Policy(**{name: getattr(self, name) for name in members})

    @staticmethod
    def table(spaces: "Sequence[SpaceSummary]") -> Table:
        """Return several as a table."""
        rows = tuple(
            (
                space.name,
                f"{space.base_model}{f' ({space.base_revision})' if space.base_revision else ''}",
                str(space.tasks),
                str(space.commits),
                typed_percent(space.budget) if space.k is None else f"none, k {space.k}",
                "yes" if space.keep_original else "no",
                time_text(space.time),
            )
            for space in spaces
        )
        return Table(
            headers=(
                "space",
                "base model",
                "tasks>",
                "commits>",
                "budget>",
                "keeps originals",
                "last commit (UTC)",
            ),
            rows=rows,
        )


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

    _repr_html_ = html_of

    def __repr__(self) -> str:
        error = measured(self.error, bound=self.bound)
        return (
            f"<Task {self.ref} error {error}, {size(self.bytes_added)} for {size(self.raw_bytes)}>"
        )

    @staticmethod
    def table(tasks: "Sequence[Task]") -> Table:
        """Return several as a table."""
        rows = tuple(
            (
                task.ref,
                f"c{task.number}",
                time_text(task.time),
                measured(task.error, bound=task.bound),
                size(task.bytes_added),
                size(task.raw_bytes),
                ", ".join(f"{alias}->v{version}" for alias, version in sorted(task.aliases.items()))
                or NOTHING,
                pairs(task.labels) or NOTHING,
                pairs(task.metrics) or NOTHING,
            )
            for task in tasks
        )
        return Table(
            headers=(
                "task",
                "commit",
                "time (UTC)",
                "error>",
                "bytes>",
                "raw>",
                "aliases",
                "labels",
                "metrics",
            ),
            rows=rows,
        )

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        return Sheet(tables=(Task.table([self]),))


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

    __str__ = text_of
    __repr__ = text_of
    _repr_html_ = html_of

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        rows = tuple(
            (
                f"{'   ' * (node.depth - 1)}{'└─ ' if node.depth else ''}{node.ref}",
                node.via or NOTHING,
                f"c{node.number}",
                node.id[:8],
                time_text(node.time),
                measured(node.error, bound=node.bound),
                node.source or NOTHING,
                first_line(node.message) or NOTHING,
            )
            for node in self.nodes
        )
        base = f"{self.base_model}{f' ({self.base_revision})' if self.base_revision else ''}"
        headers = ("version", "by", "commit", "id", "time (UTC)", "error>", "source", "message")
        return Sheet(title=f"{self.ref} on {base}", tables=(Table(headers=headers, rows=rows),))
