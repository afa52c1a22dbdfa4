"""Refit: a new basis for later commits and, where asked for, stored tasks re-expressed in it.

The basis is that of the SVD of all energy-weighted factors stacked, computed from the Grams of the
rows in use and the tasks' coefficients: no stored adapter is formed (`basis.fit`). Its rows are
rounded to integers as finely as the use asks for: finely where coefficients over it are all that is
kept, coarsely where a task's own rows correct it.

A stored version never changes, so a refit can only add: a basis that later commits may refer to,
and new versions of the tasks that are re-expressed in it. All of it is one record.

Re-expressed is a task's source, where its files are kept, else the stored version, which is all
that is left of it. In the latter case the error against the source cannot be measured; recorded,
and held to the budget, is its upper bound: the error before plus what re-expressing changes, both
relative to the norm of the source (triangle inequality).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from share_registry.algebra.error import FactorPair, module_errors, norm, relative_change
from share_registry.algebra.rate_distortion import gaussian_rows
from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.queries.named_tasks import space_of
from share_registry.catalog.sql import Session
from share_registry.errors import (
    BudgetExceededError,
    ConflictError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.export_files import digest_of_file
from share_registry.exchange.tensors import move_to_device
from share_registry.format.adapter_object import bits_of_modules
from share_registry.format.notes import Note, TaskNote
from share_registry.format.records import RefitRecord
from share_registry.look.units import size
from share_registry.materialize.decoder import Reader
from share_registry.names import Digest, SpaceName, TaskName, Version
from share_registry.registry.arguments import RefitOptions
from share_registry.registry.basis.fit import FitRule, fit
from share_registry.registry.basis.members import stored_members
from share_registry.registry.basis.moments import load, save
from share_registry.registry.checkout.checkout import read_original, read_task_note, rebuild
from share_registry.registry.checkout.reports import with_details, with_modules
from share_registry.registry.commands.coding import (
    References,
    SerializedAdapter,
    code_within_budget,
    decode,
    project_onto,
)
from share_registry.registry.commands.encode import EncodedAdapter, NewBasis
from share_registry.registry.commands.interrupts import tells_of_interrupts
from share_registry.registry.commands.new_basis import (
    FINE,
    SAMPLE,
    Saving,
    rule_within_budget,
    saving_of,
    serialize_basis,
)
from share_registry.registry.commands.preconditions import check_texts
from share_registry.registry.commands.publish import Place, publish, read_commit
from share_registry.registry.commands.spaces import existing_target
from share_registry.registry.commands.statements import (
    preview_commit,
    record_entry,
    required_features,
)
from share_registry.registry.context import Context
from share_registry.registry.evidence import require_policy, require_recorded
from share_registry.registry.stored_config import described_versions, undescribed
from share_registry.values.commits import Commit
from share_registry.values.cost_reports import AdapterReport, BasisReport
from share_registry.values.policy import MAX_BUDGET, Policy
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)


@tells_of_interrupts
@one_thread()
def refit(context: Context, space: str | None, options: RefitOptions) -> Commit:
    """Fit a basis to the live tasks of a space. See `Registry.refit`."""
    check_texts(options)
    if not options.dry_run:
        context.require_writable()
    with context.reading() as session:
        name = space_of(session, space)
        rows = live_versions(session, name)
        sample = version_lookups.last_absorbed(session, name, SAMPLE)
        policy = require_policy(context, session, name, existing_target(session, name).policy)
        present = lookups.current_basis(session, name)
    rows = described_versions(context, rows)
    require_recorded(context, rows)
    _check_may_fit(name, policy, rows)
    with context.catalog.begin() as session:
        closest = version_lookups.closest_versions(session, name, rows)
    gone = undescribed(context, [*closest, *sample])
    nearest = [
        row if version.ref in gone else version for row, version in zip(rows, closest, strict=True)
    ]
    sample = [row for row in sample if row.ref not in gone]
    members = stored_members(context, nearest)
    moments = load(context, name, options.weighting, [member.key for member in members])
    rule = _fit_rule(options, policy.budget, len(rows))
    fitted = fit(members, rule, moments, keep_moments=True, device=context.device)
    basis = serialize_basis(fitted, name)
    if fitted.moments is not None:
        save(context, name, fitted.moments)
    reexpressed: dict[TaskName, EncodedAdapter] = {}
    if options.reexpresses:
        reexpressed = reexpress(context, rows, basis, options, policy, nearest=nearest)
    is_there = present is not None and present.digest == basis.digest
    if present is not None and is_there and not reexpressed and not options.dry_run:
        return with_modules(context, read_commit(context, name, present.number, created=False))
    saving = None
    # the paper's protocol has nothing but a basis to code with
    if not (is_there or options.force or policy.k):
        saving = saving_of(context, sample, rule, policy, basis)
    basis = _with_gain(context, basis, saving, rows, reexpressed)
    note = Note(author=context.author_of(options.author), message=options.message or None)
    if options.dry_run:
        return preview_commit(context, name, reexpressed, note, kind="refit", basis=basis)
    _check_gain(basis.report, name)
    return replace(publish_basis(context, name, basis, note, rows, reexpressed), basis=basis.report)


def live_versions(session: Session, space: SpaceName) -> list[TaskVersion]:
    """Return the newest version of every live task, by name."""
    return sorted(version_lookups.latest_versions(session, space), key=lambda row: row.task)


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


def publish_basis(
    context: Context,
    space: SpaceName,
    basis: NewBasis,
    note: Note,
    rows: Sequence[TaskVersion] = (),
    reexpressed: Mapping[TaskName, EncodedAdapter] | None = None,
) -> Commit:
    """Store a basis and the tasks re-expressed in it, and publish the record of both.

    Args:
        context: The registry.
        space: The space.
        basis: The basis.
        note: What is said of the refit.
        rows: The newest versions that were looked at.
        reexpressed: Those of them that get a new version.

    Raises:
        ConflictError: one of these got a new version meanwhile.
    """
    is_new = context.store.put(basis.content, basis.digest)
    encoded = {task: item.store(context.store) for task, item in (reexpressed or {}).items()}
    versions = {row.task: row.version for row in rows if row.task in encoded}

    def build(session: Session, place: Place) -> RefitRecord:
        for task, version in versions.items():
            latest = version_lookups.latest_version(session, space, task)
            ensure(
                latest is not None
                and latest.live
                and (latest.task, latest.version) == (task, version),
                ConflictError(
                    f"task {space}/{task} is not at v{version} any more.",
                    hint="Run the refit again.",
                ),
            )
        entries = [
            record_entry(task, Version(versions[task] + 1), item) for task, item in encoded.items()
        ]
        members = {
            "requires": required_features(encoded.values()),
            "basis": basis.digest,
            "tasks": entries,
        }
        return RefitRecord.model_validate(place | members)

    commit = publish(
        context,
        space,
        build,
        note=note,
        layouts={item.layout_digest: item.adapter.layout for item in encoded.values()},
        needs={digest for item in encoded.values() for digest in item.needs},
    )
    _LOG.info(
        "refitted %s/@c%d: basis of %d bytes%s, %d tasks re-expressed",
        space,
        commit.number,
        len(basis.content),
        "" if is_new else " (known)",
        len(encoded),
    )
    return with_modules(context, commit)


def _with_gain(
    context: Context,
    basis: NewBasis,
    saving: Saving | None,
    rows: Sequence[TaskVersion],
    reexpressed: Mapping[TaskName, EncodedAdapter],
) -> NewBasis:
    """Say of a basis what it saves: on tasks to come, and on those that are re-expressed in it."""
    saved = [
        (context.store.size(row.adapter_digest) or 0) - len(item.objects[item.digest])
        for row in rows
        if (item := reexpressed.get(row.task)) and basis.digest in item.sources
    ]
    report = replace(
        basis.report,
        saved_bytes=sum(saved) if saved else None,
        saved_bytes_per_task=round(saving.worth) if saving is not None else None,
    )
    return replace(basis, report=report)


def _check_gain(basis: BasisReport, space: SpaceName) -> None:
    """Refuse a basis that no task is re-expressed in and that saves nothing on those to come."""
    ensure(
        basis.saved_bytes is not None or basis.saved_bytes_per_task != 0,
        RefusedError(
            f"a basis of {size(basis.size_bytes or 0)} would stay for ever and save nothing: tasks "
            f"of space {space!r}, coded with a basis of the others, take as many bytes as without.",
            hint="See analyze. To make it nevertheless, for instance to train in it, give "
            "force=True.",
        ),
    )


def _check_may_fit(space: SpaceName, policy: Policy, rows: Sequence[TaskVersion]) -> None:
    ensure(
        policy.max_dependents is None,
        RefusedError(
            f"the policy of space {space!r} lets {policy.max_dependents} versions need one object: "
            "none may refer to a basis.",
            hint="Take max_dependents out of the policy first.",
        ),
    )
    ensure(
        rows,
        NotFoundError(
            f"space {space!r} has no live task to fit a basis to.", hint="Commit adapters first."
        ),
    )


def _fit_rule(options: RefitOptions, policy_budget: float, tasks: int) -> FitRule:
    budget = options.budget if options.budget is not None else policy_budget
    rule = rule_within_budget(budget, tasks=tasks)
    if (options.allow_loss and options.budget is None) or budget == 0:
        rule = replace(rule, precision=FINE)
    return replace(
        rule, max_rank=options.max_rank, energy=options.energy, weighting=options.weighting
    )


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
    decoded_as, decoded = decode(reader, coded, stored)
    error = relative_change(pairs, decoded.factor_pairs())
    if source is None:
        error = version.error + (error * norm(pairs) / row.norm if row.norm > 0 else 0.0)
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
        # what a published refit is said to be from its stored form
        modules = decoded.factor_pairs()
        report = with_details(
            context,
            row.space,
            report,
            decoded_as,
            decoded.layout,
            gaussian_rows(modules),
            errors=module_errors(modules, pairs),
            bits=bits_of_modules(decoded_as.modules),
            new_basis=basis.digest,
        )
    return EncodedAdapter(
        adapter=replace(stored, tensors={}),
        digest=coded.digest,
        layout_digest=row.layout_digest,
        tensors_digest=digest_of_file(stored.layout, decoded.tensors),
        norm=row.norm,
        sources=coded.sources,
        note=TaskNote(task=row.task),
        heads=reader.has_heads(decoded_as),
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
    policy = replace(policy, budget=min(budget, MAX_BUDGET), k=None)
    try:
        coded = code_within_budget(reader, adapter, pairs, References(sources=(basis,)), policy)
    except BudgetExceededError:
        return None
    return coded if coded.is_coded else None
