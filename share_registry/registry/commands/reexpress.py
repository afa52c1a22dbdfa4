"""Re-express stored tasks in a new basis, each within its budget or with the loss recorded."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from share_registry.algebra.error import module_errors, norm, relative_change
from share_registry.errors import BudgetExceededError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.factor_pairs import FactorPair, move_to_device
from share_registry.exchange.scales import module_scales
from share_registry.format.layout import Layout
from share_registry.format.records import AbsorbedTask, decimal
from share_registry.names import Digest
from share_registry.registry.checkout.checkout import read_original, read_task_note, rebuild
from share_registry.registry.checkout.reports import with_details
from share_registry.registry.commands.encode import (
    AssembledAdapter,
    NewBasis,
    SerializedAdapter,
    coded,
    projected,
    sealed,
)
from share_registry.registry.commands.preconditions import RefitOptions
from share_registry.registry.commands.prediction import ChosenReferences
from share_registry.stored import StoredAdapter
from share_registry.values.commits import AdapterReport
from share_registry.values.policy import MAX_BUDGET, Policy

if TYPE_CHECKING:
    from share_registry.materialize.decoder import Reader
    from share_registry.registry.context import Context
    from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReexpressedTask:
    """A task re-expressed, not stored yet.

    Attributes:
        row: The version before.
        made: The new one as bytes.
        stored: The same in integers.
        error: Its error against the source, or the bound of it.
        bound: Which of the two.
        budget: What it was held to; None for no limit.
        by_module: Change of each module.
    """

    row: "TaskVersion"
    layout: Layout
    made: SerializedAdapter
    stored: StoredAdapter
    error: float
    bound: bool
    budget: float | None
    by_module: tuple[float, ...]

    def said(self, added: int) -> AbsorbedTask:
        """Return what the record says of it."""
        return AbsorbedTask(
            task=self.row.task,
            version=self.row.version + 1,
            adapter=self.made.digest,
            layout=self.row.layout_digest,
            tensors=self.made.tensors_digest,
            source=self.row.source_digest,
            budget=None if self.budget is None else decimal(self.budget),
            error=decimal(self.error),
            norm=decimal(self.row.norm),
            before=decimal(self.row.error),
            bound=True if self.bound else None,
            raw_bytes=self.row.raw_bytes,
            added_bytes=added,
        )


def re_expressed(
    context: "Context",
    rows: "Sequence[TaskVersion]",
    fitted: NewBasis,
    wanted: RefitOptions,
    policy: Policy,
    *,
    nearest: "Sequence[TaskVersion] | None" = None,
) -> list[ReexpressedTask]:
    """Return the tasks re-expressed in a basis.

    One that would exceed the budget stays as it is, and so does one that is there already.

    Args:
        context: The registry.
        rows: The newest versions.
        fitted: The basis.
        wanted: Within a budget, or with loss.
        policy: Of the space.
        nearest: For each of the rows the version to re-express: of the same adapter, with the
            smallest error. Default, and the paper's protocol: the newest.
    """
    found = [
        _moved(context, row, of, fitted, wanted, policy)
        for row, of in zip(rows, nearest or rows, strict=True)
    ]
    beyond = sum(moved is None for moved in found)
    if beyond:
        _LOG.warning(
            "%d of %d tasks stay as they are: re-expressed, they would exceed %g",
            beyond,
            len(rows),
            wanted.budget or 0.0,
        )
    return [
        moved
        for moved in found
        if moved is not None and moved.made.digest != moved.row.adapter_digest
    ]


def _moved(
    context: "Context",
    row: "TaskVersion",
    of: "TaskVersion",
    fitted: NewBasis,
    wanted: RefitOptions,
    policy: Policy,
) -> ReexpressedTask | None:
    """Re-express one task from a version of it; None where it cannot be within the budget."""
    note = read_task_note(context, of)
    now = rebuild(context, of, note)
    source: Adapter | None = now
    if of.error > 0:
        source = read_original(context, of, note) if note.original else None
    reader = context.reader().beside({fitted.digest: fitted.content})
    scales = module_scales(now.config, now.layout)
    old = now.factor_pairs()
    true = source.factor_pairs() if source is not None else None
    there = (
        move_to_device(old, context.device),
        move_to_device(true, context.device) if true is not None else None,
    )
    assembled = _coded(reader, now, *there, of, fitted.digest, wanted, policy)
    if assembled is None:
        return None
    made = sealed(reader, now.layout, assembled, scales)
    change = relative_change(old, made.decoded) * norm(old) / row.norm if row.norm > 0 else 0.0
    error = relative_change(true, made.decoded) if true is not None else of.error + change
    if wanted.budget is not None and error > wanted.budget:
        return None
    against = true if true is not None else old
    return ReexpressedTask(
        row=row,
        layout=now.layout,
        made=made,
        stored=assembled.stored,
        error=error,
        bound=true is None,
        budget=wanted.budget,
        by_module=tuple(module_errors(made.decoded, against)),
    )


def _coded(
    reader: "Reader",
    now: Adapter,
    old: list[FactorPair],
    true: list[FactorPair] | None,
    of: "TaskVersion",
    basis: Digest,
    wanted: RefitOptions,
    policy: Policy,
) -> AssembledAdapter | None:
    """Return a task over a basis, as coefficients alone where loss is allowed, else within what is left of the budget; None where that cannot be."""
    pairs = old if true is None else true
    if wanted.budget is None:
        return projected(reader, now, pairs, basis, policy)
    left = wanted.budget if true is not None else (wanted.budget - of.error) * of.norm / norm(old)
    if left <= 0:
        return None
    try:
        found = coded(
            reader,
            now,
            pairs,
            ChosenReferences(sources=(basis,)),
            replace(policy, budget=min(left, MAX_BUDGET), k=None),
        )
    except BudgetExceededError:
        return None
    return found if any(found.stored.modules) else None


def _report(
    context: "Context", item: ReexpressedTask, names: Mapping[Digest, str]
) -> AdapterReport:
    report = AdapterReport(
        error=item.error,
        before=item.row.error,
        bound=item.bound,
        budget=item.budget,
        bytes_added=sum(
            len(content)
            for digest, content in item.made.objects.items()
            if not context.store.has(digest)
        ),
        raw_bytes=item.row.raw_bytes,
        notes=(),
    )
    sources = [names[digest] for digest in item.stored.sources]
    return with_details(
        report,
        item.stored,
        item.layout,
        item.made.decoded,
        errors=item.by_module,
        names=sources,
    )
