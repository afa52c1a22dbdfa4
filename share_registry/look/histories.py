"""What happened to each task, read from a log: versions, moves of aliases, drops."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from share_registry.values.commits import Commit, Log

# Of an alias: the commit, and the version that it stands for from then on; None: it was removed
Move = tuple[int, int | None]

_MOVED: Final = re.compile(r"(?P<task>[^@]+)@(?P<alias>.+) is (?:v(?P<version>\d+)|removed)")
_GONE: Final = re.compile(r"(?:dropped|purged) (?P<task>\S+)")
_MAKES_VERSIONS: Final = frozenset({"absorb", "merge", "restore", "refit"})


@dataclass(frozen=True, slots=True)
class TaskHistory:
    """What happened to a task, oldest first.

    Attributes:
        versions: Commit number -> the version that it made.
        moves: Alias -> its moves.
        ends: Numbers of commits that dropped or purged the task.
        commits: Commit number -> commit, of all of these.
    """

    versions: dict[int, int] = field(default_factory=dict)
    moves: dict[str, list[Move]] = field(default_factory=lambda: defaultdict(list))
    ends: list[int] = field(default_factory=list)
    commits: "dict[int, Commit]" = field(default_factory=dict)

    @property
    def length(self) -> int:
        """How many versions and moves there are."""
        return len(self.versions) + sum(map(len, self.moves.values()))


def histories(log: "Log") -> dict[tuple[str, str], TaskHistory]:
    """Return the histories in a log by space and task; its details say where aliases went."""
    by_task: dict[tuple[str, str], TaskHistory] = defaultdict(TaskHistory)
    for commit in reversed(log.commits):
        for task, version in _new_versions(commit):
            history = by_task[commit.space, task]
            history.versions[commit.number] = version
            history.commits[commit.number] = commit
        if move := _MOVED.fullmatch(commit.detail) if commit.kind == "alias" else None:
            # a task goes by its present name, the detail has the one of then
            history = by_task[commit.space, commit.task or move["task"]]
            version_number = int(move["version"]) if move["version"] else None
            history.moves[move["alias"]].append((commit.number, version_number))
            history.commits[commit.number] = commit
        if end := _GONE.fullmatch(commit.detail) if commit.kind in ("drop", "purge") else None:
            history = by_task[commit.space, commit.about or end["task"]]
            history.ends.append(commit.number)
            history.commits[commit.number] = commit
    return by_task


def stands(moves: Sequence[Move]) -> Iterator[tuple[int, int, int | None]]:
    """Yield what an alias stood for: the version, from which commit on, up to which (None: now)."""
    ends = [number for number, _ in moves[1:]]
    for (number, version), end in zip(moves, [*ends, None], strict=True):
        if version is not None:
            yield version, number, end


def lives(history: TaskHistory) -> Iterator[tuple[int, int | None]]:
    """Yield from which commit on a task was there, and up to which (None: now)."""
    waiting = [*history.versions]
    for end in history.ends:
        before = [number for number in waiting if number < end]
        if before:
            yield before[0], end
        waiting = waiting[len(before) :]
    if waiting:
        yield waiting[0], None


def _new_versions(commit: "Commit") -> Iterator[tuple[str, int]]:
    if commit.kind in _MAKES_VERSIONS:
        for task, version in commit.versions.items():
            if version and commit.about in (None, task):
                yield task, int(version)
