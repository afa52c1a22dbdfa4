"""What references, aliases and tags stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.values.sheet import NOTHING, Sheet, Table, html_of, line_of
from share_registry.values.units import first_line, time_text


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedReference:
    """What a reference means now: a task version or (task None) a state of a whole space."""

    ref: str
    space: SpaceName
    number: CommitNumber
    id: Digest
    task: TaskName | None = None
    version: Version | None = None

    __repr__ = line_of
    _repr_html_ = html_of

    @property
    def long(self) -> str:
        """`space/cola@v3 (c412 1a2b3c4d)`."""
        return f"{self.ref} (c{self.number} {self.id[:8]})"

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        return Sheet(title=self.long)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """One alias of one task, now or at an asked time."""

    name: str
    task: TaskName
    version: Version
    ref: str
    number: CommitNumber
    time: datetime

    @staticmethod
    def table(aliases: "Sequence[Alias]") -> Table:
        """Return several as a table."""
        rows = tuple(
            (alias.task, alias.name, alias.ref, f"c{alias.number}", time_text(alias.time))
            for alias in aliases
        )
        return Table(headers=("task", "alias", "version", "moved in", "time (UTC)"), rows=rows)


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

    @staticmethod
    def table(moves: "Sequence[AliasMove]") -> Table:
        """Return several as a table."""
        rows = tuple(
            (
                f"c{move.number}",
                move.id[:8],
                time_text(move.time),
                move.ref or "removed",
                move.author or NOTHING,
                first_line(move.reason) or NOTHING,
            )
            for move in moves
        )
        return Table(
            headers=("commit", "id", "time (UTC)", "version", "author", "reason"), rows=rows
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """One tag of a space: a name of a commit, for ever."""

    name: str
    space: SpaceName
    number: CommitNumber
    id: Digest
    time: datetime

    @staticmethod
    def table(tags: "Sequence[Tag]") -> Table:
        """Return several as a table."""
        rows = tuple(
            (tag.space, tag.name, f"c{tag.number}", tag.id[:8], time_text(tag.time)) for tag in tags
        )
        return Table(headers=("space", "tag", "commit", "id", "time (UTC)"), rows=rows)
