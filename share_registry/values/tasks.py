"""Spaces, tasks, and where a task version came from."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final

from typing_extensions import override

from share_registry.look.units import count, measured, size, time_text, typed_percent
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.values.policy import Policy
from share_registry.values.references import removed_column
from share_registry.values.sheet import Listed, Sheet, Shown, metric_pairs, pairs
from share_registry.values.text_table import NOTHING, Table, first_line

# Labels that a commit gets from its environment: they say where it was made, not what it is
AUTOMATIC_LABELS: Final = ("ci.run", "git.sha", "mlflow.run_id", "wandb.run")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceSummary(Listed):
    """One space as listed by `spaces()`.

    Attributes:
        bytes_added: Bytes of the objects that its versions brought, bases apart, also of those that
            were removed since.
        raw_bytes: Bytes of the tensor files of all its versions, likewise.
    """

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
    bytes_added: int = 0
    raw_bytes: int = 0
    max_dependents: int | None = None
    require: tuple[str, ...] = ()

    @property
    def policy(self) -> Policy:
        """What the space does by default, as one value."""
        return Policy(**{field.name: getattr(self, field.name) for field in fields(Policy)})

    @staticmethod
    def listing(spaces: "Sequence[SpaceSummary]") -> Sheet:
        """Return what is shown of several."""
        return Sheet(
            tables=(
                Table.of(
                    (
                        {
                            "space": space.name,
                            "base model": _base_model(space.base_model, space.base_revision),
                            "tasks>": str(space.tasks),
                            "commits>": str(space.commits),
                            "budget>": typed_percent(space.budget)
                            if space.k is None
                            else f"none, k {space.k}",
                            "bytes>": size(space.bytes_added),
                            "raw>": size(space.raw_bytes),
                            "keeps originals": "yes" if space.keep_original else "no",
                            "last commit (UTC)": time_text(space.time),
                        }
                        for space in spaces
                    ),
                    spare=("keeps originals", "last commit (UTC)", "raw>", "budget>"),
                ),
            ),
            total=_total_of_spaces(spaces),
            refs=tuple(space.name for space in spaces),
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Task(Shown):
    """One task as listed by `tasks()`, at its newest version of the asked time.

    Attributes:
        removed: The commit that expired or purged that version since; None where it is there.
    """

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
    removed: CommitNumber | None = None

    def __repr__(self) -> str:
        error = measured(self.error, bound=self.bound)
        return (
            f"<Task {self.ref} error {error}, {size(self.bytes_added)} for {size(self.raw_bytes)}>"
        )

    __str__ = __repr__

    @staticmethod
    def listing(tasks: "Sequence[Task]", *, labels: Container[str] = ()) -> Sheet:
        """Return what is shown of several, of automatic labels those that were asked for."""
        return Sheet(
            tables=(
                Table.of(
                    (
                        {
                            "task": task.ref,
                            "commit": f"c{task.number}",
                            **removed_column(task, tasks),
                            "time (UTC)": time_text(task.time),
                            "error>": measured(task.error, bound=task.bound),
                            "bytes>": size(task.bytes_added),
                            "raw>": size(task.raw_bytes),
                            "aliases": ", ".join(
                                f"{alias}->v{version}"
                                for alias, version in sorted(task.aliases.items())
                            )
                            or NOTHING,
                            "labels": pairs(
                                {
                                    name: value
                                    for name, value in task.labels.items()
                                    if name not in AUTOMATIC_LABELS or name in labels
                                }
                            )
                            or NOTHING,
                            "metrics": metric_pairs(task.metrics) or NOTHING,
                        }
                        for task in tasks
                    ),
                    spare=("commit", "raw>", "labels", "metrics", "time (UTC)", "bytes>"),
                ),
            ),
            total=_total(tasks),
            refs=tuple(task.ref for task in tasks),
        )

    @override
    def sheet(self) -> Sheet:
        return Task.listing([self])


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageNode:
    """One task version in a lineage.

    Attributes:
        via: How the node before it (the asked version, or a nearer one) came from this one: "",
            "version", "derived", "restored", or "merged" with its weight.
        depth: Steps from the asked version.
        removed: The commit that expired or purged the version; None where it is there.
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
    removed: CommitNumber | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageEdge:
    """That a version came from another: `ref` from `parent`, as `LineageNode.via` says."""

    ref: str
    parent: str
    via: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Lineage(Shown):
    """Where a task version came from: itself first, then its ancestors, depth first.

    Attributes:
        nodes: Each version where it is first met, and parents of a merge below every merge.
        edges: Every version and each that it came from, also where that was met before.
    """

    ref: str
    base_model: str
    base_revision: str | None
    nodes: tuple[LineageNode, ...]
    edges: tuple[LineageEdge, ...] = ()

    __repr__ = Shown.__str__

    @override
    def sheet(self) -> Sheet:
        table = Table.of(
            (
                {
                    "version": f"{'   ' * (node.depth - 1)}{'└─ ' if node.depth else ''}"
                    f"{node.ref.partition('/')[2]}",
                    "by": _via(node.via),
                    **removed_column(node, self.nodes),
                    "author": node.author or NOTHING,
                    "commit": f"c{node.number}",
                    "id": node.id[:8],
                    "time (UTC)": time_text(node.time),
                    "error>": measured(node.error, bound=node.bound),
                    "source": node.source or NOTHING,
                    "message": first_line(node.message) or NOTHING,
                }
                for node in self.nodes
            ),
            spare=("source", "error>", "commit"),
            short=("author", "message"),
        )
        return Sheet(
            title=f"{self.ref} on {_base_model(self.base_model, self.base_revision)}",
            tables=(table,),
            refs=tuple(node.ref for node in self.nodes),
        )


def _via(via: str) -> str:
    """Return how a version came from another, a weight with as many digits as people read."""
    merged, _, weight = via.partition(", ")
    return f"{merged}, {float(weight):.4g}" if weight else via or NOTHING


def _total(tasks: Sequence[Task]) -> str:
    added = size(sum(task.bytes_added for task in tasks))
    raw = size(sum(task.raw_bytes for task in tasks))
    if len(tasks) < 2:
        return ""
    distinct = len({(task.space, task.name) for task in tasks})
    versions = f"{len(tasks)} versions of " if len(tasks) > distinct else ""
    return f"{versions}{count(distinct, 'task')}: {added} for {raw}"


def _total_of_spaces(spaces: Sequence[SpaceSummary]) -> str:
    added = size(sum(space.bytes_added for space in spaces))
    raw = size(sum(space.raw_bytes for space in spaces))
    return f"{count(len(spaces), 'space')}: {added} for {raw}" if len(spaces) > 1 else ""


def _base_model(label: str, revision: str | None) -> str:
    return f"{label} ({revision})" if revision else label
