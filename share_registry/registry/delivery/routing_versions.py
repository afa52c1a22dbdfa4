"""A routing index of task versions, from their rows as they are stored."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from share_registry.algebra.error import FactorPair
from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import version_lookups
from share_registry.catalog.queries.aliases import space_summary
from share_registry.catalog.queries.name_claims import claims_of_reference
from share_registry.catalog.queries.named_tasks import space_of
from share_registry.catalog.queries.resolution import versions_of
from share_registry.errors import InvalidInputError, NotFoundError, ensure
from share_registry.exchange.expressions import UnboundedExpressionError, Work, compile_expression
from share_registry.format.layout import Form
from share_registry.names import alias_name
from share_registry.registry.arguments import Ref, references
from share_registry.registry.checkout.factored import FactoredAdapter, read_factored
from share_registry.registry.context import Context
from share_registry.registry.delivery.alias_targets import alias_targets
from share_registry.registry.evidence import require_given, require_recorded
from share_registry.registry.stored_config import described_versions
from share_registry.routing.routing_index import RoutingIndex
from share_registry.routing.routing_table import make_table
from share_registry.values.routes import RoutedTask
from share_registry.values.task_version import TaskVersion

_EVERYTHING: Final = ".*"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRequest:
    """What an index is to be of; see `Registry.routing_index`."""

    refs: Ref | Iterable[Ref] | None = None
    alias: str | None = None
    modules: str | None = None
    max_rank: int | None = None


@one_thread()
def routing_index(context: Context, request: RoutingRequest, *, space: str | None) -> RoutingIndex:
    """Make a routing index of task versions of one space.

    Raises:
        InvalidInputError: references and an alias, an expression that is none, no rows, or versions
            of several spaces.
        NotFoundError: a reference leads nowhere, or there is no task.
        RefusedError: the expression cannot be matched in bounded work, or no space is named.
        IntegrityError: stored bytes are not what was committed.
    """
    ensure(
        request.max_rank is None or request.max_rank >= 1,
        InvalidInputError("max_rank is 0, expected 1 or more.", hint="Leave it out for all rows."),
    )
    matches = _matcher(request.modules)
    rows = sorted(_versions(context, request, space), key=attrgetter("ref"))
    spaces = sorted({row.space for row in rows})
    ensure(
        len(spaces) == 1,
        InvalidInputError(
            f"the versions are of the spaces {', '.join(spaces)}; an index is of one base model.",
            hint="Name the space: space=, -s or $SHARE_REGISTRY_SPACE.",
        ),
    )
    with context.reading() as session:
        base_model = space_summary(session, spaces[0]).base_model

    def read(row: TaskVersion) -> tuple[RoutedTask, list[FactorPair]]:
        pairs = [pair for pair in _linear(read_factored(context, row)) if matches(pair.module)]
        return RoutedTask(ref=row.ref, digest=row.adapter_digest), pairs

    return RoutingIndex(
        make_table(map(read, rows), base_model=base_model, max_rank=request.max_rank)
    )


def _matcher(modules: str | None) -> Callable[[str], bool]:
    """Return what tells whether an expression matches the whole path of a module."""
    try:
        expression = compile_expression(
            _EVERYTHING if modules is None else modules, Work(subject="modules")
        )
    except (ValueError, UnboundedExpressionError) as error:
        raise InvalidInputError(
            f"modules {modules!r} is no expression that can be matched: {error}.",
            hint="It must match whole paths, as target_modules of PEFT: '.*query' for every query.",
        ) from error
    return expression.matches


def _linear(adapter: FactoredAdapter) -> list[FactorPair]:
    """Return the pairs of linear modules: what enters others has no tokens of their width."""
    linear = {factor.module for factor in adapter.layout.factors if factor.form is Form.LINEAR}
    return [pair for pair in adapter.pairs if pair.module in linear]


def _versions(
    context: Context, request: RoutingRequest, space: str | None
) -> Sequence[TaskVersion]:
    ensure(
        request.refs is None or request.alias is None,
        InvalidInputError(
            "references are given beside an alias.",
            hint="Give refs=[...] or alias=..., or neither for the newest version of every task.",
        ),
    )
    if request.refs is not None:
        return _referenced(context, references(request.refs), space)
    if request.alias is not None:
        return _behind_alias(context, request.alias, space)
    with context.reading() as session:
        where = space_of(session, space)
        rows = described_versions(context, version_lookups.latest_versions(session, where))
    ensure(rows, NotFoundError(f"space {where} has no live task.", hint="Commit adapters first."))
    return rows


def _referenced(context: Context, refs: Sequence[str], space: str | None) -> list[TaskVersion]:
    """Return the versions that references mean, each once."""
    ensure(refs, InvalidInputError("refs is empty.", hint="Leave it out for all tasks."))
    with context.reading() as session:
        rows = versions_of(session, refs, space=space)
        claims = [
            claim
            for ref, row in rows.items()
            for claim in claims_of_reference(session, ref, space=space, present=row.task)
        ]
    require_given(context, claims)
    require_recorded(context, rows.values())
    return list({row.ref: row for row in rows.values()}.values())


def _behind_alias(context: Context, alias: str, space: str | None) -> list[TaskVersion]:
    rows = []
    for target in alias_targets(context, alias_name(alias), space=space):
        if target.error is not None:
            raise target.error
        if target.row is not None and target.is_served:
            rows.append(target.row)
    ensure(
        rows,
        NotFoundError(
            f"no live task has the alias {alias!r}.", hint="Restore one, or give refs=[...]."
        ),
    )
    return rows
