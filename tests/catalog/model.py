"""What the catalog must answer, kept in plain dicts.

The model that random logs are compared with.
"""

from dataclasses import dataclass, field

Place = tuple[str, int]
"""A task, by the name it was created under, and a version."""


@dataclass
class ModelTask:
    """One task over time; numbers are commits."""

    origin: str
    names: list[tuple[int, str]]
    live: list[tuple[int, bool]]
    versions: list[int] = field(default_factory=list)
    restored: dict[int, int] = field(default_factory=dict)
    parents: dict[int, list[Place]] = field(default_factory=dict)
    merged: dict[int, list[Place]] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    aliases: dict[str, list[tuple[int, int | None]]] = field(default_factory=dict)
    labels: list[tuple[int, int, dict[str, str]]] = field(default_factory=list)
    removed: dict[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The present name."""
        return self.names[-1][1]

    def is_live(self, number: int) -> bool:
        """Whether it was live after a commit."""
        return [live for since, live in self.live if since <= number][-1:] == [True]

    def newest(self, number: int) -> int:
        """The newest version at a commit, 0 where there was none."""
        return sum(1 for since in self.versions if since <= number)

    def target(self, alias: str, number: int) -> int | None:
        """What an alias stood for after a commit."""
        return (
            [version for since, version in self.aliases.get(alias, []) if since <= number] or [None]
        )[-1]

    def targets(self, alias: str) -> list[int | None]:
        """What an alias stands for and stood for.

        Now first, neighbours differ, earlier removals left out.
        """
        moves = [version for _, version in self.aliases[alias]]
        targets: list[int | None] = [moves.pop()]
        for version in reversed(moves):
            if version is not None and version != targets[-1]:
                targets.append(version)
        return targets

    def kept(self, number: int) -> list[int]:
        """The versions that were there after a commit and are not removed since."""
        return [each for each in range(1, self.newest(number) + 1) if each not in self.removed]

    def stays(self, version: int, number: int) -> bool:
        """Whether somebody who asks for the task or an alias gets a version."""
        is_newest = self.is_live(number) and version == self.newest(number)
        return is_newest or version in {self.target(alias, number) for alias in self.aliases}

    def purge(self, number: int) -> None:
        """Remove every version, what is said of them, and the aliases."""
        self.removed |= dict.fromkeys(self.kept(number), number)
        self.labels = [(since, version, {}) for since, version, _ in self.labels]
        if self.is_live(number):
            self.live.append((number, False))
        for alias, moves in self.aliases.items():
            if self.target(alias, number) is not None:
                moves.append((number, None))

    def labels_at(self, version: int, number: int) -> dict[str, str]:
        """The labels of a version after a commit."""
        return (
            [labels for since, of, labels in self.labels if since <= number and of == version]
            or [{}]
        )[-1]


@dataclass
class Model:
    """A space."""

    head: int = 1
    tasks: list[ModelTask] = field(default_factory=list)
    tags: dict[str, int] = field(default_factory=dict)
    bases: dict[int, str] = field(default_factory=dict)
    policy: tuple[int | None, int] = (None, 0)
    about: dict[int, set[str]] = field(default_factory=dict)

    def of(self, name: str) -> ModelTask | None:
        """The task that has or had a name."""
        return next(
            (task for task in self.tasks if name in {task_name for _, task_name in task.names}),
            None,
        )

    def listing(self, number: int) -> dict[str, tuple[int, dict[str, str], dict[str, int]]]:
        """Version, labels and aliases of each task live after a commit, by its present name."""
        listing = {}
        for task in self.tasks:
            newest = task.newest(number)
            if newest and task.is_live(number):
                aliases = {
                    alias: target
                    for alias in sorted(task.aliases)
                    if (target := task.target(alias, number)) is not None
                }
                listing[task.name] = (newest, task.labels_at(newest, number), aliases)
        return dict(sorted(listing.items()))

    def ancestors(self, task: ModelTask, version: int) -> list[Place]:
        """A version and what it came from, depth first, each once.

        Parents of a merge also stand below it.
        """
        ancestors: list[Place] = []
        self._visit((task.origin, version), ancestors)
        return ancestors

    def _visit(self, place: Place, ancestors: list[Place], *, merged: bool = False) -> None:
        """Visit a place and what it came from.

        What was visited before is named again below a merge.
        """
        if place in ancestors:
            ancestors += [place] if merged else []
            return
        ancestors.append(place)
        origin, version = place
        task = next(candidate for candidate in self.tasks if candidate.origin == origin)
        before = task.restored.get(version, version - 1)
        for edge in [(origin, before)] if before else []:
            self._visit(edge, ancestors)
        for edge in task.parents.get(version, []):
            self._visit(edge, ancestors)
        for edge in task.merged.get(version, []):
            self._visit(edge, ancestors, merged=True)
