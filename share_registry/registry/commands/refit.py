"""Refit: a new basis for the commits that follow, and, where that is asked for, every stored task re-expressed in it.

A stored version never changes: a task that is re-expressed gets a new one. Where its source is not
in the store any more, the error that is recorded, and that a budget limits, is an upper bound: the
error before plus what re-expressing changes.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.log import commit_at
from share_registry.catalog.queries.resolution import space_of
from share_registry.errors import ConflictError, NotFoundError, RefusedError
from share_registry.format.basis_object import encode
from share_registry.format.canonical import sha256
from share_registry.format.records import Note, RefitRecord
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.registry.basis.fit import FitRule, FittedBasis, fit, stored_members
from share_registry.registry.basis.moments import load, save
from share_registry.registry.checkout.reports import source_name, with_modules
from share_registry.registry.commands.encode import (
    NewBasis,
)
from share_registry.registry.commands.preconditions import RefitOptions
from share_registry.registry.commands.publish import Build, Link, Request, idempotency_key, publish
from share_registry.registry.commands.reexpress import ReexpressedTask, _report, re_expressed
from share_registry.registry.commands.targets import policy_of
from share_registry.values.commits import BasisModuleReport, Commit
from share_registry.values.policy import Policy

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session
    from share_registry.registry.context import Context
    from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)
FINE: Final = 2.0**-12
"""Error that rounding a basis may make where coefficients over it are all that is kept.

No part of what the paper's protocol loses.
"""
_SHARE_OF_BUDGET: Final = 0.25
"""Part of the budget that rounding a basis may take where own rows correct it."""


def refit(
    context: "Context",
    space: str | None,
    wanted: RefitOptions,
    *,
    message: str,
    author: str | None,
    dry_run: bool,
) -> Commit:
    """Fit a basis to the live tasks of a space. See `Registry.refit`."""
    if not dry_run:
        context.require_writable()
    with context.reading() as session:
        where = space_of(session, space)
        rows = live_versions(session, where)
        nearest = lookups.closest_versions(session, where, rows)
        policy = policy_of(session, where)
        known = lookups.current_basis(session, where)
    if not rows:
        raise NotFoundError(
            f"space {where!r} has no live task to fit a basis to.", hint="Commit adapters first."
        )
    members = stored_members(context, nearest)
    made = fit(
        members,
        _rule(wanted, policy, len(rows)),
        load(context, where, wanted.weighting, [member.key for member in members]),
        device=context.device,
    )
    fitted = sealed_basis(made, where)
    if made.carried is not None:
        save(context, where, made.carried)
    moved = (
        re_expressed(context, rows, fitted, wanted, policy, nearest=nearest) if wanted.moves else []
    )
    if dry_run:
        return _rehearsed(context, where, fitted, moved, author=author, message=message)
    if known is not None and known.digest == fitted.digest and not moved:
        with context.catalog.begin() as session:
            return with_modules(context, commit_at(session, where, known.number, created=False))
    done = publish_basis(
        context, where, fitted, moved, Note(author=author or None, message=message or None)
    )
    return replace(done, basis=fitted.report)


def live_versions(session: "Session", space: SpaceName) -> "list[TaskVersion]":
    """Return the newest version of every live task, by name."""
    return sorted(lookups.latest_versions(session, space), key=lambda row: row.task)


def sealed_basis(made: FittedBasis, space: str) -> NewBasis:
    """Return a basis as an object. Raises RefusedError where it has no direction."""
    if not made.basis.modules:
        raise RefusedError(
            f"no direction that the tasks of space {space!r} share saves as many bytes as it costs: they gain from precision, not from a basis.",
            hint="See analyze; max_rank= or energy= makes one nevertheless.",
        )
    content = encode(made.basis)
    modules = tuple(
        BasisModuleReport(
            module=name,
            k_a=len(a),
            k_b=len(b),
            captured_a=made.captured[name][0],
            captured_b=made.captured[name][1],
        )
        for name, (a, b) in made.basis.modules.items()
    )
    return NewBasis(digest=sha256(content), content=content, modules=modules)


def publish_basis(
    context: "Context",
    space: SpaceName,
    fitted: NewBasis,
    moved: Sequence[ReexpressedTask],
    note: Note,
) -> Commit:
    """Store a basis and the tasks re-expressed in it, and publish the record of both.

    Raises ConflictError where one of them got a new version meanwhile.
    """
    new = context.store.put(fitted.content, fitted.digest)
    added = {
        item.row.task: sum(
            len(content)
            for digest, content in item.made.objects.items()
            if context.store.put(content, digest)
        )
        for item in moved
    }
    layouts = {item.row.layout_digest: item.layout for item in moved}
    request = Request(
        build=_builder(moved, added, fitted.digest),
        key=idempotency_key(context, None),
        note=note,
        layouts=layouts,
    )
    done = publish(context, space, request)
    _LOG.info(
        "refitted %s/@c%d: basis of %d bytes%s, %d tasks re-expressed",
        space,
        done.number,
        len(fitted.content),
        "" if new else " (known)",
        len(moved),
    )
    with context.catalog.begin() as session:
        return with_modules(
            context, commit_at(session, done.space, done.number, created=done.created)
        )


def _rule(wanted: RefitOptions, policy: Policy, tasks: int) -> FitRule:
    loses = wanted.allow_loss and wanted.budget is None
    budget = wanted.budget if wanted.budget is not None else policy.budget
    return FitRule(
        max_rank=wanted.max_rank,
        energy=wanted.energy,
        weighting=wanted.weighting,
        tasks=tasks,
        budget=budget,
        precision=FINE if loses or budget == 0 else _SHARE_OF_BUDGET * budget,
    )


def _builder(
    moved: Sequence[ReexpressedTask], added: Mapping[TaskName, int], basis: Digest
) -> Build:
    """Return what makes the record upon a head, where every task must still be at the version that was re-expressed."""

    def build(session: "Session", link: Link) -> RefitRecord:
        for item in moved:
            latest = lookups.latest_version(session, link.space, item.row.task)
            if (
                latest is None
                or not latest.live
                or latest.version != item.row.version
                or latest.task != item.row.task
            ):
                raise ConflictError(
                    f"task {link.space}/{item.row.task} is not at v{item.row.version} any more.",
                    hint="Run the refit again.",
                )
        return RefitRecord.model_validate(
            link.members()
            | {"basis": basis, "tasks": [item.said(added[item.row.task]) for item in moved]}
        )

    return build


def _rehearsed(
    context: "Context",
    space: SpaceName,
    fitted: NewBasis,
    moved: Sequence[ReexpressedTask],
    *,
    author: str | None,
    message: str,
) -> Commit:
    """Return what the commit would be: no id, and `created` is False."""
    with context.catalog.begin() as session:
        head = lookups.head(session, space)
        names = {
            digest: source_name(session, space, digest)
            for item in moved
            for digest in item.stored.sources
        }
    names[fitted.digest] = "the new basis"
    versions = {str(item.row.task): Version(item.row.version + 1) for item in moved}
    return Commit(
        number=CommitNumber((head.number if head else 0) + 1),
        id=Digest(""),
        parent=head.id if head else Digest(""),
        kind="refit",
        space=space,
        time=context.outside.now(),
        key="",
        author=author,
        message=message,
        refs={task: f"{space}/{task}@v{version}" for task, version in versions.items()},
        versions=versions,
        reports={str(item.row.task): _report(context, item, names) for item in moved},
        labels={},
        metrics={},
        detail="dry run: nothing was written",
        basis=fitted.report,
        created=False,
    )
