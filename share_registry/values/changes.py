"""What changed between two moments, a row a task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from typing_extensions import override

from share_registry.look.units import count, time_text
from share_registry.values.sheet import Sheet, Shown, optional_percent
from share_registry.values.text_table import NOTHING, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """What changed of one task.

    Attributes:
        task: `space/task`, as it is called at the end.
        status: "new", "changed", "dropped" (also where it was purged), or "same": then only aliases
            moved, or labels and metrics changed.
        before: The newest version then, `space/task@vN`; None where there was none.
        after: The newest version at the end; None where it was dropped.
        change: |dW_after - dW_before| / |dW_before|; None where one side is missing, cannot be read
            any more or was 0, or was not asked for.
        aliases: Of those that moved, the version before and after; None where it was not set.
        commits: How many commits were about it.
        authors: Who made them, in the order of their first.
        time: When the last of them was made.
    """

    task: str
    status: str
    before: str | None
    after: str | None
    change: float | None = None
    aliases: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    commits: int
    authors: tuple[str, ...] = ()
    time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Changes(Shown):
    """What changed between two moments.

    Attributes:
        since: The first moment, as asked.
        until: The second one, as asked; "latest" for now.
        tasks: Every task that a commit in between was about, by space and name.
        unchanged: How many tasks no commit was about.
    """

    since: str
    until: str
    tasks: tuple[TaskChange, ...]
    unchanged: int

    def __repr__(self) -> str:
        return f"<Changes {self.since} .. {self.until}: {count(len(self.tasks), 'task')}>"

    @override
    def sheet(self) -> Sheet:
        return Sheet(
            title=f"{self.since} .. {self.until}: {count(len(self.tasks), 'task')} changed",
            tables=(
                Table.of(
                    {
                        "task": task.task,
                        "status": task.status,
                        "before": _version(task.before),
                        "after": _version(task.after),
                        "change of dW>": optional_percent(task.change),
                        "aliases": ", ".join(_move(task, alias) for alias in task.aliases)
                        or NOTHING,
                        "commits>": str(task.commits),
                        "by": ", ".join(task.authors) or NOTHING,
                        "last (UTC)": NOTHING if task.time is None else time_text(task.time),
                    }
                    for task in self.tasks
                ),
            ),
            total=f"{count(self.unchanged, 'task is', 'tasks are')} as before"
            if self.unchanged
            else "",
            refs=tuple(task.after or task.before or "" for task in self.tasks),
        )


def _version(ref: str | None) -> str:
    return NOTHING if ref is None else ref.rpartition("@")[2]


def _move(task: TaskChange, alias: str) -> str:
    before, after = (NOTHING if each is None else f"v{each}" for each in task.aliases[alias])
    return f"{alias} {before} -> {after}"
