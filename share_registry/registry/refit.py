"""Refit: a new basis for the commits that follow, and, where that is asked for, every stored task re-expressed in it.

A stored version never changes: a task that is re-expressed gets a new one. Where its source is not
in the store any more, the error that is recorded, and that a budget limits, is an upper bound: the
error before plus what re-expressing changes.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from share_registry.algebra.error import module_errors, norm, relative_change
from share_registry.catalog import queries
from share_registry.errors import BudgetExceeded, Conflict, InvalidInput, NotFound, Refused
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.pairs import Pair, pairs_of, placed
from share_registry.exchange.scales import module_scales
from share_registry.format.basis_object import encode
from share_registry.format.canonical import sha256
from share_registry.format.layout import Layout
from share_registry.format.records import Absorbed, Note, Refit, decimal
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.registry.absorbing import Assembled, Fitted, Sealed, coded, projected, sealed
from share_registry.registry.candidates import Base
from share_registry.registry.carried import load, save
from share_registry.registry.checkout import original, rebuilt
from share_registry.registry.fit import ENERGY, UNIT, Fit, Rule, fit, stored_members
from share_registry.registry.history import commit_at
from share_registry.registry.policy import MAX_BUDGET, Policy, check_budget
from share_registry.registry.report import BasisModuleReport, Report
from share_registry.registry.reports import called, described, with_modules
from share_registry.registry.resolve import space_of
from share_registry.registry.results import Commit
from share_registry.registry.spaces import policy_of
from share_registry.registry.transaction import Build, Link, Request, idempotency_key, publish
from share_registry.stored import StoredAdapter

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from share_registry.catalog.task_version import TaskVersion
    from share_registry.materialize.reader import Reader
    from share_registry.registry.home import Home

_LOG: Final = logging.getLogger(__name__)
FINE: Final = 2.0**-12
"""Error that rounding a basis may make where coefficients over it are all that is kept.

No part of what the paper's protocol loses.
"""
_SHARE_OF_BUDGET: Final = 0.25
"""Part of the budget that rounding a basis may take where own rows correct it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a refit is asked for; see `Registry.refit`."""

    max_rank: int | None = None
    energy: float | None = None
    weighting: str = UNIT
    budget: float | None = None
    allow_loss: bool = False

    def __post_init__(self) -> None:
        if self.weighting not in (UNIT, ENERGY):
            raise InvalidInput(
                f"weighting {self.weighting!r} is not 'unit' or 'energy'.",
                hint="unit counts every task alike, energy by the square of its norm.",
            )
        if self.energy is not None and not (
            isinstance(self.energy, int | float) and 0 < self.energy <= 1
        ):
            raise InvalidInput(
                f"energy {self.energy!r} is not a share above 0 and at most 1.",
                hint="0.6 captures 60 % of the energy.",
            )
        if self.max_rank is not None and self.max_rank < 1:
            raise InvalidInput(
                f"max_rank {self.max_rank} is not at least 1.",
                hint="Leave it out to keep as many directions as pay.",
            )
        if self.budget is not None:
            check_budget(self.budget)
        if self.budget is not None and self.allow_loss:
            raise InvalidInput(
                "allow_loss is given beside a budget.",
                hint="A budget limits what re-expressing may lose, allow_loss=True lifts every limit: give one of them.",
            )

    @property
    def moves(self) -> bool:
        """Whether stored tasks are re-expressed."""
        return self.allow_loss or self.budget is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
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
    made: Sealed
    stored: StoredAdapter
    error: float
    bound: bool
    budget: float | None
    by_module: tuple[float, ...]

    def said(self, added: int) -> Absorbed:
        """Return what the record says of it."""
        return Absorbed(
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


def refit(
    home: "Home",
    space: str | None,
    wanted: Wanted,
    *,
    message: str,
    author: str | None,
    dry_run: bool,
) -> Commit:
    """Fit a basis to the live tasks of a space. See `Registry.refit`."""
    if not dry_run:
        home.require_writable()
    with home.reading() as session:
        where = space_of(session, space if space is not None else home.default_space)
        rows = live_versions(session, where)
        nearest = queries.closest_versions(session, where, rows)
        policy = policy_of(session, where)
        known = queries.current_basis(session, where)
    if not rows:
        raise NotFound(
            f"space {where!r} has no live task to fit a basis to.", hint="Commit adapters first."
        )
    members = stored_members(home, nearest)
    made = fit(
        members,
        _rule(wanted, policy, len(rows)),
        load(home, where, wanted.weighting, [member.key for member in members]),
        device=home.device,
    )
    fitted = sealed_basis(made, where)
    if made.carried is not None:
        save(home, where, made.carried)
    moved = (
        re_expressed(home, rows, fitted, wanted, policy, nearest=nearest) if wanted.moves else []
    )
    if dry_run:
        return _rehearsed(home, where, fitted, moved, author=author, message=message)
    if known is not None and known.digest == fitted.digest and not moved:
        with home.catalog.begin() as session:
            return with_modules(home, commit_at(session, where, known.number, created=False))
    done = publish_basis(
        home, where, fitted, moved, Note(author=author or None, message=message or None)
    )
    return replace(done, basis=fitted.report)


def live_versions(session: "Session", space: SpaceName) -> "list[TaskVersion]":
    """Return the newest version of every live task, by name."""
    return sorted(queries.latest_versions(session, space), key=lambda row: row.task)


def sealed_basis(made: Fit, space: str) -> Fitted:
    """Return a basis as an object. Raises Refused where it has no direction."""
    if not made.basis.modules:
        raise Refused(
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
    return Fitted(digest=sha256(content), content=content, modules=modules)


def re_expressed(
    home: "Home",
    rows: "Sequence[TaskVersion]",
    fitted: Fitted,
    wanted: Wanted,
    policy: Policy,
    *,
    nearest: "Sequence[TaskVersion] | None" = None,
) -> list[Moved]:
    """Return the tasks re-expressed in a basis.

    One that would exceed the budget stays as it is, and so does one that is there already.

    Args:
        home: The registry.
        rows: The newest versions.
        fitted: The basis.
        wanted: Within a budget, or with loss.
        policy: Of the space.
        nearest: For each of the rows the version to re-express: of the same adapter, with the
            smallest error. Default, and the paper's protocol: the newest.
    """
    found = [
        _moved(home, row, of, fitted, wanted, policy)
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


def publish_basis(
    home: "Home", space: SpaceName, fitted: Fitted, moved: Sequence[Moved], note: Note
) -> Commit:
    """Store a basis and the tasks re-expressed in it, and publish the record of both.

    Raises Conflict where one of them got a new version meanwhile.
    """
    new = home.store.put(fitted.content, fitted.digest)
    added = {
        item.row.task: sum(
            len(content)
            for digest, content in item.made.objects.items()
            if home.store.put(content, digest)
        )
        for item in moved
    }
    layouts = {item.row.layout_digest: item.layout for item in moved}
    request = Request(
        build=_builder(moved, added, fitted.digest),
        key=idempotency_key(home, None),
        note=note,
        layouts=layouts,
    )
    done = publish(home, space, request)
    _LOG.info(
        "refitted %s/@c%d: basis of %d bytes%s, %d tasks re-expressed",
        space,
        done.number,
        len(fitted.content),
        "" if new else " (known)",
        len(moved),
    )
    with home.catalog.begin() as session:
        return with_modules(home, commit_at(session, done.space, done.number, created=done.created))


def _rule(wanted: Wanted, policy: Policy, tasks: int) -> Rule:
    loses = wanted.allow_loss and wanted.budget is None
    budget = wanted.budget if wanted.budget is not None else policy.budget
    return Rule(
        max_rank=wanted.max_rank,
        energy=wanted.energy,
        weighting=wanted.weighting,
        tasks=tasks,
        budget=budget,
        precision=FINE if loses or budget == 0 else _SHARE_OF_BUDGET * budget,
    )


def _moved(
    home: "Home",
    row: "TaskVersion",
    of: "TaskVersion",
    fitted: Fitted,
    wanted: Wanted,
    policy: Policy,
) -> Moved | None:
    """Re-express one task from a version of it; None where it cannot be within the budget."""
    now = rebuilt(home, of)
    source = original(home, of) if of.error > 0 else now
    reader = home.reader().beside({fitted.digest: fitted.content})
    scales = module_scales(now.config, now.layout)
    old = pairs_of(now.layout, now.tensors, scales)
    true = (
        pairs_of(source.layout, source.tensors, module_scales(source.config, source.layout))
        if source is not None
        else None
    )
    there = placed(old, home.device), placed(true, home.device) if true is not None else None
    assembled = _coded(reader, now, *there, of, fitted.digest, wanted, policy)
    if assembled is None:
        return None
    made = sealed(reader, now.layout, assembled, scales)
    change = relative_change(old, made.decoded) * norm(old) / row.norm if row.norm > 0 else 0.0
    error = relative_change(true, made.decoded) if true is not None else of.error + change
    if wanted.budget is not None and error > wanted.budget:
        return None
    against = true if true is not None else old
    return Moved(
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
    old: list[Pair],
    true: list[Pair] | None,
    of: "TaskVersion",
    basis: Digest,
    wanted: Wanted,
    policy: Policy,
) -> Assembled | None:
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
            Base(sources=(basis,)),
            replace(policy, budget=min(left, MAX_BUDGET), k=None),
        )
    except BudgetExceeded:
        return None
    return found if any(found.stored.modules) else None


def _builder(moved: Sequence[Moved], added: Mapping[TaskName, int], basis: Digest) -> Build:
    """Return what makes the record upon a head, where every task must still be at the version that was re-expressed."""

    def build(session: "Session", link: Link) -> Refit:
        for item in moved:
            latest = queries.latest_version(session, link.space, item.row.task)
            if (
                latest is None
                or not latest.live
                or latest.version != item.row.version
                or latest.task != item.row.task
            ):
                raise Conflict(
                    f"task {link.space}/{item.row.task} is not at v{item.row.version} any more.",
                    hint="Run the refit again.",
                )
        return Refit.model_validate(
            link.members()
            | {"basis": basis, "tasks": [item.said(added[item.row.task]) for item in moved]}
        )

    return build


def _rehearsed(
    home: "Home",
    space: SpaceName,
    fitted: Fitted,
    moved: Sequence[Moved],
    *,
    author: str | None,
    message: str,
) -> Commit:
    """Return what the commit would be: no id, and `created` is False."""
    with home.catalog.begin() as session:
        head = queries.head(session, space)
        names = {
            digest: called(session, space, [digest])[0]
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
        time=home.outside.now(),
        key="",
        author=author,
        message=message,
        refs={task: f"{space}/{task}@v{version}" for task, version in versions.items()},
        versions=versions,
        reports={str(item.row.task): _report(home, item, names) for item in moved},
        labels={},
        metrics={},
        detail="dry run: nothing was written",
        basis=fitted.report,
        created=False,
    )


def _report(home: "Home", item: Moved, names: Mapping[Digest, str]) -> Report:
    report = Report(
        error=item.error,
        before=item.row.error,
        bound=item.bound,
        budget=item.budget,
        bytes_added=sum(
            len(content)
            for digest, content in item.made.objects.items()
            if not home.store.has(digest)
        ),
        raw_bytes=item.row.raw_bytes,
        notes=(),
    )
    sources = [names[digest] for digest in item.stored.sources]
    return described(
        item.stored,
        item.layout,
        item.made.decoded,
        error=item.error,
        errors=item.by_module,
        names=sources,
    ).on(report)
