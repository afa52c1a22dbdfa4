"""Writes random logs, and keeps a model in step."""

from collections.abc import Callable

from hypothesis import strategies as st
from sqlalchemy.orm import Session

from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.queries.aliases import alias_history, aliases, spaces, tags
from share_registry.catalog.queries.lineage import lineage
from share_registry.catalog.queries.log import LogQuery, log
from share_registry.catalog.queries.name_claims import claims_of_aliases, claims_of_reference
from share_registry.catalog.queries.resolution import resolve
from share_registry.catalog.queries.task_pages import TaskQuery, tasks
from share_registry.errors import NotFoundError
from tests.catalog.logs import Log, digest_of, policy
from tests.catalog.model import Model, ModelTask

NAMES = ("ant", "bee", "cat", "dog")
ALIASES = ("prod", "test")


class Writer:
    """Writes a random log and the model of it, step by step, as hypothesis draws."""

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self._draw = draw
        self.log = Log()
        self.model = Model()
        self.log.create()

    def step(self) -> None:
        """Add one record."""
        self.model.head += 1
        first = [
            self.absorb,
            self.absorb_many,
            self.restore,
            self.drop,
            self.rename,
            self.alias,
            self.alias,
            self.tag,
            self.annotate,
        ]
        removals = [self.expire, self.expire, self.purge]
        actions = [*first, self.refit, self.merge, self.policy, self.export, *removals]
        actions[self._pick(len(actions))]()

    def absorb(self) -> None:
        """A version of one task, new or known, sometimes with parents and labels."""
        task = self._task(NAMES[self._pick(len(NAMES))])
        parents = (
            [self._version() for _ in range(self._pick(3))]
            if any(candidate.versions for candidate in self.model.tasks)
            else []
        )
        labels = [{}, {"a": "1"}, {"a": "2", "b": "1"}][self._pick(3)]
        self._add(task, labels)
        task.parents[len(task.versions)] = [(parent.origin, version) for parent, version in parents]
        self.log.absorb(
            task.name,
            len(task.versions),
            derived_from=[(parent.name, version) for parent, version in parents],
            labels=labels,
        )
        self.model.about[self.model.head] = {task.origin}

    def absorb_many(self) -> None:
        """A version of several tasks."""
        chosen = {
            id(task): task for task in (self._task(NAMES[self._pick(len(NAMES))]) for _ in range(3))
        }
        for task in chosen.values():
            self._add(task, {"a": "3"})
        self.log.absorb_many(
            {task.name: len(task.versions) for task in chosen.values()}, labels={"a": "3"}
        )
        self.model.tasks.sort(key=lambda task: (task.names[0][0], task.origin))
        self.model.about[self.model.head] = {task.origin for task in chosen.values()}

    def restore(self) -> None:
        """An earlier version again."""
        kept = self._kept()
        if kept is None:
            return self.absorb()
        task, of = kept
        labels = task.labels_at(of, self.model.head)
        self._add(task, labels)
        task.restored[len(task.versions)] = of
        task.sources[-1] = task.sources[of - 1]
        self.log.restore(task.name, len(task.versions), of)
        self.model.about[self.model.head] = {task.origin}
        return None

    def drop(self) -> None:
        """A task is no longer listed."""
        if not self.model.tasks:
            return self.absorb()
        task, _ = self._version()
        if not task.is_live(self.model.head):
            return self.absorb()
        task.live.append((self.model.head, False))
        self.log.drop(task.name)
        self.model.about[self.model.head] = {task.origin}
        return None

    def rename(self) -> None:
        """A task gets a name that is free, or one of its own."""
        if not self.model.tasks:
            return self.absorb()
        task, _ = self._version()
        names = ["new-" + task.origin, task.origin, f"name{self.model.head}"]
        name = next(name for name in names[self._pick(3) :] + names if name != task.name)
        self.log.rename(task.name, name)
        task.names.append((self.model.head, name))
        self.model.about[self.model.head] = {task.origin}
        return None

    def alias(self) -> None:
        """An alias moves or is removed."""
        kept = self._kept()
        if kept is None:
            return self.absorb()
        task, version = kept
        alias = ALIASES[self._pick(len(ALIASES))]
        target = (
            None
            if self._pick(4) == 0 and task.target(alias, self.model.head) is not None
            else version
        )
        task.aliases.setdefault(alias, []).append((self.model.head, target))
        self.log.alias(task.name, alias, target)
        self.model.about[self.model.head] = {task.origin}
        return None

    def tag(self) -> None:
        """A commit gets a name."""
        number = 1 + self._pick(self.model.head - 1)
        self.model.tags[f"tag{self.model.head}"] = number
        self.log.tag(f"tag{self.model.head}", number)
        self.model.about[self.model.head] = set()

    def annotate(self) -> None:
        """Labels of a version change."""
        kept = self._kept()
        if kept is None:
            return self.absorb()
        task, version = kept
        said = [{"a": "9"}, {"c": "1", "b": "2"}, {}][self._pick(3)]
        removed = [[], ["a"], ["b", "c"]][self._pick(3)]
        before = task.labels_at(version, self.model.head)
        labels = {name: value for name, value in before.items() if name not in removed} | said
        task.labels.append((self.model.head, version, dict(sorted(labels.items()))))
        self.log.annotate(task.name, version, labels=said, removed=removed)
        self.model.about[self.model.head] = {task.origin}
        return None

    def export(self) -> None:
        """A version was exported, and is what it was."""
        if not self.model.tasks:
            return self.absorb()
        task, version = self._version()
        self.log.export(task.name, version, places={"host": "a", "a": "1"})
        self.model.about[self.model.head] = {task.origin}
        return None

    def refit(self) -> None:
        """A basis, and perhaps a live task re-expressed in it, with its labels and its source."""
        name = f"basis{self._pick(3)}"
        live = [
            task for task in self.model.tasks if task.versions and task.is_live(self.model.head)
        ]
        task = live[self._pick(len(live))] if live and self._pick(3) else None
        if task is not None:
            labels = task.labels_at(len(task.versions), self.model.head)
            self._add(task, labels)
            task.sources[-1] = task.sources[-2]
            self.log.refit(
                {task.name: len(task.versions)},
                name=name,
                source=task.sources[-1],
                error="0.049",
            )
        else:
            self.log.refit(name=name)
        self.model.bases[self.model.head] = str(digest_of(name))
        self.model.about[self.model.head] = {task.origin} if task is not None else set()

    def merge(self) -> None:
        """A version made of others, with weights."""
        if not any(candidate.versions for candidate in self.model.tasks):
            return self.absorb()
        chosen = {
            (parent.name, version): parent.origin
            for parent, version in (self._version() for _ in range(1 + self._pick(3)))
        }
        task = self._task(NAMES[self._pick(len(NAMES))])
        self._add(task, {})
        task.sources[-1] = str(digest_of("merged source", task.name, len(task.versions)))
        weights = {place: ("0.5", "-1", "2e-3")[self._pick(3)] for place in chosen}
        self.log.merge(task.name, len(task.versions), weights)
        task.merged[len(task.versions)] = [(chosen[place], place[1]) for place in sorted(chosen)]
        self.model.about[self.model.head] = {task.origin}
        return None

    def policy(self) -> None:
        """The space keeps coefficients alone from now on, or no longer."""
        k, phi = (None, 4, 32)[self._pick(3)], self._pick(3)
        members = policy("0.1") | ({} if k is None else {"k": k}) | {"phi": phi}
        self.log.add("policy", policy=members)
        self.model.policy = (k, phi)
        self.model.about[self.model.head] = set()

    def expire(self) -> None:
        """Versions are removed that nobody gets who asks for a task or an alias."""
        before = self.model.head - 1
        free = [
            (task, version)
            for task in self.model.tasks
            for version in task.kept(before)
            if not task.stays(version, before)
        ]
        if not free:
            return self.absorb()
        first = self._pick(len(free))
        chosen = free[first : first + 1 + self._pick(3)]
        self.log.expire({(task.name, version) for task, version in chosen})
        for task, version in chosen:
            task.removed[version] = self.model.head
        self.model.about[self.model.head] = {task.origin for task, _ in chosen}
        return None

    def purge(self) -> None:
        """A task is removed, with what notes say of it, bases, and objects of other tasks."""
        if not self.model.tasks:
            return self.absorb()
        task, _ = self._version()
        bases = sorted({*self.model.bases.values()})[: self._pick(3)]
        self.log.purge(
            task.name,
            names={name for _, name in task.names},
            adapters=self._adapters_of_others(task)[: self._pick(3)],
            bases=bases,
        )
        task.purge(self.model.head)
        brought = self.model.bases.items()
        self.model.bases = {number: digest for number, digest in brought if digest not in bases}
        self.model.about[self.model.head] = {task.origin}
        return None

    def _adapters_of_others(self, task: ModelTask) -> list[str]:
        """Return the adapter objects that records name of other tasks, also such as went before."""
        own = {name for _, name in task.names}
        told = [
            entry for logged in self.log.entries for entry in getattr(logged.record, "tasks", ())
        ]
        return sorted({entry.adapter for entry in told if entry.task not in own})

    def _kept(self) -> tuple[ModelTask, int] | None:
        """Return a version that was not removed, of any task; None where there is none."""
        places = [
            (task, version) for task in self.model.tasks for version in task.kept(self.model.head)
        ]
        return places[self._pick(len(places))] if places else None

    def _add(self, task: ModelTask, labels: dict[str, str]) -> None:
        task.versions.append(self.model.head)
        task.labels.append((self.model.head, len(task.versions), dict(sorted(labels.items()))))
        task.sources.append(str(digest_of("source", task.name, len(task.versions), None)))
        if not task.is_live(self.model.head):
            task.live.append((self.model.head, True))

    def _task(self, name: str) -> ModelTask:
        task = self.model.of(name)
        if task is None:
            task = ModelTask(origin=name, names=[(self.model.head, name)], live=[])
            self.model.tasks.append(task)
        return task

    def _version(self) -> tuple[ModelTask, int]:
        earlier = [
            task
            for task in self.model.tasks
            if task.versions and task.versions[0] < self.model.head
        ]
        if not earlier:
            return self.model.tasks[0], 1
        task = earlier[self._pick(len(earlier))]
        return task, 1 + self._pick(
            len([number for number in task.versions if number < self.model.head])
        )

    def _pick(self, count: int) -> int:
        return self._draw(st.integers(0, count - 1))


def check_answers(session: Session, writer: Writer) -> None:
    """Compare every answer with the model."""
    model = writer.model
    for number in range(1, model.head + 1):
        listing = {
            task.name: (task.version, dict(task.labels), dict(task.aliases))
            for task in tasks(session, TaskQuery(space="base", at=number))
        }
        assert listing == model.listing(number)
        basis = lookups.current_basis(session, "base", at=number)
        brought = [
            (since, digest) for since, digest in sorted(model.bases.items()) if since <= number
        ]
        assert ((basis.number, basis.digest) if basis else None) == (
            brought[-1] if brought else None
        )
    assert {tag.name: tag.number for tag in tags(session)} == model.tags
    assert spaces(session)[0].tasks == len(model.listing(model.head))
    now = spaces(session)[0].policy
    assert (now.k, now.phi) == model.policy
    for task in model.tasks:
        _check_task(session, model, task)
        _check_aliases(session, model, task)
    named = aliases(session)
    assert claims_of_aliases(session, named) == [
        claims_of_reference(session, f"base/{alias.task}@{alias.name}", space=None)
        for alias in named
    ]
    for number in range(1, model.head + 1):
        assert {alias.ref for alias in aliases(session, space="base", at=number)} == {
            f"base/{task.name}@v{target}"
            for task in model.tasks
            for alias in task.aliases
            if (target := task.target(alias, number)) is not None
        }


def _check_task(session: Session, model: Model, task: ModelTask) -> None:
    names = {name for _, name in task.names}
    for name in names:
        for number in range(1, model.head + 1):
            expected = task.newest(number) if task.is_live(number) else 0
            assert _resolved(session, f"{name}@c{number}") == (
                f"base/{task.name}@v{expected}" if expected else None
            )
        newest = len(task.versions) if task.is_live(model.head) else 0
        assert _resolved(session, name) == (f"base/{task.name}@v{newest}" if newest else None)
        assert [
            commit.number for commit in log(session, LogQuery(task=name, limit=None))
        ] == sorted(
            (number for number, about in model.about.items() if task.origin in about), reverse=True
        )
    for version, number in enumerate(task.versions, start=1):
        assert resolve(session, f"{task.name}@v{version}").number == number
        row = version_lookups.version_row(session, "base", task.name, version)
        assert row is not None
        assert row.source_digest == task.sources[version - 1]
        assert row.removed == task.removed.get(version)
        ancestors = [node.ref for node in lineage(session, f"{task.name}@v{version}").nodes]
        named = {each.origin: each.name for each in model.tasks}
        assert ancestors == [
            f"base/{named[origin]}@v{of}" for origin, of in model.ancestors(task, version)
        ]


def _check_aliases(session: Session, model: Model, task: ModelTask) -> None:
    for alias, moves in task.aliases.items():
        for back, target in enumerate([*task.targets(alias), None]):
            assert _resolved(session, f"{task.name}@{alias}~{back}") == (
                f"base/{task.name}@v{target}" if target else None
            )
        assert [
            (move.number, move.version) for move in alias_history(session, task.name, alias)
        ] == list(reversed(moves))
        for number in range(1, model.head + 1):
            target = task.target(alias, number)
            assert [
                move.version for move in alias_history(session, task.name, alias, at=number)
            ] == ([target] if target else [])


def _resolved(session: Session, ref: str) -> str | None:
    try:
        return resolve(session, ref).ref
    except NotFoundError:
        return None
