"""Commit the steps of a run and move its aliases: what happens beside a training.

A `StepCommitter` lives in a process of its own, or in a thread where the registry is in memory.
The key of a step is made of run, task and step, so that a step that is passed again, by a training
that goes on from a checkpoint, makes no second version.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from share_registry.catalog.queries.aliases import spaces
from share_registry.catalog.queries.lookups import commit_of_key
from share_registry.errors import (
    CommitStateUnknownError,
    ConflictError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
)
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.peft_model import ModelSnapshot
from share_registry.names import SpaceName
from share_registry.registry.commands.publish import read_commit
from share_registry.registry.registry import Registry
from share_registry.training.run_plan import RegistryPlace, RunPlan
from share_registry.values.commits import Commit
from share_registry.values.policy import ABSENT

_TRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """One step that is to become a version.

    Attributes:
        source: The adapter as it was at that step.
        message: Why; run and step where it is empty.
        labels, metrics: What is said of the version.
    """

    step: int
    source: Adapter | ModelSnapshot
    message: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What became of a step.

    Attributes:
        ref: The version that holds it.
        name: `space/task` of it.
        created: Whether it was made now.
        remarks: What is worth a warning.
    """

    ref: str
    name: str
    created: bool
    remarks: tuple[str, ...] = ()


class StepCommitter:
    """Commits the steps of one run.

    Args:
        plan: What is said of all of them.
        place: Where the registry is opened, at the first step.
        registry: The open registry, where other processes cannot open it.
    """

    def __init__(
        self, plan: RunPlan, place: RegistryPlace | None, registry: Registry | None = None
    ) -> None:
        self._plan = plan
        self._place = place
        self._registry = registry
        # where this run found its aliases, or put them
        self._positions: dict[str, int] = {}
        self._left: set[str] = set()

    def close(self) -> None:
        """Close the registry, where it was opened here."""
        if self._place is not None and self._registry is not None:
            self._registry.close()

    def commit(self, request: RunStep) -> StepOutcome:
        """Commit a step, or find it committed, and move the aliases."""
        registry = self._open()
        commit, remarks = self._commit(registry, request)
        task = commit.task or self._plan.task.rpartition("/")[2]
        name = f"{commit.space}/{task}"
        return StepOutcome(
            ref=commit.ref,
            name=name,
            created=commit.created,
            remarks=(*remarks, *self._move_aliases(registry, commit, name)),
        )

    def _open(self) -> Registry:
        if self._registry is None:
            assert self._place is not None
            self._registry = self._place.open_registry()
        return self._registry

    def _commit(self, registry: Registry, request: RunStep) -> tuple[Commit, tuple[str, ...]]:
        """Return the version of a step, made now or by a life of this run before, and remarks."""
        plan = self._plan
        key = f"{plan.run}/{plan.task.rpartition('/')[2]}/{request.step}"
        source = request.source
        adapter = source.adapter() if isinstance(source, ModelSnapshot) else source
        for attempt in range(1, _TRIES + 1):
            try:
                commit = registry.commit(
                    adapter,
                    task=plan.task,
                    budget=plan.budget,
                    message=request.message or f"step {request.step} of run {plan.run}",
                    author=plan.author,
                    labels=request.labels,
                    metrics=request.metrics,
                    idempotency_key=key,
                )
                return commit, ()
            except (CommitStateUnknownError, ConflictError):
                earlier = self._earlier(registry, key)
                if earlier is not None:
                    remark = (
                        f"step {request.step} of run {plan.run} is {earlier.ref} already, with "
                        "other weights; those of now are not committed. Give a training of its "
                        "own another run."
                    )
                    return earlier, (remark,)
                if attempt == _TRIES:
                    raise
        raise AssertionError("unreachable")

    def _earlier(self, registry: Registry, key: str) -> Commit | None:
        """Return the commit that was made with a key, by a life of this run before."""
        own, slash, _ = self._plan.task.rpartition("/")
        scope = SpaceName(own) if slash else registry.scope
        with registry.context.reading() as session:
            names = [scope] if scope else [each.name for each in spaces(session)]
            numbers = {name: commit_of_key(session, name, key) for name in names}
        for name, number in numbers.items():
            if number is not None:
                return read_commit(registry.context, name, number, created=False)
        return None

    def _move_aliases(self, registry: Registry, commit: Commit, name: str) -> tuple[str, ...]:
        """Move the aliases of the run to a version where they belong there; return remarks."""
        remarks = []
        for alias in filter(None, (self._plan.latest, self._plan.best)):
            if commit.version is None or alias in self._left:
                continue
            try:
                self._move(registry, name, alias, commit.version)
            except ShareRegistryError as error:
                if isinstance(error, ConflictError | RefusedError):
                    self._left.add(alias)
                # whether it was moved may not be known: it is looked up again
                self._positions.pop(alias, None)
                remarks.append(f"alias {alias!r} of {name} is left where it is: {error}")
        return tuple(remarks)

    def _move(self, registry: Registry, name: str, alias: str, version: int) -> None:
        """Move an alias forwards, `best` to a better version alone.

        Raises ConflictError where somebody else moved it.
        """
        position = self._position(registry, name, alias)
        expected = self._positions.setdefault(alias, position)
        if position != expected:
            raise ConflictError(
                f"it is {_at(position)}, and was {_at(expected)} when this run saw it last.",
                hint=f"Where it belongs at this run's: set_alias('{name}@v{version}', {alias!r}).",
            )
        reason = f"newest of run {self._plan.run}"
        if alias == self._plan.best:
            value = self._value_of(registry, name, version)
            if value is None or not self._is_better(registry, name, value, position):
                return
            reason = f"{self._plan.metric} {value:.6g}, best of run {self._plan.run}"
        if position < version:
            registry.set_alias(f"{name}@v{version}", alias, expected=position, reason=reason)
            self._positions[alias] = version

    def _is_better(self, registry: Registry, name: str, value: float, position: int) -> bool:
        """Tell whether a value is better than that of the version which has the alias."""
        if position == ABSENT:
            return True
        present = self._value_of(registry, name, position)
        if present is None:
            raise RefusedError(
                f"v{position} has no metric {self._plan.metric!r} to compare with.",
                hint=f"Annotate it, or remove the alias: remove_alias({name!r}, "
                f"{self._plan.best!r}).",
            )
        return value > present if self._plan.is_greater_better else value < present

    def _value_of(self, registry: Registry, name: str, version: int) -> float | None:
        metric = self._plan.metric
        return None if metric is None else registry.show(f"{name}@v{version}").metrics.get(metric)

    @staticmethod
    def _position(registry: Registry, name: str, alias: str) -> int:
        """Return the version that an alias is at, ABSENT where it is not set."""
        try:
            return next(
                (each.version for each in registry.aliases(task=name) if each.name == alias), ABSENT
            )
        except NotFoundError:
            return ABSENT


def _at(version: int) -> str:
    return "not set" if version == ABSENT else f"at v{version}"
