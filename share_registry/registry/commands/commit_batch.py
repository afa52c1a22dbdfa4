"""The adapters of one commit.

Each is absorbed in its turn, and of more than fit into memory no more are there at a time than are
looked at.

As many as there is room for are kept as they were read. Of the others only the heads stay: what
lies in a directory is read again when its turn comes, and what is made of it goes to the store at
once; an object that no record names harms nothing. A basis is then fitted to some of them, and on
these is seen whether it pays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from share_registry.errors import InvalidInputError, ShareRegistryError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.load import is_directory, load
from share_registry.format.layout import module_shapes_of
from share_registry.format.records import TaskVersionRef
from share_registry.names import SpaceName, TaskName
from share_registry.registry.commands.auto_refit import fitted_to
from share_registry.registry.commands.encode import EncodedAdapter, NewBasis, check_shapes, prepare
from share_registry.registry.commands.prediction import FIRST, LATEST
from share_registry.values.policy import Policy

if TYPE_CHECKING:
    from share_registry.outside.files import Outside
    from share_registry.registry.context import Context

FEW: Final = 16
"""Adapters that are kept in memory, and that a basis is fitted to, however large they are."""
KEPT_BYTES: Final = 1 << 30
"""Of tensors that are kept in memory.

3,600 adapters of MiniLM, 40 of Mistral-7B's q and v at r = 16.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitBatch:
    """What was handed in.

    Attributes:
        heads: The adapters; those that there is no room for, and that can be read again, are
            without tensors and files.
        derived: Tasks named after their source, which another source must not continue.
        whole: The adapter of a task with all that belongs to it. Raises InvalidInputError where it has
            changed meanwhile.
    """

    heads: Mapping[TaskName, Adapter]
    derived: frozenset[TaskName]
    whole: Callable[[TaskName], Adapter] = field(repr=False)

    @property
    def some(self) -> list[TaskName]:
        """As many of the tasks as are kept in memory, spread evenly, by name."""
        tasks, total = sorted(self.heads), sum(adapter.raw_bytes for adapter in self.heads.values())
        count = min(len(tasks), max(FEW, KEPT_BYTES * len(tasks) // max(total, 1)))
        return [tasks[number * len(tasks) // count] for number in range(count)]


def handed(
    sources: Sequence[tuple[str | None, Any]], *, adapter_name: str | None, outside: "Outside"
) -> CommitBatch:
    """Read adapters, keeping of those there is no room for only what says what they are.

    Raises as `sources.load`.
    """
    kept_bytes = 0
    heads: dict[TaskName, Adapter] = {}
    places: dict[TaskName, Any] = {}
    derived = set()
    for wanted, source in sources:
        try:
            task, adapter, named = load(
                source, task=wanted, adapter_name=adapter_name, outside=outside
            )
        except ShareRegistryError as error:
            if len(sources) > 1:
                error.message = f"{wanted or source}: {error.message}"
            raise
        again = (
            len(sources) > FEW
            and kept_bytes + adapter.raw_bytes > KEPT_BYTES
            and is_directory(source)
        )
        kept_bytes += 0 if again else adapter.raw_bytes
        heads[task] = _head(adapter) if again else adapter
        if again:
            places[task] = source
        if named:
            derived.add(task)

    def whole(task: TaskName) -> Adapter:
        if task not in places:
            return heads[task]
        _, adapter, _ = load(places[task], task=task, adapter_name=adapter_name, outside=outside)
        if adapter.source_digest != heads[task].source_digest:
            raise InvalidInputError(
                f"the adapter of task {task!r} at {places[task]} changed while it was committed.",
                hint="Commit it when nothing writes to it any more.",
            )
        return adapter

    return CommitBatch(heads=heads, derived=frozenset(derived), whole=whole)


def prepared(
    context: "Context",
    space: SpaceName,
    adapters: CommitBatch,
    policy: Policy,
    parents: tuple[TaskVersionRef, ...],
    *,
    dry_run: bool,
) -> tuple[dict[TaskName, EncodedAdapter], NewBasis | None]:
    """Absorb every adapter, with a basis fitted to them where that takes fewer bytes or the policy says so; of more than there is room for, the objects are stored at once unless `dry_run`."""
    shapes: dict[str, tuple[int, int, int]] = {}
    for task in sorted(adapters.heads):
        check_shapes(shapes, space, adapters.heads[task].layout)
        shapes |= module_shapes_of(adapters.heads[task].layout)
    job = _BatchJob(context=context, space=space, adapters=adapters, policy=policy, parents=parents)
    tasks, some = sorted(adapters.heads), adapters.some
    fitted = fitted_to(context, space, adapters.heads, adapters.whole, some, policy)
    if fitted is None or policy.k:
        return job.each(tasks, fitted, store=len(some) < len(tasks) and not dry_run), fitted
    together, apart = job.each(some, fitted), job.each(some, None)
    pays = _pays(context, together, apart, fitted, times=len(tasks) / len(some))
    if len(some) == len(tasks):
        return (together, fitted) if pays else (apart, None)
    del together, apart
    chosen = fitted if pays else None
    return job.each(tasks, chosen, store=not dry_run), chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class _BatchJob:
    context: "Context"
    space: SpaceName
    adapters: CommitBatch
    policy: Policy
    parents: tuple[TaskVersionRef, ...]

    def each(
        self, tasks: Sequence[TaskName], fitted: NewBasis | None, *, store: bool = False
    ) -> dict[TaskName, EncodedAdapter]:
        """Absorb adapters in the order of tasks.

        Later ones may refer to the first and the latest before them.
        """
        made: dict[TaskName, EncodedAdapter] = {}
        first: list[EncodedAdapter] = []
        latest: list[EncodedAdapter] = []
        for task in tasks:
            item = prepare(
                self.context,
                self.space,
                task,
                self.adapters.whole(task),
                policy=self.policy,
                parents=self.parents,
                siblings=[*first, *latest],
                fitted=fitted,
            )
            made[task] = _stored(self.context, item) if store else item
            if len(first) < FIRST:
                first.append(made[task])
            else:
                latest = [*latest, made[task]][-LATEST:]
        return made


def _head(adapter: Adapter) -> Adapter:
    return replace(adapter, tensors={}, attachments={}, original={})


def _stored(context: "Context", item: EncodedAdapter) -> EncodedAdapter:
    """Make the objects durable and let go of them."""
    return replace(item, added=item.store(context.store), adapter=_head(item.adapter), objects={})


def _pays(
    context: "Context",
    together: Mapping[TaskName, EncodedAdapter],
    apart: Mapping[TaskName, EncodedAdapter],
    fitted: NewBasis,
    *,
    times: float,
) -> bool:
    """Tell whether a basis and what refers to it take fewer bytes than each adapter without it, where these stand for `times` as many."""
    sizes = [
        sum(item.new_bytes(context.store) for item in made.values()) for made in (together, apart)
    ]
    return len(fitted.content) + times * sizes[0] < times * sizes[1] and any(
        fitted.digest in item.sources for item in together.values()
    )
