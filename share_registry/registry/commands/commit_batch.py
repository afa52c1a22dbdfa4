"""Load and encode the adapters of one commit, however many there are.

As many as there is room for are kept in memory as they were read. Of the others only the heads
stay: what lies in a directory is read again when its turn comes, and what is made of it goes to the
store at once (an object that no record names harms nothing).

A basis is fitted to them where it takes fewer bytes. To see that, adapters are encoded with it and
without it: all of them where all are in memory, else some, spread evenly, that stand for the rest.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from share_registry.errors import InvalidInputError, ShareRegistryError, ensure
from share_registry.exchange.adapter import Adapter, head_of
from share_registry.exchange.load import load
from share_registry.exchange.places import is_directory, with_format
from share_registry.format.notes import CheckEntry
from share_registry.format.records import TaskVersionRef
from share_registry.names import SpaceName, TaskName
from share_registry.outside.files import Outside
from share_registry.registry.basis.fit import FitRule, fit
from share_registry.registry.basis.members import stored_members, unstored_member
from share_registry.registry.commands.coding import FIRST, LATEST
from share_registry.registry.commands.encode import (
    EncodedAdapter,
    NewBasis,
    check_adapter,
    encode_adapter,
)
from share_registry.registry.commands.new_basis import (
    FINE,
    rule_within_budget,
    serialize_basis,
)
from share_registry.registry.commands.refit import live_versions
from share_registry.registry.context import Context
from share_registry.registry.stored_config import described_versions
from share_registry.values.policy import Policy

# Adapters that are kept in memory, and that a basis is fitted to, however large they are
FEW: Final = 16
# Of tensors that are kept in memory.  3,600 adapters of MiniLM, 40 of Mistral-7B's q and v at r =
# 16.
KEPT_BYTES: Final = 1 << 30
# Adapters of one commit from which on a basis may pay. Two share nothing that one cannot refer to
# in the other.
_FEWEST: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterBatch:
    """The adapters of one commit.

    Attributes:
        adapters: By task; those that there is no room for, and that can be read again, are without
            tensors and files.
        directories: Where these are read again.
        derived: Tasks named after their source, which another source must not continue.
    """

    adapters: Mapping[TaskName, Adapter]
    directories: Mapping[TaskName, Any]
    derived: frozenset[TaskName]
    outside: Outside = field(repr=False)

    def read(self, task: TaskName) -> Adapter:
        """Return an adapter with all that belongs to it.

        Raises InvalidInputError where it has changed meanwhile.
        """
        head = self.adapters[task]
        if task not in self.directories:
            return head
        place = self.directories[task]
        _, adapter, _ = load(place, task=task, adapter_name=None, outside=self.outside)
        ensure(
            adapter.source_digest == head.source_digest,
            InvalidInputError(
                f"the adapter of task {task!r} at {place} changed while it was committed.",
                hint="Commit it when nothing writes to it any more.",
            ),
        )
        return adapter

    def without(self, tasks: Collection[TaskName]) -> "AdapterBatch":
        """Return the adapters of the other tasks."""
        adapters = {task: item for task, item in self.adapters.items() if task not in tasks}
        return replace(self, adapters=adapters)

    def kept_for(self, policy: Policy) -> "AdapterBatch":
        """Return the adapters without the files as they were read, unless a policy keeps them."""
        if policy.keep_original:
            return self
        adapters = {task: replace(item, original={}) for task, item in self.adapters.items()}
        return replace(self, adapters=adapters)

    def sample(self) -> list[TaskName]:
        """Return as many of the tasks as are kept in memory, spread evenly, by name."""
        tasks = sorted(self.adapters)
        raw_bytes = sum(adapter.raw_bytes for adapter in self.adapters.values())
        count = min(len(tasks), max(FEW, KEPT_BYTES * len(tasks) // max(raw_bytes, 1)))
        return [tasks[number * len(tasks) // count] for number in range(count)]


def load_adapters(
    sources: Sequence[tuple[str | None, Any]],
    *,
    adapter_name: str | None,
    format: str | None = None,
    outside: Outside,
) -> AdapterBatch:
    """Read adapters, keeping of those there is no room for only what says what they are.

    Raises as `exchange.load`.
    """
    kept_bytes = 0
    adapters: dict[TaskName, Adapter] = {}
    directories: dict[TaskName, Any] = {}
    derived = set()
    for name, place in sources:
        source = with_format(place, format)
        try:
            task, adapter, is_derived = load(
                source, task=name, adapter_name=adapter_name, outside=outside
            )
        except ShareRegistryError as error:
            if len(sources) == 1:
                raise
            raise error.amended(prefix=f"{name or source}: ") from error
        has_room = len(sources) <= FEW or kept_bytes + adapter.raw_bytes <= KEPT_BYTES
        if has_room or not is_directory(source):
            kept_bytes += adapter.raw_bytes
            adapters[task] = adapter
        else:
            adapters[task] = head_of(adapter)
            directories[task] = source
        if is_derived:
            derived.add(task)
    return AdapterBatch(
        adapters=adapters, directories=directories, derived=frozenset(derived), outside=outside
    )


def encode_adapters(
    context: Context,
    space: SpaceName,
    batch: AdapterBatch,
    policy: Policy,
    parents: Mapping[TaskName, Sequence[TaskVersionRef]],
    *,
    dry_run: bool,
) -> tuple[dict[TaskName, EncodedAdapter], NewBasis | None]:
    """Encode the adapters of a commit, with a basis where it pays or the policy asks for one.

    Of more than there is room for, the objects are stored at once unless `dry_run`.
    """
    tasks = sorted(batch.adapters)
    checks: dict[TaskName, list[CheckEntry]] = {}
    if context.checks or policy.require:
        # all of them, before anything is stored
        checks = {task: check_adapter(context, policy, task, batch.read(task)) for task in tasks}

    def encode_each(
        tasks: Sequence[TaskName], basis: NewBasis | None, *, store: bool = False
    ) -> dict[TaskName, EncodedAdapter]:
        """Encode in the order of tasks: later ones may refer to the first and latest before."""
        encoded: dict[TaskName, EncodedAdapter] = {}
        for task in tasks:
            before = list(encoded.values())
            item = encode_adapter(
                context,
                space,
                task,
                batch.read(task),
                policy=policy,
                parents=parents[task],
                siblings=[*before[:FIRST], *before[FIRST:][-LATEST:]],
                basis=basis,
            ).passed(checks.get(task, ()))
            encoded[task] = item.store(context.store) if store else item
        return encoded

    sample = batch.sample()
    basis = _fit_basis(context, space, batch, policy)
    if basis is None or policy.k:
        return encode_each(tasks, basis, store=len(sample) < len(tasks) and not dry_run), basis
    together, apart = encode_each(sample, basis), encode_each(sample, None)
    pays = _pays(context, together, apart, basis, times=len(tasks) / len(sample))
    if len(sample) == len(tasks):
        return (together, basis) if pays else (apart, None)
    del together, apart
    chosen = basis if pays else None
    return encode_each(tasks, chosen, store=not dry_run), chosen


def _fit_basis(
    context: Context, space: SpaceName, batch: AdapterBatch, policy: Policy
) -> NewBasis | None:
    """Fit a basis to the adapters of a commit; None where there is nothing to fit.

    In the paper's protocol to all of them and to the tasks that are there, else to a sample.
    """
    if policy.k:
        with context.catalog.begin() as session:
            rows = [row for row in live_versions(session, space) if row.task not in batch.adapters]
        members = stored_members(context, described_versions(context, rows))
        fresh = [unstored_member(task, batch.read(task)) for task in sorted(batch.adapters)]
        rule = FitRule(max_rank=policy.k, precision=FINE)
        return serialize_basis(fit([*members, *fresh], rule, device=context.device), space)
    sample = batch.sample()
    if len(sample) < _FEWEST or not policy.shares or policy.budget == 0:
        return None
    members = [unstored_member(task, batch.read(task)) for task in sample]
    total = len(batch.adapters)
    rule = rule_within_budget(policy.budget, tasks=total if len(sample) < total else 0)
    fitted = fit(members, rule, device=context.device)
    return serialize_basis(fitted, space) if fitted.basis.modules else None


def _pays(
    context: Context,
    together: Mapping[TaskName, EncodedAdapter],
    apart: Mapping[TaskName, EncodedAdapter],
    basis: NewBasis,
    *,
    times: float,
) -> bool:
    """Tell whether a basis and what refers to it take fewer bytes than each adapter without it.

    These adapters stand for `times` as many.
    """
    with_basis, without_basis = (
        sum(item.new_bytes(context.store) for item in encoded.values())
        for encoded in (together, apart)
    )
    if len(basis.content) + times * with_basis >= times * without_basis:
        return False
    return any(basis.digest in item.sources for item in together.values())
