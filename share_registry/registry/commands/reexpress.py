"""Re-express stored tasks in a new basis, each within its budget or with the loss recorded.

What is coded is the task's source, where its files are kept, else the stored version, which is all
that is left of it. In the latter case the error against the source cannot be measured; recorded,
and held to the budget, is its upper bound: the error before plus what re-expressing changes, both
relative to the norm of the source (triangle inequality).
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from share_registry.algebra.error import FactorPair, module_errors, norm, relative_change
from share_registry.errors import BudgetExceededError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.export_files import tensor_file
from share_registry.exchange.factor_pairs import move_to_device
from share_registry.format.canonical import sha256
from share_registry.format.records import TaskNote
from share_registry.materialize.decoder import Reader
from share_registry.names import Digest, TaskName
from share_registry.registry.checkout.checkout import read_original, read_task_note, rebuild
from share_registry.registry.checkout.reports import source_name, with_details
from share_registry.registry.commands.encode import (
    EncodedAdapter,
    NewBasis,
    SerializedAdapter,
    code_within_budget,
    decode,
    project_onto,
)
from share_registry.registry.commands.preconditions import RefitOptions
from share_registry.registry.commands.prediction import References
from share_registry.registry.context import Context
from share_registry.values.commits import AdapterReport
from share_registry.values.policy import MAX_BUDGET, Policy
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)


def reexpress(
    context: Context,
    rows: Sequence[TaskVersion],
    basis: NewBasis,
    options: RefitOptions,
    policy: Policy,
    *,
    nearest: Sequence[TaskVersion] | None = None,
) -> dict[TaskName, EncodedAdapter]:
    """Re-express tasks in a basis.

    One that would exceed the budget stays as it is, and so does one that is there already.

    Args:
        context: The registry.
        rows: The newest versions.
        basis: The basis.
        options: Within a budget, or with loss.
        policy: Of the space.
        nearest: For each of the rows the version to re-express: of the same adapter, with the
            smallest error. Default, and the paper's protocol: the newest.
    """
    encoded: dict[TaskName, EncodedAdapter] = {}
    stay = 0
    for row, version in zip(rows, nearest or rows, strict=True):
        item = _reexpress_version(context, row, version, basis, options, policy)
        if item is None:
            stay += 1
        elif item.digest != row.adapter_digest:
            encoded[row.task] = item
    if stay:
        _LOG.warning(
            "%d of %d tasks stay as they are: re-expressed, they would exceed %g",
            stay,
            len(rows),
            options.budget or 0.0,
        )
    return encoded


def _reexpress_version(
    context: Context,
    row: TaskVersion,
    version: TaskVersion,
    basis: NewBasis,
    options: RefitOptions,
    policy: Policy,
) -> EncodedAdapter | None:
    """Re-express one task from a version of it; None where it cannot be within the budget."""
    note = read_task_note(context, version)
    stored = rebuild(context, version, note)
    source: Adapter | None = stored
    if version.error > 0:
        source = read_original(context, version, note) if note.original else None
    stored_pairs = stored.factor_pairs()
    pairs = source.factor_pairs() if source is not None else stored_pairs
    on_device = move_to_device(pairs, context.device)
    budget_left = options.budget
    if budget_left is not None and source is None:
        budget_left = (budget_left - version.error) * version.norm / norm(on_device)
    reader = context.reader().beside({basis.digest: basis.content})
    coded = _code(reader, stored, on_device, basis.digest, budget_left, policy)
    if coded is None:
        return None
    decoded = decode(reader, coded, stored)
    error = relative_change(pairs, decoded.factor_pairs())
    if source is None:
        change = error * norm(pairs) / row.norm if row.norm > 0 else 0.0
        error = version.error + change
    if options.budget is not None and error > options.budget:
        return None
    report = AdapterReport(
        error=error,
        before=row.error,
        bound=source is None,
        budget=options.budget,
        bytes_added=0,
        raw_bytes=row.raw_bytes,
    )
    if options.dry_run:
        report = _with_details(context, row, report, coded, decoded, pairs, basis)
    return EncodedAdapter(
        adapter=replace(stored, tensors={}),
        digest=coded.digest,
        layout_digest=row.layout_digest,
        tensors_digest=sha256(tensor_file(stored.layout, decoded.tensors)),
        norm=row.norm,
        sources=coded.stored.sources,
        note=TaskNote(task=row.task),
        report=report,
        objects=coded.objects,
    )


def _code(
    reader: Reader,
    adapter: Adapter,
    pairs: list[FactorPair],
    basis: Digest,
    budget: float | None,
    policy: Policy,
) -> SerializedAdapter | None:
    """Code a task over a basis: as coefficients alone where no budget limits the loss.

    None where it cannot be within the budget.
    """
    if budget is None:
        return project_onto(reader, adapter, pairs, basis, policy)
    if budget <= 0:
        return None
    within = replace(policy, budget=min(budget, MAX_BUDGET), k=None)
    try:
        coded = code_within_budget(reader, adapter, pairs, References(sources=(basis,)), within)
    except BudgetExceededError:
        return None
    return coded if any(coded.stored.modules) else None


def _with_details(
    context: Context,
    row: TaskVersion,
    report: AdapterReport,
    coded: SerializedAdapter,
    decoded: Adapter,
    pairs: list[FactorPair],
    basis: NewBasis,
) -> AdapterReport:
    """Add to a report what a published refit is said to be from its stored form."""
    modules = decoded.factor_pairs()
    with context.catalog.begin() as session:
        names = [
            "the new basis" if digest == basis.digest else source_name(session, row.space, digest)
            for digest in coded.stored.sources
        ]
    return with_details(
        report,
        coded.stored,
        decoded.layout,
        modules,
        errors=module_errors(modules, pairs),
        names=names,
    )
