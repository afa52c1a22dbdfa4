"""What became of a task: its versions, and where its aliases pointed."""

from dataclasses import dataclass

from share_registry.names import SpaceName, TaskName, Version
from share_registry.values.references import AliasMove
from share_registry.values.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class PastVersion:
    """A version with the commit that made it.

    Attributes:
        task: The version; its labels, metrics and aliases are those of now.
        kind, author, message: Of the commit.
        restored_from: The version it repeats, where a restore made it.
    """

    task: Task
    kind: str
    author: str | None
    message: str
    restored_from: Version | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chronicle:
    """What became of a task.

    Attributes:
        task: Its present name.
        live: Whether it is live now.
        versions: The newest first, at most as many as were asked for.
        total: How many there are.
        moves: Of all its aliases, the newest first.
    """

    space: SpaceName
    task: TaskName
    live: bool
    versions: tuple[PastVersion, ...]
    total: int
    moves: tuple[AliasMove, ...]
