"""Merge task versions into a version of a task.

One record of kind merge, with the parents and their weights in the lineage.

What is merged is what the parents decode to. The merged adapter is encoded as any other, within the
budget and with its parents as candidates; one parent with weight 1 is not encoded again but named
again, so that every byte of it stays.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from share_registry.algebra.merge_methods import DENSITIES, MergeRule, Method
from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.queries.name_claims import claims_of_reference
from share_registry.catalog.queries.resolution import resolve_version
from share_registry.catalog.sql import Session
from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, ensure
from share_registry.exchange.grown_vocabulary import shape_remarks
from share_registry.exchange.merged_adapter import WeightedAdapter, merge_adapters
from share_registry.format.fields import decimal
from share_registry.format.notes import TaskNote
from share_registry.format.records import MergeRecord, TaskVersionRef
from share_registry.kinds import shown
from share_registry.names import SpaceName, TaskName, split_task, task_name
from share_registry.registry.admission import require_checked
from share_registry.registry.arguments import CommitOptions
from share_registry.registry.checkout.checkout import read_task_note, rebuild
from share_registry.registry.checkout.reports import with_modules
from share_registry.registry.commands.dependents import check_dependents
from share_registry.registry.commands.encode import (
    EncodedAdapter,
    NewBasis,
    check_adapter,
    encode_adapter,
)
from share_registry.registry.commands.interrupts import tells_of_interrupts
from share_registry.registry.commands.preconditions import (
    check_name,
    check_options,
    next_version,
)
from share_registry.registry.commands.publish import Place, idempotency_key, publish
from share_registry.registry.commands.spaces import existing_target
from share_registry.registry.commands.statements import (
    check_shapes,
    note_for,
    preview_commit,
    record_entry,
    required_features,
)
from share_registry.registry.context import Context
from share_registry.registry.evidence import require_described, require_given, require_policy
from share_registry.values.commits import Commit
from share_registry.values.cost_reports import AdapterReport, BasisReport
from share_registry.values.policy import overridden
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)
_MAX_PARENTS: Final = 1024
_LARGEST_WEIGHT: Final = 1e15
_MAX_BASIS_BYTES: Final = 4 << 30


@one_thread()
@tells_of_interrupts
def merge(
    context: Context,
    parents: Mapping[str, float],
    task: str,
    space: str | None,
    rule: MergeRule,
    options: CommitOptions,
) -> Commit:
    """Merge task versions. See `Registry.merge`."""
    context.require_writable()
    of_task, plain = split_task(task)
    name = task_name(plain)
    labels = check_options(options, context.outside)
    key = idempotency_key(context, options.idempotency_key)
    with context.reading() as session:
        target, rows, weights = _resolve_parents(session, parents, space)
        ensure(
            of_task in (None, target),
            RefusedError(
                f"the parents are of space {target!r}, task {task!r} is of another.",
                hint=f"Name a task of {target!r}: its name alone is enough.",
            ),
        )
        check_name(session, target, name)
        claims = [
            claim for ref in parents for claim in claims_of_reference(session, ref, space=space)
        ]
    require_given(context, claims)
    require_described(context, rows)
    refs = [TaskVersionRef(task=row.task, version=row.version) for row in rows]
    if len(rows) == 1 and weights == [1]:
        encoded = _name_again(context, name, rows[0])
    else:
        encoded = _encode_merged(context, target, name, rows, weights, rule, options)
    with context.reading() as session:
        unlike = check_shapes(session, target, {name: encoded.adapter.layout})
        policy = existing_target(session, target).policy
    encoded = encoded.passed(check_adapter(context, policy, name, encoded.adapter))
    remarks = (_remark(rows, weights, rule), *shape_remarks(unlike[name]))
    encoded = encoded.annotated(labels, options.metrics)
    note = note_for(context, {name: encoded}, options, {name: remarks})
    if options.dry_run:
        with context.reading() as session:
            next_version(
                session,
                target,
                name,
                version_lookups.latest_version(session, target, name),
                expected=options.expected,
            )
        return preview_commit(
            context,
            target,
            {name: encoded},
            note,
            kind="merge",
            labels=options.labels,
            metrics=options.metrics,
        )
    stored = encoded.store(context.store)

    def build(session: Session, place: Place) -> MergeRecord:
        latest = version_lookups.latest_version(session, target, name)
        version = next_version(session, target, name, latest, expected=options.expected)
        unlike = check_shapes(session, target, {name: stored.adapter.layout})
        _check_policy(context, session, target, {name: stored})
        members = {
            "requires": required_features([stored], unlike),
            "method": rule.method,
            "weights": [decimal(weight) for weight in weights],
            "density": decimal(rule.density) if rule.method != "linear" else None,
            "seed": rule.seed if rule.method == "dare" else None,
            "tasks": [record_entry(name, version, stored, refs)],
        }
        return MergeRecord.model_validate(place | members)

    commit = publish(
        context,
        target,
        build,
        key=key,
        note=note,
        layouts={stored.layout_digest: stored.adapter.layout},
        adapters={name: stored.adapter},
        needs=stored.needs,
    )
    _LOG.info("merged %s/@c%d: %s of %d", target, commit.number, name, len(rows))
    return with_modules(context, commit)


def rule_of(method: str, density: float | None, seed: int | None) -> MergeRule:
    """Return how versions are merged. Raises InvalidInputError."""
    ensure(
        method in ("linear", "ties", "dare"),
        InvalidInputError(
            f"method {method!r} is not linear, ties or dare.",
            hint="linear is the weighted sum of dW.",
        ),
    )
    ensure(
        density is None or method != "linear",
        InvalidInputError(
            f"density {density!r} is given for the method linear, which keeps every entry.",
            hint="Leave it out, or take ties or dare.",
        ),
    )
    ensure(
        density is None
        or (
            isinstance(density, int | float) and not isinstance(density, bool) and 0 < density <= 1
        ),
        InvalidInputError(
            f"density {shown(density)} is not a share above 0 and at most 1.",
            hint="It is the share of entries that are kept.",
        ),
    )
    ensure(
        seed is None
        or (
            method == "dare"
            and isinstance(seed, int)
            and not isinstance(seed, bool)
            and 0 <= seed < 1 << 53
        ),
        InvalidInputError(
            f"seed {shown(seed)} is not a whole number from 0 to 2^53 - 1 for dare.",
            hint="The other methods choose nothing at random.",
        ),
    )
    return MergeRule(
        method=cast("Method", method),
        density=float(DENSITIES.get(method, 1.0) if density is None else density),
        seed=seed or 0,
    )


def _resolve_parents(
    session: Session, parents: Mapping[str, float], space: str | None
) -> tuple[SpaceName, list[TaskVersion], list[float]]:
    """Return the space, the versions by name and version, and their weights.

    Weights of one version add up.
    """
    ensure(
        1 <= len(parents) <= _MAX_PARENTS,
        InvalidInputError(
            f"there are {len(parents)} parents, expected 1 to {_MAX_PARENTS}.",
            hint="Give references with weights: {'a': 0.5, 'b': 0.5}.",
        ),
    )
    weights: dict[tuple[SpaceName, TaskName, int], float] = {}
    for ref, weight in parents.items():
        ensure(
            isinstance(weight, int | float)
            and not isinstance(weight, bool)
            and abs(weight) < math.inf,
            InvalidInputError(
                f"weight {shown(weight)} of {ref!r} is not a finite number.",
                hint="Weights often sum to 1.",
            ),
        )
        ensure(
            abs(weight) <= _LARGEST_WEIGHT,
            InvalidInputError(
                f"weight {shown(weight)} of {ref!r} is beyond {_LARGEST_WEIGHT:g}, "
                "expected numbers about 1.",
                hint="Weights often sum to 1.",
            ),
        )
        place = resolve_version(session, ref, space=space)
        version = (place.space, TaskName(str(place.task)), int(place.version or 0))
        weights[version] = weights.get(version, 0.0) + float(weight)
    spaces = sorted({name for name, _, _ in weights})
    ensure(
        len(spaces) == 1,
        RefusedError(
            f"the parents are of the spaces {', '.join(spaces)}, expected one.",
            hint="Commit them to one space first.",
        ),
    )
    ordered = sorted(weights.items())
    rows = list(
        filter(None, (version_lookups.version_row(session, *version) for version, _ in ordered))
    )
    ensure(
        len(rows) == len(ordered),
        NotFoundError("a parent is not in the catalog.", hint="Run `share-registry rebuild`."),
    )
    ensure(
        any(weights.values()),
        InvalidInputError(
            "every weight is 0: there is nothing to merge.", hint="Weights often sum to 1."
        ),
    )
    # + 0.0: no weight is -0.0
    return spaces[0], rows, [weight + 0.0 for _, weight in ordered]


def _check_policy(
    context: Context,
    session: Session,
    space: SpaceName,
    encoded: Mapping[TaskName, EncodedAdapter],
) -> None:
    """Check, upon the head, that adapters are what the policy of their space asks for."""
    policy = existing_target(session, space).policy
    require_checked(policy.require, {task: item.note.checks for task, item in encoded.items()})
    check_dependents(session, context.reader(), space, policy, encoded)


def _name_again(context: Context, task: TaskName, row: TaskVersion) -> EncodedAdapter:
    """Return a version as what is committed once more: nothing of it is new."""
    note = read_task_note(context, row)
    adapter, reader = rebuild(context, row, note), context.reader()
    return EncodedAdapter(
        adapter=adapter,
        digest=row.adapter_digest,
        layout_digest=row.layout_digest,
        tensors_digest=row.tensors_digest,
        norm=row.norm,
        sources=(),
        note=TaskNote(
            task=task,
            source=adapter.source,
            config=note.config,
            attachments=note.attachments,
            original=note.original,
        ),
        heads=reader.has_heads(reader.open(row.adapter_digest).stored),
        report=AdapterReport(
            error=row.error,
            bound=row.bound,
            budget=row.budget,
            bytes_added=0,
            raw_bytes=row.raw_bytes,
            notes=adapter.remarks,
        ),
        objects={},
    )


def _encode_merged(
    context: Context,
    space: SpaceName,
    task: TaskName,
    rows: Sequence[TaskVersion],
    weights: Sequence[float],
    rule: MergeRule,
    options: CommitOptions,
) -> EncodedAdapter:
    """Merge what the parents decode to, and encode it within the budget or over the basis."""
    parents = [
        WeightedAdapter(
            ref=row.ref,
            adapter=rebuild(context, row, read_task_note(context, row)),
            weight=weight,
        )
        for row, weight in zip(rows, weights, strict=True)
    ]
    with context.reading() as session:
        policy = require_policy(context, session, space, existing_target(session, space).policy)
        policy = overridden(policy, budget=options.budget, keep_original=False)
        present = lookups.current_basis(session, space) if policy.k else None
    basis = None
    if present is not None:
        content = context.store.get(present.digest, limit=_MAX_BASIS_BYTES)
        basis = NewBasis(
            digest=present.digest,
            content=content,
            report=BasisReport(digest=present.digest, size_bytes=len(content)),
        )
    return encode_adapter(
        context,
        space,
        task,
        merge_adapters(parents, rule),
        policy=policy if basis is not None else replace(policy, k=None),
        parents=[TaskVersionRef(task=row.task, version=row.version) for row in rows],
        basis=basis,
    )


def _remark(rows: Sequence[TaskVersion], weights: Sequence[float], rule: MergeRule) -> str:
    terms = " + ".join(
        f"{weight:g} {row.task}@v{row.version}" for row, weight in zip(rows, weights, strict=True)
    )
    how = {
        "linear": "",
        "ties": f", ties at density {rule.density:g}",
        "dare": f", dare at density {rule.density:g} and seed {rule.seed}",
    }
    return f"merged: {terms}{how[rule.method]}."
