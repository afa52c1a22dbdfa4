"""Merge task versions into a version of a task.

One record of kind merge, with the parents and their weights in the lineage.

What is merged is what the parents decode to. The merged adapter is absorbed as any other, within
the budget and with its parents as candidates; one parent with weight 1 is not absorbed again but
named again, so that every byte of it stays.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from share_registry.algebra.merge_methods import DENSITIES, MergeRule
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.log import commit_at
from share_registry.catalog.queries.resolution import resolve_version
from share_registry.errors import InvalidInputError, NotFoundError, RefusedError
from share_registry.exchange.environment import environment_labels
from share_registry.exchange.merged_adapter import WeightedAdapter, merged
from share_registry.format.records import MergeRecord, TaskVersionRef, decimal
from share_registry.names import CommitNumber, SpaceName, TaskName, Version, task_name
from share_registry.registry.arguments import check_distinct
from share_registry.registry.checkout.checkout import read_task_note, rebuild
from share_registry.registry.checkout.reports import with_modules
from share_registry.registry.commands.duplicates import commit_of_key
from share_registry.registry.commands.encode import EncodedAdapter, NewBasis, check_shapes, prepare
from share_registry.registry.commands.notes import absorbed, note_for, rehearsed
from share_registry.registry.commands.preconditions import (
    CommitOptions,
    check_expected,
    check_name,
    check_options,
)
from share_registry.registry.commands.publish import Build, Link, Request, idempotency_key, publish
from share_registry.registry.commands.targets import policy_of
from share_registry.values.commits import AdapterReport, Commit
from share_registry.values.policy import overridden

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session
    from share_registry.registry.context import Context
    from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)
_MAX_PARENTS: Final = 1024
_LARGEST_WEIGHT: Final = 1e15
_MAX_BASIS_BYTES: Final = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A merge that is ready to be stored.

    Attributes:
        rows: The parents, by name and version.
        weights: Theirs, in the same order.
        bound: Whether its error is an upper bound.
    """

    task: TaskName
    rows: "list[TaskVersion]"
    weights: list[float]
    rule: MergeRule
    prepared: EncodedAdapter
    bound: bool

    @property
    def parents(self) -> tuple[TaskVersionRef, ...]:
        return _refs(self.rows)


def merge(
    context: "Context",
    parents: Mapping[str, float],
    task: str,
    space: str | None,
    rule: MergeRule,
    options: CommitOptions,
) -> Commit:
    """Merge task versions. See `Registry.merge`."""
    context.require_writable()
    wanted = task_name(task)
    check_options(options)
    check_distinct(options.labels, options.metrics)
    key = idempotency_key(context, options.idempotency_key)
    with context.reading() as session:
        where, found = _resolved(session, parents, space)
        check_name(session, where, wanted)
    made = _merged(context, where, wanted, found, rule, options)
    note = note_for(
        {wanted: made.prepared},
        options,
        environment_labels(context.outside) | dict(options.labels),
        {wanted: (_remark(made),)},
    )
    if options.dry_run:
        with context.reading() as session:
            _check_task(session, where, wanted, options)
        return rehearsed(context, where, {wanted: made.prepared}, options, note, kind="merge")
    added = made.prepared.store(context.store)
    request = Request(
        build=_builder(made, options, key, added),
        key=key,
        note=note,
        layouts={made.prepared.layout_digest: made.prepared.adapter.layout},
    )
    done = publish(context, where, request)
    if not done.created:
        with context.reading() as session:
            commit_of_key(session, where, key, {wanted: made.prepared.adapter})
    _LOG.info("merged %s/@c%d: %s of %d", where, done.number, wanted, len(made.rows))
    with context.reading() as session:
        return with_modules(context, commit_at(session, where, done.number, created=done.created))


def rule_of(method: str, density: float | None, seed: int | None) -> MergeRule:
    """Return how versions are merged. Raises InvalidInputError."""
    if method not in ("linear", "ties", "dare"):
        raise InvalidInputError(
            f"method {method!r} is not linear, ties or dare.",
            hint="linear is the weighted sum of dW.",
        )
    if density is not None and method == "linear":
        raise InvalidInputError(
            f"density {density!r} is given for the method linear, which keeps every entry.",
            hint="Leave it out, or take ties or dare.",
        )
    if density is not None and (
        isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1
    ):
        raise InvalidInputError(
            f"density {density!r} is not a share above 0 and at most 1.",
            hint="It is the share of entries that are kept.",
        )
    if seed is not None and (
        method != "dare"
        or isinstance(seed, bool)
        or not isinstance(seed, int)
        or not 0 <= seed < 1 << 53
    ):
        raise InvalidInputError(
            f"seed {seed!r} is not a whole number from 0 to 2^53 - 1 for dare.",
            hint="The other methods choose nothing at random.",
        )
    kept = float(density) if density is not None else DENSITIES.get(method, 1.0)
    return MergeRule(
        method="linear" if method == "linear" else "ties" if method == "ties" else "dare",
        density=kept,
        seed=seed or 0,
    )


def _resolved(
    session: "Session", parents: Mapping[str, float], space: str | None
) -> "tuple[SpaceName, list[tuple[TaskVersion, float]]]":
    """Return the space and the versions with their weights, by name and version.

    Weights of one version add up.
    """
    if not 1 <= len(parents) <= _MAX_PARENTS:
        raise InvalidInputError(
            f"there are {len(parents)} parents, expected 1 to {_MAX_PARENTS}.",
            hint="Give references with weights: {'a': 0.5, 'b': 0.5}.",
        )
    weights: dict[tuple[SpaceName, TaskName, int], float] = {}
    for ref, weight in parents.items():
        if (
            isinstance(weight, bool)
            or not isinstance(weight, int | float)
            or not abs(weight) < math.inf
        ):
            raise InvalidInputError(
                f"weight {weight!r} of {ref!r} is not a finite number.",
                hint="Weights often sum to 1.",
            )
        if abs(weight) > _LARGEST_WEIGHT:
            raise InvalidInputError(
                f"weight {weight!r} of {ref!r} is beyond {_LARGEST_WEIGHT:g}, expected numbers about 1.",
                hint="Weights often sum to 1.",
            )
        place = resolve_version(session, ref, space=space)
        which = (place.space, TaskName(str(place.task)), int(place.version or 0))
        weights[which] = weights.get(which, 0.0) + float(weight)
    spaces = sorted({where for where, _, _ in weights})
    if len(spaces) != 1:
        raise RefusedError(
            f"the parents are of the spaces {', '.join(spaces)}, expected one.",
            hint="Commit them to one space first.",
        )
    found = [
        (lookups.version_row(session, *which), weight + 0.0)
        for which, weight in sorted(weights.items())
    ]
    if any(row is None for row, _ in found):
        raise NotFoundError("a parent is not in the catalog.", hint="Run `rebuild`.")
    if not any(weights.values()):
        raise InvalidInputError(
            "every weight is 0: there is nothing to merge.", hint="Weights often sum to 1."
        )
    return spaces[0], [(row, weight) for row, weight in found if row is not None]


def _merged(
    context: "Context",
    space: SpaceName,
    task: TaskName,
    found: "list[tuple[TaskVersion, float]]",
    rule: MergeRule,
    options: CommitOptions,
) -> _Made:
    rows, weights = [row for row, _ in found], [weight for _, weight in found]
    if len(rows) == 1 and weights[0] == 1:
        return _Made(
            task=task,
            rows=rows,
            weights=weights,
            rule=rule,
            prepared=_again(context, rows[0]),
            bound=rows[0].bound,
        )
    adapter = merged(
        [
            WeightedAdapter(
                ref=row.ref,
                adapter=rebuild(context, row, read_task_note(context, row)),
                weight=weight,
            )
            for row, weight in found
        ],
        rule,
    )
    with context.reading() as session:
        policy = overridden(policy_of(session, space), budget=options.budget, keep_original=False)
        basis = (
            lookups.current_basis(session, space) if policy.k and options.budget is None else None
        )
    fitted = (
        NewBasis(
            digest=basis.digest, content=context.store.get(basis.digest, limit=_MAX_BASIS_BYTES)
        )
        if basis
        else None
    )
    policy = policy if fitted else replace(policy, k=None)
    prepared = prepare(
        context, space, task, adapter, policy=policy, parents=_refs(rows), fitted=fitted
    )
    return _Made(task=task, rows=rows, weights=weights, rule=rule, prepared=prepared, bound=False)


def _again(context: "Context", row: "TaskVersion") -> EncodedAdapter:
    """Return a version as what is committed once more: nothing of it is new."""
    note = read_task_note(context, row)
    adapter = rebuild(context, row, note)
    if note.config is None:
        raise NotFoundError(f"{row.ref}: its note names no config.", hint="Run verify.")
    return EncodedAdapter(
        adapter=adapter,
        adapter_digest=row.adapter_digest,
        layout_digest=row.layout_digest,
        tensors_digest=row.tensors_digest,
        budget=row.budget,
        error=row.error,
        norm=row.norm,
        sources=(),
        config=note.config,
        attachments=tuple(note.attachments),
        original=tuple(note.original),
        remarks=adapter.remarks,
        report=AdapterReport(
            error=row.error,
            bound=row.bound,
            budget=row.budget,
            bytes_added=0,
            raw_bytes=row.raw_bytes,
            modules=(),
            notes=adapter.remarks,
        ),
        objects={},
    )


def _refs(rows: "list[TaskVersion]") -> tuple[TaskVersionRef, ...]:
    return tuple(TaskVersionRef(task=row.task, version=row.version) for row in rows)


def _remark(made: _Made) -> str:
    """Return how it was made, in a sentence."""
    terms = " + ".join(
        f"{weight:g} {row.task}@v{row.version}"
        for row, weight in zip(made.rows, made.weights, strict=True)
    )
    how = {
        "linear": "",
        "ties": f", ties at density {made.rule.density:g}",
        "dare": f", dare at density {made.rule.density:g} and seed {made.rule.seed}",
    }
    return f"merged: {terms}{how[made.rule.method]}."


def _check_task(
    session: "Session", space: SpaceName, task: TaskName, options: CommitOptions
) -> Version:
    """Return the version that a task gets next. Raises RefusedError, ConflictError."""
    check_name(session, space, task)
    latest = lookups.latest_version(session, space, task)
    check_expected(task, latest.version if latest else 0, options.expected)
    return Version((latest.version if latest else 0) + 1)


def _builder(made: _Made, options: CommitOptions, key: str, added: int) -> Build:
    """Return what makes the record upon a head: every precondition is checked there again."""

    def build(session: "Session", link: Link) -> MergeRecord | CommitNumber:
        earlier = commit_of_key(session, link.space, key, {made.task: made.prepared.adapter})
        if earlier is not None:
            return earlier
        version = _check_task(session, link.space, made.task, options)
        check_shapes(
            lookups.module_shapes(session, link.space), link.space, made.prepared.adapter.layout
        )
        entry = absorbed(made.task, version, made.prepared, added, made.parents)
        said = {
            "method": made.rule.method,
            "weights": [decimal(weight) for weight in made.weights],
            "density": decimal(made.rule.density) if made.rule.method != "linear" else None,
            "seed": made.rule.seed if made.rule.method == "dare" else None,
            "tasks": [entry.model_copy(update={"bound": True}) if made.bound else entry],
        }
        return MergeRecord.model_validate(link.members() | said)

    return build
